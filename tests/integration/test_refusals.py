"""Prompts that nobody answers, replies that nobody can read, models that are gone: whose fate each is."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import mdap
from mdap.audit import verify
from mdap.errors import RejectedError, UnavailableError
from mdap.plugins import make_task
from mdap.records import Reply, RunStatus, SampleRequest
from mdap.session.deciding import settle_step
from mdap.testing import ScriptedProvider
from tests.helpers import PROVIDED, Walk
from tests.integration.test_session import query
from tests.processes import Double, Forgiving, double, read

FILTERED = RejectedError("example.org answered 400: filtered", kind="http_400")
QUOTA = UnavailableError("out of quota", kind="quota")
Says = Callable[[SampleRequest, int], Any]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture(autouse=True)
def _providers() -> Iterator[None]:
    PROVIDED.clear()
    yield
    PROVIDED.clear()


def named(name: str, says: Says) -> str:
    """Provide what *says*, and return what a session calls it."""
    PROVIDED[name] = ScriptedProvider(says, name=name)
    return f"tests.helpers:provided/{name}"


def asked(name: str) -> list[SampleRequest]:
    provider: ScriptedProvider = PROVIDED[name]
    return provider.requests


def doubled(request: SampleRequest, ordinal: int) -> str:
    return str(2 * int(request.user.split()[-1]))


def but(*refused: int, error: Exception = FILTERED) -> Says:
    """Double numbers, but for those that are *refused*."""

    def says(request: SampleRequest, ordinal: int) -> Any:
        return error if int(request.user.split()[-1]) in refused else doubled(request, ordinal)

    return says


def verified(db: Path, run_id: str) -> None:
    came = verify(db, run_id, make_task)
    assert (came.verdict, came.mismatches) == ("verified", ())


def of_kind(db: Path, run_id: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    sql = "SELECT reason, data FROM run_events e JOIN runs r ON r.id = run WHERE run_id = ? AND e.kind = ?"
    return [(reason, json.loads(data)) for reason, data in query(db, sql, run_id, kind)]


class Many(Double):
    """Double the numbers below *number*, and go on without those that have no answer."""

    async def solve(self, ask: mdap.Ask) -> Any:
        votes = []
        for number in range(self.number):
            vote = await ask.decision(double(number))
            votes.append(vote.answer if vote.decided else vote.reason)
        return votes


class Wide(Double):
    """The same side by side."""

    async def solve(self, ask: mdap.Ask) -> Any:
        found: dict[int, Any] = {}

        async def one(number: int) -> None:
            vote = await ask.decision(double(number))
            found[number] = vote.answer if vote.decided else vote.reason

        async with ask.group() as group:
            for number in range(self.number):
                group.start(one, number)
        return [found[number] for number in sorted(found)]


class Views(Double):
    """Ask in two views."""

    async def solve(self, ask: mdap.Ask) -> Any:
        other = mdap.View(f"twice {self.number}", read)
        return await ask(mdap.Step(f"double {self.number}", read, views=(other,)))


# -- a prompt that is refused


@pytest.mark.parametrize("task", [Many, Wide])
async def test_a_refused_prompt_is_undecided_and_the_others_go_on(db: Path, task: type[Many]) -> None:
    """The endpoint's sentence is on record and reaches the process, and the log proves it."""
    model = named("m", but(2, 5))
    solution = await mdap.solve(task(number=8), model=model, db=db, run_id="r")
    refused = "step {} was refused by m: example.org answered 400: filtered"
    result = solution.result
    assert [value for value in result if isinstance(value, int)] == [0, 2, 6, 8, 12, 14]
    assert [result[2], result[5]] == [refused.format(2), refused.format(5)]
    assert (solution.status, solution.steps, solution.undecided) == (RunStatus.FINISHED, 6, 2)
    assert {(data["step"], data["model"]) for _, data in of_kind(db, "r", "refused")} == {(2, "m"), (5, "m")}
    verified(db, "r")


