"""Whether an endpoint is the API that it is taken for."""

from typing import Final

from mdap.errors import ProviderError, UnavailableError
from mdap.providers.endpoint import Endpoint

__all__ = ["Acquaintance"]

# So many answers of another kind before any good one, or in a row afterwards, and nothing more is asked.
_FOREIGN_AT_FIRST: Final = 3
_FOREIGN_IN_A_ROW: Final = 10
# From an endpoint that never gave a good answer, these say that its address is wrong.
_ELSEWHERE: Final = frozenset({"model_not_found", "http_405", "http_410", "http_501", "http_505"})


class Acquaintance:
    """Tell an endpoint that is none, or is elsewhere, from one that has trouble.

    Once an endpoint has given a good answer, its address is right. Until then three answers of another kind
    are enough, whoever asked, and after that a row of them. A connection that is silent is no answer.

    Args:
        endpoint: who answers.
        path: of the API that is called, from the base URL on.
    """

    def __init__(self, endpoint: Endpoint, path: str) -> None:
        self._endpoint = endpoint
        self._path = path
        self._met = False
        self._foreign = 0

    def met(self) -> None:
        """Note a good answer."""
        self._met = True
        self._foreign = 0

    def judged(self, error: ProviderError) -> ProviderError:
        """Return what *error* means, given the answers so far."""
        hint = self._endpoint.hint(self._path)
        if not self._met and error.kind in _ELSEWHERE and (hint or error.foreign):
            return _retold(error, UnavailableError(f"{error}. {self._advice(hint)}", kind=error.kind))
        if not error.foreign or isinstance(error, UnavailableError):
            return error
        self._foreign += 1
        if self._foreign < (_FOREIGN_IN_A_ROW if self._met else _FOREIGN_AT_FIRST):
            return error
        if self._met:
            told = f"{error}. The last {self._foreign} answers were of this kind, so mdap stopped asking"
        else:
            told = f"{error}. No answer so far is one of this API. {self._advice(hint)}"
        return _retold(error, UnavailableError(told, kind="wrong_address" if not self._met else error.kind))

    def _advice(self, hint: str) -> str:
        return f"Check the address in {self._endpoint.url_name}" + (f": {hint}" if hint else "")


def _retold(error: ProviderError, told: ProviderError) -> ProviderError:
    told.input_tokens, told.output_tokens = error.input_tokens, error.output_tokens
    return told
