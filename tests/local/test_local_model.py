"""A real model in this process. These tests need torch: `.ci/run` gives them an environment of their own."""

import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import mdap
from mdap.audit import verify
from mdap.plugins import load_provider, make_recorded
from mdap.rules.digests import prompt_digest
from mdap_hanoi import Hanoi
from mdap_local import Local, LocalModel, LocalSettings, is_held_out, load_model
from mdap_local.generating import Row, generate
from mdap_local.places import find_folder

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOWER = Hanoi(disks=6, style="compact")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def micro() -> LocalModel:
    return load_model("micro", device="cpu")


@pytest.fixture(scope="module")
def weak() -> LocalModel:
    return load_model("micro-weak", device="cpu")


def prompts(count: int) -> list[tuple[str, str]]:
    """Return the prompts of the first steps on the way to the solution."""
    state, found = TOWER.start(), []
    for _ in range(count):
        step = TOWER.step(state)
        found.append((step.system, step.user))
        state = TOWER.advance(state, TOWER.oracle(state))
    return found


def asked(prompt: tuple[str, str], ordinals: Sequence[int] = (0,), **more: Any) -> mdap.SampleRequest:
    settings = {"temperature": 1.0, "max_tokens": 32, "key": "0", **more}
    return mdap.SampleRequest(*prompt, prompt_digest(*prompt), ordinals=tuple(ordinals), **settings)


def replies(
    model: LocalModel, requests: Sequence[mdap.SampleRequest], **settings: Any
) -> list[list[mdap.Reply]]:
    """Return what a model replies to requests that are all made at once."""
    came: dict[int, list[mdap.Reply]] = {}

    async def ask() -> None:
        provider = Local(model, LocalSettings(**settings))

        async def one(place: int) -> None:
            came[place] = [*await provider.sample(requests[place])]

        async with anyio.create_task_group() as group:
            for place in range(len(requests)):
                group.start_soon(one, place)
        await provider.aclose()

    anyio.run(ask)
    return [came[place] for place in range(len(requests))]


def texts(model: LocalModel, requests: Sequence[mdap.SampleRequest], **settings: Any) -> list[str]:
    return [reply.text for came in replies(model, requests, **settings) for reply in came]


# -- samples ---------------------------------------------------------------------------------------


def test_a_sample_is_the_same_in_any_company(weak: LocalModel) -> None:
    """Batches of 1, 16 and 64, requests for one and for several samples: the same sample, the same reply."""
    single = [asked(prompt, [ordinal]) for prompt in prompts(16) for ordinal in range(4)]
    several = [asked(prompt, range(4)) for prompt in prompts(16)]
    alone = texts(weak, single, batch=1)
    assert texts(weak, single, batch=16) == alone
    assert texts(weak, single, batch=64) == alone
    assert texts(weak, several, batch=64) == alone
    assert texts(weak, single[::-1], batch=64) == alone[::-1]


def test_samples_are_independent(weak: LocalModel) -> None:
    """Ordinal, step, prompt, seed and model each change what is drawn."""
    prompt = prompts(1)[0]
    hot = {"temperature": 3.0}
    first = texts(weak, [asked(prompt, range(16), **hot)])
    assert len(set(first)) > 8
    assert texts(weak, [asked(prompt, range(16), **hot)]) == first
    assert texts(weak, [asked(prompt, range(16), key="1", **hot)]) != first
    assert texts(weak, [asked(prompt, range(16), **hot)], seed=1) != first


def test_a_batch_draws_what_each_prompt_alone_would(weak: LocalModel) -> None:
    """Against the model read plainly, token by token: no padding, no cache, nobody beside it."""
    tokens = [tuple(weak.chat(*prompt)) for prompt in prompts(9)]
    rows = [
        Row(tokens[seed % 9], seed, heat, 24, lambda: True)
        for seed, heat in zip(range(27), (0.7, 1.0, 1.5) * 9, strict=True)
    ]
    for sampled in generate(weak, rows):
        assert (*sampled.row.said,) == drawn_alone(weak, sampled.row)


def drawn_alone(model: LocalModel, row: Row) -> tuple[int, ...]:
    chance, said = random.Random(row.seed), list[int]()
    while len(said) < row.max_tokens and (not said or said[-1] not in model.ends):
        with torch.no_grad():
            logits = model.network(torch.tensor([[*row.prompt, *said]]), use_cache=False).logits[0, -1]
        heights = (logits.double() / row.temperature).softmax(-1).cumsum(-1)
        draw = torch.tensor(chance.random(), dtype=torch.float64) * heights[-1]
        said.append(int(torch.searchsorted(heights, draw, right=True)))
    return tuple(said)


