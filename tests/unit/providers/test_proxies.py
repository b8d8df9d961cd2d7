"""Which proxy of the environment a request takes."""

import pytest

from mdap.errors import UnavailableError
from mdap.providers.proxies import login_of, proxy_for


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


EXEMPT = [
    ("nowhere.invalid", True),
    ("invalid", True),
    (".invalid", True),
    ("*.invalid", True),
    ("NOWHERE.invalid", True),
    ("*", True),
    ("elsewhere.invalid,*", True),
    ("a.invalid, nowhere.invalid", True),
    ("a.invalid nowhere.invalid", True),
    ("nowhere.invalid:8000", True),
    ("here.invalid", False),
    ("nowhere.invalid:9", False),
    ("valid", False),
    ("", False),
    (",,", False),
]


@pytest.mark.parametrize(("exempt", "direct"), EXEMPT)
def test_a_host_that_is_exempt(exempt: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, domain or port, in any spelling."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", exempt)

    assert (proxy_for("http://nowhere.invalid:8000/v1") is None) == direct


ADDRESSES = [
    ("127.0.0.1", "127.0.0.1", True),
    ("127.0.0.0/8", "127.0.0.1", True),
    ("10.0.0.0/8", "127.0.0.1", False),
    ("127.0.0.1:8000", "127.0.0.1", True),
    ("127.0.0.1:9", "127.0.0.1", False),
    ("::1", "[::1]", True),
    ("[::1]", "[::1]", True),
    ("[::1]:8000", "[::1]", True),
    ("[::1]:9", "[::1]", False),
    ("fe80::/10", "[fe80::7]", True),
    ("fe80::/10", "127.0.0.1", False),
    ("localhost", "127.0.0.1", False),
]


@pytest.mark.parametrize(("exempt", "host", "direct"), ADDRESSES)
def test_an_address_that_is_exempt(
    exempt: str, host: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself or by its network, of either version."""
    monkeypatch.setenv("all_proxy", "socks://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", exempt)

    assert (proxy_for(f"http://{host}:8000/v1") is None) == direct


def test_the_scheme_comes_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named for one scheme does not count for the other, and an address may lack a scheme."""
    monkeypatch.setenv("HTTPS_PROXY", "joe%40home:s3cret%2Dword@proxy.invalid:8080")
    monkeypatch.setenv("ALL_PROXY", "socks5://elsewhere.invalid")
    proxy, other = proxy_for("https://nowhere.invalid/v1"), proxy_for("http://nowhere.invalid/v1")

    assert proxy is not None
    assert (proxy.scheme, proxy.hostname, proxy.port) == ("http", "proxy.invalid", 8080)
    assert login_of(proxy) == ("joe@home", "s3cret-word")
    assert other is not None
    assert (other.scheme, other.hostname, login_of(other)) == ("socks5", "elsewhere.invalid", None)


@pytest.mark.parametrize("named", ["ftp://h:9", "http://h:0", "http://", "http://h:x", "http://[h:1"])
def test_a_proxy_that_cannot_be(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only whoever needs it hears of it."""
    monkeypatch.setenv("HTTPS_PROXY", named)

    assert proxy_for("http://nowhere.invalid/v1") is None
    with pytest.raises(UnavailableError, match="HTTPS_PROXY or ALL_PROXY, or add nowhere"):
        proxy_for("https://nowhere.invalid/v1")
