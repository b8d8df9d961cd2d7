"""The voting on one step: which samples to request, what each reply counts as, and when it ends."""

from collections.abc import Callable
from typing import Any, Final

from mdap.engine.config import RunConfig
from mdap.engine.prompts import Judgement, Prompt, prompts_of
from mdap.errors import RAISED, PluginError, UsageError
from mdap.groups import of_its_own
from mdap.records import (
    CANDIDATE,
    PromptSent,
    Refusal,
    Reply,
    SampleRequest,
    SampleTaken,
    StepOpened,
    Subject,
    Trace,
    encodable,
)
from mdap.rules.canonical import canonical
from mdap.rules.digests import answer_key, text_digest, views_digest
from mdap.rules.reading import json_schema, read
from mdap.rules.redflags import clean, clean_label
from mdap.rules.rungs import Rung
from mdap.rules.schedule import NOBODY
from mdap.rules.tally import RobustTally, Tally
from mdap.rules.values import refuse_rivals
from mdap.tasks import Step

# A step sees few different texts in a race that is going well; beyond this many nothing is remembered.
_REMEMBERED: Final = 64


class Race:
    """Sample one step until a candidate leads every other by k, or its samples are used up.

    Unless it hedges, the race never wants more samples in flight than the leader still needs votes, so
    that no sample is paid for that could not matter, and so that the order of arrival decides nothing
    (see `Tally`).

    Args:
        number: the step's number in its run, from 0.
        subject: what the step is about, for simulation.
        rung: how `-k robust` decides the step; None for a lead of k.

    Attributes:
        check: called with the first answer of each spelling and with that; None for nothing to check.
    """

    def __init__(
        self,
        config: RunConfig,
        number: int,
        step: Step[Any],
        subject: Subject | None,
        rung: Rung | None = None,
    ) -> None:
        self.config = config
        self.number = number
        self.key = str(number)
        self.step = step
        # A proposal is not decided here: others vote on it.
        self.k = 1 if step.proposal else config.voting.k
        self.rung = None if step.proposal else rung
        self.tally = self._fresh_tally()
        self.answers: dict[str, Any] = {}
        self._first: dict[str, int] = {}
        self.check: Callable[[Any, str], None] | None = None
        self.counted = 0
        self.in_flight = 0
        self.max_tokens = config.voting.tokens_allowed(step.max_tokens)
        self.schema = None if step.schema is None else self._schema(step.schema)
        self.schedule = config.schedule
        self.tier = 0
        self.prompts = prompts_of(step, subject)
        self.prompt_digest = self.prompts[0].digest
        if step.views:
            self.prompt_digest = views_digest([prompt.digest for prompt in self.prompts])
        self.refused = NOBODY
        self.refusal: Refusal | None = None
        self._next_ordinal = 0
        self._lost: list[int] = []
        self._judged: dict[tuple[Any, ...], tuple[Judgement, Any]] = {}

    def _fresh_tally(self) -> Tally:
        return Tally(self.k) if self.rung is None else RobustTally(self.rung)

    def _schema(self, schema: Any) -> dict[str, Any] | None:
        try:
            return json_schema(schema)
        except Exception as error:
            what = f"schema={schema!r:.80} is neither a type nor a JSON schema"
            raise self._failure(f"giving step {self.number}", TypeError(what)) from error

    def _spelled_schema(self) -> str:
        try:
            return encodable(canonical(self.schema))
        except RAISED as error:
            raise self._failure(f"giving the schema of step {self.number}", error) from error

    def _failure(self, doing: str, error: BaseException) -> PluginError:
        return PluginError(f"task {self.config.task}", doing, error)

    @property
    def winner(self) -> str | None:
        """The canonical JSON of the winning answer, or None."""
        return self.tally.winner

    def named(self, answer: str) -> str:
        """Return the answer that a person means, as JSON: *answer*, or the candidate whose key it names.

        Raises:
            UsageError: nobody voted for an answer with that key.
        """
        if not answer.startswith(CANDIDATE):
            return answer
        for spelled in self.answers:
            if answer_key(spelled) == answer.removeprefix(CANDIDATE):
                return spelled
        raise UsageError(f"nobody voted for an answer with the key {answer.removeprefix(CANDIDATE)!r:.80}")

    @property
    def exhausted(self) -> bool:
        """Whether all samples have come without a winner that its tier may and can take, or that matter."""
        if self.in_flight or self.tally.winner is not None:
            return False
        used_up = self._next_ordinal >= (self.tier + 1) * self.schedule.samples_per_tier and not self._lost
        return used_up or self.tally.stuck or self.closed

    @property
    def smooth(self) -> bool:
        """Whether the step is decided and `-k robust` charges nothing for it."""
        return isinstance(self.tally, RobustTally) and self.tally.smooth

    def go_on_at(self, rung: Rung) -> bool:
        """Go on at a higher rung, at which a winner may have to win again; return whether it is higher."""
        if self.rung is None or not isinstance(self.tally, RobustTally) or rung == self.rung:
            return False
        self.rung = rung
        self.tally.go_on_at(rung)
        return True

    @property
    def closed(self) -> bool:
        """Whether nobody of its tier can be asked: all refuse the step, or have left the run."""
        return self.schedule.closed(self.tier, len(self.prompts), self.refused)

    def refuse(self, refusal: Refusal) -> None:
        """Ask a member no more in a view, since it refuses the step."""
        self.refused |= {(refusal.member, refusal.view)}
        self.refusal = refusal

    def escalate(self) -> bool:
        """Hand an exhausted race to the next tier, which votes afresh; return False if there is none."""
        if self.tier + 1 >= self.schedule.tier_count:
            return False
        self.tier += 1
        self.tally = self._fresh_tally()
        self._lost = []
        self._next_ordinal = max(self._next_ordinal, self.tier * self.schedule.samples_per_tier)
        return True

    def wanted(self, max_n: int, priority: int) -> list[SampleRequest]:
        """Take the requests to send now, for *max_n* replies at most each, into flight and return them."""
        shortfall = self.tally.shortfall
        short = shortfall + self.config.voting.hedge - self.in_flight
        if short <= 0 or shortfall <= 0 or self.closed:
            return []
        ordinals = self._draw(short)
        self.in_flight += len(ordinals)
        requests = []
        for part, group in self.schedule.groups(ordinals, len(self.prompts), max_n, self.refused, self.key):
            prompt = self.prompts[part.view]
            request = SampleRequest.__new__(  # see `Opening.taken`
                SampleRequest,
                system=prompt.system,
                user=prompt.user,
                prompt_digest=prompt.digest,
                key=self.key,
                ordinals=group,
                temperature=part.temperature,
                max_tokens=self.max_tokens,
                schema=self.schema,
                priority=priority,
                subject=prompt.subject,
                member=part.member,
                view=part.view,
                trace=Trace(),
                step_digest=self.prompt_digest,
                shared=prompt.shared,
            )
            requests.append(request)
        return requests

    def _draw(self, count: int) -> tuple[int, ...]:
        again = tuple(self._lost[:count])
        del self._lost[:count]
        first = self._next_ordinal
        last = min(first + count - len(again), (self.tier + 1) * self.schedule.samples_per_tier)
        fresh = tuple(range(first, last))
        self._next_ordinal += len(fresh)
        return again + fresh

    def sent(self, opened: StepOpened) -> list[PromptSent]:
        """Return what the step asks, as *opened*, in each of its views."""
        schema = None if self.schema is None else self._spelled_schema()
        shape = None if schema is None else text_digest(schema)
        found = []
        for view, prompt in enumerate(self.prompts):
            system = prompt.system or None
            sent = PromptSent(
                run=opened.run,
                step=opened.step,
                opening=opened.opening,
                view=view,
                system_digest=None if system is None else text_digest(system),
                user_digest=text_digest(prompt.user),
                schema_digest=shape,
                max_tokens=self.max_tokens,
                system=system,
                user=prompt.user,
                schema=schema,
            )
            found.append(sent)
        return found

    def give_back(self, ordinals: tuple[int, ...]) -> None:
        """Return samples that were in flight and will not come, to be drawn again."""
        self.in_flight -= len(ordinals)
        self._lost = sorted((*self._lost, *ordinals))

    def judge(self, reply: Reply, view: int = 0, ordinal: int = 0) -> Judgement:
        """Return what *reply* comes to. Equal replies get the same judgement, since parsers are pure.

        Raises:
            PluginError: the parser raised something other than `RedFlag`.
        """
        tokens = (reply.input_tokens, reply.output_tokens, reply.reasoning_tokens)
        same = (reply.text, reply.model, reply.finish_reason, tokens, view)
        known = self._judged.get(same)
        if known is None:
            known = self._judge(reply, self.prompts[view])
            if len(self._judged) < _REMEMBERED:
                self._judged[same] = known
        judgement, answer = known
        spelled, first = judgement.answer, self._first
        # The answer of the first sample stands for all equal ones, whichever came first, in a resume and an
        # audit too: whatever goes along with an answer is the same for them.
        if spelled is not None and first.get(spelled, ordinal + 1) > ordinal and self.tally.winner is None:
            first[spelled] = ordinal
            self.answers[spelled] = answer
        return judgement

    def _judge(self, reply: Reply, prompt: Prompt) -> tuple[Judgement, Any]:
        text = clean(reply.text, self.max_tokens)
        digest = text_digest(text)
        model, finish_reason = clean_label(reply.model), clean_label(reply.finish_reason)
        try:
            answer, spelled, flag = read(
                text, finish_reason, reply.answer_tokens, self.max_tokens, prompt.parse
            )
            if spelled is not None:
                self._compare(answer, spelled)
        except BaseException as error:
            if not of_its_own(error):
                raise
            raise self._failure(f"reading a reply to step {self.number}", error) from error
        key = None if spelled is None else answer_key(spelled)
        return Judgement(text, digest, spelled, key, flag, model, finish_reason), answer

    def _compare(self, answer: Any, spelled: str) -> None:
        """Refuse an *answer* that is not the same as the others of its spelling, or does not survive it."""
        if spelled in self.answers:
            refuse_rivals(self.answers[spelled], answer, spelled)
        elif self.check is not None:
            self.check(answer, spelled)

    def count(self, answer: str | None) -> int:
        """Count a sample that was in flight; return its place in the order of counting, from 1.

        It votes for *answer*, in canonical JSON; None for a red flag.
        """
        self.in_flight -= 1
        self.counted += 1
        if answer is not None:
            self.tally.add(answer)
        return self.counted

    def refold(self, samples: list[SampleTaken], tier: int = 0, refusals: tuple[Refusal, ...] = ()) -> None:
        """Count recorded samples, each with its text, again in the order in which they were counted.

        *tier* is the one to which the step had gone.

        Raises:
            PluginError: the parser reads a recorded reply otherwise than it did when it came.
        """
        counted = [sample for sample in samples if sample.counted is not None]
        for sample in sorted(counted, key=lambda taken: taken.counted or 0):
            self.in_flight += 1
            while self.schedule.tier(sample.ordinal) > self.tier and self.escalate():
                pass
            judgement = self.judge(sample.reply(), sample.view, sample.ordinal)
            if (judgement.answer_key, judgement.flag_reason) != (sample.answer_key, sample.flag_reason):
                changed = "the parser now says otherwise; start a new run, or restore the old parser"
                doing = f"reading the recorded sample {sample.ordinal} of step {self.number} again"
                raise self._failure(doing, ValueError(changed))
            self.count(judgement.answer)
        while tier > self.tier and self.escalate():
            pass
        for refusal in refusals:
            self.refuse(refusal)
        seen = {sample.ordinal for sample in samples}
        first = self.tier * self.schedule.samples_per_tier
        self._next_ordinal = max(max(seen, default=-1) + 1, first)
        self._lost = [ordinal for ordinal in range(first, self._next_ordinal) if ordinal not in seen]
