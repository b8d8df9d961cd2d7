"""Every block of the documentation does what it says."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.follow import follow
from tests.docs.pages import ROOT, blocks_of, pages
from tests.docs.reader import Commands

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("bash") is None, reason="the pages are for a POSIX shell"
)


@pytest.mark.timeout(400)
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if blocks_of(page)], ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, commands: Commands) -> None:
    """Its files are written, its commands, Python and SQL run in order, and print what it shows."""
    wrong = follow(page, tmp_path, commands)
    assert not wrong, "\n\n".join(f"{block.where} {what}\n{printed}" for block, what, printed in wrong)


def test_a_block_that_is_not_run_says_why() -> None:
    """An exemption without a reason would hide a stale block."""
    exempt = [block for page in pages() for block in blocks_of(page) if "not run" in block.said]
    assert all(block.said["not run"] for block in exempt), exempt
    assert (ROOT / "README.md") in {block.page for page in pages() for block in blocks_of(page)}
