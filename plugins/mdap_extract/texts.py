"""Clean a document's text for requests, and compare spellings of a text."""

import re
import unicodedata
from typing import Final

from mdap import canonical

# What no database, request or terminal can carry: NUL, and half of a surrogate pair (a cut emoji).
_UNSENDABLE: Final = re.compile("[\x00\ud800-\udfff]")
# Soft hyphens, joiners, marks of direction and of byte order: they show nothing.
_UNSEEN: Final = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe0e\ufe0f\ufeff]"
)
_BLANKS: Final = re.compile(r"\s+")
# A hyphen between letters may be one that a line break put there.
_HYPHEN: Final = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
# Quotes, apostrophes and dashes, as a keyboard has them.
_TYPED: Final = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\xb4`\u02bc", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\xab\xbb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)


def clean(text: str) -> str:
    """Return *text* as it can be sent and recorded; what cannot becomes U+FFFD."""
    return _UNSENDABLE.sub("\ufffd", text)


def is_blank(text: str) -> bool:
    """Return whether there is nothing in *text* to be seen."""
    return not _UNSEEN.sub("", text).strip()


def tidied(text: str) -> str:
    """Return *text* as it goes into the output: as it was written, in the form NFC, blanks as one."""
    return _BLANKS.sub(" ", unicodedata.normalize("NFC", text)).strip()


def folded(text: str, *, case: bool = True, punctuation: bool = True) -> str:
    """Return *text* as votes on it are compared, with or without regard to capitals and punctuation.

    Widths, ligatures, unseen characters and the shapes of quotes and dashes do not matter. Superscripts and
    fractions do: 10⁶ and 106 are two answers, and must not vote for one another.
    """
    plain = canonical.text(_UNSEEN.sub("", text).translate(_TYPED)).translate(_TYPED)
    return canonical.text(plain, case=case, punctuation=punctuation)


def squeezed(text: str) -> str:
    """Return *text* so that a passage that was copied is found in it, however its lines were broken.

    Nothing is left of blanks, of unseen characters, and of hyphens between letters.
    """
    plain = unicodedata.normalize("NFKC", _UNSEEN.sub("", text).translate(_TYPED)).translate(_TYPED)
    return _HYPHEN.sub("", _BLANKS.sub("", plain))
