"""The digest chain, rebuilt with nothing but the standard library: what a verifier elsewhere would do."""

import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mdap
from mdap.records import Decided, Reply, SampleTaken, StepOpened
from mdap.rules.digests import CHAIN_START, answer_key, chain_digest, prompt_digest, sample_line, text_digest
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, Walk, link

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**53)


def hexadecimal(size: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=size).map(bytes.hex)


openings = st.builds(StepOpened, st.just(1), numbers, numbers, texts, texts, hexadecimal(16))
samples = st.builds(
    SampleTaken,
    *(st.just(1), numbers, numbers, numbers, numbers, st.sampled_from(["vote", "flag"])),
    *(st.none() | hexadecimal(8), st.none() | texts, texts, numbers, st.floats(0, 2)),
    *(st.none() | numbers, st.none() | numbers, st.none() | numbers, st.floats(0, 1e6), numbers),
    *(st.none() | texts, texts, hexadecimal(16), st.none() | texts),
    cache_write_tokens=st.none() | numbers,
)
decisions = st.builds(
    Decided,
    *(st.just(1), numbers, numbers, numbers, texts, texts, numbers, numbers),
    *(st.none() | texts, st.none() | texts, st.just("")),
)


@given(
    hexadecimal(32), openings, st.lists(samples, max_size=5, unique_by=lambda taken: taken.ordinal), decisions
)
def test_the_chain_is_what_its_contract_says(
    previous: str, opened: StepOpened, taken: list[SampleTaken], decided: Decided
) -> None:
    """BLAKE2b over the columns as JSON lines: head of the chain, opening, decision, samples by ordinal."""
    decided = decided._replace(step=opened.step, opening=opened.opening)
    taken = sorted((each._replace(step=opened.step) for each in taken), key=lambda each: each.ordinal)
    lines = [line(each) for each in taken]
    digest = chain_digest(previous, opened, lines, decided)
    assert digest == link(previous, opened, taken, decided)
    assert len(digest) == len(CHAIN_START) == 64


COVERED = range(SampleTaken._fields.index("ordinal"), SampleTaken._fields.index("began"))
LINE = (0, "vote", "ab", None, "model", 0, 0.1, 5, 6, 0, 0.25, 1, "id", "stop", "cd")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(
            (place, value)
            for place in (6, 10)
            for value in (0.0, -0.0, 1e-4, 9.9e-5, 1e-6, 1e16, 1e22, 2.0, 0.3)
        ),
        *((place, value) for place in (2, 3, 4, 12, 13) for value in ("é", "\x7f", '\0\n"\\/', "\U0001f5fc")),
        (3, "\ud800"),
        *((place, value) for place in (7, 8, 9) for value in (None, 2**64, math.inf, 12.0, "12")),
        *((place, value) for place in (6, 10) for value in (None, math.nan, math.inf, 3, "0.5")),
    ],
)
def test_a_line_is_what_the_standard_library_writes(place: int, value: Any) -> None:
    """Whatever stands in it: exponents, characters beyond ASCII, what no endpoint should ever say."""
    columns = (*LINE[:place], value, *LINE[place + 1 :])
    assert sample_line(columns) == json.dumps(columns, separators=(",", ":"), ensure_ascii=True)


@given(hexadecimal(32), openings, samples, decisions, st.data())
def test_every_column_is_in_the_chain(
    previous: str, opened: StepOpened, taken: SampleTaken, decided: Decided, data: st.DataObject
) -> None:
    """Any change of any recorded value of a decision changes its digest; the run's number is none of them."""

    def changed(record: Any, *places: int) -> Any:
        place = data.draw(st.sampled_from(places))
        other = data.draw(st.just("other") if record[place] is None else different(record[place]))
        return type(record)._make((*record[:place], other, *record[place + 1 :]))

    digest = chain_digest(previous, opened, [line(taken)], decided)
    what = data.draw(st.integers(0, 3))
    if what == 0:
        other = chain_digest(data.draw(different(previous)), opened, [line(taken)], decided)
    elif what == 1:
        other = chain_digest(previous, changed(opened, 1, 3, 4, 5), [line(taken)], decided)
    elif what == 2:
        other = chain_digest(previous, opened, [line(changed(taken, *COVERED))], decided)
    else:
        other = chain_digest(previous, opened, [line(taken)], changed(decided, 1, *range(4, 10)))
    assert other != digest
    assert chain_digest(previous, opened, [], decided) != digest
    renumbered = chain_digest(
        previous,
        opened._replace(run=2),
        [line(taken._replace(run=2))],
        decided._replace(run=2),
    )
    assert renumbered == digest


