"""The endpoints of a session: probe them once, and record findings and changed limits with its runs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from mdap.engine.budget_guard import BudgetGuard
from mdap.journal.writer import Writer
from mdap.providers.gate import Gate
from mdap.providers.paced import Paced
from mdap.providers.probe import ProbeResult, probe
from mdap.records import METERED, RunEvent
from mdap.rules.limiter import Change
from mdap.rules.money import cost_of
from mdap.session.models import Models

# Seconds between events of a limit, however erratic the endpoint is.
_EVERY: Final = 10.0

Options = Mapping[str, Mapping[str, Any]]


class EndpointProbe:
    """Probe the endpoints when the first run needs them.

    A resumed run, and a session that does not *ask*, use the findings on record.
    """

    def __init__(self, models: Models, budget_guard: BudgetGuard, writer: Writer, *, ask: bool) -> None:
        self._models = models
        self._budget_guard = budget_guard
        self._writer = writer
        self._ask = ask
        self._beginning: anyio.Event | None = None
        self._begun = False
        self._found: list[tuple[Paced, ProbeResult]] = []

    async def pass_on(self, run: int, recorded: Options, *, part: bool = False) -> str | None:
        """Record the findings with *run*; return the reason why it must not begin, or None.

        The first run alone records the cost of the probe. The record of a whole run stands for its parts.
        *recorded* are the options by model when the run began.
        """
        is_first = not self._begun and await self._begin(run, recorded)
        if not is_first and not part:
            self._record(run, self._found, again=True)
        refusal: str | None = None
        for member, findings in self._found:
            warnings = findings.warnings()
            for warning in () if part else (*_changes(findings, recorded), *warnings):
                self._writer.append(RunEvent(run, "warning", warning))
            if findings.repeats and not member.allow_duplicates:
                refusal = f"{warnings[-1]}; turn it off, or allow it with -M allow_duplicates=true"
        return refusal

    async def _begin(self, run: int, recorded: Options) -> bool:
        """Probe, or wait until another run has done so; return whether this one did."""
        # Not a lock: its waiters would go on one after the other, each a turn of the loop later.
        while self._beginning is not None:
            await self._beginning.wait()
        if self._begun:
            return False
        self._beginning = anyio.Event()
        try:
            for member in self._models.members:
                if member.dialect is not None:
                    member.dialect.adopt(recorded.get(member.name, {}))
            if self._ask:
                await self._inspect(run)
            self._begun = True
        finally:
            self._beginning.set()
            self._beginning = None
        return True

    async def _inspect(self, run: int) -> None:
        found = [(member, ProbeResult(member.name)) for member in self._models.members if member.remote]
        try:
            async with anyio.create_task_group() as group:
                for member, findings in found:
                    group.start_soon(probe, member, findings)
        finally:  # the probe is paid for, even if the run is interrupted
            for member, findings in found:
                price = self._models.prices[self._models.members.index(member)]
                usd = 0.0 if price is None else cost_of(price, findings)
                self._budget_guard.spent_before(usd, findings.input_tokens + findings.output_tokens)
            self._record(run, found)
        self._found = found

    def _record(self, run: int, found: list[tuple[Paced, ProbeResult]], *, again: bool = False) -> None:
        for _, findings in found:
            data = findings.to_dict()
            if again:
                data = {name: value for name, value in data.items() if name not in METERED}
            self._writer.append(RunEvent(run, "probe", findings.summary(), data=data))


def _changes(findings: ProbeResult, recorded: Options) -> list[str]:
    """Return a warning if the endpoint's options have changed since the run began."""
    before = recorded.get(findings.model, {})
    changes = [
        f"{name} is {value}, was {before[name]}"
        for name, value in findings.options.items()
        if name in before and before[name] != value
    ]
    if not changes:
        return []
    return [f"{findings.model} takes other options than when the run began: {', '.join(changes)}"]


class LimitChangeRecorder:
    """Record changes of the limits at the *gates* of the models in the *running* runs."""

    def __init__(self, names: Sequence[str], gates: Sequence[Gate], writer: Writer) -> None:
        self.running: set[int] = set()
        self._gates = tuple(zip(names, gates, strict=True))
        self._writer = writer

    async def follow(self, place: int) -> None:
        """Record changes at the gate of that *place* forever, grouped by some seconds."""
        name, gate = self._gates[place]
        while True:
            await gate.changed()
            self._tell(name, gate)
            await anyio.sleep(_EVERY)

    def tell(self) -> None:
        """Record pending changes before a run ends."""
        for name, gate in self._gates:
            self._tell(name, gate)

    def _tell(self, name: str, gate: Gate) -> None:
        if not self._writer.usable:
            return
        for change in gate.changes():
            reason, data = _worded(name, change)
            for run in self.running:
                self._writer.append(RunEvent(run, "limits", reason, data=data))


def _worded(name: str, change: Change) -> tuple[str, dict[str, object]]:
    what = change.what.replace("_", " ")
    before, after = (_shown(limit) for limit in (change.limit_before, change.limit_after))
    data: dict[str, object] = {"model": name, **change._asdict()}
    return f"{name}: {what} from {before} to {after}: {change.reason}", data


def _shown(limit: float | None) -> str:
    return "no limit" if limit is None else f"{limit:,.0f}" if limit >= 10 else f"{limit:.2g}"
