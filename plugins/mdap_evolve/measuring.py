"""Measure a model at a task: p, v, and the samples and tokens of a run."""

import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from mdap import RedFlag, UsageError
from mdap.errors import RAISED, PluginError
from mdap.plugins import make_recorded, make_task, read_params, task_name
from mdap.rules.canonical import canonical
from mdap.rules.digests import prompt_digest
from mdap.rules.scaling import plan
from mdap.rules.values import kinds_of
from mdap.session.surveying import known_steps
from mdap.tasks import Chain, Step, Task, canonical_step
from mdap_evolve.gathering import Question
from mdap_evolve.learning import likelihoods
from mdap_local import LocalModel
from mdap_local.generating import Row, Sampled, generate

MOST_ITEMS: Final = 512
"""Maximum number of steps of an exam."""

GLANCE: Final = 64
"""Steps of an exam to measure in each iteration."""

_SAMPLES: Final = 4  # of each step
_TOGETHER: Final = 16 * _SAMPLES  # samples to generate in one batch
_LONGEST: Final = 256  # tokens of a reply

Parse = Callable[[str], Any]


class Item(NamedTuple):
    """A step of an exam: its prompt, its right reply, and its parser if that is known."""

    system: str
    user: str
    reply: str
    parse: Parse | None
    max_tokens: int = _LONGEST


class Figures(NamedTuple):
    """The figures of a model at a task, at temperature 1: *right* is p times v; without a parser v is None.

    The margin *k* reaches the target, if any does; *samples* and *tokens* are those expected of a run at it.
    """

    items: int
    right: float
    p: float
    v: float | None
    k: int | None
    samples: float | None
    tokens: float | None


@dataclass(frozen=True, slots=True)
class Exam:
    """Steps of a task with their right replies, and the length and target of the run to plan."""

    name: str
    items: tuple[Item, ...]
    steps: int | None
    target: float

    def fitting(self, model: LocalModel) -> "Exam":
        """Return the exam without steps beyond the context of *model*.

        Raises:
            UsageError: no step is left.
        """
        fit = [item for item in self.items if sum(map(len, _tokens(model, item))) <= model.context]
        if not fit:
            raise UsageError(
                f"every prompt of {self.name} is longer than the context of {model.name}, {model.context} "
                "tokens: choose parameters with shorter prompts"
            )
        return replace(self, items=tuple(fit))

    def chances(self, model: LocalModel, most: int | None = None) -> list[float]:
        """Return the exact probability of the right reply at each step, or the first *most*."""
        return likelihoods(model, [_tokens(model, item) for item in self.items[:most]])

    def figures(self, model: LocalModel, seed: int) -> Figures:
        """Return the figures of *model*; a few samples per step show red flags and other spellings."""
        right = statistics.fmean(self.chances(model))
        seen: Counter[str] = Counter()
        tokens = []
        for sampled, item in _sampled(model, self.items, seed):
            seen[_kind(item, model.text(sampled.tokens))] += 1
            tokens.append(len(sampled.row.prompt) + sampled.made)
        # Verbatim right replies have an exact probability; samples divide up the rest.
        others = max(1, seen["wrong"] + seen["right"] + seen["flagged"])
        right += (1 - right) * seen["right"] / others
        v = 1 - (1 - right) * seen["flagged"] / max(1, seen["wrong"] + seen["flagged"])
        p = right / v if v else 0.0
        readable = any(item.parse is not None for item in self.items)
        k = samples = None
        if self.steps and 0.5 < p < 1:
            made = plan(self.steps, 1 - p, v if readable else 1.0, self.target)
            k, samples = made.k, made.samples
        elif self.steps and p == 1:
            k, samples = 1, float(self.steps)
        each = statistics.fmean(tokens) if tokens else math.nan
        cost = None if samples is None else samples * each
        return Figures(len(self.items), right, p, v if readable else None, k, samples, cost)


