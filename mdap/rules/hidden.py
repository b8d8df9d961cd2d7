"""Text that nobody vouches for, made safe to look at: what cannot be seen is named instead of obeyed."""

import re
from typing import Final

# Control characters but tab and newline; marks that turn the direction of text; characters without width;
# tags, in which a model can be told what a reader does not see; and halves of surrogate pairs.
_HIDDEN: Final = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f])"
)


def plain(text: str) -> str:
    """Return *text* with every hidden character replaced by U+FFFD."""
    return _HIDDEN.sub("\ufffd", text)


def hidden_parts(text: str) -> list[tuple[str, bool]]:
    """Return the parts of *text*, and of each whether it is a hidden character's name, such as U+001B."""
    return [
        (f"U+{ord(part):04X}", True) if index % 2 else (part, False)
        for index, part in enumerate(_HIDDEN.split(text))
        if part
    ]
