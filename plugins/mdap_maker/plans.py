"""What a decomposer proposes: two subproblems and how to compose their answers, or that none are needed."""

from typing import Any, Final

from mdap import RedFlag, canonical

__all__ = ["SIMPLE", "Plan", "checked_plan"]

Plan = dict[str, Any]
"""Either `SIMPLE`, or the texts ``first``, ``second`` and ``compose``."""

SIMPLE: Final[Plan] = {"simple": True}

_PARTS: Final = ("first", "second", "compose")
_LONGEST: Final = 4_000
_GROWTH: Final = 1.25
_SLACK: Final = 40

# A subproblem that speaks of the other one, or of what came before, cannot be solved by who sees it alone.
_REFERENCES: Final = (
    "first subproblem",
    "second subproblem",
    "other subproblem",
    "first result",
    "second result",
)
_MORE_REFERENCES: Final = (
    "previous result",
    "the result above",
    "answer of the first",
    "answer of the second",
)


def checked_plan(found: Any, problems: tuple[str, ...]) -> Plan:
    """Return a plan in its one form; refuse one that cannot work, whatever it says.

    Args:
        found: what a reply holds, as a JSON value.
        problems: the problem, and before it those that it is a part of.

    Raises:
        RedFlag: it is no plan; a subproblem is that problem again, or one that it is a part of; one is not
            smaller; or one does not stand by itself.
    """
    if found == SIMPLE:
        return SIMPLE
    if not isinstance(found, dict) or set(found) != set(_PARTS):
        raise RedFlag("not a plan")
    plan = {name: canonical.text(found[name]) for name in _PARTS}
    if not all(0 < len(text) <= _LONGEST for text in plan.values()):
        raise RedFlag("an empty or endless part")
    parts = [canonical.text(plan[name], case=False) for name in ("first", "second")]
    before = [canonical.text(problem, case=False) for problem in problems]
    if set(parts) & set(before):
        raise RedFlag("a subproblem that is the problem again")
    if max(map(len, parts)) > _GROWTH * len(before[-1]) + _SLACK:
        raise RedFlag("a subproblem that is not smaller")
    if any(words in part for part in parts for words in (*_REFERENCES, *_MORE_REFERENCES)):
        raise RedFlag("a subproblem that does not stand by itself")
    return plan
