"""A client of the batch lane that is killed within a job's life, and goes on."""

from pathlib import Path

import pytest

from mdap.testing import BatchFaults
from tests.batching import KillingServer, answer, check_paid_once, client, query

DOCS = 4
POINTS = {
    # After the upload, around the creation, after a look, and within a download.
    "openai": [(0, "after"), (1, "before"), (1, "after"), (2, "after"), (4, "half")],
    # There is no upload, and no metadata.
    "anthropic": [(0, "before"), (0, "after"), (1, "after"), (3, "half")],
}


@pytest.mark.slow
@pytest.mark.parametrize("vendor", POINTS)
def test_killed_again_and_again_a_client_pays_once(tmp_path: Path, vendor: str) -> None:
    """One database, killed at every point in turn: no job twice, no row lost, none counted twice."""
    db = tmp_path / "mdap.db"
    about = {"vendor": vendor, "db": str(db), "docs": DOCS}
    with (
        client() as run,
        KillingServer.in_thread(answer, batches=BatchFaults(polls=2, jobs=0)) as server,
    ):
        for at, moment in POINTS[vendor]:
            server.begin(at, moment)
            run(server, about)
        server.begin(None)
        assert run(server, about) == 0
        check_paid_once(server, db)
    assert query(db, "SELECT count(*) FROM decisions") == [(DOCS,)]
