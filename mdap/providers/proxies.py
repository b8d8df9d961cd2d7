"""Select the environment's proxy for a request.

The SDKs read all proxies of the environment before they check which one applies, so an unusable proxy keeps
them from a server that needs none. This module checks the exemptions of ``NO_PROXY`` first.
"""

from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from mdap.errors import UnavailableError

SOCKS: Final = frozenset({"socks", "socks4", "socks4a", "socks5", "socks5h"})
"""Kinds of SOCKS proxies; desktops write plain ``socks``, for the latest version."""


def proxy_for(url: str) -> SplitResult | None:
    """Return the address of the proxy through which *url* is reached; None for no proxy.

    ``NO_PROXY`` comes first: host names with all below them, ``host:port``, addresses, networks such as
    ``10.0.0.0/8``, and ``*``. Then ``HTTP_PROXY`` or ``HTTPS_PROXY``, by the URL's scheme, then
    ``ALL_PROXY``, each in capitals or not; on Windows and macOS, what the system's settings say.

    Raises:
        UnavailableError: a proxy is named that cannot be used.
    """
    target, named = urlsplit(url), getproxies()
    address, host = named.get(target.scheme) or named.get("all"), target.hostname or ""
    if not address:
        return None
    port = target.port or {"http": 80, "https": 443}.get(target.scheme)
    exempt = named.get("no", "").lower().replace(",", " ").split()
    if any(_covers(entry, host, port) for entry in exempt) or proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(address if "://" in address else f"http://{address}")
        if proxy.hostname and proxy.scheme in {"http", "https", *SOCKS} and proxy.port != 0:
            return proxy
    except ValueError:
        pass
    host = target.netloc.rpartition("@")[2]
    raise UnavailableError(
        f"the proxy that the environment names for {host} cannot be used: it must look like "
        f"http://host:port or socks5://host:port. Correct {target.scheme.upper()}_PROXY or ALL_PROXY, or add "
        f"{host} to NO_PROXY",
        kind="proxy",
    )


def login_of(proxy: SplitResult) -> tuple[str, str] | None:
    """Return the user and password that *proxy* wants, or None."""
    if proxy.username is None and proxy.password is None:
        return None
    return unquote(proxy.username or ""), unquote(proxy.password or "")


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Return whether *entry* of ``NO_PROXY`` is the wildcard, or names *host*, its domain or its network."""
    if entry == "*":
        return True
    with suppress(ValueError):
        return ip_address(host) in ip_network(entry, strict=False)
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdigit():  # the entry is for one port
        if digits != str(port):
            return False
        entry = name
    name = entry.strip("[]").removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
