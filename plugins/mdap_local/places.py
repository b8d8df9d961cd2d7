"""Locate a model's files: shipped with mdap, in a folder, or on the Hugging Face Hub."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mdap import UsageError

SHIPPED: Final = ("micro", "micro-weak")
"""The models that come with mdap."""

_HELD_OUT: Final = 8
_WEIGHTS: Final = Path(__file__).parent / "weights"
_LIBRARIES: Final = ("torch", "transformers", "safetensors")
_HUB: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_FILES: Final = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors")


def is_held_out(prompt_digest: str) -> bool:
    """Return whether the shipped models have never seen a prompt: one in eight, by its digest.

    Args:
        prompt_digest: the recorded digest of system and user message.
    """
    return int(prompt_digest[:8], 16) % _HELD_OUT == 0


def check_libraries(name: str) -> None:
    """Refuse to load a model without the required libraries.

    Raises:
        UsageError: one of them is not installed.
    """
    missing = [library for library in _LIBRARIES if find_spec(library) is None]
    if missing:
        raise UsageError(
            f"local/{name} needs {' and '.join(missing)}: install with `pip install 'mdap[local]'`"
        )


def find_folder(name: str) -> Path:
    """Return the folder that holds the files of the model called *name*; fetch it if it is on the Hub.

    Raises:
        UsageError: there is no such model, it cannot be fetched, or the folder does not contain one.
    """
    if not name:
        raise UsageError(
            f"local needs a model: one that ships ({', '.join(SHIPPED)}), a folder, or a name on the Hugging "
            "Face Hub, as in --model local/micro"
        )
    if name in SHIPPED:
        return _WEIGHTS / name
    folder = Path(name).expanduser()
    if not folder.exists():
        if not _HUB.fullmatch(name):
            raise UsageError(f"there is no folder {name}")
        folder = _fetched(name)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name the folder that holds the model's config.json")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no model: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{folder} has no *.safetensors: mdap loads weights of no other format, since those may run code"
        )
    return folder


def _fetched(name: str) -> Path:
    check_libraries(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except GatedRepoError:
        raise UsageError(
            f"{name} is on the Hugging Face Hub for those who accept its terms there: do so, and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"there is no folder {name}, and no such model on the Hugging Face Hub for you: check its "
            f"name; shipped with mdap: {', '.join(SHIPPED)}"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise UsageError(
            f"the Hugging Face Hub answered {status} when asked for {name}: try again later"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"there is no folder {name}, and the Hugging Face Hub cannot be reached to fetch it "
            f"({type(error).__name__}): check the network, or name a folder"
        ) from None
