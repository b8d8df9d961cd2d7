"""The words of the four agents: decomposer, solver, and a discriminator for what each of them proposes.

A decomposer proposes two subproblems and how to compose their answers, or that none are needed.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from mdap import RedFlag, Step, canonical

Plan = dict[str, Any]
"""Either `SIMPLE`, or the texts ``first``, ``second`` and ``compose``."""

SIMPLE: Final[Plan] = {"simple": True}

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
_PARTS: Final = ("first", "second", "compose")
_LONGEST_PART: Final = 4_000
_GROWTH: Final = 1.25
_SLACK: Final = 40

# A subproblem that speaks of the other one, or of what came before, cannot be solved by who sees it alone.
_REFERENCES: Final = (
    *("first subproblem", "second subproblem", "other subproblem"),
    *("first result", "second result", "previous result", "the result above"),
    *("answer of the first", "answer of the second"),
)


def propose_plan(problems: tuple[str, ...], number: int) -> Step[Plan]:
    """Return the step in which decomposer *number* proposes a plan for the last of the *problems*.

    The problems before it are those that it is a part of.
    """

    def read(text: str) -> Plan:
        return checked_plan(_last_json(text), problems)

    shared = f"Problem:\n{problems[-1]}\n\n"
    user = f"{shared}You are decomposer {number}; the others propose ways of their own."
    about = {"agent": "decomposer", "problem": problems[-1], "number": number}
    return Step(user, read, _PLANNER, max_tokens=_PLAN_TOKENS, input=about, proposal=True, shared=shared)


def propose_solution(problem: str, number: int) -> Step[str]:
    """Return the step in which a solver proposes an answer."""
    shared = f"Problem:\n{problem}\n\n"
    user = f"{shared}You are solver {number}; the others work it out on their own."
    about = {"agent": "solver", "problem": problem, "number": number}
    return Step(user, _solution, _SOLVER, input=about, proposal=True, shared=shared)


def choose_plan(problem: str, plans: Sequence[Plan]) -> Step[int]:
    """Return the step in which discriminators vote on plans; its answer is the place of one, from 0."""
    about = {"agent": "decomposition discriminator", "problem": problem, "candidates": list(plans)}
    return _choice(list(map(_listed, plans)), _JUDGE_OF_PLANS, about)


def choose_solution(problem: str, answers: Sequence[str]) -> Step[int]:
    """Return the step in which discriminators vote on answers; its answer is the place of one, from 0."""
    about = {"agent": "solution discriminator", "problem": problem, "candidates": list(answers)}
    return _choice(answers, _JUDGE_OF_SOLUTIONS, about)


def _choice(listed: Sequence[str], system: str, about: dict[str, Any]) -> Step[int]:
    choices = {f"choice={number}": number - 1 for number in range(1, len(listed) + 1)}

    def read(text: str) -> int:
        last = text.rstrip("\n").rpartition("\n")[2]
        if last not in choices:
            raise RedFlag("no choice")
        return choices[last]

    numbered = "\n\n".join(f"{number}. {text}" for number, text in enumerate(listed, start=1))
    return Step(f"Problem:\n{about['problem']}\n\nCandidates:\n\n{numbered}", read, system, input=about)


def rendered(agent: str, answer: Any) -> str:
    """Return a reply as a model would write it."""
    if agent == "decomposer":
        return f"I have thought about it.\n{json.dumps(answer, ensure_ascii=False)}"
    if agent == "solver":
        return f"I have worked it out.\n{json.dumps({'answer': answer}, ensure_ascii=False)}"
    return f"I have checked them all.\nchoice={answer + 1}"


def _listed(plan: Plan) -> str:
    if plan.get("simple"):
        return "The problem is simple: no subproblems."
    return f"First: {plan['first']}\nSecond: {plan['second']}\nComposition: {plan['compose']}"


def _last_json(text: str) -> Any:
    return canonical.json_value(text.rstrip("\n").rpartition("\n")[2])


def checked_plan(found: Any, problems: tuple[str, ...]) -> Plan:
    """Return a plan in its one form; refuse one that cannot work, whatever it says.

    Raises:
        RedFlag: it is no plan; a subproblem is one of the *problems* again, of which the last is to be split;
            one is not smaller; or one does not stand by itself.
    """
    if found == SIMPLE:
        return SIMPLE
    if not isinstance(found, dict) or set(found) != set(_PARTS):
        raise RedFlag("not a plan")
    plan = {name: canonical.text(found[name]) for name in _PARTS}
    if not all(0 < len(text) <= _LONGEST_PART for text in plan.values()):
        raise RedFlag("an empty or endless part")
    parts = [canonical.text(plan[name], case=False) for name in ("first", "second")]
    before = [canonical.text(problem, case=False) for problem in problems]
    if set(parts) & set(before):
        raise RedFlag("a subproblem that is the problem again")
    if max(map(len, parts)) > _GROWTH * len(before[-1]) + _SLACK:
        raise RedFlag("a subproblem that is not smaller")
    if any(words in part for part in parts for words in _REFERENCES):
        raise RedFlag("a subproblem that does not stand by itself")
    return plan


def _solution(text: str) -> str:
    found = _last_json(text)
    if not isinstance(found, dict) or set(found) != {"answer"} or not isinstance(found["answer"], str):
        raise RedFlag("not an answer")
    answer = canonical.text(found["answer"])
    if not 0 < len(answer) <= _LONGEST_ANSWER:
        raise RedFlag("an empty or endless answer")
    return answer