def test_replies_come_as_often_as_the_model_says(weak: LocalModel) -> None:
    """The share of the likeliest reply is its probability by teacher forcing, within four standard errors."""
    prompt, drawn, heat = prompts(6)[5], 256, 2.0
    parts = [asked(prompt, range(first, first + 64), temperature=heat) for first in range(0, drawn, 64)]
    text, count = Counter(texts(weak, parts)).most_common(1)[0]
    with torch.no_grad():
        chance = float(weak.log_likelihoods([(weak.chat(*prompt), weak.reply(text))], heat).exp())
    assert abs(count / drawn - chance) <= 4 * math.sqrt(chance * (1 - chance) / drawn)


def test_each_sample_has_a_temperature_of_its_own(weak: LocalModel) -> None:
    """At 0 it is the likeliest reply, whatever is computed beside it."""
    prompt = prompts(3)[2]
    cold = asked(prompt, range(8), temperature=0.0)
    mixed = replies(weak, [cold, asked(prompt, range(8, 24), temperature=4.0)])
    assert len({reply.text for reply in mixed[0]}) == 1
    assert len({reply.text for reply in mixed[1]}) > 4
    assert [reply.text for reply in mixed[0]] == texts(weak, [cold], seed=9)


def test_tokens_and_finish_reasons_are_true(micro: LocalModel) -> None:
    prompt = prompts(2)[1]
    (whole,), (cut,) = replies(
        micro, [asked(prompt, temperature=0.0), asked(prompt, temperature=0.0, max_tokens=5)]
    )
    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert whole.input_tokens == cut.input_tokens == len(micro.chat(*prompt))
    assert whole.output_tokens == len(micro.reply(whole.text))
    assert cut.output_tokens == len(cut.text) == 5
    assert whole.text.startswith(cut.text)
    assert whole.model == "local/micro"


def test_a_reply_ends_where_the_context_does(micro: LocalModel) -> None:
    """Without a word about it, a model would go on beyond what it was trained for."""
    room = micro.context - len(micro.chat("", ""))
    ((reply,),) = replies(micro, [asked(("", "1" * (room - 3)), max_tokens=32, temperature=2.0)])
    assert (reply.output_tokens or 0) <= 3
    with pytest.raises(BaseExceptionGroup) as refused:
        replies(micro, [asked(("", "1" * room))])
    assert refused.group_contains(
        mdap.RejectedError, match="leaves no room for a reply in the context of local/micro"
    )


def test_a_cancelled_request_frees_its_place(weak: LocalModel) -> None:
    """Those computed beside it come as they would, and the next request does."""
    prompt = prompts(1)[0]

    async def ask() -> tuple[str, str]:
        provider = Local(weak, LocalSettings())
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def abandoned() -> None:
                with scope:
                    await provider.sample(asked(prompt, range(32), max_tokens=100, temperature=9.0))

            group.start_soon(abandoned)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            kept = await provider.sample(asked(prompt))
        after = await provider.sample(asked(prompt))
        await provider.aclose()
        return kept[0].text, after[0].text

    assert anyio.run(ask) == (*texts(weak, [asked(prompt)]), *texts(weak, [asked(prompt)]))


