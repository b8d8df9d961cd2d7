"""The words of the four agents: decomposer, solver, and a discriminator for what each of them proposes."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from mdap import RedFlag, Step, canonical
from mdap_maker.plans import Plan, checked_plan

__all__ = ["choose_plan", "choose_solution", "propose_plan", "propose_solution", "rendered"]

_PLANNER: Final = """\
You decide how a problem is to be split. Other people will solve the parts; each of them sees nothing but the
one part. If the problem can be answered in one small, sure step, say that it is simple. Otherwise give two
subproblems and say how to compose the answer from theirs. Each subproblem must be easier than the problem,
must be complete in itself, with all numbers and texts that it needs, and must not rest on the other one. The
composition speaks of "the first result" and "the second result", and must be easy.

Think it over in a few sentences. Then end your reply with one line of JSON and nothing after it, either
{"simple": true}
or
{"first": "...", "second": "...", "compose": "..."}"""

_JUDGE_OF_PLANS: Final = """\
You are given a problem and some ways to split it, numbered from 1. Choose the one whose subproblems are each
easier than the problem, complete in themselves and independent, and whose composition gives the right answer
for sure; or one that says that the problem is simple, if it can be answered in one small, sure step.

Check each in a sentence. Then end your reply with this line and nothing after it, N being its number:
choice=N"""

_SOLVER: Final = """\
You are given a problem. Work it out in a few short sentences. Then end your reply with one line of JSON and
nothing after it, the answer as a text, without explanation and without units that were not asked for:
{"answer": "..."}"""

_JUDGE_OF_SOLUTIONS: Final = """\
You are given a problem and some answers to it, numbered from 1. Find out which of them is right.

Work it out in a few short sentences. Then end your reply with this line and nothing after it, N being its
number:
choice=N"""

_LONGEST_ANSWER: Final = 10_000
_PLAN_TOKENS: Final = 1_500


def propose_plan(problems: tuple[str, ...], number: int) -> Step[Plan]:
    """Return the step in which a decomposer proposes a plan.

    Args:
        problems: the problem, and before it those that it is a part of.
        number: which of several decomposers it is, from 1.
    """

    def read(text: str) -> Plan:
        return checked_plan(_last_json(text), problems)

    shared = f"Problem:\n{problems[-1]}\n\n"
    user = f"{shared}You are decomposer {number}; the others propose ways of their own."
    about = {"agent": "decomposer", "problem": problems[-1], "number": number}
    return Step(user, read, _PLANNER, max_tokens=_PLAN_TOKENS, input=about, proposal=True, shared=shared)


def choose_plan(problem: str, plans: Sequence[Plan]) -> Step[int]:
    """Return the step in which discriminators vote on plans; its answer is the place of one, from 0."""
    listed = [_listed(plan) for plan in plans]
    about = {"agent": "decomposition discriminator", "problem": problem, "candidates": list(plans)}
    return Step(_candidates(problem, listed), _choice(len(plans)), _JUDGE_OF_PLANS, input=about)


def propose_solution(problem: str, number: int) -> Step[str]:
    """Return the step in which a solver proposes an answer."""
    shared = f"Problem:\n{problem}\n\n"
    user = f"{shared}You are solver {number}; the others work it out on their own."
    about = {"agent": "solver", "problem": problem, "number": number}
    return Step(user, _solution, _SOLVER, input=about, proposal=True, shared=shared)


def choose_solution(problem: str, answers: Sequence[str]) -> Step[int]:
    """Return the step in which discriminators vote on answers; its answer is the place of one, from 0."""
    about = {"agent": "solution discriminator", "problem": problem, "candidates": list(answers)}
    return Step(_candidates(problem, answers), _choice(len(answers)), _JUDGE_OF_SOLUTIONS, input=about)


def rendered(agent: str, answer: Any) -> str:
    """Return a reply as a model would write it."""
    if agent == "decomposer":
        return f"I have thought about it.\n{json.dumps(answer, ensure_ascii=False)}"
    if agent == "solver":
        return f"I have worked it out.\n{json.dumps({'answer': answer}, ensure_ascii=False)}"
    return f"I have checked them all.\nchoice={answer + 1}"


def _candidates(problem: str, listed: Sequence[str]) -> str:
    numbered = "\n\n".join(f"{number}. {text}" for number, text in enumerate(listed, start=1))
    return f"Problem:\n{problem}\n\nCandidates:\n\n{numbered}"


def _listed(plan: Plan) -> str:
    if plan.get("simple"):
        return "The problem is simple: no subproblems."
    return f"First: {plan['first']}\nSecond: {plan['second']}\nComposition: {plan['compose']}"


def _last_json(text: str) -> Any:
    return canonical.json_value(text.rstrip("\n").rpartition("\n")[2])


def _solution(text: str) -> str:
    found = _last_json(text)
    if not isinstance(found, dict) or set(found) != {"answer"} or not isinstance(found["answer"], str):
        raise RedFlag("not an answer")
    answer = canonical.text(found["answer"])
    if not 0 < len(answer) <= _LONGEST_ANSWER:
        raise RedFlag("an empty or endless answer")
    return answer


def _choice(count: int) -> Callable[[str], int]:
    choices = {f"choice={number}": number - 1 for number in range(1, count + 1)}

    def read(text: str) -> int:
        last = text.rstrip("\n").rpartition("\n")[2]
        if last not in choices:
            raise RedFlag("no choice")
        return choices[last]

    return read
