"""A causal language model with its tokenizer, loaded from a folder or the Hub."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mdap import UsageError
from mdap_local.places import check_libraries, find_folder

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

Pair = tuple[Sequence[int], Sequence[int]]
"""The tokens of a prompt and of a reply to it."""

_NO_LIMIT: Final = 10**9
_SHOWN: Final = 200

_MEMINFO: Final = Path("/proc/meminfo")
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_USED: Final = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True, eq=False)
class LocalModel:
    """A model in this process.

    Attributes:
        name: its name for users, such as ``local/micro``.
        folder: the folder of its files.
        network: the torch module, ready for inference.
        tokenizer: its tokenizer, from transformers.
        digest: SHA-256 over the names, shapes and bytes of all its weights, in hexadecimal.
        ends: the tokens that end a reply.
        context: maximum number of tokens of prompt and reply together.
        takes_system: whether its chat template takes a system message; if not, the user message begins with
            it.
    """

    name: str
    folder: Path
    network: Any
    tokenizer: Any
    digest: str
    ends: frozenset[int]
    context: int
    takes_system: bool

    def chat(self, system: str, user: str) -> list[int]:
        """Return the tokens of a prompt, up to the start of the reply."""
        return _prompt(self.tokenizer, system, user, takes_system=self.takes_system)

    def reply(self, text: str) -> list[int]:
        """Return the tokens of a reply, with its end token."""
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*tokens, self.tokenizer.eos_token_id]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a reply's tokens."""
        said: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return said

    def log_likelihoods(self, pairs: Sequence[Pair], temperature: float = 1.0) -> Any:
        """Return log P(reply | prompt) of each pair, by teacher forcing in one batch.

        The caller's context determines whether gradients are computed.

        Args:
            pairs: tokens, as `chat` and `reply` give them.
            temperature: sampling temperature, above 0.

        Returns:
            A tensor with a number for each pair.
        """
        import torch

        width = max(len(prompt) + len(reply) for prompt, reply in pairs)
        tokens = torch.zeros((len(pairs), width), dtype=torch.long)
        wanted = torch.full((len(pairs), width), -1)
        for place, (prompt, reply) in enumerate(pairs):
            whole = torch.tensor([*prompt, *reply])
            tokens[place, : len(whole)] = whole
            wanted[place, len(prompt) : len(whole)] = whole[len(prompt) :]
        # Padding comes last: no counted position of a causal model attends to it.
        logits = self.network(tokens.to(self.network.device), use_cache=False).logits[:, :-1]
        wanted = wanted[:, 1:].to(logits.device)
        chances = (logits.float() / temperature).log_softmax(-1)
        found = chances.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        return (found * (wanted >= 0)).sum(-1)

    def save(self, folder: str | Path) -> None:
        """Write the current model, with weights in float16, so that ``local/FOLDER`` loads it.

        Args:
            folder: the target folder; created if missing.
        """
        import torch

        half: dict[str, Any] = {}
        written: set[int] = set()
        for name, value in self.network.state_dict().items():
            if value.data_ptr() not in written:  # store tied weights once, under the first name
                written.add(value.data_ptr())
                half[name] = value.to(torch.float16)
        with _quiet():
            self.network.save_pretrained(folder, state_dict=half)
            self.tokenizer.save_pretrained(folder)


