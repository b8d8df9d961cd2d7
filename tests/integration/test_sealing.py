"""A seal that somebody signed: by their own tool, by mdap, and not by anybody else."""

import asyncio
import base64
import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mdap
from mdap.audit import Verification, verify
from mdap.audit.events import checked
from mdap.plugins import make_task
from mdap.session.signing import seal_run
from mdap_hanoi import Hanoi
from tests.helpers import Walk

KEYGEN = shutil.which("ssh-keygen")
pytestmark = pytest.mark.skipif(KEYGEN is None, reason="ssh-keygen is not installed")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return made(tmp_path / "id")


def made(path: Path, kind: str = "ed25519") -> Path:
    """Make a key without a passphrase."""
    short = ("-b", "2048") if kind == "rsa" else ()  # longer ones take seconds to find
    subprocess.run([str(KEYGEN), "-q", "-t", kind, *short, "-N", "", "-f", str(path)], check=True)
    return path


def allowed(folder: Path, *keys: Path, options: str = "") -> Path:
    """Write a list of allowed signers."""
    file = folder / "allowed"
    lines = [f"me@example.org {options}{key.with_suffix('.pub').read_text()}" for key in keys]
    file.write_text("# who may sign\n" + "".join(lines))
    return file


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=3), db=path, run_id="tower", k=2)
    return path


def came(log: Path, **wanted: Any) -> Verification:
    return verify(log, "tower", make_task, **wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_signed_seal_is_checked_by_mdap_and_by_the_signers_own_tool(
    log: Path, tmp_path: Path, kind: str
) -> None:
    """ssh-keygen signs and verifies; mdap finds the signature in the log and knows whose it is."""
    key = made(tmp_path / "own", kind)
    noted = came(log)
    sealed = asyncio.run(seal_run(log, "tower", key))
    assert sealed.seal == noted.seal
    signature = tmp_path / "seal.sig"
    signature.write_text(sealed.signature or "")
    signers = allowed(tmp_path, key)
    command = [str(KEYGEN), "-Y", "verify", "-f", str(signers), "-I", "me@example.org", "-n", "mdap", "-s"]
    checked = subprocess.run([*command, str(signature)], input=sealed.message.encode(), capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, b"")

    found = came(log, signers=signers)
    assert (found.verdict, found.seal) == ("verified", noted.seal)
    [one] = found.signatures
    assert (one.seal, one.allowed) == (noted.seal, True)
    fingerprint = subprocess.run([str(KEYGEN), "-lf", str(key)], capture_output=True, text=True).stdout
    assert one.key in fingerprint.split()


def test_somebody_else_has_not_signed_it(log: Path, tmp_path: Path, key: Path) -> None:
    """Without a signature, by another key, for another purpose, or of an earlier seal."""
    other = made(tmp_path / "other")
    signers = allowed(tmp_path, key)
    assert came(log, signers=signers).verdict == "not signed"
    asyncio.run(seal_run(log, "tower", other))
    found = came(log, signers=signers)
    assert (found.verdict, found.signatures[0].allowed) == ("not signed", False)
    assert came(log).ok
    assert came(log, signers=allowed(tmp_path, other, options='namespaces="git" ')).verdict == "not signed"
    assert came(log, signers=allowed(tmp_path, other, options='namespaces="git,mdap" ')).ok
    asyncio.run(seal_run(log, "tower", key))
    assert came(log, signers=allowed(tmp_path, key)).ok


@pytest.mark.parametrize("change", ["seal", "signature", "run"])
def test_a_signature_of_something_else_is_a_mismatch(log: Path, key: Path, change: str) -> None:
    """One that was taken from another seal, another run, or edited."""
    asyncio.run(seal_run(log, "tower", key))
    with closing(sqlite3.connect(log)) as connection, connection:
        connection.execute("DROP TRIGGER run_events_no_update")
        [(text,)] = connection.execute("SELECT data FROM run_events WHERE kind = 'signed'").fetchall()
        data = json.loads(text)
        if change == "run":
            connection.execute("DROP TRIGGER runs_no_update")
            connection.execute("UPDATE runs SET run_id = 'tower-2'")
        else:
            data[change] = (
                data[change].replace(data[change][-90], "A" if data[change][-90] != "A" else "B")
                if change == "signature"
                else "0" * 64
            )
        connection.execute("UPDATE run_events SET data = ? WHERE kind = 'signed'", (json.dumps(data),))
    found = verify(log, "tower", make_task)
    assert found.verdict == "mismatch"
    assert any("signature of a seal" in mismatch.what for mismatch in found.mismatches)


def test_a_signature_that_no_tool_would_make_is_not_valid(log: Path, key: Path) -> None:
    """Its bytes are taken apart by others' code, which may fail in any way."""
    signature = asyncio.run(seal_run(log, "tower", key)).signature or ""
    lines = signature.split()
    for place in (b"ssh-ed25519", b"SSHSIG", b"sha512"):
        raw = base64.b64decode("".join(lines[3:-3]))
        body = base64.b64encode(raw[::-1].replace(place[::-1], place[::-1].upper()[:-1] + b"!", 1)[::-1])
        changed = f"{' '.join(lines[:3])}\n{body.decode()}\n{' '.join(lines[-3:])}\n"
        [found] = checked([json.dumps({"seal": "ab", "signature": changed})], "tower")
        assert (found.key, found.allowed) == (None, False)


def test_a_run_without_a_seal_can_be_sealed(tmp_path: Path) -> None:
    """One whose seal is gone is not verified, unless that is accepted, or a new one is taken."""
    path = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=2), db=path, run_id="tower", k=2)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER run_events_no_delete")
        connection.execute("DELETE FROM run_events WHERE kind = 'sealed'")
    assert came(path).verdict == "not sealed"
    assert came(path, allow_unsealed=True).verdict == "verified"
    # A finished run whose process was killed before its seal is sealed by whoever resumes it.
    killed = shutil.copy(path, tmp_path / "killed.db")
    mdap.solve_sync(Hanoi(disks=2), db=killed, run_id="tower", k=2)
    assert came(Path(killed)).verdict == "verified"
    sealed = asyncio.run(seal_run(path, "tower"))
    assert (came(path).verdict, came(path).seal) == ("verified", sealed.seal)
    # Nothing has happened since: it stays as it is.
    assert asyncio.run(seal_run(path, "tower")) == sealed


