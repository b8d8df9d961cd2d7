"""The address and key of a model's endpoint, and the options that all endpoints share."""

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from mdap.errors import UsageError
from mdap.records import SampleRequest
from mdap.settings import suggestion

_SECRET_NAME: Final = re.compile(
    "(?i)api[_-]?key|secret|password|authorization|credential|cookie|"
    "(^|access[_-]|auth[_-]|bearer[_-]|id[_-]|refresh[_-]|session[_-])token$"
)
# In an address and in a header, shorter names are secrets too.
_SHORT_SECRET: Final = re.compile("(?i)(^|[_-])(auth|key|code|sig|signature|token)$")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)

Transport = Literal["aiohttp", "sdk"]
"""What carries requests: aiohttp alone, or all of the vendor's SDK."""

S = TypeVar("S", bound="EndpointSettings")
_TOLD_CHARS: Final = 300
# Anything shorter is no secret (local servers get keys like "x"), and masking it would garble messages.
_SECRET_CHARS: Final = 8
_VERSION: Final = re.compile(r"/v\d+\w*(/|$)")


def _custom_headers(variable: str) -> dict[str, str]:
    """Return the headers in an environment variable, one a line, as the vendors' SDKs read theirs.

    Raises:
        UsageError: one of them cannot be sent.
    """
    pairs = (line.partition(":") for line in os.environ.get(variable, "").splitlines())
    headers = {name.strip(): value.strip() for name, colon, value in pairs if colon}
    try:
        _check_headers(headers)
    except ValueError as error:
        raise UsageError(f"{variable}: {error}") from None
    return headers


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise a ValueError, which quotes no value, unless all *headers* can be sent."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("a header's name is one word, as in X-Team")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value of {name} has characters that no header can carry")


def _sounds_secret(name: str) -> bool:
    """Return whether a header or a field of a query of this *name* is likely to hold a secret."""
    return bool(_SECRET_NAME.search(name) or _SHORT_SECRET.search(name))


