"""A vendor's batch API, reached through its SDK, and the requests in its jobs."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import anyio

from mdap.errors import MdapError, ProviderError, TransientError
from mdap.providers.endpoint import Endpoint
from mdap.providers.failures import classify, explain_failure, mapping_of
from mdap.providers.sdk import SDK, closed
from mdap.providers.sending import CLOSE_SECONDS, MAX_BODY, Response
from mdap.records import BatchRow, Reply, SampleRequest
from mdap.rules.waves import Room

T = TypeVar("T")

CALL_SECONDS: Final = 600.0
"""How long one call may take; uploads and downloads are large."""
FREED: Final = TransientError("the row was never submitted", kind="freed")


class JobState(NamedTuple):
    """How a job stands.

    Attributes:
        vendor_id: the vendor's id of it.
        state: the vendor's word.
        ended: whether nothing more will come of it.
        requests: how many it has, as the vendor counts them.
        counts: the vendor's counters, to be shown and never relied upon.
        files: what results are read from, the answers first.
        queue_full: why the vendor would not take it for now; None if it did.
        limit: tokens that may be queued, where the refusal tells.
        refusal: why it failed as a whole; None if it did not.
    """

    vendor_id: str
    state: str
    ended: bool
    requests: int
    counts: Mapping[str, int]
    files: tuple[str, ...] = ()
    queue_full: str | None = None
    limit: int | None = None
    refusal: str | None = None


class Result(NamedTuple):
    """The result of one request of a job: the response as JSON, or why there is none."""

    custom_id: str
    body: bytes | None
    failure: ProviderError | None = None


class BatchAPI(ABC):
    """A vendor's batch API, for one model, with the address and the headers of ordinary requests.

    Attributes:
        limits: what one job may hold.
        uploads: whether requests are uploaded as a file before a job is made of it.
        has_metadata: whether a job carries mdap's name for it, so that `find` needs no look into results.
        jobs: finds in the SDK's client what is for jobs.
    """

    limits: ClassVar[Room]
    uploads: ClassVar[bool]
    has_metadata: ClassVar[bool]
    jobs: ClassVar["attrgetter[Any]"]

    def __init__(
        self,
        sdk: SDK,
        endpoint: Endpoint,
        body: Callable[[SampleRequest], dict[str, Any]],
        read: Callable[[SampleRequest, Response], list[Reply]],
    ) -> None:
        self._sdk = sdk
        self._endpoint = endpoint
        self._body = body
        self._read = read
        self._client: Any = None

    @abstractmethod
    def row(self, custom_id: str, request: SampleRequest) -> bytes:
        """Return one request of a job as JSON.

        Raises:
            RejectedError: it has no such form.
        """

    def read(self, request: SampleRequest, result: Result, latency: float) -> Sequence[Reply]:
        """Return the replies that a response holds.

        Raises:
            ProviderError: the request failed.
        """
        if result.body is None:
            raise result.failure or TransientError("the row has no response", kind="missing")
        return self._read(request, Response(200, {}, result.body, latency))

    async def upload(self, token: str, rows: Sequence[bytes]) -> str:
        """Upload *rows* under the name *token* and return the file's id; see *uploads*."""
        raise NotImplementedError

    async def find_upload(self, token: str) -> str | None:
        """Return the id of the file that was uploaded as *token*; None if there is none."""
        return None

    @abstractmethod
    async def submit(self, token: str, file: str | None, rows: Sequence[bytes]) -> JobState:
        """Create the job."""

    @abstractmethod
    async def find(self, token: str, file: str | None, since: float) -> list[JobState]:
        """Return the jobs since a moment that may be *token*; the only one if jobs have metadata."""

    async def state(self, vendor_id: str) -> JobState:
        """Return the state of a job."""
        return self._state(await self._call(lambda client: self.jobs(client).retrieve(vendor_id)))

    async def cancel(self, vendor_id: str) -> None:
        """Cancel a job; its answers so far remain."""
        await self._call(lambda client: self.jobs(client).cancel(vendor_id))

    @abstractmethod
    async def download(self, state: JobState, take: Callable[[bytes], None]) -> None:
        """Hand *take* the lines of a job's results, the answers first."""

    @abstractmethod
    def result(self, line: bytes) -> Result | None:
        """Return the result in a line; None if it is unreadable."""

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        client, self._client = self._client, None
        await closed(client)

    @abstractmethod
    def _state(self, job: Any) -> JobState:
        """Return the state of a *job* of the SDK."""

    async def _call(self, act: Callable[[Any], Awaitable[T]]) -> T:
        """Return what *act* makes of the SDK's client; raise a `ProviderError` if it fails."""
        try:
            if self._client is None:
                self._client = self._sdk.connected({"request": [self._address]}, follow_redirects=False)
            with anyio.fail_after(CALL_SECONDS):
                return await act(self._client)
        except Exception as error:
            failure = self._failure(error)
            if failure is None:
                raise
        raise failure.with_traceback(None)

    async def _download(self, path: str, take: Callable[[bytes], None]) -> None:
        """Hand *take* the lines of a download; raise a `ProviderError` if it fails or breaks off."""

        async def read(client: Any) -> None:
            response = await client.get(path, cast_to=self._sdk.http.Response, stream=True)
            try:
                rest = b""
                async for chunk in response.aiter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > MAX_BODY:
                        raise TransientError("a line of the results is too long", kind="too_large")
                    for line in filter(bytes.strip, lines):
                        take(line)
                if rest.strip():
                    take(rest)
            finally:
                with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                    await response.aclose()

        await self._call(read)

    def _failure(self, error: Exception) -> ProviderError | None:
        endpoint = self._endpoint
        if isinstance(error, ProviderError):
            return error
        if isinstance(error, TimeoutError):
            return TransientError(f"{endpoint.host} did not answer in time", kind="timeout")
        if isinstance(error, self._sdk.module.APIStatusError):
            response: Any = error.response
            return classify(response.status_code, dict(response.headers.items()), response.content, endpoint)
        return explain_failure(self._sdk.module, error, endpoint)

    async def _address(self, request: Any) -> None:
        """Have *request* carry what ordinary requests carry: headers, key, and the address's query."""
        self._sdk.dress(request, "content-length", "content-type", "transfer-encoding")
        query = dict(parse_qsl(urlsplit(self._endpoint.url("")).query, keep_blank_values=True))
        if query:
            request.url = request.url.copy_merge_params(query)


