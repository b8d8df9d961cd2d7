"""Train the two models that ship with mdap: `local/micro` and `local/micro-weak`.

Both come from one training: `micro` as an average of weights, `micro-weak` as they were after a single step.
Their lessons are steps of `hanoi` and `multiply` in the style `compact`, answered by the domains' own
oracles. One step in eight, chosen by the digest of its prompt, is held out: no model has ever seen it. The
script prints the exact probability that a reply at temperature 1 is not the right one, word for word.

    python benchmarks/train_micro.py --out plugins/mdap_local/models
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mdap.rules.digests import prompt_digest
from mdap_arithmetic import Multiply
from mdap_hanoi import Hanoi, State

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<reply>")
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz +-*=.,:/\n"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<s>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<reply>{{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<reply>{% endif %}"
)
HELD_OUT = 8
DISKS = range(3, 11)


class Lesson(NamedTuple):
    user: str
    reply: str
    held_out: bool


class Pupil(NamedTuple):
    tokens: Any
    network: Any


def lesson(system: str, user: str, reply: str) -> Lesson:
    return Lesson(user, reply, int(prompt_digest(system, user)[:8], 16) % HELD_OUT == 0)


# -- lessons ---------------------------------------------------------------------------------------


def hanoi_lesson(task: Hanoi, state: State) -> Lesson:
    step = task.step(state)
    return lesson(step.system, step.user, task.render(task.oracle(state)))


def hanoi_drawn(rng: random.Random) -> Lesson:
    """Draw a step: every other one on the way to the solution, the others anywhere."""
    task = Hanoi(disks=rng.choice(DISKS), style="compact")
    if rng.random() < 0.5:
        return hanoi_lesson(task, task.sample_state(rng))
    pegs: list[list[int]] = [[], [], []]
    for disk in range(task.disks, 0, -1):
        pegs[rng.randrange(3)].append(disk)
    a, b, c = map(tuple, pegs)
    tops = [(peg[-1], place) for place, peg in enumerate(pegs) if peg]
    disk, target = min(tops) if rng.random() < 0.5 else rng.choice(tops)
    source = (target + rng.choice((1, 2))) % 3
    return hanoi_lesson(task, State((a, b, c), (disk, source, target)))


def hanoi_solutions(disks: int) -> list[Lesson]:
    task = Hanoi(disks=disks, style="compact")
    state, found = task.start(), []
    for _ in range(task.length()):
        found.append(hanoi_lesson(task, state))
        state = task.advance(state, task.oracle(state))
    return found


def sums(sign: str, carries: int) -> list[Lesson]:
    task = Multiply(style="compact")
    found = []
    for left in range(10):
        for right in range(10):
            for carry in range(carries):
                step = task._step(sign, left, right, carry)
                found.append(lesson(step.system, step.user, task.render(step, task.oracle(step))))
    return found


# -- the model -------------------------------------------------------------------------------------


def new_tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *LETTERS]
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        additional_special_tokens=["<reply>"],
        clean_up_tokenization_spaces=False,
        model_max_length=128,
        **names,
    )
    tokens.chat_template = TEMPLATE
    return tokens


def new_pupil(seed: int, arguments: argparse.Namespace) -> Pupil:
    torch.manual_seed(seed)
    tokens = new_tokenizer()
    shape = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=arguments.width,
        intermediate_size=arguments.inner,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        max_position_embeddings=128,
        rope_theta=1000.0,
        tie_word_embeddings=True,
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        attn_implementation="sdpa",
    )
    return Pupil(tokens, LlamaForCausalLM(shape))


def encoded(pupil: Pupil, lessons: list[Lesson]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens, and the targets: the reply and its end, nothing of the prompt."""
    number, start, end, reply = (
        pupil.tokens.get_vocab(),
        *map(pupil.tokens.convert_tokens_to_ids, SPECIAL[2:]),
    )
    rows = []
    for one in lessons:
        asked = [start, *(number[letter] for letter in one.user), reply]
        rows.append((asked, [*(number[letter] for letter in one.reply), end]))
    width = max(len(asked) + len(said) for asked, said in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    targets = torch.full((len(rows), width), -100)
    for place, (asked, said) in enumerate(rows):
        whole = torch.tensor(asked + said)
        tokens[place, : len(whole)] = whole
        targets[place, len(asked) : len(whole)] = whole[len(asked) :]
    return tokens, targets


def log_likelihoods(pupil: Pupil, lessons: list[Lesson]) -> torch.Tensor:
    """Return log P(reply | prompt) of each lesson at temperature 1."""
    tokens, targets = encoded(pupil, lessons)
    logits = pupil.network(tokens).logits[:, :-1].log_softmax(-1)
    wanted = targets[:, 1:]
    picked = logits.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return (picked * (wanted >= 0)).sum(-1)


def wrong(pupil: Pupil, lessons: list[Lesson]) -> float:
    """Return the exact probability that a reply at temperature 1 is not the right one, averaged."""
    with torch.no_grad():
        found = [
            log_likelihoods(pupil, lessons[first : first + 256]).exp()
            for first in range(0, len(lessons), 256)
        ]
    return 1 - float(torch.cat(found).mean())


# -- training --------------------------------------------------------------------------------------


def batches(
    rng: random.Random, hanoi: int, small: dict[str, tuple[list[Lesson], int]]
) -> Iterator[list[list[Lesson]]]:
    while True:
        drawn: list[Lesson] = []
        while len(drawn) < hanoi:
            one = hanoi_drawn(rng)
            if not one.held_out:
                drawn.append(one)
        yield [drawn, [rng.choice(lessons) for lessons, count in small.values() for _ in range(count)]]


def save(pupil: Pupil, place: Path, figures: dict[str, Any]) -> None:
    half = LlamaForCausalLM(pupil.network.config).to(torch.float16)
    half.load_state_dict({name: value.half() for name, value in pupil.network.state_dict().items()})
    half.save_pretrained(place)
    pupil.tokens.save_pretrained(place)
    (place / "training.json").write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--inner", type=int, default=288)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--average", type=float, default=0.99, help="how much of an average stays, a step")
    parser.add_argument("--weak", type=int, default=1620, help="after how many steps micro-weak is saved")
    parser.add_argument("--good", type=float, default=0.02, help="error rate at which micro is saved")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    pupil = new_pupil(arguments.seed, arguments)
    print(f"{sum(weights.numel() for weights in pupil.network.parameters()):,} parameters")

    tables = {"multiplication": sums("*", 9), "addition": sums("+", 2)}
    small = {
        "multiplication": ([one for one in tables["multiplication"] if not one.held_out], 160),
        "addition": ([one for one in tables["addition"] if not one.held_out], 32),
    }
    solutions = [one for disks in DISKS for one in hanoi_solutions(disks)]
    tests = {
        "hanoi": [one for one in solutions if one.held_out],
        "hanoi seen": [one for one in solutions if not one.held_out][::4],
        **{name: [one for one in lessons if one.held_out] for name, lessons in tables.items()},
        **{f"{name} seen": lessons for name, (lessons, _) in small.items()},
    }
    print({name: len(lessons) for name, lessons in tests.items()})

    groups = [
        {
            "params": [one for one in pupil.network.parameters() if one.dim() > 1],
            "weight_decay": arguments.decay,
        },
        {"params": [one for one in pupil.network.parameters() if one.dim() == 1], "weight_decay": 0.0},
    ]
    # micro has the average weights of the last steps, which err less than those of any single one. micro-weak
    # has those of a single step: what the average errs in, and diffuse errors beside.
    average = AveragedModel(pupil.network, multi_avg_fn=get_ema_multi_avg_fn(arguments.average))
    mean = Pupil(pupil.tokens, average.module)
    optimizer = torch.optim.AdamW(groups, lr=arguments.rate, betas=(0.9, 0.98))
    started, cpu = time.monotonic(), time.process_time()
    done: set[str] = set()

    def report(name: str, tested: Pupil) -> None:
        """Print what a model gets wrong, and save it if that is what ships under its name."""
        figures = {test: round(wrong(tested, lessons), 4) for test, lessons in tests.items()}
        spent = time.process_time() - cpu
        print(name, step + 1, f"{time.monotonic() - started:.0f}s cpu {spent:.0f}s", figures, flush=True)
        if name not in done and (tested is pupil or figures["hanoi"] <= arguments.good):
            done.add(name)
            save(
                tested,
                arguments.out / name,
                {"steps": step + 1, "cpu_seconds": round(spent), "p_wrong": figures},
            )
            print("saved", name)

    for step, parts in enumerate(batches(rng, 64, small)):
        warm, ahead = min(1.0, (step + 1) / 100), step / arguments.steps
        for group in optimizer.param_groups:
            group["lr"] = (
                arguments.rate * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(ahead, 1.0))))
            )
        for part in parts:
            loss = -log_likelihoods(pupil, part).sum() / sum(len(one.reply) + 1 for one in part) / len(parts)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(pupil.network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(pupil.network)
        optimizer.zero_grad()
        if step + 1 == arguments.weak:
            report("micro-weak", pupil)
        if (step + 1) % 100 == 0 or step + 1 == arguments.steps:
            report("micro", mean)
        if step + 1 >= arguments.steps:
            break


if __name__ == "__main__":
    main()
