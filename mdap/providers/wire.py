"""The base of providers over HTTP: one bounded request a call, no retries, no repeated responses."""

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from mdap.errors import ProviderError, RejectedError, TransientError, UnavailableError
from mdap.providers.batch_api import BatchAPI
from mdap.providers.dialect import Dialect
from mdap.providers.endpoint import Endpoint, EndpointSettings, Transport
from mdap.providers.failures import classify, explain_failure
from mdap.providers.sdk import SDK, ThroughSDK
from mdap.providers.sending import Response
from mdap.providers.warming import repeated
from mdap.records import Reply, SampleRequest
from mdap.rules.digests import text_digest
from mdap.rules.headers import Told, read_told
from mdap.rules.redflags import clean_text

if TYPE_CHECKING:
    from mdap.providers.direct import Direct

# Some servers number their responses, or draw a number below a thousand: those meet again honestly.
_SHORTEST_ID: Final = 16
# Stop after this many foreign answers in a row; sooner if hardly any answer was good.
_ENOUGH_AT_FIRST: Final = 3
_ENOUGH: Final = 10
_KNOWN_AFTER: Final = 5
# From an endpoint that never gave a good answer, these say that its address is wrong.
_ELSEWHERE: Final = frozenset({"model_not_found", "http_405", "http_410", "http_501", "http_505"})
T = TypeVar("T")
S = TypeVar("S", bound=EndpointSettings)


class Repeats:
    """Remember the latest responses by id.

    An id that comes again with the same text is a response that was kept, by a cache on the way for
    instance, and no second draw. An id that comes again with another text shows that this server's ids
    mean nothing, and then nothing is concluded from them any more; nor is it while only one was seen.
    """

    def __init__(self, keep: int = 4_096) -> None:
        self._keep = keep
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._trusted = True

    def again(self, response_id: object, text: str) -> bool:
        """Return whether this very response came before, and remember it.

        *text* is something that is the same for the same response, such as a digest of it.
        """
        if not self._trusted or not isinstance(response_id, str) or len(response_id) < _SHORTEST_ID:
            return False
        earlier = self._texts.get(response_id)
        if earlier is None:
            self._texts[response_id] = text
            if len(self._texts) > self._keep:
                self._texts.popitem(last=False)
            return False
        if earlier != text:
            self._trusted = False
            self._texts.clear()
            return False
        return len(self._texts) > 1


class Wire:
    """The connections to one endpoint; opened by the first request, inside the running loop.

    It tells a wrong address from an endpoint with temporary failures. An endpoint with one good
    answer is the right one; after a few more, it may fail more often before mdap stops. Answers of another
    kind to any run count; a silent connection is no answer.

    Attributes:
        told: what the headers of the latest response that tells of limits say.
    """

    def __init__(self, sdk: SDK, endpoint: Endpoint, transport: Transport) -> None:
        self._sdk = sdk
        self._endpoint = endpoint
        self._sender = _sender(sdk, transport)
        self._good = self._foreign = 0  # answers; of the foreign ones, those since the last good one
        self._open = self._competing = 0  # requests; the others that were open at the first foreign answer
        self.told = Told()

    async def ask(self, body: Mapping[str, Any], read: Callable[[Response], T]) -> T:
        """Send one request and return what *read* makes of the response.

        Raises:
            ProviderError: no response that can be read; the subclass says whether another attempt may work.
        """
        self._open += 1
        try:
            answer = read(await self.post(body))
        except ProviderError as error:
            failure = self._judged(error)
        else:
            self._good, self._foreign = self._good + 1, 0
            return answer
        finally:
            self._open -= 1
        raise failure.with_traceback(None)

    async def post(self, body: Mapping[str, Any]) -> Response:
        """Send one request and return what came back.

        Raises:
            ProviderError: no response of success; the subclass says whether another attempt may work.
        """
        started = time.perf_counter()
        try:
            answer = await self._sender.send(body)
        except Exception as error:
            failure = explain_failure(self._sdk.module, error, self._endpoint)
            if failure is None:
                raise
        else:
            latency = time.perf_counter() - started
            told = read_told(answer.headers, time.time())
            if told.requests_per_minute or told.tokens_per_minute:
                self.told = told
            if 200 <= answer.status < 300:
                return answer._replace(latency=latency)
            failure = classify(answer.status, answer.headers, answer.content, self._endpoint)
        # Raised out here, and anew, so that it carries neither context nor frames: the request and its key
        # are in them.
        raise failure.with_traceback(None)

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        await self._sender.aclose()

    def _judged(self, error: ProviderError) -> ProviderError:
        """Return what *error* means, given the answers so far."""
        hint = self._endpoint.hint(self._sdk.path)
        advice = f"Check the address in {self._endpoint.url_name}" + (f": {hint}" if hint else "")
        if not self._good and error.kind in _ELSEWHERE and (hint or error.foreign):
            return _retold(error, f"{error}. {advice}", error.kind)
        # An answer that was paid for and cannot be read is likely to be the same next time.
        odd = error.foreign or error.output_tokens is not None
        if not odd or isinstance(error, UnavailableError):
            return error
        # Failures arrive before good answers to requests that left at the same time.
        if not self._foreign:
            self._competing = self._open - 1
        self._foreign += 1
        enough = _ENOUGH if self._good >= _KNOWN_AFTER else _ENOUGH_AT_FIRST
        if self._foreign < max(enough, self._competing):
            return error
        if self._good:
            told = f"{error}. The last {self._foreign} answers were of this kind, so mdap stopped asking"
            return _retold(error, told, error.kind)
        told = f"{error}. No answer so far is one of the API that mdap asks. {advice}"
        return _retold(error, told, "wrong_address")