def _secret_names(value: Any) -> Iterator[str]:
    """Yield the names in *value*, however deep, that sound like a secret's."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if _SECRET_NAME.search(name):
                yield name
            yield from _secret_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secret_names(inner)


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """The address of an endpoint, and its secrets.

    Attributes:
        base_url: the address of the API.
        key: the API key; None if the endpoint needs none.
        key_name: the environment variable that holds the key.
        url_name: the option or environment variable that holds the address, for error messages.
        headers: additional headers, which may hold secrets.
        query: additional parameters of the query.
        own: whether the vendor's SDK may add what its own variables name, such as an organization.
        token: whether the key is a token for the ``Authorization`` header, where the vendor has both.
    """

    base_url: str
    key: str | None
    key_name: str
    url_name: str = "the base URL"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    own: bool = True
    token: bool = False

    @property
    def plain_url(self) -> str:
        """The base URL without login and query, which the SDK and the library under it log."""
        return urlsplit(self.base_url)._replace(netloc=self.host, query="", fragment="").geturl()

    def url(self, path: str) -> str:
        """Return the address of *path* under the base URL, with the query and without the login."""
        parts = urlsplit(self.base_url)
        query = [*parse_qsl(parts.query, keep_blank_values=True), *self.query.items()]
        path = parts.path.rstrip("/") + path
        return parts._replace(netloc=self.host, path=path, query=urlencode(query), fragment="").geturl()

    def login(self) -> dict[str, str]:
        """Return the headers that carry the key, or the base URL's user and password."""
        parts = urlsplit(self.base_url)
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            return {"Authorization": basic(user, password)}
        # Azure's deployments take no key in the header in which everybody else does.
        if self.key and "/deployments/" in parts.path:
            return {"Authorization": f"Bearer {self.key}", "api-key": self.key}
        return {}

    def hint(self, path: str) -> str:
        """Return how the base URL should look for *path* to be found under it; empty where it looks right."""
        base = self.plain_url.rstrip("/")
        first = path.rpartition("/")[0]
        for tail in (path, first):
            if tail and base.endswith(tail):
                return f"leave out {tail} at its end"
        if "/deployments/" in base:
            return "" if "api-version=" in self.url(path) else "Azure wants ?api-version=... at its end"
        if path.startswith("/v") or _VERSION.search(urlsplit(base).path):
            return ""
        return f"most servers want {self.tell(base)}/v1"

    @property
    def host(self) -> str:
        """Host and port, without user or password."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    def tell(self, text: str) -> str:
        """Return foreign *text* as it may stand in an error: one line, short, without secrets."""
        line = " ".join("".join(c if c.isprintable() else " " for c in text[: 100 * _TOLD_CHARS]).split())
        parts = urlsplit(self.base_url)
        values = [value for _, value in parse_qsl(parts.query)] + list(self.headers.values())
        secrets = (self.key, parts.password, parts.username, *values)
        # The longest first, since one may hold another.
        for secret in sorted((each for each in secrets if each), key=len)[::-1]:
            if len(secret) >= _SECRET_CHARS:
                line = line.replace(secret, "***")
        return line if len(line) <= _TOLD_CHARS else line[: _TOLD_CHARS - 3] + "..."


class EndpointSettings(BaseModel):
    """What a user may set with ``-M NAME=VALUE`` for any endpoint.

    Attributes:
        base_url: where the API lives, such as ``http://localhost:8000/v1``; before the environment.
        allow_duplicates: whether to vote on replies of an endpoint that gives the same ones again and again,
            because of a cache or a fixed seed: such votes are one vote.
        send_temperature: whether to send the temperature; reasoning models refuse it.
        system_role: how the system message is sent: ``system`` as one of its own, ``user`` at the start of
            the user's message, for models without that role.
        extra_body: more fields of the request's body, as they are.
        headers: more headers, by name; those with secrets belong in the environment variable
            ``<NAME>_CUSTOM_HEADERS``.
        query: more of the address's query, such as Azure's ``api-version``.
        transport: what carries the requests. ``aiohttp`` sends what the SDK would, for a fraction of its
            processor time; ``sdk`` is for those who watch or change what the SDK itself sends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    own_fields: ClassVar[frozenset[str]] = frozenset({"messages", "model", "stream"})
    # Options that the probe finds out unless the user sets them, each with its values, the best first.
    negotiable: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "send_temperature": (True, False),
        "system_role": ("system", "user"),
    }

    base_url: str | None = None
    allow_duplicates: bool = False
    send_temperature: bool = True
    system_role: Literal["system", "user"] = "system"
    extra_body: dict[str, Any] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    query: dict[str, str] = Field(default_factory=dict)
    transport: Transport = "aiohttp"

    def described(self) -> dict[str, Any]:
        """Return what of it makes a difference to what is asked, as JSON values."""
        fields = type(self).model_fields
        # Runs of earlier versions, which know nothing of these, can be resumed.
        later = {"headers", "query", "system_role", "cache_breakpoints"} & fields.keys()
        unused = {
            name
            for name in later
            if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return self.model_dump(mode="json", exclude={"base_url", "transport"} | unused)

    @property
    def helpful(self) -> dict[str, str]:
        """The value of each option, as it is typed, that asks less of an endpoint than the one in force."""
        return {
            name: str(values[-1] if getattr(self, name) != values[-1] else values[0]).lower()
            for name, values in self.negotiable.items()
        }

    def sent_temperature(self, asked: float) -> float | None:
        """Return the temperature that is sent where *asked* is wanted; None if none is."""
        if "temperature" in self.extra_body:
            sent = self.extra_body["temperature"]
            return float(sent) if isinstance(sent, int | float) else None
        return asked if self.send_temperature else None

    def spoken(self, request: SampleRequest) -> tuple[str, str]:
        """Return the system message and the user's as they are sent."""
        if self.system_role == "system" or not request.system:
            return request.system, request.user
        return "", f"{request.system}\n\n{request.user}"

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, value: str | None) -> str | None:
        names = [] if value is None else [name for name, _ in parse_qsl(value.partition("?")[2])]
        if value is not None and ("@" in value or any(map(_sounds_secret, names))):
            raise ValueError(
                "options are stored with the run: set the environment variable to a URL with secrets"
            )
        return value

    @field_validator("extra_body", "headers", "query", mode="before")
    @classmethod
    def _from_command_line(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("this is no JSON object") from None

    @field_validator("headers", "query")
    @classmethod
    def _no_secrets(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if secret := next(filter(_sounds_secret, value), None):
            raise ValueError(
                f"options are stored with the run: put {secret} into the environment variable "
                "<NAME>_CUSTOM_HEADERS, or into that of the base URL"
            )
        if info.field_name == "headers":
            _check_headers(value)
        return value

    @field_validator("extra_body")
    @classmethod
    def _only_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(cls.own_fields & value.keys()):
            raise ValueError(f"mdap itself sets {', '.join(taken)}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("it holds what has no form in JSON, such as NaN") from None
        if secret := next(_secret_names(value), None):
            raise ValueError(f"options are stored with the run, so {secret} must not be among them")
        return value


def read_settings(kind: type[S], provider: str, options: dict[str, Any]) -> S:
    """Return the settings that *options* give.

    Raises:
        UsageError: an option is unknown or has a bad value.
    """
    try:
        return kind(**options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        raise UsageError(f"{provider} has no option {name!r}{suggestion(name, kind.model_fields)}")
    raise UsageError(f"{provider} option {name}: {first['msg'].removeprefix('Value error, ')}")


def find_endpoint(
    settings: EndpointSettings, provider: str, prefix: str, default: str | None, *, own: bool = True
) -> Endpoint:
    """Return the endpoint that the environment and the settings name.

    Args:
        settings: the options of the provider.
        provider: the provider's name, for error messages.
        prefix: begins the names of the environment variables ``<prefix>_API_KEY``,
            ``<prefix>_AUTH_TOKEN``, ``<prefix>_BASE_URL`` and ``<prefix>_CUSTOM_HEADERS``.
        default: the address to use if neither names one; None if one of them must.
        own: whether the endpoint is that of the SDK's vendor; see `Endpoint`.

    Raises:
        UsageError: a required key or address is missing, one of them is invalid, or an option holds the key.
    """
    key_name, key = _key_of(prefix)
    url_name = f"{prefix}_BASE_URL"
    base_url = (settings.base_url or os.environ.get(url_name, "")).strip()
    if not base_url and default is None:
        raise UsageError(f"set {url_name} (or -M base_url=...) to the address of {provider}")
    if not key and not base_url:
        raise UsageError(
            f"set {key_name} to use {provider} models, or set {url_name} (or -M base_url=...) to a "
            "server that needs no key"
        )
    if base_url and not _is_http_url(base_url):
        raise UsageError(f"the base URL of {provider} must look like http://host:port/v1 or https://host/v1")
    endpoint = Endpoint(
        base_url=base_url or default or "",
        key=key or None,
        key_name=key_name,
        url_name="-M base_url" if settings.base_url else f"-M base_url or {url_name}",
        headers={**_custom_headers(f"{prefix}_CUSTOM_HEADERS"), **settings.headers},
        query=settings.query,
        own=own,
        token=key_name.endswith("_AUTH_TOKEN"),
    )
    if len(key) >= _SECRET_CHARS and key in settings.model_dump_json():
        raise UsageError("options are stored with the run, so none may hold the key of the endpoint")
    return endpoint


def _key_of(prefix: str) -> tuple[str, str]:
    """Return the name of the environment variable for the key, and the key; an empty one if it is not set."""
    names = f"{prefix}_API_KEY", f"{prefix}_AUTH_TOKEN"
    key_name = next((name for name in names if os.environ.get(name, "").strip()), names[0])
    key = os.environ.get(key_name, "").strip()
    # Headers carry ASCII only, and the SDK's complaint about it would quote the key.
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{key_name} holds characters that no key has; copy the key again")
    return key_name, key


def basic(user: str, password: str) -> str:
    """Return what stands in a header for a login."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        legible = url.isprintable() and " " not in url
        return legible and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
