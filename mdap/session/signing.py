"""Seal a run by hand and sign its seal."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anyio

from mdap.errors import UsageError
from mdap.journal.claims import Claims
from mdap.journal.reader import open_log
from mdap.journal.runs import append_seal
from mdap.journal.writer import open_journal
from mdap.records import RunEvent
from mdap.rules.digests import SIGNED, message


class Sealed(NamedTuple):
    """A run's seal, the text to sign or timestamp, which names both, and its signature by ``ssh-keygen``."""

    run_id: str
    seal: str
    message: str
    signature: str | None


async def seal_run(db: str | Path, run_id: str, key: str | Path | None = None) -> Sealed:
    """Seal a run if it has changed since its last seal, and sign the seal.

    Args:
        db: path of the database.
        run_id: the run's id, a unique prefix of it, or ``latest``.
        key: an SSH key to sign with; ``ssh-keygen`` reads it, or asks the agent. None for no signature.

    Raises:
        UsageError: there is no such run, another process works on it, or the key cannot sign.
        DatabaseError: the database cannot be written.
    """
    path = Path(db)
    async with open_log(path) as reader:
        row = await reader.find(run_id)
        with closing(Claims(path)) as claims:
            claims.take(row.number, row.run_id)
            async with open_journal(path) as journal:
                seal = await reader.value("last_seal", row.number)
                if seal is None or not await reader.is_sealed(row.number):
                    seal = await append_seal(journal, reader, row.number)
                    await journal.flush()
                text = message(row.run_id, seal)
                signature = None if key is None else await _signed(text, Path(key))
                if signature is not None:
                    data = {"seal": seal, "signature": signature}
                    journal.append(RunEvent(row.number, SIGNED, data=data))
                await journal.flush()
    return Sealed(row.run_id, seal, text, signature)


async def _signed(text: str, key: Path) -> str:
    with TemporaryDirectory() as folder:
        file = anyio.Path(folder) / "seal"
        await file.write_text(text)
        command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "mdap", "-f", str(key), str(file)]
        try:
            # ssh-keygen itself asks for a passphrase on the terminal.
            done = await anyio.run_process(command, stdin=None, check=False)
        except FileNotFoundError:
            raise UsageError("ssh-keygen is not installed: install OpenSSH to sign a seal") from None
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise UsageError(f"ssh-keygen cannot sign with {key}: {why}")
        return await anyio.Path(f"{file}.sig").read_text()