def counted(counts: Any) -> dict[str, int]:
    """Return the SDK's *counts* as they may stand in the log."""
    found = {} if counts is None else mapping_of(counts.model_dump())
    return {str(name): value for name, value in found.items() if isinstance(value, int)}


@dataclass(slots=True, eq=False)
class Row:
    """A request that waits for its response in a job, or for a job.

    Attributes:
        about: what it asks; its custom id is empty until it is part of a job.
        request: as the engine made it; None for a row of an earlier session until it is asked for again.
        done: set once there is a result or an error, or it goes back to those that wait for a job.
        error: why there is no result; `FREED` where it was never submitted.
        halt: the error that ends the waiting, although the row goes on.
        since: when it was submitted, in seconds of Unix time.
    """

    about: BatchRow
    member: int
    request: SampleRequest | None = None
    waited: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Result | None = None
    error: Exception | None = None
    halt: MdapError | None = None
    since: float = 0.0
    wave: int = 0

    def end(self, result: Result | None, error: Exception | None = None) -> None:
        """Give the result, or the *error*, to the waiting sampler."""
        self.result, self.error = result, error
        self.done.set()

    def interrupt(self, error: MdapError) -> None:
        """End the waiting with *error*; the row goes on."""
        self.halt = error
        self.done.set()

    async def ended(self) -> None:
        """Wait for a result or an error.

        Raises:
            MdapError: it is not to be waited for.
        """
        self.waited = True
        try:
            await self.done.wait()
        finally:
            self.waited = False
        if self.halt is not None and self.result is None and self.error is None:
            error, self.halt, self.done = self.halt, None, anyio.Event()
            raise error.with_traceback(None)
