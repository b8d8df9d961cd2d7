"""Names that sound like a secret's, and headers, which may hold secrets."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mdap.errors import UsageError

__all__ = ["check_headers", "custom_headers", "secret_names", "sounds_secret"]

_SECRET_NAME: Final = re.compile(
    "(?i)api[_-]?key|secret|password|authorization|credential|cookie|"
    "(^|access[_-]|auth[_-]|bearer[_-]|id[_-]|refresh[_-]|session[_-])token$"
)
# In an address and in a header, shorter names are secrets too.
_SHORT_SECRET: Final = re.compile("(?i)(^|[_-])(auth|key|code|sig|signature|token)$")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


def custom_headers(variable: str) -> dict[str, str]:
    """Return the headers in an environment variable, one a line, as the vendors' SDKs read theirs.

    Raises:
        UsageError: one of them cannot be sent.
    """
    pairs = (line.partition(":") for line in os.environ.get(variable, "").splitlines())
    headers = {name.strip(): value.strip() for name, colon, value in pairs if colon}
    try:
        check_headers(headers)
    except ValueError as error:
        raise UsageError(f"{variable}: {error}") from None
    return headers


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise a ValueError, which quotes no value, unless all *headers* can be sent."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("a header's name is one word, as in X-Team")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value of {name} has characters that no header can carry")


def sounds_secret(name: str) -> bool:
    """Return whether a header or a field of a query of this *name* is likely to hold a secret."""
    return bool(_SECRET_NAME.search(name) or _SHORT_SECRET.search(name))


def secret_names(value: Any) -> Iterator[str]:
    """Yield the names in *value*, however deep, that sound like a secret's."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if _SECRET_NAME.search(name):
                yield name
            yield from secret_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from secret_names(inner)