def load_model(name: str, *, device: Device = "auto", dtype: Dtype = "auto") -> LocalModel:
    """Load a model.

    Args:
        name: ``micro``, ``micro-weak``, a folder, or a name on the Hugging Face Hub, fetched once.
        device: the device; ``auto`` uses a GPU if there is one.
        dtype: the number format of its weights; ``auto`` keeps the stored format on a GPU and uses float32 on
            a CPU.

    Raises:
        UsageError: there is no such model, it has no chat template, it does not fit into memory, or torch is
            not installed.
    """
    folder = find_folder(name)
    check_libraries(name)
    import torch

    where = _device(torch, device)
    digest, numbers, stored = _weights(folder)
    held = dtype if dtype != "auto" else "float32" if where == "cpu" else stored
    kind = getattr(torch, held)
    _check_fits(name, numbers, kind.itemsize, free_bytes(torch, where))
    with _quiet():
        network = _network(folder, kind, where)
        tokenizer = _tokenizer(folder)
    told = getattr(network.generation_config, "eos_token_id", None)
    return LocalModel(
        name=f"local/{name}",
        folder=folder,
        network=network,
        tokenizer=tokenizer,
        digest=digest,
        ends=frozenset([*(told if isinstance(told, list) else [told]), tokenizer.eos_token_id]) - {None},
        context=getattr(network.config, "max_position_embeddings", None) or _NO_LIMIT,
        takes_system=_takes_system(folder, tokenizer),
    )


def _device(torch: Any, device: Device) -> str:
    there = bool(torch.cuda.is_available())
    if device == "cuda" and not there:
        raise UsageError("device=cuda: torch finds no GPU here; leave it out, or set device=cpu")
    return "cuda" if there and device != "cpu" else "cpu"


def _check_fits(name: str, numbers: int, width: int, free: int | None) -> None:
    """Refuse a model of so many weights, each of *width* bytes, that do not fit into the free memory."""
    if free is not None and numbers * width > free:
        smaller = "; -M dtype=bfloat16 halves that" if width > 2 else ""
        raise UsageError(
            f"{name} needs {numbers * width / 1e9:.1f} GB for its weights and {free / 1e9:.1f} GB are free: "
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


def _weights(folder: Path) -> tuple[str, int, str]:
    """Return the digest of all weights, their number, and their most common number format."""
    import torch
    from safetensors import SafetensorError, safe_open

    places: dict[str, Path] = {}
    digest, sizes = hashlib.sha256(), Counter[str]()
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as weights:
                places.update(dict.fromkeys(weights.keys(), file))
        for name, file in sorted(places.items()):
            with safe_open(file, "pt") as weights:
                tensor = weights.get_tensor(name)
                kind = str(tensor.dtype).removeprefix("torch.")
                sizes[kind] += tensor.numel()
                digest.update(f"{name} {kind} {list(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"the weights in {folder} cannot be read ({_line(error)}): copy or fetch them again"
        ) from None
    if not sizes:
        raise UsageError(f"{folder} is no model: its weights are empty")
    return digest.hexdigest(), sizes.total(), sizes.most_common(1)[0][0]


def _network(folder: Path, kind: Any, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network = network.to(device)
    except Exception as error:  # files in a folder can raise any error
        if is_out_of_memory(error):
            raise UsageError(f"{folder} does not fit into memory: choose a smaller model") from None
        raise UsageError(f"{folder} cannot be loaded as a causal language model: {_line(error)}") from None
    if missing := sorted(report["missing_keys"]):
        raise UsageError(
            f"{folder} is not whole: {len(missing)} of its weights are missing, such as {missing[0]}"
        )
    return network.train(False).requires_grad_(False)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise UsageError(f"the tokenizer in {folder} cannot be loaded: {_line(error)}") from None
    if not tokenizer.chat_template:
        raise UsageError(f"{folder} has no chat template: choose a model that was trained to chat")
    if tokenizer.eos_token_id is None:
        raise UsageError(f"the tokenizer in {folder} has no token that ends a reply (eos_token)")
    return tokenizer


def _takes_system(folder: Path, tokenizer: Any) -> bool:
    for takes_system in (True, False):
        try:
            _prompt(tokenizer, "Answer.", "1+1", takes_system=takes_system)
        except Exception as error:  # templates can raise any error
            refusal = error
        else:
            return takes_system
    raise UsageError(f"the chat template in {folder} cannot be used: {_line(refusal)}")


def _prompt(tokenizer: Any, system: str, user: str, *, takes_system: bool) -> list[int]:
    if system and not takes_system:
        system, user = "", f"{system}\n\n{user}"
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    said = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(said["input_ids"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from writing to the terminal within the block."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