async def test_an_undecided_refused_step_can_be_caught(db: Path) -> None:
    """A process meets it as an `UndecidedError`."""
    solution = await mdap.solve(Forgiving(number=3), model=named("m", but(3)), db=db, run_id="r")
    assert solution.result == "step 0 was refused by m: example.org answered 400: filtered"
    assert solution.mostly_undecided
    verified(db, "r")


@pytest.mark.parametrize("last", ["large", None])
async def test_a_refused_prompt_goes_to_the_next_tier(db: Path, last: str | None) -> None:
    """Tier after tier is asked; the one that answers decides."""
    tiers = [named("middle", but(3)), *([named(last, doubled)] if last else [])]
    small = named("small", but(3))
    async with mdap.Session(small, escalate_to=tiers, db=db) as session:
        solution = await session.run(Double(number=3), run_id="r")
    if last:
        assert (solution.status, solution.result) == (RunStatus.FINISHED, 6)
        assert query(db, "SELECT DISTINCT model FROM samples") == [("large",)]
    else:
        assert solution.status is RunStatus.UNDECIDED
        assert solution.reason == "step 0 was refused by middle: example.org answered 400: filtered"
    assert [data["tier"] for _, data in of_kind(db, "r", "escalated")] == ([1, 2] if last else [1])
    verified(db, "r")


async def test_if_one_model_refuses_the_others_vote_on(db: Path) -> None:
    """Its samples are drawn from the others, for this step alone."""
    models = [named("a", but(3)), named("b", doubled)]
    solution = await mdap.solve(Many(number=5), model=models, db=db, run_id="r")
    assert solution.result == [0, 2, 4, 6, 8]
    voted = query(db, "SELECT step, model, count(*) FROM samples GROUP BY 1, 2")
    assert [row for row in voted if row[0] == 3] == [(3, "b", 3)]
    assert (4, "a", 2) in voted
    assert len([request for request in asked("a") if request.user == "double 3"]) <= 2
    verified(db, "r")


async def test_if_one_view_is_refused_the_others_are_voted_on(db: Path) -> None:
    """A filter may dislike one wording only; the record says which view each sample was shown."""

    def says(request: SampleRequest, ordinal: int) -> Any:
        return FILTERED if request.user.startswith("twice") else doubled(request, ordinal)

    solution = await mdap.solve(Views(number=4), model=named("m", says), db=db, run_id="r")
    assert solution.result == 8
    assert query(db, "SELECT view, count(*) FROM samples GROUP BY view") == [(0, 3)]
    [(_, data)] = of_kind(db, "r", "refused")
    assert (data["view"], data["views"]) == (1, 2)
    verified(db, "r")


async def test_a_view_that_nobody_refused_cannot_stand_in(db: Path) -> None:
    """Without its refusals on record, samples in other views than their own are a mismatch."""

    def says(request: SampleRequest, ordinal: int) -> Any:
        return FILTERED if request.user.startswith("twice") else doubled(request, ordinal)

    await mdap.solve(Views(number=4), model=named("m", says), db=db, run_id="r")
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("DROP TRIGGER run_events_no_update")
        connection.execute("UPDATE run_events SET kind = 'warning' WHERE kind = 'refused'")
        connection.commit()
    came = verify(db, "r", make_task)
    assert "view of the step" in {mismatch.what for mismatch in came.mismatches}


