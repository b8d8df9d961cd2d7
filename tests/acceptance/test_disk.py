"""Disks and files that go wrong: one sentence, the right exit code, nothing lost, never a wrong result."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.processes import Cli, Ended
from tests.acceptance.test_kill_and_resume import check_record, logged

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be removed there")

TOWER = "run hanoi -p disks=7 -M latency=0.002 -M error_rate=0.1 --run-id r"
MOVES = 127


def check_refusal(ended: Ended, *says: str) -> None:
    """One sentence, exit code 2, and the same as JSON."""
    assert [word for word in says if word not in ended.sentence] == [], ended.sentence
    assert ended.code == 2
    assert ended.json == {"error": ended.sentence, "exit_code": 2}


def check_resumed(cli: Cli) -> None:
    ended = cli.here("resume r --json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["result"] == {"solved": True, "moves": MOVES}
    check_record(cli, "r", MOVES, 3)
    assert cli.here("audit verify r").code == 0


# -- no room


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[list[str]]:
    """Return what to put before a command so that it sees a disk of *size* at *folder*, and nothing else."""
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size={size} none {folder} 2>/dev/null"
    if unshare is None or subprocess.run([unshare, "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield [unshare, "-rm", "sh", "-c"]


@pytest.mark.slow
def test_a_full_disk_is_said_to_be_full(cli: Cli, tmp_path: Path) -> None:
    """The run stops with one sentence; once there is room, it goes on with all that was committed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mdap = f"{sys.executable} -W error -m mdap"
    with small_disk(disk, "900k") as within:
        script = (
            f"mount -t tmpfs -o size=900k none {disk} && cd {disk} && {mdap} {TOWER} --json;"
            f"echo code $? >&2; cp mdap.db mdap.db-wal {tmp_path}"
        )
        ended = subprocess.run([*within, script], capture_output=True, text=True, timeout=240)
    first, code = ended.stderr.splitlines()

    assert first == "mdap: the disk that holds mdap.db is full: make room and resume the run"
    assert code == "code 2"
    [[kept]] = cli.query("SELECT count(*) FROM decisions")
    assert 0 < kept < MOVES
    check_resumed(cli)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="there is no prlimit")
def test_a_file_that_may_not_grow_stops_the_run(cli: Cli) -> None:
    """An error of the file system names the file and what to do, whatever SQLite says afterwards."""
    ended = cli(f"{TOWER} --json", prefix=["prlimit", "--fsize=600000"])

    check_refusal(ended, "mdap.db", "check the disk and its free space, then resume")
    check_resumed(cli)


# -- files that change under a run


@pytest.mark.slow
@pytest.mark.parametrize(("file", "replaced"), [("mdap.db", True), ("mdap.db-wal", False)])
def test_a_file_that_disappears_is_noticed(cli: Cli, file: str, *, replaced: bool) -> None:
    """A run whose database was deleted or replaced does not go on as if its record were safe."""
    assert cli.here(f"{TOWER.replace('disks=7', 'disks=1')} --db other.db").code == 0
    process = cli.start(f"{TOWER.replace('0.002', '0.05')} --display log --json")
    logged(process, "step.decided")
    (cli.folder / file).rename(cli.folder / "aside")
    if replaced:
        shutil.copy(cli.folder / "other.db", cli.folder / file)
    ended = cli.end(process)

    [sentence] = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert f"{file} was deleted or replaced while it was in use" in sentence
    assert ended.code == 2
    assert ended.json["exit_code"] == 2


@pytest.mark.slow
def test_a_database_put_back_is_gone_on_with(cli: Cli) -> None:
    """What was committed before is not lost: with the old file in its place, the run is resumed."""
    process = cli.start(f"{TOWER.replace('0.002', '0.01')} --display log")
    logged(process, "step.decided")
    (cli.folder / "mdap.db").rename(cli.folder / "aside")
    assert cli.end(process).code == 2
    (cli.folder / "aside").rename(cli.folder / "mdap.db")
    check_resumed(cli)


