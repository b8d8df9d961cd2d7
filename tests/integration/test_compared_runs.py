"""Two runs side by side, and the tree of a run."""

import re
from collections.abc import Iterator

import pytest

import mdap
from mdap.testing import ScriptedProvider
from mdap_hanoi import Hanoi
from tests.viewing import Echo, Site, serving

NAMES = 250


class Named(mdap.Process[int]):
    """Questions with names, asked in some order, and chains as parts."""

    backwards: bool = False
    parts: int = 0

    async def solve(self, ask: mdap.Ask) -> int:
        numbers = range(NAMES - 1, -1, -1) if self.backwards else range(NAMES)
        await ask.map([mdap.Step(user=f"q {one}", parse=str.strip, key=f"item {one}") for one in numbers])
        for one in range(self.parts):
            await ask.solve(Echo(steps=1, said="part"), key=f"part {one}")
        return NAMES


def answers(other: frozenset[int]) -> ScriptedProvider:
    def says(request: mdap.SampleRequest, ordinal: int) -> mdap.Reply:
        if not request.user.startswith("q "):
            return mdap.Reply("a part", "toy")
        return mdap.Reply("no" if int(request.user[2:]) in other else "yes", "toy")

    return ScriptedProvider(says, name="toy")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Runs 1 and 2: a chain with k of 3 and of 1; 3 and 4: a process, differently decided and in another
    order; 5: one with three parts."""
    path = tmp_path_factory.mktemp("compared") / "a.db"
    options = {"error_rate": 0.3, "seed": 6}
    for name, k in (("three", 3), ("one", 1)):
        mdap.solve_sync(Hanoi(disks=4), k=k, db=path, run_id=name, options=options)
    for name, other, backwards in (("some", {3, 200}, False), ("others", {3, 7}, True)):
        task = Named(backwards=backwards)
        mdap.solve_sync(task, model=answers(frozenset(other)), db=path, run_id=name)
    mdap.solve_sync(Named(parts=3), model=answers(frozenset()), db=path, run_id="whole")
    with serving(path) as running:
        yield running


@pytest.mark.slow
def test_two_runs_stand_side_by_side(site: Site) -> None:
    """By id or by number, with what each came to."""
    page = site.page("/compare?a=three&b=2")
    assert re.search(r'<th scope="row">k</th><td>3</td><td>1</td>', page)
    assert re.search(r'<th scope="row">Steps decided</th><td>15</td><td>15</td>', page)
    heads = re.findall(r'<th scope="row">([^<]+)</th>', page)
    assert {"Outcome", "Votes", "Votes against the winner", "Red flags", "Cost", "Duration"} <= set(heads)


def test_a_chain_is_compared_step_by_step(site: Site) -> None:
    """Every step in which the answers differ is there with both, each a link; and no other."""
    page = site.page("/compare?a=three&b=one")
    found = {int(step) for step in re.findall(r'href="/runs/1/steps/(\d+)"', page)}
    with mdap.open_log(site.path) as log:
        mine, other = [[step.answer for step in log.steps(name)] for name in ("three", "one")]
    assert found == {step for step, answer in enumerate(mine) if answer != other[step]}
    assert found == {int(step) for step in re.findall(r'href="/runs/2/steps/(\d+)"', page)}
    assert "the same</td>" in page
    assert "something else</td>" in page


def test_a_process_is_compared_by_names(site: Site) -> None:
    """Whatever order its steps were asked in."""
    page = site.page("/compare?a=some&b=others")
    pairs = re.findall(r'href="/runs/3/steps/(\d+)".*?href="/runs/4/steps/(\d+)"', page, re.DOTALL)
    assert [(int(one), int(other)) for one, other in pairs] == [
        (number, NAMES - 1 - number) for number in (7, 200)
    ]
    assert "No step that both decided was decided differently." in site.page("/compare?a=some&b=3")


def test_one_run_is_offered_what_to_compare_it_with(site: Site) -> None:
    """Others of its task; and a name that no run has gets a sentence."""
    page = site.page("/compare?a=1")
    assert 'href="/compare?a=1&amp;b=2"' in page
    assert "There is no such run" in site.page("/compare?a=nothing&b=1")
    assert "There is no such run" in site.page(f"/compare?a=1&b={10**17}")
    assert site.page("/compare")


def test_a_tree_opens_range_by_range(site: Site) -> None:
    """Steps by the hundred, counted; one range open, with a link to each step."""
    closed = site.page("/runs/3/tree")
    assert re.findall(r'href="\?step=(\d+)#', closed) == ["0", "100", "200"]
    assert "/steps/0" not in closed
    opened = site.page("/runs/3/tree?step=217")
    assert [int(step) for step in re.findall(r'href="/runs/3/steps/(\d+)"', opened)] == list(range(200, 250))
    assert "item 217" in opened
    assert opened.count("all decided") == 3


def test_a_tree_has_the_parts(site: Site) -> None:
    """Each leads to its own tree."""
    page = site.page("/runs/5/tree")
    assert re.findall(r'href="(/runs/\d+/tree)">[^<]*part', page) or "Parts 1 to 3" in page
    assert page.count("1 step<") == 3