def _retold(error: ProviderError, message: str, kind: str) -> UnavailableError:
    told = UnavailableError(message, kind=kind)
    told.input_tokens, told.output_tokens = error.input_tokens, error.output_tokens
    return told


def _sender(sdk: SDK, transport: Transport) -> "Direct | ThroughSDK":
    if transport == "sdk":
        return ThroughSDK(sdk)
    # The default: it takes about 40 % less processor time a vote than the SDK (2.2 against 3.8 ms, with 32
    # requests in flight; benchmarks/over_http.py). Imported here, since aiohttp takes a while to load.
    from mdap.providers.direct import Direct

    return Direct(sdk)


class EndpointProvider(ABC, Generic[S]):
    """A `mdap.protocols.Provider` of a model behind an HTTP API.

    The connections are opened inside the running loop by the first sample, and closed by `aclose`. *name* is
    what a person calls it, such as ``openai/gpt-4.1-mini``, and *model* what the endpoint calls it.
    """

    nonblocking: Final = False
    remote: Final = True
    cache_mark: ClassVar[Mapping[str, Any]]
    """The fields of a block at whose end the endpoint is to keep the prompt."""

    def __init__(
        self, name: str, model: str, settings: S, endpoint: Endpoint, sdk: SDK, batches: type[BatchAPI]
    ) -> None:
        self.name: Final = name
        self.allow_duplicates: Final = settings.allow_duplicates
        self.dialect: Final = Dialect(settings)
        self._model = model
        self._settings = settings
        self._endpoint = endpoint
        self._repeats = Repeats()
        self._wire = Wire(sdk, endpoint, settings.transport)
        self.batches: Final = batches(sdk, endpoint, self._whole, self._read)

    @property
    def max_n(self) -> int:
        """How many replies one request may ask for."""
        return 1

    @property
    def told(self) -> Told:
        """What the endpoint's headers tell of its limits."""
        return self._wire.told

    async def sample(self, request: SampleRequest) -> Sequence[Reply]:
        """Ask once for replies to one prompt; see `mdap.protocols.Provider.sample`."""
        body = self._whole(request)
        try:
            return await self._wire.ask(body, lambda response: self._read(request, response))
        except RejectedError as error:
            self.dialect.advise(error, body)
            raise

    def describe(self) -> dict[str, Any]:
        """Return model, host and options as JSON values; the settings let no secret into them."""
        return {"model": self._model, "host": self._endpoint.host, **self._settings.described()}

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        await self._wire.aclose()
        await self.batches.aclose()

    @abstractmethod
    def _body(self, request: SampleRequest) -> dict[str, Any]:
        """Return the body of a request, without the user's own fields."""

    @abstractmethod
    def _read(self, request: SampleRequest, response: Response) -> list[Reply]:
        """Return the replies in a response; raise a `ProviderError` if there are none."""

    def _whole(self, request: SampleRequest) -> dict[str, Any]:
        return {**self._body(request), **self._settings.extra_body}

    def _in_blocks(self, text: str, ends: Sequence[int]) -> list[dict[str, Any]]:
        """Return a message's *text* in blocks, marked for the cache at each of its *ends*, in characters."""
        cuts = [0, *ends]
        blocks = [
            {"type": "text", "text": text[a:b], **self.cache_mark} for a, b in zip(cuts, ends, strict=False)
        ]
        return [*blocks, {"type": "text", "text": text[cuts[-1] :]}] if cuts[-1] < len(text) else blocks

    def _content(self, request: SampleRequest, user: str, marked: bool) -> str | list[dict[str, Any]]:
        """Return the content of the user's message, in blocks if what requests repeat is to be *marked*."""
        ends = [len(user) - len(request.user) + end for end in repeated(request)] if marked else []
        return self._in_blocks(user, ends) if ends else user

    def _refuse_repeated(self, response_id: object, text: str) -> None:
        """Raise a `TransientError` if this very response came before, so that no vote counts twice."""
        if self.allow_duplicates or not self._repeats.again(response_id, text_digest(clean_text(text))):
            return
        raise TransientError(
            f"{self._endpoint.host} answered with a response that it had given before "
            f"({self._endpoint.tell(str(response_id))}): turn off the cache on the way, or allow it with "
            "-M allow_duplicates=true",
            kind="repeated",
        )
