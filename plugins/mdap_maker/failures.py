"""After the fact: where in the tree something went wrong, and of which kind it is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mdap_maker.arithmetic import answer_to, composed

__all__ = ["Failure", "failures"]


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


def failures(tree: Mapping[str, Any], right: Callable[[str], str | None] = answer_to) -> Iterator[Failure]:
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
        planned = right(composed(tree["compose"], first, second))
        kind: Literal["plan", "composition"] = "composition" if planned == truth else "plan"
        yield Failure(path, kind, tree["problem"], tree["answer"])