def test_a_key_that_cannot_sign_is_a_sentence(log: Path, tmp_path: Path) -> None:
    """A file that is none, and a list of signers that is none."""
    with pytest.raises(mdap.UsageError, match=r"ssh-keygen cannot sign with .*nothing: "):
        asyncio.run(seal_run(log, "tower", tmp_path / "nothing"))
    with pytest.raises(mdap.UsageError, match=r"--signers .*nothing cannot be read: No such file"):
        came(log, signers=tmp_path / "nothing")
    list_of = tmp_path / "list"
    list_of.write_text("me\n")
    with pytest.raises(mdap.UsageError, match="is no list of allowed signers"):
        came(log, signers=list_of)
    key = made(tmp_path / "dated")
    dated = allowed(tmp_path, key, options='valid-after="20200101" ')
    asyncio.run(seal_run(log, "tower", key))
    with pytest.raises(mdap.UsageError, match="mdap does not know the option valid-after"):
        came(log, signers=dated)


async def test_the_seal_of_a_batch_covers_the_seals_of_its_cases(tmp_path: Path) -> None:
    """A case that is taken out, or exchanged for another whole run, is found by the batch's own seal."""
    path = tmp_path / "a.db"
    async with mdap.Session(db=path) as session:
        async for _ in session.solve_all((Walk(steps=2, seed=seed) for seed in range(3)), k=2, run_id="b"):
            pass
    with closing(sqlite3.connect(path)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
    assert (await verified(path)).ok
    other = tmp_path / "other.db"
    shutil.copy(path, other)
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("UPDATE runs SET parent = NULL WHERE run_id = 'b/1'")
    assert "seals of the parts" in {mismatch.what for mismatch in (await verified(other)).mismatches}
    # The case goes on, and is sealed again: that is later than the batch's seal.
    await seal_again(path, "b/1")
    assert (await verified(path)).ok


async def verified(path: Path) -> Verification:
    return verify(path, "b", lambda name, params: Walk(**params))


async def seal_again(path: Path, name: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        sql = "INSERT INTO run_events(run, kind) SELECT id, 'warning' FROM runs WHERE run_id = ?"
        connection.execute(sql, (name,))
    await seal_run(path, name)