def _kind(item: Item, text: str) -> str:
    """Return what a sample is: ``verbatim`` the right reply, ``right``, ``wrong`` or ``flagged``."""
    if text == item.reply:
        return "verbatim"
    if item.parse is None:
        return "wrong"
    try:
        said = canonical(item.parse(text))
    except RedFlag:
        return "flagged"
    return "right" if said == canonical(item.parse(item.reply)) else "wrong"


def exam_of_log(questions: Sequence[Question], task: Task, target: float) -> Exam:
    """Return the exam on held-out prompts of a log; vote winners count as right."""
    drawn = random.Random(0).sample(list(questions), min(len(questions), MOST_ITEMS))
    if isinstance(task, Chain):
        steps = [step for one in drawn if (step := _step_again(one)) is not None]
    else:
        steps = [known.step for known in known_steps(task, MOST_ITEMS, 0)]
    readers = {
        prompt_digest(step.system, step.user): (step.parse, step.max_tokens or _LONGEST) for step in steps
    }
    items = [
        Item(one.system, one.user, one.reply, *readers.get(one.digest, (None, _LONGEST))) for one in drawn
    ]
    changed = task.model_dump(mode="json", exclude_unset=True)
    query = "&".join(f"{name}={value}" for name, value in changed.items())
    name = f"{task_name(task)}{'?' if query else ''}{query}"
    return Exam(name, tuple(items), task.length(), target)


def _step_again(one: Question) -> Step[Any] | None:
    """Return a chain's step again, as its code gives it now."""
    chain = make_recorded(one.task[0], json.loads(one.task[1]))
    assert isinstance(chain, Chain)
    try:
        step = chain.step(kinds_of(chain)[0].read(one.input))
    except RAISED as error:
        raise PluginError(f"task {one.task[0]}", "giving a step again", error) from error
    return None if step is None else canonical_step(chain, step)


def exam_of_task(spec: str, target: float) -> Exam:
    """Return the exam of a task with an oracle, named with its parameters as in ``multiply?style=compact``.

    Raises:
        UsageError: there is no such task, or it has no oracle.
        PluginError: its code failed.
    """
    name, _, query = spec.partition("?")
    task = make_task(name, read_params(name, tuple(part for part in query.split("&") if part)))
    items: dict[str, Item] = {}
    for known in known_steps(task, MOST_ITEMS, 0):
        step = known.step
        reply = known.subject.render(known.subject.truth())
        item = Item(step.system, step.user, reply, step.parse, step.max_tokens or _LONGEST)
        items.setdefault(prompt_digest(step.system, step.user), item)
    if not items:
        raise UsageError(
            f"--keep {spec}: {name} does not know its right answers (it has no oracle), so that nothing can "
            "be measured: keep a task that does"
        )
    return Exam(spec, tuple(items.values()), task.length(), target)


def loss_of(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return the fall of the mean probability, and its standard error over the steps."""
    lost = [first - last for first, last in zip(before, after, strict=True)]
    error = statistics.stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
    return statistics.fmean(lost), error


def _tokens(model: LocalModel, item: Item) -> tuple[list[int], list[int]]:
    return model.chat(item.system, item.user), model.reply(item.reply)


def _sampled(model: LocalModel, items: Sequence[Item], seed: int) -> Iterable[tuple[Sampled, Item]]:
    """Yield each sample with its step; one *seed* draws the same random numbers for every model."""
    items_of: dict[Row, Item] = {}
    for place, item in enumerate(items):
        prompt = tuple(model.chat(item.system, item.user))
        room = min(item.max_tokens, _LONGEST, model.context - len(prompt))
        for number in range(_SAMPLES):
            chance = random.Random(f"{seed}|{place}|{number}").getrandbits(64)
            items_of[Row(prompt, chance, 1.0, room, lambda: True)] = item
    rows = list(items_of)
    for first in range(0, len(rows), _TOGETHER):
        for sampled in generate(model, rows[first : first + _TOGETHER]):
            yield sampled, items_of[sampled.row]