def chain_says(refused: str) -> Says:
    walk = Walk(steps=4)

    def says(request: SampleRequest, ordinal: int) -> Any:
        _, number, place = map(int, request.user.split())
        if str(number) == refused:
            return FILTERED
        return Reply(str(walk.oracle((number, place))), "m")

    return says


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("speculate", ["off", "vote", "guess"])
async def test_a_refused_step_of_a_chain_is_settled_by_a_person(db: Path, step: int, speculate: str) -> None:
    """The chain ends undecided; `settle_step` takes an answer, and a resume goes on behind it."""
    PROVIDED["m"] = ScriptedProvider(chain_says(str(step)), name="m", nonblocking=False)
    model = "tests.helpers:provided/m"
    walk = Walk(steps=4)
    async with mdap.Session(model, db=db, speculate=speculate) as session:
        solution = await session.run(walk, run_id="r")
        assert solution.status is RunStatus.UNDECIDED
        assert solution.reason == f"step {step} was refused by m: example.org answered 400: filtered"
    verified(db, "r")
    [text] = query(db, "SELECT input FROM steps WHERE step = ? ORDER BY opening DESC", step)[0]
    answer = walk.oracle(tuple(json.loads(text)))
    await settle_step(db, "r", step, answer=str(answer), author="ann", reason="read it")
    async with mdap.Session(model, db=db, speculate=speculate) as session:
        solution = await session.resume("r")
    assert (solution.status, solution.steps) == (RunStatus.FINISHED, 4)
    verified(db, "r")


# -- what comes after the end


class Late:
    """A provider whose replies to *slow* prompts come once another prompt has met its *error*."""

    nonblocking, max_n = False, 1

    def __init__(self, says: Says, slow: Callable[[SampleRequest], bool]) -> None:
        self.name, self._says, self._slow = "late", says, slow
        self._over = anyio.Event()

    async def sample(self, request: SampleRequest) -> list[Reply]:
        said = self._says(request, request.ordinals[0])
        if isinstance(said, Exception):
            self._over.set()
            raise said
        if self._slow(request):
            await self._over.wait()
            await anyio.lowlevel.checkpoint()
        return [said if isinstance(said, Reply) else Reply(said, self.name)]

    def describe(self) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        """Do nothing."""


async def test_a_chain_that_stops_decides_what_its_last_replies_decide(db: Path) -> None:
    """The step behind it was denied meanwhile; the audit finds nothing amiss, and a resume goes on."""
    walk = Walk(steps=4)
    denied = [UnavailableError("the key was revoked", kind="auth")]

    def says(request: SampleRequest, ordinal: int) -> Any:
        _, number, place = map(int, request.user.split())
        if number == 1 and denied:
            return denied[0]
        return str(walk.oracle((number, place)))

    PROVIDED["m"] = Late(says, lambda request: " 0 " in request.user and request.ordinals != (0,))
    async with mdap.Session("tests.helpers:provided/m", db=db) as session:
        solution = await session.run(walk, run_id="r")
        assert (solution.status, solution.steps) == (RunStatus.STOPPED, 1)
        verified(db, "r")
        denied.clear()
        solution = await session.resume("r")
    assert (solution.status, solution.steps) == (RunStatus.FINISHED, 4)
    verified(db, "r")


async def test_a_chain_whose_last_replies_decide_its_last_step_is_finished(db: Path) -> None:
    """Though one request too many met an error."""
    walk = Walk(steps=1)

    def says(request: SampleRequest, ordinal: int) -> Any:
        return QUOTA if ordinal == 3 else str(walk.oracle((0, 0)))

    PROVIDED["m"] = Late(says, lambda request: True)
    voting = mdap.VotingSettings(hedge=1)
    async with mdap.Session("tests.helpers:provided/m", db=db) as session:
        solution = await session.run(walk, run_id="r", voting=voting)
    assert (solution.status, solution.reason, solution.steps) == (RunStatus.FINISHED, None, 1)
    verified(db, "r")


class Uncaught(Double):
    """Double the numbers below *number* side by side, and go on without none."""

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.map(double(number) for number in range(self.number))


@pytest.mark.parametrize(("error", "status"), [(FILTERED, "undecided"), (QUOTA, "stopped")])
async def test_a_process_that_ends_decides_what_its_last_replies_decide(
    db: Path, error: Exception, status: str
) -> None:
    """Whatever ended it; the steps beside were paid for."""
    PROVIDED["m"] = Late(but(3, error=error), lambda request: True)
    async with mdap.Session("tests.helpers:provided/m", db=db) as session:
        solution = await session.run(Uncaught(number=4), run_id="r")
    assert (str(solution.status), solution.steps) == (status, 3)
    verified(db, "r")


