"""What the models that ship can do: exact error rates, replies a second by batch, and how far samples repeat.

python -m benchmarks.local
"""

import time

import torch

from benchmarks.train_micro import DISKS, Lesson, hanoi_solutions, sums
from mdap_local import SHIPPED, LocalModel, load_model
from mdap_local.generating import Row, generate

SAMPLES = 2048
HARD = 0.5


def chances(model: LocalModel, lessons: list[Lesson]) -> torch.Tensor:
    """Return the exact chance of the right reply at temperature 1, by lesson."""
    pairs = [(model.chat("", lesson.user), model.reply(lesson.reply)) for lesson in lessons]
    with torch.no_grad():
        found = [model.log_likelihoods(pairs[first : first + 256]) for first in range(0, len(pairs), 256)]
    return torch.cat(found).exp()


def replies(model: LocalModel, lessons: list[Lesson], batch: int, count: int) -> tuple[list[str], float]:
    """Return what a model replies, and how many replies a second of processor time."""
    prompts = [tuple(model.chat("", lesson.user)) for lesson in lessons]
    rows = [Row(prompts[seed % len(prompts)], seed, 1.0, 32, lambda: True) for seed in range(count)]
    said: dict[Row, str] = {}
    started = time.process_time()
    for first in range(0, count, batch):
        for sampled in generate(model, rows[first : first + batch]):
            said[sampled.row] = model.text(sampled.tokens)
    return [said[row] for row in rows], count / (time.process_time() - started)


def main() -> None:
    torch.set_num_threads(1)
    solutions = {disks: hanoi_solutions(disks) for disks in DISKS}
    tests = {
        "hanoi, 3 to 10 disks": [one for lessons in solutions.values() for one in lessons],
        **{f"hanoi, {disks} disks": solutions[disks] for disks in (6, 8, 10)},
        "multiplication": sums("*", 9),
        "addition": sums("+", 2),
    }
    print(f"{'wrong at temperature 1, %':<24} {'held out':>9} {'seen':>9} {'steps':>6} {'P > .5':>7}")
    for name in SHIPPED:
        model = load_model(name, device="cpu")
        print(f"local/{name}, {model.network.num_parameters():,} parameters, {model.digest[:16]}")
        for test, lessons in tests.items():
            found = 1 - chances(model, lessons)
            held_out = torch.tensor([lesson.held_out for lesson in lessons])
            hard = int((found > HARD).sum())
            shares = [100 * float(found[which].mean()) for which in (held_out, ~held_out)]
            print(f"  {test:<22} {shares[0]:9.2f} {shares[1]:9.2f} {len(lessons):6} {hard:7}")
    whole: list[str] = []
    for name in SHIPPED:
        model = load_model(name, device="cpu")
        for batch in (1, 16, 64):
            count = SAMPLES // 8 if batch == 1 else SAMPLES
            said, speed = replies(model, solutions[10], batch, count)
            whole = said if batch == 1 else whole + said[len(whole) :]
            other = sum(one != another for one, another in zip(said, whole, strict=False))
            print(f"local/{name}, batch {batch:2}: {speed:6.0f} replies a second, {other} of {count} differ")


if __name__ == "__main__":
    main()
