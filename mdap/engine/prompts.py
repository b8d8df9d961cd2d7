"""The prompts of a step, one for each view, and the judgement of a reply."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mdap.errors import PluginError
from mdap.records import Reply, Subject
from mdap.rules.digests import prompt_digest, text_digest
from mdap.rules.reading import unreadable
from mdap.rules.redflags import clean, clean_label
from mdap.tasks import Step, View


class Judgement(NamedTuple):
    """The judgement of one reply: a vote for an answer, or a red flag, with the recorded text."""

    text: str
    text_digest: str
    answer: str | None
    answer_key: str | None
    flag_reason: str | None
    model: str
    finish_reason: str


class Prompt(NamedTuple):
    """One presentation of a step: the messages, and the parser of the reply."""

    system: str
    user: str
    digest: str
    parse: Callable[[str], Any]
    subject: Subject | None
    shared: int = 0


def unread(reply: Reply, error: PluginError) -> Judgement:
    """Return the record of a reply at which the parser itself failed: kept, never counted."""
    text = clean(reply.text, len(reply.text) + 1)
    model, finish_reason = clean_label(reply.model), clean_label(reply.finish_reason)
    flag = unreadable(error.cause_name)
    return Judgement(text, text_digest(text), None, None, flag, model, finish_reason)


def prompts_of(step: Step[Any], subject: Subject | None) -> list[Prompt]:
    """Return the prompts of *step*: its own first, then one for each further view."""
    digest = prompt_digest(step.system, step.user)
    own = Prompt(step.system, step.user, digest, step.parse, subject, len(step.shared))
    return [own, *(_viewed(view, subject) for view in step.views)] if step.views else [own]


class _InView(NamedTuple):
    """A subject whose replies are rendered for another view of its step."""

    truth: Callable[[], Any]
    mistakes: Callable[[Any], list[Any]]
    render: Callable[[Any], str]


def _viewed(view: View[Any], subject: Subject | None) -> Prompt:
    if subject is not None and view.render is not None:
        subject = _InView(subject.truth, subject.mistakes, view.render)
    return Prompt(view.system, view.user, prompt_digest(view.system, view.user), view.parse, subject)