# -- other programs


def test_a_database_that_another_program_locks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginning a run there, and going on with one, is refused after a wait; nothing is changed."""
    monkeypatch.setattr("mdap.journal.logfile.PATIENCE", 0.0)
    monkeypatch.setattr("mdap.journal.database.TRY_SECONDS", 0.05)
    assert cli.here(f"{TOWER.replace('disks=7', 'disks=1')} --json").code == 0
    with closing(sqlite3.connect(cli.folder / "mdap.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = cli.here("run hanoi -p disks=2 --run-id second --json")
        other.execute("ROLLBACK")

    assert "mdap.db is locked by another program: close that program" in ended.sentence
    assert (ended.code, ended.json["exit_code"]) == (3, 3)
    assert cli.here("run hanoi -p disks=2 --run-id second --json").code == 0


@pytest.mark.slow
def test_of_two_that_resume_one_goes_on(cli: Cli) -> None:
    """Two processes resume the same run at the same moment: one does, the other one is refused."""
    process = cli.start(f"{TOWER.replace('0.002', '0.02')} --display log")
    logged(process, "step.decided")
    process.send_signal(signal.SIGKILL)
    cli.end(process)
    both = cli.each("resume r --json", "resume r --json")

    codes = sorted(ended.code for ended in both)
    # Should one of them only begin when the other has finished, it reports what that came to.
    assert codes in ([0, 2], [0, 0])
    for ended in both:
        if ended.code == 2:
            check_refusal(ended, "run r is being worked on already")
    check_record(cli, "r", MOVES, 3)


# -- damage


def test_an_older_schema_is_not_written_to(cli: Cli) -> None:
    """A file that claims to be ours and of no schema that ever was is refused in one sentence."""
    assert cli.here(f"{TOWER.replace('disks=7', 'disks=1')} --json").code == 0
    with closing(sqlite3.connect(cli.folder / "mdap.db")) as database:
        database.execute("PRAGMA user_version = 0")
    for command in ("run hanoi -p disks=1 --json", "resume r --json", "runs --json"):
        ended = cli.here(command)
        assert ended.code == 2
        assert "mdap.db" in ended.sentence


@pytest.fixture
def stopped(cli: Cli) -> bytes:
    """The database of a run that was interrupted, as bytes."""
    process = cli.start(f"{TOWER} --display log")
    logged(process, "step.decided")
    process.send_signal(signal.SIGINT)
    assert cli.end(process).code == 130
    with closing(sqlite3.connect(cli.folder / "mdap.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (cli.folder / "mdap.db").read_bytes()


@pytest.mark.slow
def test_a_damaged_page_is_never_a_wrong_result(cli: Cli, stopped: bytes) -> None:
    """Flip bytes of any page: the run is refused, or fails, or its result is right, and never a traceback.

    Where it went on over a page that can still be read, the audit must find what was changed of the record.
    """
    rng = random.Random(5)
    whole = cli.here("resume r --json --db mdap.db")
    assert whole.code == 0
    for number in range(10):
        content = bytearray(stopped)
        start = rng.randrange(100, len(content) - 64)
        for place in range(start, start + rng.choice([1, 8, 64])):
            content[place] ^= rng.randint(1, 255)
        db = cli.folder / f"damaged-{number}.db"
        db.write_bytes(content)
        ended = cli.here(f"resume r --json --db {db.name}")
        verified = cli.here(f"audit verify r --json --db {db.name}")
        for one in (ended, verified):
            assert one.code in (0, 1, 2), (start, one)
            assert "bug" not in one.err, (start, one.err)
            assert one.err.count("\n") <= 1, (start, one.err)
        if ended.code == 0 and verified.code == 0:
            same = [[one.json[name] for name in ("result", "votes", "digest")] for one in (ended, whole)]
            assert same[0] == same[1], start
