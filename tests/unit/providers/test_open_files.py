"""Slots that the process has files for."""

import os
import sys
from types import SimpleNamespace

import pytest

from mdap.providers.gate import MOST, Gate, connections_within

INFINITE = -1


class Limits(SimpleNamespace):
    """A stand-in for the module `resource`."""

    RLIM_INFINITY = INFINITE
    RLIMIT_NOFILE = 7

    def __init__(self, soft: int, hard: int, *, fixed: bool = False) -> None:
        super().__init__(now=(soft, hard), fixed=fixed)

    def getrlimit(self, what: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, what: int, limits: tuple[int, int]) -> None:
        if self.fixed:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.fixture(autouse=True)
def ten_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has ten files open."""
    monkeypatch.setattr(os, "listdir", lambda path: [""] * 10)


def fit(monkeypatch: pytest.MonkeyPatch, limits: Limits | None, wanted: int = MOST) -> int:
    monkeypatch.setitem(sys.modules, "resource", limits)
    return connections_within(wanted)


def test_the_soft_limit_is_raised_as_far_as_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 files and no hard limit, as on macOS: 256 connections, ten open files and a reserve are allowed."""
    limits = Limits(256, INFINITE)
    assert fit(monkeypatch, limits) == MOST
    assert limits.now == (10 + MOST + 64, INFINITE)
    assert fit(monkeypatch, limits) == MOST
    assert limits.now == (10 + MOST + 64, INFINITE)


def test_what_cannot_be_raised_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard limit, or a system that refuses to raise it: the reserve stays free, one connection remains."""
    assert fit(monkeypatch, Limits(256, 256)) == 256 - 10 - 64
    assert fit(monkeypatch, Limits(100, 300)) == 300 - 10 - 64
    assert fit(monkeypatch, Limits(256, INFINITE, fixed=True)) == 256 - 10 - 64
    assert fit(monkeypatch, Limits(32, 32)) == 1


@pytest.mark.parametrize("limits", [Limits(INFINITE, INFINITE), Limits(1024, 4096), None])
def test_where_files_are_enough_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, limits: Limits | None
) -> None:
    """No limit, a high one, or a system without any, such as Windows."""
    before = limits and limits.now
    assert fit(monkeypatch, limits) == MOST
    assert before == (limits and limits.now)


def test_a_number_that_does_not_fit_is_told() -> None:
    """A user's --concurrency beyond the files is lowered, and the run's events say why."""
    gate = Gate(500, fits=180)
    assert gate.most == gate.concurrency.limit == 180
    [change] = gate.changes()
    assert change[:3] == ("concurrency", 500, 180)
    assert "ulimit -n" in change.reason
    assert Gate(None, fits=180).changes() == []
