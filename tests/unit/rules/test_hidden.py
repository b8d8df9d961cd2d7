"""Characters that a reader cannot see: one list for the terminal and the pages."""

import pytest

from mdap.cli.output import say
from mdap.rules.hidden import hidden_parts, plain


@pytest.mark.parametrize(
    "hidden", ["\x1b", "\x9b", "\u202e", "\u200b", "\u00ad", "\ufeff", "\U000e0041", "\ud800"]
)
def test_what_cannot_be_seen_is_named_on_pages_and_replaced_on_a_terminal(
    hidden: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply can neither move the cursor nor hide words from whoever reads it, wherever that is."""
    assert plain(f"a{hidden}b") == "a\ufffdb"
    assert hidden_parts(f"a{hidden}b") == [("a", False), (f"U+{ord(hidden):04X}", True), ("b", False)]
    say(f"a{hidden}b")
    assert capsys.readouterr().out == "a\ufffdb\n"


@pytest.mark.parametrize("text", ["a\tb\nc", "x\u200dy", "\u0646\u200c\u0645", "caf\u00e9"])
def test_writing_stays_as_it_is(text: str) -> None:
    """Tabs, lines, accents, and the joiners that scripts and emoji need are no hidden text."""
    assert plain(text) == text
