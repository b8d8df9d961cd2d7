"""What `mdap --help` says of its commands, so that one can choose."""

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from mdap.cli.main import cli


def groups(group: click.Group, *names: str) -> Iterator[tuple[str, ...]]:
    yield names
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from groups(command, *names, name)


@pytest.mark.parametrize("names", list(groups(cli)), ids=" ".join)
def test_each_command_is_summed_up_in_one_whole_line(names: tuple[str, ...]) -> None:
    """On a terminal of 80 columns none is cut, none is like another, and each is a sentence."""
    shown = CliRunner().invoke(cli, [*names, "--help"], terminal_width=80).output
    lines = re.findall(r"^  ([\w-]+)  +(\S.*)$", shown.partition("Commands:")[2], re.MULTILINE)
    assert len(lines) >= 2
    summaries = [summary for _, summary in lines]
    assert len({summary.split()[0] + summary.split()[-1] for summary in summaries}) == len(summaries)
    for summary in summaries:
        assert re.fullmatch(r"[A-Z].{20,}[^.]\.", summary), summary
