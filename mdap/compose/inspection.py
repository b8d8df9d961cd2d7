"""What the endpoints of a session can do, found out once and told in the record of each of its runs."""

import anyio

from mdap.compose.crew import Crew
from mdap.engine.purse import Purse
from mdap.journal.writer import Writer
from mdap.providers.paced import Paced
from mdap.providers.probe import Findings, probe
from mdap.records import RunEvent
from mdap.rules.money import cost_of

__all__ = ["Inspection"]


class Inspection:
    """Probe the endpoints when the first run needs them.

    Args:
        crew: the models of the session.
        purse: what pays for the probe.
        writer: where findings are recorded.
    """

    def __init__(self, crew: Crew, purse: Purse, writer: Writer) -> None:
        self._crew = crew
        self._purse = purse
        self._writer = writer
        self._lock = anyio.Lock()
        self._found: list[tuple[Paced, Findings]] | None = None

    async def pass_on(self, run: int) -> str | None:
        """Record with *run* what was found; return why it must not begin, or None if it may.

        Args:
            run: the number of the run.
        """
        async with self._lock:
            if self._found is None:
                self._found = await self._inspect()
        refusal: str | None = None
        for member, findings in self._found:
            self._writer.append(RunEvent(run, "probe", data=findings.to_dict()))
            warnings = findings.warnings()
            for warning in warnings:
                self._writer.append(RunEvent(run, "warning", warning))
            if findings.repeats and not member.allow_duplicates:
                refusal = f"{warnings[-1]}; turn it off, or allow it with -M allow_duplicates=true"
        return refusal

    async def _inspect(self) -> list[tuple[Paced, Findings]]:
        remote = [member for member in self._crew.members if member.remote]
        found: dict[str, Findings] = {}

        async def one(member: Paced) -> None:
            found[member.name] = await probe(member)

        async with anyio.create_task_group() as group:
            for member in remote:
                group.start_soon(one, member)
        self._pay(found)
        return [(member, found[member.name]) for member in remote]

    def _pay(self, found: dict[str, Findings]) -> None:
        for name, price in zip(self._crew.names, self._crew.prices, strict=True):
            if name in found:
                given, made = found[name].input_tokens, found[name].output_tokens
                usd = 0.0 if price is None else cost_of(price, given, made)
                self._purse.spent_before(usd, given + made)
