"""Detect an endpoint that is not the expected API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mdap.errors import ProviderError, UnavailableError
from mdap.providers.endpoint import Endpoint

__all__ = ["Acquaintance"]

# Stop after this many foreign answers in a row; sooner if hardly any answer was good.
_ENOUGH_AT_FIRST: Final = 3
_ENOUGH: Final = 10
_KNOWN_AFTER: Final = 5
# From an endpoint that never gave a good answer, these say that its address is wrong.
_ELSEWHERE: Final = frozenset({"model_not_found", "http_405", "http_410", "http_501", "http_505"})


class Acquaintance:
    """Tell a wrong address from an endpoint with temporary failures.

    An endpoint that has given a good answer is the right one; a few more, and it is known. Answers of another
    kind count whoever asked; a connection that is silent is no answer.

    Args:
        endpoint: who answers.
        path: of the API that is called, from the base URL on.
    """

    def __init__(self, endpoint: Endpoint, path: str) -> None:
        self._endpoint = endpoint
        self._path = path
        self._good = 0
        self._foreign = 0
        self._open = 0
        self._competing = 0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Count a request as open within the block."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def met(self) -> None:
        """Note a good answer."""
        self._good += 1
        self._foreign = 0

    def judged(self, error: ProviderError) -> ProviderError:
        """Return what *error* means, given the answers so far."""
        hint = self._endpoint.hint(self._path)
        if not self._good and error.kind in _ELSEWHERE and (hint or error.foreign):
            return _retold(error, f"{error}. {self._advice(hint)}", error.kind)
        # An answer that was paid for and cannot be read is likely to be the same next time.
        odd = error.foreign or error.output_tokens is not None
        if not odd or isinstance(error, UnavailableError):
            return error
        # Of many requests at once, those that fail are the first to be answered.
        if not self._foreign:
            self._competing = self._open
        self._foreign += 1
        enough = _ENOUGH if self._good >= _KNOWN_AFTER else _ENOUGH_AT_FIRST
        if self._foreign < max(enough, self._competing):
            return error
        if self._good:
            told = f"{error}. The last {self._foreign} answers were of this kind, so mdap stopped asking"
            return _retold(error, told, error.kind)
        told = f"{error}. No answer so far is one of the API that mdap asks. {self._advice(hint)}"
        return _retold(error, told, "wrong_address")

    def _advice(self, hint: str) -> str:
        return f"Check the address in {self._endpoint.url_name}" + (f": {hint}" if hint else "")


def _retold(error: ProviderError, message: str, kind: str) -> UnavailableError:
    told = UnavailableError(message, kind=kind)
    told.input_tokens, told.output_tokens = error.input_tokens, error.output_tokens
    return told