def line(taken: SampleTaken) -> str:
    return sample_line(taken.digest_columns())


def different(value: Any) -> st.SearchStrategy[Any]:
    same: Callable[[Any], bool] = lambda other: other != value  # noqa: E731
    if isinstance(value, str):
        return texts.filter(same)
    return st.floats(0, 1e6).filter(same) if isinstance(value, float) else numbers.filter(same)


@given(texts, texts, texts, texts)
def test_prompts_are_told_apart(system: str, user: str, other_system: str, other_user: str) -> None:
    """Where the system message ends matters: no two prompts have one digest."""
    same = (system, user) == (other_system, other_user)
    assert (prompt_digest(system, user) == prompt_digest(other_system, other_user)) is same
    if user:
        assert prompt_digest(system + user[0], user[1:]) != prompt_digest(system, user)


@given(texts)
def test_digests_of_texts_and_answers(text: str) -> None:
    """128 bits for a text, 64 for an answer, both BLAKE2b of the UTF-8 bytes."""
    assert text_digest(text) == blake2b(text.encode(), digest_size=16).hexdigest()
    assert answer_key(text) == blake2b(text.encode(), digest_size=8).hexdigest()


def rebuilt(db: Path) -> str:
    """The head of the chain over the only run in *db*, rebuilt from its columns and compared link by link."""
    with closing(sqlite3.connect(db)) as connection:
        head = "0" * 64
        for step, opening, digest, *decided in connection.execute(
            """SELECT step, opening, digest, place, winner, tally, votes, margin, author, reason
            FROM decisions ORDER BY place"""
        ).fetchall():
            [opened] = connection.execute(
                "SELECT step, key, input, prompt_digest FROM steps WHERE step = ? AND opening = ?",
                (step, opening),
            )
            first = [head, *opened, *decided]
            rows = connection.execute(
                """SELECT ordinal, verdict, answer_key, flag_reason, model, view, temperature,
                    input_tokens, output_tokens, cached_tokens, latency, attempts, request_id,
                    finish_reason, t.digest, served_model, fingerprint, reasoning_tokens, h.digest, t.body
                FROM samples s LEFT JOIN texts t ON t.id = s.text LEFT JOIN texts h ON h.id = s.reasoning
                WHERE step = ? AND opening = ? AND counted IS NOT NULL ORDER BY ordinal""",
                (step, opening),
            ).fetchall()
            for row in rows:
                assert row[14] == blake2b(row[-1].encode(), digest_size=16).hexdigest()
            rows = [row[:15] if row[15:19] == (None,) * 4 else row[:19] for row in rows]
            lines = [json.dumps(line, separators=(",", ":")) for line in (first, *rows)]
            head = blake2b("\n".join(lines).encode(), digest_size=32).hexdigest()
            assert head == digest
    return head


@pytest.mark.parametrize(("latency", "mode"), [(0.0, "off"), (0.0005, "vote"), (0.0005, "guess")])
async def test_a_stranger_can_verify_a_run(tmp_path: Path, latency: float, mode: str) -> None:
    """P4: from the columns of the database alone, with `sqlite3`, `json` and `hashlib`."""
    db = tmp_path / "a.db"
    options = {"error_rate": 0.3, "flag_rate": 0.1, "latency": latency}
    solution = await mdap.solve(Walk(steps=30, seed=5), k=3, options=options, db=db, speculate=mode)
    assert rebuilt(db) == solution.digest
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (30,)
        [(digest,)] = connection.execute("SELECT prompt_digest FROM steps WHERE step = 0")
        assert digest == blake2b(b"0\n" + b"5 0 0", digest_size=16).hexdigest()


async def test_whole_seconds_do_not_break_the_chain(tmp_path: Path) -> None:
    """P4: a provider may measure in whole numbers; what is digested is what the columns give back."""
    PROVIDED["it"] = ScriptedProvider([Reply("1", "toy", latency=1)] * 4)
    db = tmp_path / "a.db"
    solution = await mdap.solve(Walk(steps=2), model="tests.helpers:provided/it", k=2, db=db)
    assert rebuilt(db) == solution.digest