# -- what is wrong with every request


async def test_ten_refusals_and_no_reply_stop_the_run_and_are_no_fate(db: Path) -> None:
    """Then the fault is not the prompts': once it is mended, all of them are asked again."""
    model = named("m", but(*range(30)))
    async with mdap.Session(model, db=db) as session:
        solution = await session.run(Wide(number=30), run_id="r")
    assert solution.status is RunStatus.STOPPED
    assert "prompts in a row were refused and none answered, the last one by m: example.org" in (
        solution.reason or ""
    )
    verified(db, "r")
    model = named("m", doubled)
    async with mdap.Session(model, db=db) as session:
        solution = await session.resume("r")
    assert (solution.status, solution.result) == (RunStatus.FINISHED, [2 * n for n in range(30)])
    verified(db, "r")


async def test_refusals_first_do_not_stop_a_run_whose_other_prompts_are_answered(db: Path) -> None:
    """Twelve refused documents may stand first in a file: what is under way is waited for."""

    refused: set[int] = set()
    all_refused = anyio.Event()

    async def sample(request: SampleRequest) -> list[Reply]:
        number = int(request.user.split()[-1])
        if number < 12:
            refused.add(number)
            if len(refused) == 12:
                all_refused.set()
            raise FILTERED
        await all_refused.wait()
        return [Reply(str(2 * number), "m")]

    provider = ScriptedProvider([], name="m", nonblocking=False)
    provider.sample = sample  # type: ignore[method-assign]
    PROVIDED["m"] = provider
    solution = await mdap.solve(Wide(number=40), model="tests.helpers:provided/m", db=db, run_id="r")
    assert (solution.status, solution.steps, solution.undecided) == (RunStatus.FINISHED, 28, 12)


async def test_a_denial_without_a_reason_is_the_keys_fault_until_something_was_answered(db: Path) -> None:
    """A bare 403 stops a run that has no reply; later it is the fate of the step."""
    denied = UnavailableError("example.org answered 403: Forbidden", kind="forbidden")
    async with mdap.Session(named("m", but(0, error=denied)), db=db) as session:
        solution = await session.run(Many(number=3), run_id="first")
    assert solution.status is RunStatus.STOPPED
    solution = await mdap.solve(Many(number=5), model=named("m", but(3, error=denied)), db=db, run_id="later")
    assert solution.result[3] == "step 3 was refused by m: example.org answered 403: Forbidden"
    assert solution.result[4] == 8
    verified(db, "later")


async def test_a_batch_goes_on_after_cases_that_are_refused(db: Path) -> None:
    """Each refused case is undecided; a resume of the batch leaves the others as they are."""
    tasks = [Double(number=number) for number in range(20)]
    async with mdap.Session(named("m", but(4, 7, 11)), db=db) as session:
        statuses = [str(solution.status) async for solution in session.solve_all(tasks, run_id="b")]
    assert [n for n, status in enumerate(statuses) if status != "finished"] == [4, 7, 11]
    assert set(statuses) == {"finished", "undecided"}
    verified(db, "b")


# -- replies that are no votes


def babble(request: SampleRequest, ordinal: int) -> str:
    return "Sure! The answer is 6"


async def test_a_model_that_never_keeps_to_the_form_stops_the_run(db: Path) -> None:
    """After some tens of replies, resumably, with the flag, what a reply looks like, and what to do."""
    async with mdap.Session(named("m", babble), db=db) as session:
        solution = await session.run(Wide(number=200), run_id="r")
    assert solution.status is RunStatus.STOPPED
    reason = solution.reason or ""
    assert reason.startswith(
        "not one of the first 40 replies of m could vote: 40 were red-flagged 'no number'"
    )
    assert "begins 'Sure! The answer is 6'" in reason
    assert solution.totals.samples < 100
    verified(db, "r")


