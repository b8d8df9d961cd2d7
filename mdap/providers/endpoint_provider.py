"""What the providers of all HTTP APIs have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from mdap.errors import RejectedError, TransientError
from mdap.providers.batch_api import BatchAPI
from mdap.providers.dialect import Dialect
from mdap.providers.endpoint import Endpoint, EndpointSettings
from mdap.providers.sdk import SDK
from mdap.providers.sending import Response
from mdap.providers.warming import repeated
from mdap.providers.wire import Wire
from mdap.records import Reply, SampleRequest
from mdap.rules.digests import text_digest
from mdap.rules.headers import Told
from mdap.rules.redflags import clean_text
from mdap.rules.repeats import Repeats

__all__ = ["EndpointProvider"]

S = TypeVar("S", bound=EndpointSettings)


class EndpointProvider(ABC, Generic[S]):
    """A `mdap.protocols.Provider` of a model behind an HTTP API.

    The connections are opened inside the running loop by the first sample, and closed by `aclose`.

    Args:
        name: as a person names it, such as ``openai/gpt-4.1-mini``; replies carry it as their model.
        model: as the endpoint names it.
        settings: the user's.
        endpoint: whom to ask.
        sdk: of the vendor.
        batches: the vendor's batch API.

    Attributes:
        allow_duplicates: whether the user wants votes of an endpoint that repeats itself.
        dialect: the options in force, with those that were found out.
        batches: the batch API.
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
        """Ask once for replies to one prompt; see `mdap.protocols.Provider.sample`.

        Args:
            request: the prompt, and how to sample it.

        Returns:
            At least one reply; fewer than wanted where the server sent fewer.

        Raises:
            TransientError: no or no usable response; another attempt may work.
            RateLimitError: the endpoint asks for a pause first.
            UnavailableError: key, quota or model will not do.
            RejectedError: the endpoint refuses this prompt.
        """
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
