"""What a run brings about outside, counted: the table of `docs/how-to/write-a-process.md`, line by line."""

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

import mdap
from mdap.errors import UsageError
from mdap.session import settle_step

STEPS = 4
SURE = {"error_rate": 0.0, "flag_rate": 0.0}


CUT: dict[str, anyio.CancelScope] = {}


async def cut_short() -> None:
    """End a session in the middle of what it brings about."""
    CUT["it"].cancel()
    await anyio.sleep_forever()


def numbered(text: str) -> int:
    if not text.isdecimal():
        raise mdap.RedFlag("not a number")
    return int(text)


class Booking(mdap.Chain[int, int]):
    """Books at each step."""

    crashes_at: ClassVar[int | None] = None
    booked: ClassVar[list[str]] = []
    case: int = 0

    def start(self) -> int:
        return 0

    def length(self) -> int | None:
        return STEPS

    def step(self, state: int) -> mdap.Step[int] | None:
        return mdap.Step(user=f"after {state}", parse=numbered)

    def advance(self, state: int, answer: int) -> int:
        return state + 1

    async def effects(self, state: int, decision: mdap.Decision[int]) -> None:
        self.booked.append(decision.key)
        if decision.step == type(self).crashes_at:
            type(self).crashes_at = None
            await cut_short()

    def oracle(self, state: int) -> int:
        return state + 1

    def mistakes(self, state: int, truth: int) -> list[int]:
        return [truth + 1]

    def render(self, answer: int) -> str:
        return str(answer)


class Ordering(mdap.Process[int]):
    """Orders once after each step."""

    crashes_at: ClassVar[int | None] = None
    case: int = 0

    def length(self) -> int | None:
        return STEPS

    async def solve(self, ask: mdap.Ask) -> int:
        for number in range(STEPS):
            await ask(mdap.Step(user=f"q{number}", parse=numbered, input=number))

            async def order(number: int = number) -> str:
                Booking.booked.append(f"{ask.run_id}/{number}")
                if number == Ordering.crashes_at:
                    Ordering.crashes_at = None
                    await cut_short()
                return "ordered"

            await ask.once(order, key=f"order {number}")
        return STEPS

    def oracle(self, step: mdap.Step[Any]) -> Any:
        return step.input

    def mistakes(self, step: mdap.Step[Any], truth: Any) -> list[Any]:
        return [truth + 1]

    def render(self, step: mdap.Step[Any], answer: Any) -> str:
        return str(answer)


class Whole(mdap.Process[Any]):
    """Has a chain that books as its only part."""

    def length(self) -> int | None:
        return STEPS

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.solve(Booking())


KINDS = [Booking, Ordering]


@pytest.fixture(autouse=True)
def _none_booked() -> None:
    Booking.booked.clear()
    Booking.crashes_at = Ordering.crashes_at = None


def once_each(run_id: str, first: int = 0) -> Counter[str]:
    return Counter(f"{run_id}/{step}" for step in range(first, STEPS))


def session(db: Path, **settings: Any) -> mdap.Session:
    return mdap.Session(options=SURE, db=db, **settings)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "mdap.db"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_and_its_resumes(kind: type[Any], db: Path) -> None:
    """Once for each decision; a run that is stopped, resumed and given again does nothing twice."""
    async with session(db, budget=mdap.Budget(tokens=10)) as cut:
        assert (await cut.run(kind(), run_id="r")).status is mdap.RunStatus.STOPPED
    async with session(db) as again:
        assert (await again.resume("r")).status is mdap.RunStatus.FINISHED
        await again.run(kind(), run_id="r")
    assert Counter(Booking.booked) == once_each("r")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_crash_in_the_middle(kind: type[Any], db: Path) -> None:
    """What was under way is called again with the same key, and nothing else is."""
    kind.crashes_at = 2
    with anyio.CancelScope() as CUT["it"]:
        async with session(db) as cut:
            await cut.run(kind(), run_id="r")
    assert CUT["it"].cancelled_caught
    async with session(db) as again:
        assert (await again.resume("r")).status is mdap.RunStatus.FINISHED
    assert Counter(Booking.booked) == once_each("r") + Counter(["r/2"])


