"""Check whether a model fits into free memory."""

from pathlib import Path
from typing import Any, Final

from mdap import UsageError

__all__ = ["check_fits", "free_bytes", "is_out_of_memory"]

_MEMINFO: Final = Path("/proc/meminfo")
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_USED: Final = Path("/sys/fs/cgroup/memory.current")


def check_fits(name: str, numbers: int, width: int, free: int | None) -> None:
    """Refuse a model whose weights alone exceed the free memory.

    Args:
        name: the model's name.
        numbers: the number of its weights.
        width: bytes per weight.
        free: free memory in bytes; None where unknown.

    Raises:
        UsageError: it does not fit.
    """
    if free is not None and numbers * width > free:
        smaller = "; -M dtype=bfloat16 halves that" if width > 2 else ""
        raise UsageError(
            f"{name} needs {_gigabytes(numbers * width)} for its weights and {_gigabytes(free)} are free: "
            f"choose a smaller model{smaller}"
        )


def free_bytes(torch: Any, device: str) -> int | None:
    """Return the free memory of a device in bytes; None if unknown."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        return min(free, int(_LIMIT.read_text()) - int(_USED.read_text()))
    except (OSError, ValueError):  # not in a container, or in one without a limit
        return free


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _gigabytes(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB"
