"""Toy processes, in a module of their own so that a run can find them again by name."""

from typing import Any, ClassVar

import anyio
import anyio.lowlevel

import mdap
from mdap_hanoi import Hanoi

CALLS: list[str] = []
"""What `Tree` did outside its decisions, in order."""


class Double(mdap.Process[int]):
    """Double a number, of which a model is asked."""

    number: int = 1

    async def solve(self, ask: mdap.Ask) -> int:
        return await ask(double(self.number))

    def oracle(self, step: mdap.Step[Any]) -> int:
        return 2 * int(step.input)

    def mistakes(self, step: mdap.Step[Any], truth: int) -> list[int]:
        return [truth + 1, truth - 1, truth + 2]

    def render(self, step: mdap.Step[Any], answer: int) -> str:
        return str(answer)


def double(number: int, key: str | None = None) -> mdap.Step[int]:
    return mdap.Step(user=f"double {number}", parse=read, input=number, key=key)


def read(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise mdap.RedFlag("no number") from None


class Tree(Double):
    """Ask in every way there is: side by side, one after the other, nested, and for something once."""

    width: int = 12

    async def solve(self, ask: mdap.Ask) -> Any:
        first = await ask.map(double(number) for number in range(self.width))
        async with ask.group() as group:
            again = group.ask(double(3))
            deep = group.start(self.climb, ask, 5)
            part = group.start(ask.solve, Double(number=100))
            same = group.start(ask.solve, Double(number=100))
        noted = await ask.once(self.note, key="note")
        tower = await ask.solve(Hanoi(disks=2), key="tower")
        return [first, again.value, deep.value, part.value, same.value, noted, tower["moves"]]

    async def climb(self, ask: mdap.Ask, steps: int) -> int:
        number = 1
        for _ in range(steps):
            number = await ask(double(number))
        return number

    async def note(self) -> str:
        CALLS.append("noted")
        await anyio.lowlevel.checkpoint()
        return f"note {len(CALLS)}"

    def expected(self, note: str) -> list[Any]:
        return [[2 * number for number in range(self.width)], 6, 32, 200, 200, note, 3]


class Hurried(Double):
    """Wait no longer than a moment for an answer, as no process should: the clock is no part of a record."""

    async def solve(self, ask: mdap.Ask) -> Any:
        with anyio.move_on_after(0.1):
            return await ask(double(self.number))
        return None


class Forgiving(Double):
    """Go on without an answer where there is none."""

    async def solve(self, ask: mdap.Ask) -> Any:
        try:
            return await ask(double(self.number))
        except mdap.UndecidedError as error:
            return str(error)


class ForgivingGroup(Double):
    """Go on without a group in which something has no winner."""

    async def solve(self, ask: mdap.Ask) -> Any:
        try:
            async with ask.group() as group:
                one, other = group.ask(double(self.number)), group.ask(double(self.number + 1))
        except mdap.UndecidedError:
            return "no winner"
        return one.value + other.value


class Changing(Double):
    """Ask otherwise than before, as a process whose author edited it does."""

    wording: ClassVar[str] = "double"
    asks: ClassVar[tuple[int, ...]] = (1, 2, 3)
    breaks: ClassVar[bool] = False

    async def solve(self, ask: mdap.Ask) -> Any:
        answers = []
        for number in self.asks:
            user = f"{self.wording if number == 2 else 'double'} {number}"
            step = mdap.Step(user=user, parse=read, input=number, key=f"n{number}")
            answers.append(await ask(step))
        if self.breaks:
            raise ZeroDivisionError("by the author")
        return answers


SENT: list[tuple[str, int]] = []
"""What `Sender` did outside, in order."""


class Sender(mdap.Chain[int, int]):
    """Double a number again and again, and send each result."""

    steps: int = 5
    fails_at: ClassVar[int | None] = None

    def start(self) -> int:
        return 1

    def step(self, state: int) -> mdap.Step[int] | None:
        return None if state >= 2**self.steps else double(state)

    def advance(self, state: int, answer: int) -> int:
        return answer

    def oracle(self, state: int) -> int:
        return 2 * state

    def mistakes(self, state: int, truth: int) -> list[int]:
        return [truth + 1, truth - 1, truth + 2]

    def render(self, answer: int) -> str:
        return str(answer)

    async def effects(self, state: int, decision: mdap.Decision[int]) -> None:
        await anyio.lowlevel.checkpoint()
        if decision.step == self.fails_at:
            raise ConnectionError("nobody listens")
        assert decision.answer == 2 * state
        # A person's decision has no votes.
        assert not decision.votes or decision.votes[str(decision.answer)] >= 3
        SENT.append((decision.key, decision.answer))


class HanoiProcess(mdap.Process[Any]):
    """The same tower as `Hanoi`, its steps asked for by a loop."""

    disks: int = 3

    @property
    def chain(self) -> Hanoi:
        return Hanoi(disks=self.disks)

    async def solve(self, ask: mdap.Ask) -> Any:
        chain = self.chain
        state = chain.start()
        for number in range(chain.length() or 0):
            step = chain.step(state)
            assert step is not None
            keyed = mdap.Step(
                user=step.user, system=step.system, parse=step.parse, schema=step.schema,
                max_tokens=step.max_tokens, input=state, key=str(number),
            )  # fmt: skip
            state = chain.advance(state, await ask(keyed))
        return chain.result(state)

    def oracle(self, step: mdap.Step[Any]) -> Any:
        return self.chain.oracle(step.input)

    def mistakes(self, step: mdap.Step[Any], truth: Any) -> list[Any]:
        return self.chain.mistakes(step.input, truth)

    def render(self, step: mdap.Step[Any], answer: Any) -> str:
        return self.chain.render(answer)


class Many(Double):
    """Ask independent questions, all of them at once."""

    width: int = 60

    async def solve(self, ask: mdap.Ask) -> Any:
        return await ask.map(double(number) for number in range(self.width))


class Impatient(Double):
    """Wait for some answers only a moment; ask for others, for a first one again, and for nested runs."""

    width: int = 20

    async def solve(self, ask: mdap.Ask) -> Any:
        async def in_a_hurry(number: int) -> None:
            # In turns of the loop: by the clock, a busy machine gives up before the step is on record.
            async with anyio.create_task_group() as asking:
                asking.start_soon(ask, double(number))
                for _ in range(50):
                    await anyio.lowlevel.checkpoint()
                asking.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for number in range(self.width):
                group.start_soon(in_a_hurry, number)
        answers = await ask.map(double(number) for number in range(100, 100 + self.width))
        answers.append(await ask(double(1)))
        async with ask.group() as parts:
            for number in range(3):
                parts.start(ask.solve, Many(width=5, number=number), f"part {number}")
        answers.append(await ask(double(1000)))
        return answers


class Doubles(mdap.Process[Any]):
    """Double many numbers, each in a run of its own, and move a tower, too."""

    count: int = 6
    noted: bool = False
    tower: bool = True

    async def solve(self, ask: mdap.Ask) -> Any:
        found: list[Any] = []
        tasks: list[tuple[str, mdap.Task]] = [
            (f"n{number}", Double(number=number)) for number in range(self.count)
        ]
        if self.tower:
            tasks.insert(2, ("tower", Hanoi(disks=2)))
        if self.noted:
            async with ask.group() as group:
                pending = [(key, group.start(ask.solve, task, key)) for key, task in tasks]
            return {"doubles": [[key, each.value] for key, each in pending]}
        await ask.solve_all(tasks, lambda run_id, result: found.append([run_id, result]))
        return {"doubles": found}