def test_too_little_memory_for_a_batch_is_no_failure(
    weak: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is computed in smaller ones, with the same replies; where one sample is too much, that is said."""
    requests = [asked(prompt) for prompt in prompts(8)]
    before = texts(weak, requests)
    monkeypatch.setattr("mdap_local.generating._Batch._read", _reading_at_most(3))
    assert texts(weak, requests) == before
    monkeypatch.setattr("mdap_local.generating._Batch._read", _reading_at_most(0))
    with pytest.raises(BaseExceptionGroup) as refused:
        replies(weak, requests[:1])
    assert refused.group_contains(
        mdap.UnavailableError, match="has not enough memory for a prompt of .* tokens"
    )


def _reading_at_most(rows: int) -> Any:
    from mdap_local.generating import _Batch

    read = getattr(_Batch._read, "whole", _Batch._read)

    def limited(batch: Any, tokens: Any) -> None:
        if len(tokens) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        read(batch, tokens)

    limited.whole = read  # type: ignore[attr-defined]
    return limited


def test_numbers_that_are_none_are_no_reply(weak: LocalModel, tmp_path: Path) -> None:
    weak.save(tmp_path)
    broken = load_model(str(tmp_path), device="cpu")
    with torch.no_grad():
        next(broken.network.parameters()).fill_(math.nan)
    with pytest.raises(BaseExceptionGroup) as refused:
        replies(broken, [asked(prompts(1)[0])])
    assert refused.group_contains(mdap.UnavailableError, match="computes no numbers: try -M dtype=float32")


# -- models ----------------------------------------------------------------------------------------


def test_what_ships_is_small_and_as_good_as_is_said(micro: LocalModel, weak: LocalModel) -> None:
    """On steps that neither has seen, the exact share of wrong replies is what their folders say."""
    for model, low, high in ((micro, 0.005, 0.03), (weak, 0.06, 0.12)):
        size = sum(file.stat().st_size for file in model.folder.iterdir())
        assert size <= 1_200_000
        told = json.loads((model.folder / "training.json").read_text())["p_wrong"]["hanoi"]
        found = wrong(model)
        assert low <= found <= high
        assert found == pytest.approx(told, abs=0.01)


def wrong(model: LocalModel) -> float:
    """Return the share of wrong replies at temperature 1 over all held-out steps of 3 to 10 disks."""
    pairs = []
    for disks in range(3, 11):
        task = Hanoi(disks=disks, style="compact")
        state = task.start()
        for _ in range(task.length()):
            step, truth = task.step(state), task.oracle(state)
            if is_held_out(prompt_digest(step.system, step.user)):
                pairs.append((model.chat(step.system, step.user), model.reply(task.render(truth))))
            state = task.advance(state, truth)
    with torch.no_grad():
        return 1 - float(model.log_likelihoods(pairs).exp().mean())


def test_a_saved_model_is_the_same_model(weak: LocalModel, tmp_path: Path) -> None:
    weak.save(tmp_path / "copy")
    copy = load_model(str(tmp_path / "copy"), device="cpu")
    assert copy.digest == weak.digest
    assert [*copy.chat("s", "+ none 000")] == [*weak.chat("s", "+ none 000")]
    with torch.no_grad():
        next(copy.network.parameters()).mul_(2)
    copy.save(tmp_path / "other")
    assert load_model(str(tmp_path / "other"), device="cpu").digest != weak.digest


def _without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _cut(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def _of_another_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))


def _unknown(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "abacus"}')


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_without_template, "has no chat template: choose a model that was trained to chat"),
        (_cut, r"the weights in .* cannot be read \(.*\): copy or fetch them again"),
        (_of_another_size, "is not whole: .* of its weights are missing, such as "),
        (_unknown, "cannot be loaded as a causal language model: "),
        (_without_tokenizer, "the tokenizer in .* cannot be loaded: "),
    ],
)
def test_a_folder_that_is_no_model_is_told_in_one_sentence(spoil: Any, sentence: str, tmp_path: Path) -> None:
    folder = shutil.copytree(find_folder("micro-weak"), tmp_path / "model")
    spoil(folder)
    with pytest.raises(mdap.UsageError, match=sentence) as refused:
        load_provider(f"local/{folder}", {"device": "cpu"})
    assert "\n" not in str(refused.value)


def test_a_model_too_large_for_memory_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdap_local.model.free_bytes", lambda torch, device: 1_500_000)
    with pytest.raises(
        mdap.UsageError, match=r"needs 0\.0 GB for its weights .* -M dtype=bfloat16 halves that"
    ):
        load_provider("local/micro", {"device": "cpu"})
    assert load_provider("local/micro", {"device": "cpu", "dtype": "bfloat16"}).name == "local/micro"


def test_a_name_that_the_hub_does_not_know_or_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def fail(error: Exception) -> None:
        def download(*args: Any, **options: Any) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    response = SimpleNamespace(status_code=503, headers={}, request=None, text="")
    unknown = errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError)
    busy = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
    busy.response = response
    for error, sentence in (
        (errors.LocalEntryNotFoundError("offline"), "the Hugging Face Hub cannot be reached to fetch it"),
        (unknown, "no such model on the Hugging Face Hub for you"),
        (busy, "the Hugging Face Hub answered 503 when asked for some/model: try again later"),
    ):
        fail(error)
        with pytest.raises(mdap.UsageError, match=sentence):
            load_provider("local/some/model", {})


def test_a_template_without_system_messages_gets_them_in_front(weak: LocalModel, tmp_path: Path) -> None:
    folder = shutil.copytree(weak.folder, tmp_path / "model")
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template + "{{ messages[0]['content'] }}<reply>")
    model = load_model(str(folder), device="cpu")
    assert model.text(model.chat("ab", "cd")) == "ab\n\ncd"


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> tuple[mdap.Solution, Path]:
    db = tmp_path_factory.mktemp("log") / "a.db"
    voting = mdap.VotingSettings(temperatures=(1.0,), k=4)
    return mdap.solve_sync(TOWER, model="local/micro", db=db, run_id="tower", voting=voting), db


def test_it_solves_hanoi_and_the_record_is_proven(solved: tuple[mdap.Solution, Path]) -> None:
    """Voting makes a run of 63 steps right with a model that errs in one of fifty."""
    solution, db = solved
    assert solution.result == {"solved": True, "moves": 63}
    assert verify(db, "tower", make_recorded, oracle=True).ok


def test_the_record_says_which_weights_replied(solved: tuple[mdap.Solution, Path], tmp_path: Path) -> None:
    """So a run does not go on with another model in the same folder."""
    _, db = solved
    with mdap.open_log(db) as log:
        about = log.run("tower").provider["about"]
    assert about == {
        "model": "local/micro",
        "seed": 0,
        "dtype": "auto",
        "weights": load_model("micro").digest,
    }
