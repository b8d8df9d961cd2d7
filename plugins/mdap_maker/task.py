"""The process: split, choose, solve the parts, compose, choose again (arXiv 2511.09030, appendix).

After the fact, `failures` shows where in the tree something went wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from mdap import Ask, Process, RedFlag, Step, UndecidedError
from mdap_maker import arithmetic, words
from mdap_maker.words import SIMPLE, Plan

_NOT_KNOWN: Final = "only products of whole numbers can be simulated ('Multiply 12 by 34.'): give a --model"


class Maker(Process[dict[str, Any]]):
    """Solve a problem stated in words: split it, solve the parts, and vote on every choice."""

    version: ClassVar[str] = "2"

    problem: str = Field(
        "Multiply 46048 by 42098.", min_length=1, max_length=20_000, description="the problem"
    )
    proposals: int = Field(
        5, ge=1, le=50, description="decompositions and answers that are proposed at a node"
    )
    depth: int = Field(8, ge=0, le=16, description="how often a problem may be split again")
    ancestors: tuple[str, ...] = Field((), description="the problems that this one is a part of")

    async def solve(self, ask: Ask) -> dict[str, Any]:
        """Return the answer, with the tree of problems that led to it.

        Raises:
            UndecidedError: there was no plan, or no agreement; the sentence begins with which.
        """
        plan = await self._plan(ask) if len(self.ancestors) < self.depth else SIMPLE
        if plan == SIMPLE:
            node = await self._answered(ask, self.problem)
            return {"problem": self.problem, **node}
        below = self.model_copy(update={"ancestors": (*self.ancestors, self.problem)})
        async with ask.group() as group:
            parts = [
                group.start(ask.solve, below.model_copy(update={"problem": plan[name]}), str(number))
                for number, name in enumerate(("first", "second"), start=1)
            ]
        first, second = (part.value for part in parts)
        whole = f"{self.problem}\n{arithmetic.composed(plan['compose'], first['answer'], second['answer'])}"
        node = await self._answered(ask, whole)
        return {"problem": self.problem, "compose": plan["compose"], "parts": [first, second], **node}

    def outcome(self, result: dict[str, Any]) -> bool | None:
        """Return whether the answer is right, where the problem is a product of whole numbers."""
        right = arithmetic.answer_to(_last(self.problem))
        return None if right is None else bool(result["answer"] == right)

    async def _plan(self, ask: Ask) -> Plan:
        """Return the plan that decomposers proposed and discriminators chose."""
        problems, shown = (*self.ancestors, self.problem), f"{self.problem:.200}"
        steps = [words.propose_plan(problems, number) for number in range(1, self.proposals + 1)]
        none = f"no plan: none of {self.proposals} proposals can be used for: {shown}"
        choose = partial(words.choose_plan, self.problem)
        plan: Plan = await self._chosen(ask, steps, choose, none, f"no agreement on a plan for: {shown}")
        return plan

    async def _answered(self, ask: Ask, problem: str) -> dict[str, Any]:
        """Return the answer to *problem* that solvers proposed and discriminators chose."""
        steps = [words.propose_solution(problem, number) for number in range(1, self.proposals + 1)]
        none = f"no answer: none of {self.proposals} replies can be used for: {problem:.200}"
        split = f"no agreement on an answer to: {problem:.200}"
        return {
            "answer": await self._chosen(ask, steps, partial(words.choose_solution, problem), none, split)
        }

    async def _chosen(
        self, ask: Ask, steps: Sequence[Step[Any]], choose: Callable[[Any], Step[int]], none: str, split: str
    ) -> Any:
        """Return the proposal that discriminators chose; raise `UndecidedError` with one of the sentences."""
        async with ask.group() as group:
            votes = [group.start(ask.decision, step) for step in steps]
        found = [vote.value.answer for vote in votes if vote.value.decided]
        # In an order that does not hang on which came first.
        different = [each for place, each in enumerate(found) if each not in found[:place]]
        if not different:
            raise UndecidedError(none)
        if len(different) == 1:
            return different[0]
        try:
            place: int = await ask(choose(different))
        except UndecidedError as error:
            raise UndecidedError(f"{split}: {error}", stop_cause=error.stop_cause) from error
        return different[place]

    # -- for simulation and tests ------------------------------------------------------------------

    def oracle(self, step: Step[Any]) -> Any:
        """Return the right answer to a step about a product of whole numbers."""
        problem, agent = step.input["problem"], step.input["agent"]
        candidates = step.input.get("candidates")
        plan, answer = arithmetic.best_plan(_last(problem)), arithmetic.answer_to(_last(problem))
        if plan is None or answer is None:
            raise NotImplementedError(_NOT_KNOWN)
        if agent == "decomposer":
            return plan
        if agent == "solver":
            return answer
        if agent == "solution discriminator":
            good = [candidate == answer for candidate in candidates]
        else:
            good = [arithmetic.is_good(problem, candidate) for candidate in candidates]
        return good.index(True) if True in good else 0

    def mistakes(self, step: Step[Any], truth: Any) -> list[Any]:
        """Return wrong proposals, and wrong choices."""
        agent = step.input["agent"]
        if agent == "decomposer":
            plans = arithmetic.wrong_plans(step.input["problem"])
            return [plan for plan in plans if plan != truth and self._passes(step, plan)]
        if agent == "solver":
            return arithmetic.wrong_answers(truth)
        return [place for place in range(len(step.input["candidates"])) if place != truth]

    def render(self, step: Step[Any], answer: Any) -> str:
        """Return a reply as a model would write it."""
        return words.rendered(step.input["agent"], answer)

    def _passes(self, step: Step[Any], plan: Plan) -> bool:
        try:
            step.parse(self.render(step, plan))
        except RedFlag:
            return False
        return True


def _last(problem: str) -> str:
    """Return the line that says what is to be done: of a composition, the last one."""
    return problem.rpartition("\n")[2]


@dataclass(frozen=True, slots=True)
class Failure:
    """A node where a right answer could have been had, and was not.

    Attributes:
        path: the way to it from the root: 1 or 2 for each split; empty for the root.
        kind: ``plan``: its parts are right, and their composition as planned is wrong; ``composition``: what
            was planned is right, and was carried out wrongly; ``answer``: it was not split, and its answer is
            wrong.
        problem: the problem.
        answer: the answer that it got.
    """

    path: str
    kind: Literal["plan", "composition", "answer"]
    problem: str
    answer: str


def failures(
    tree: Mapping[str, Any], right: Callable[[str], str | None] = arithmetic.answer_to
) -> Iterator[Failure]:
    """Yield the nodes where things went wrong, those that only pass on what was wrong below left out.

    Args:
        tree: the result of a `Maker`.
        right: gives the right answer to a problem, None where it is not known; by default, to products of
            whole numbers.
    """
    return _failures(tree, right, "")


def _failures(tree: Mapping[str, Any], right: Callable[[str], str | None], path: str) -> Iterator[Failure]:
    parts = tree.get("parts", [])
    for number, part in enumerate(parts, start=1):
        yield from _failures(part, right, f"{path}{number}")
    truth = right(tree["problem"])
    if truth is None or tree["answer"] == truth:
        return
    if not parts:
        yield Failure(path, "answer", tree["problem"], tree["answer"])
    elif all(right(part["problem"]) in (None, part["answer"]) for part in parts):
        first, second = (part["answer"] for part in parts)
        planned = right(arithmetic.composed(tree["compose"], first, second))
        kind: Literal["plan", "composition"] = "composition" if planned == truth else "plan"
        yield Failure(path, kind, tree["problem"], tree["answer"])