async def test_a_formless_model_is_noticed_over_a_whole_batch(db: Path) -> None:
    """No single case has so many replies."""
    voting = mdap.VotingSettings(k=1, max_samples=4)
    tasks = (Double(number=number) for number in range(500))
    async with mdap.Session(named("m", babble), db=db) as session:
        last = [solution.status async for solution in session.solve_all(tasks, voting=voting, run_id="b")]
    assert RunStatus.STOPPED in last
    assert query(db, "SELECT count(*) FROM samples")[0][0] < 350


async def test_the_next_tier_takes_over_from_a_formless_one(db: Path) -> None:
    """Its steps escalate at once, those that come after too, and it is asked nothing more."""
    large = named("large", doubled)
    async with mdap.Session(named("small", babble), escalate_to=large, db=db) as session:
        solution = await session.run(Wide(number=100), run_id="r")
    assert (solution.status, solution.result) == (RunStatus.FINISHED, [2 * n for n in range(100)])
    assert len(asked("small")) < 100
    [(reason, data)] = of_kind(db, "r", "left_out")
    assert (data, reason.startswith("not one of the first 40")) == (
        {"member": None, "tier": 0, "model": "small"},
        True,
    )
    assert any("small was left out after 0 decisions" in warning for warning in solution.warnings)
    verified(db, "r")


async def test_a_model_with_one_good_reply_in_five_is_not_given_up(db: Path) -> None:
    """High flag rates are dear, not hopeless."""
    flags = {"flag_rate": 0.8, "error_rate": 0.0, "seed": 3}
    solution = await mdap.solve(Double(number=1), options=flags, db=db, run_id="r", k=3)
    assert solution.result == 2


# -- a model that is gone


async def test_a_dead_model_stops_the_run_unless_told_otherwise(db: Path) -> None:
    """As ever."""
    models = [named("a", but(3, 4, 5, 6, 7, error=QUOTA)), named("b", doubled)]
    async with mdap.Session(models, db=db) as session:
        solution = await session.run(Many(number=8), run_id="r")
    assert (solution.status, solution.reason) == (RunStatus.STOPPED, "out of quota")


async def test_a_dead_model_is_left_out_and_the_certificate_says_who_voted(db: Path) -> None:
    """Its samples are drawn from the others, also after a resume by a session that would stop."""
    models = [named("a", but(3, 4, 5, 6, 7, error=QUOTA)), named("b", but(6, error=QUOTA))]
    async with mdap.Session(models, db=db, on_dead="continue") as session:
        solution = await session.run(Many(number=8), run_id="r")
    assert (solution.status, solution.reason) == (RunStatus.STOPPED, "out of quota"), "nobody is left"
    assert solution.steps == 6
    models = [named("a", doubled), named("b", doubled)]
    async with mdap.Session(models, db=db) as session:
        solution = await session.resume("r")
    assert solution.result == [2 * n for n in range(8)]
    assert not asked("a")
    assert solution.certificate is not None
    assert dict(solution.certificate.voters) == {"a": 6, "b": 18}
    assert any("a was left out after 3 decisions" in warning for warning in solution.warnings)
    verified(db, "r")


# -- how long a reply may be


class Long(Double):
    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask(mdap.Step(f"double {self.number}", read, max_tokens=900))


@pytest.mark.parametrize(
    ("task", "voting", "sent"),
    [
        (Double, mdap.VotingSettings(), 750),
        (Long, mdap.VotingSettings(), 900),
        (Long, mdap.VotingSettings(max_tokens=4000), 4000),
        (Long, mdap.VotingSettings(max_tokens=750), 750),
    ],
)
async def test_tokens_that_are_asked_for_win_over_a_steps_own(
    db: Path, task: type[Double], voting: mdap.VotingSettings, sent: int
) -> None:
    """Given: for every step. Else a step's own, else 750; a resume keeps it, and the audit reads by it."""
    model = named("m", doubled)
    async with mdap.Session(model, db=db) as session:
        await session.run(task(number=2), voting=voting, run_id="r")
        again = await session.run(task(number=2), voting=voting, run_id="r")
    assert {request.max_tokens for request in asked("m")} == {sent}
    assert again.result == 4
    verified(db, "r")
