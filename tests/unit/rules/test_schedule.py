"""The schedule of samples: a pure function of the ordinal."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.schedule import SampleSchedule


def test_one_model_and_one_view_differ_in_temperature_alone() -> None:
    """The paper's schedule: the first sample at 0, all later ones at 0.1."""
    schedule = SampleSchedule()

    assert [schedule.part(ordinal, 1) for ordinal in range(3)] == [(0, 0, 0.0), (0, 0, 0.1), (0, 0, 0.1)]


def test_models_take_turns_first_and_views_second() -> None:
    """Two models and three views: after six samples each model has seen each view once."""
    schedule = SampleSchedule(((0, 1),), (0.5,))
    met = [schedule.part(ordinal, 3)[:2] for ordinal in range(6)]

    assert met == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


def test_a_model_that_stands_twice_has_twice_the_weight() -> None:
    """The order of its members is the weighting."""
    schedule = SampleSchedule(((0, 0, 1),))
    members = Counter(schedule.part(ordinal, 1).member for ordinal in range(30))

    assert members == {0: 20, 1: 10}


def test_the_second_tier_begins_where_the_first_one_ends() -> None:
    """Ordinals of the next tier start its own schedule from its first temperature."""
    schedule = SampleSchedule(((0,), (1,)), (0.0, 0.7), samples_per_tier=4)

    assert [schedule.tier(ordinal) for ordinal in (0, 3, 4, 7)] == [0, 0, 1, 1]
    assert schedule.part(3, 1) == (0, 0, 0.7)
    assert schedule.part(4, 1) == (1, 0, 0.0)


@pytest.mark.parametrize(("apart", "groups"), [(True, [(0,), (1, 3), (2,)]), (False, [(0,), (1, 2, 3)])])
def test_temperatures_that_nobody_heeds_keep_nothing_apart(
    apart: bool, groups: list[tuple[int, ...]]
) -> None:
    """Samples of one model and one view share a request, and keep their own temperatures on record."""
    schedule = SampleSchedule(((0, 1, 1, 1),), (0.0, 0.1, 0.5, 0.1), apart=apart)

    assert [ordinals for _, ordinals in schedule.groups((0, 1, 2, 3), 1, 8)] == groups
    assert [schedule.temperature(ordinal, 0) for ordinal in range(5)] == [0.0, 0.1, 0.5, 0.1, 0.1]


@pytest.mark.parametrize("temperatures", [(0.3,), (0.0, 0.1), (0.0, 0.1, 0.5, 0.7)])
@pytest.mark.parametrize("per_tier", [1, 3, 160])
def test_each_sample_has_the_temperature_of_its_place(temperatures: tuple[float, ...], per_tier: int) -> None:
    """Also in later tiers, and where a tier ends before the schedule."""
    schedule = SampleSchedule(((0,),) * 4, temperatures, per_tier)
    ordinals = [*range(4 * 160), *range(10)]
    expected = [*temperatures, *[temperatures[-1]] * 160]

    assert [schedule.temperature(ordinal, 0) for ordinal in ordinals] == [
        expected[ordinal % per_tier] for ordinal in ordinals
    ]


@given(st.integers(0, 7), st.integers(1, 5), st.integers(1, 4))
def test_a_part_depends_on_nothing_but_the_ordinal(ordinal: int, views: int, members: int) -> None:
    """Whatever was asked before, and in whatever order."""
    fresh = SampleSchedule((tuple(range(members)),), samples_per_tier=8)
    used = SampleSchedule((tuple(range(members)),), samples_per_tier=8)
    for other in range(7, -1, -1):
        used.part(other, views)

    assert fresh.part(ordinal, views) == used.part(ordinal, views)


@given(
    st.lists(st.lists(st.integers(0, 7), unique=True), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_a_request_asks_for_samples_that_are_drawn_alike(
    asked: list[list[int]], views: int, most: int
) -> None:
    """Every wanted sample is in one request; none mixes parts or is too large; asked again or not."""
    schedule = SampleSchedule(((0, 1),), (0.0, 0.1), samples_per_tier=8)
    for ordinals in (*asked, *asked):
        groups = schedule.groups(tuple(ordinals), views, most)

        assert sorted(ordinal for _, group in groups for ordinal in group) == sorted(ordinals)
        assert all(1 <= len(group) <= most for _, group in groups)
        assert all(schedule.part(ordinal, views) == part for part, group in groups for ordinal in group)
        assert len(groups) <= len({part for part, _ in groups}) + len(ordinals) // most


def test_models_and_views_are_drawn_by_seed_step_and_ordinal() -> None:
    """With a seed, each sample has its own draw, evenly among all who can be asked, whoever asks when."""
    schedule = SampleSchedule(((0, 1),), (0.1,), seed=4)
    parts = [schedule.part(ordinal, 3, key="s") for ordinal in range(150)]
    assert parts == [schedule.part(ordinal, 3, key="s") for ordinal in range(150)]
    assert parts != [schedule.part(ordinal, 3, key="t") for ordinal in range(150)]
    assert parts != [
        SampleSchedule(((0, 1),), (0.1,), seed=5).part(ordinal, 3, key="s") for ordinal in range(150)
    ]
    counts = Counter(part[:2] for part in parts)
    assert len(counts) == 6
    assert all(10 < count < 45 for count in counts.values())


def test_who_refuses_a_step_is_not_drawn_for_it() -> None:
    schedule = SampleSchedule(((0, 1),), (0.1,), seed=4)
    refused = frozenset({(0, 0), (1, 1)})
    drawn = {schedule.part(ordinal, 2, refused, "s")[:2] for ordinal in range(100)}
    assert drawn == {(1, 0), (0, 1)}


def test_the_temperature_is_that_of_whoever_is_asked() -> None:
    """A member to which others are sent, or none, keeps to that also where it stands in for another."""
    schedule = SampleSchedule(((0, 1, 2),), (0.0, 0.1), 9, sent={1: (None,), 2: (0.7,)})
    assert [schedule.part(ordinal, 1).temperature for ordinal in range(4)] == [0.0, None, 0.7, 0.1]
    assert schedule.possible_temperatures(3) == {0.1, None, 0.7}
    refused = frozenset({(0, 0), (1, 0)})
    parts = [schedule.part(ordinal, 1, refused) for ordinal in range(4)]
    assert [(part.member, part.temperature) for part in parts] == [(2, 0.7)] * 4


def test_each_model_is_asked_for_as_many_samples_as_one_request_may_bring() -> None:
    """One that takes a sample a request does not keep another from several."""
    schedule = SampleSchedule(((0, 1),), (0.1,))
    schedule.most = {0: 1, 1: 3}
    found = [(part.member, ordinals) for part, ordinals in schedule.groups(tuple(range(8)), 1, 8)]
    assert found == [(0, (0,)), (1, (1, 3, 5)), (0, (2,)), (0, (4,)), (0, (6,)), (1, (7,))]
