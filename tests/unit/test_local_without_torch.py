"""The core needs no torch, and a model that does says so in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

import mdap
from mdap.plugins import load_provider
from mdap_local import is_held_out, places


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "find_spec", lambda name: None if name == "torch" else name)


@pytest.mark.slow
def test_nothing_but_loading_a_model_imports_torch() -> None:
    code = "import mdap, mdap_local, mdap.cli.main, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_missing_library_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(mdap.UsageError) as refused:
        load_provider("local/micro", {})
    assert str(refused.value) == "local/micro needs torch: install with `pip install 'mdap[local]'`"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "",
            r"local needs a model: one that ships \(micro, micro-weak\), a folder, or a name on the Hugging",
        ),
        ("./nowhere", r"there is no folder \./nowhere"),
        ("a/b/c", "there is no folder a/b/c"),
        ("empty", "empty is no model: it has no config.json"),
        ("file", "file is no folder: name the folder that holds the model's config.json"),
        ("pickled", r"pickled has no \*\.safetensors: mdap loads weights of no other format"),
    ],
)
def test_what_is_no_model_is_refused_before_anything_is_loaded(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("pickled").mkdir()
    Path("pickled", "config.json").write_text("{}")
    Path("pickled", "pytorch_model.bin").write_bytes(b"\x80")
    Path("file").write_text("")
    with pytest.raises(mdap.UsageError, match=f"^{sentence}"):
        load_provider(f"local/{name}", {})


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("batch=0", "local option batch: Input should be greater than or equal to 1"),
        ("device=tpu", "local option device: Input should be 'auto', 'cpu' or 'cuda'"),
        ("top=1", "there is no local option 'top'"),
    ],
)
def test_wrong_options_are_refused(option: str, sentence: str) -> None:
    name, _, value = option.partition("=")
    with pytest.raises(mdap.UsageError, match=f"^{sentence}"):
        load_provider("local/micro", {name: value})


def test_one_prompt_in_eight_is_held_out() -> None:
    """Which ones are follows from the digest alone."""
    assert is_held_out("00000008ffff")
    assert not is_held_out("00000007ffff")