async def test_a_pilot_of_a_chain(db: Path) -> None:
    """-k auto decides the first steps of a chain without its effects; the run itself has each once."""
    async with session(db) as auto:
        solution = await auto.run(Booking(), k="auto", run_id="r")
    assert solution.status is mdap.RunStatus.FINISHED
    assert Counter(Booking.booked) == once_each("r")


async def test_a_pilot_of_a_process_that_orders(db: Path) -> None:
    """-k auto is refused where the pilot would have to call `once`, and again the second time."""
    async with session(db) as auto:
        for _ in range(2):
            with pytest.raises(UsageError, match=r"calls ask\.once with the key 'order 0'.*; give k"):
                await auto.run(Ordering(), k="auto", run_id="r")
        with pytest.raises(UsageError, match="give k"):
            await auto.choose_k([Ordering()], "b")
    assert Booking.booked == []


async def test_a_pilot_of_a_process_with_parts(db: Path) -> None:
    """What is nested in a pilot brings nothing about either, and is no run that could be resumed."""
    async with session(db) as auto:
        await auto.run(Whole(), k="auto", run_id="r")
        booked = Counter(Booking.booked)
        [part] = [key.rpartition("/")[0] for key in booked if key.endswith("/0")]
        assert booked == once_each(part)
        assert part.startswith("r/booking-")
        with pytest.raises(UsageError, match="is a pilot"):
            await auto.resume(part.replace("r/", "r-pilot/", 1))


async def test_a_calibration(db: Path) -> None:
    """Nothing is brought about, nor by the pilot that a calibration takes its steps from."""
    async with session(db) as calibrating:
        await calibrating.calibrate(Booking(), samples=16)
    assert Booking.booked == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch(kind: type[Any], db: Path) -> None:
    """Once for each decision of each case; the same batch again does nothing."""
    async with session(db) as batch:
        for _ in range(2):
            async for solution in batch.solve_all([kind(case=0), kind(case=1)], run_id="b"):
                assert solution.status is mdap.RunStatus.FINISHED
    assert Counter(Booking.booked) == once_each("b/0") + once_each("b/1")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_replay(kind: type[Any], db: Path) -> None:
    """A replay is a run of its own: it brings everything about under its own keys."""
    async with session(db) as first:
        await first.run(kind(), run_id="r")
    async with mdap.Session("replay/r", db=db) as replay:
        await replay.run(kind(), run_id="again")
    assert Counter(Booking.booked) == once_each("r") + once_each("again")


async def test_an_override(db: Path) -> None:
    """From the step that a person decides on: what came before it was brought about by the old run."""
    async with session(db) as first:
        await first.run(Booking(), run_id="r")
    name = await settle_step(db, "r", 2, answer="9", author="Ada", reason="a test")
    assert Counter(Booking.booked) == once_each("r")
    async with session(db) as again:
        await again.resume(name)
    assert Counter(Booking.booked) == once_each("r") + once_each(name, 2)


class Split(Ordering):
    """Cannot decide its first step, and would order meanwhile."""

    async def solve(self, ask: mdap.Ask) -> int:
        async with ask.group() as group:
            group.ask(mdap.Step(user="split", parse=numbered, input=7))
            group.start(ask.once, lambda: Booking.booked.append("meanwhile"), "meanwhile")
        return STEPS


async def test_settling_by_hand(db: Path) -> None:
    """`mdap decide` runs the process as far as the step, and brings nothing about on its way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdap.engine.asking.Asking.once", _never)
        options = {"error_rate": 1.0, "flag_rate": 0.0}
        async with mdap.Session(["sim/a", "sim/b"], options=options, db=db) as first:
            voting = mdap.VotingSettings(k=2, max_samples=2)
            await first.run(_Two(), voting=voting, run_id="r")
    await settle_step(db, "r", 0, answer="7", author="Ada", reason="a test")
    assert Booking.booked == []


async def _never(*_: Any, **__: Any) -> None:
    """Stand for an effect that the first session did not come to."""


class _Two(Split):
    def mistakes(self, step: mdap.Step[Any], truth: Any) -> list[Any]:
        return [truth + 1, truth + 2, truth + 3, truth + 4]
