"""Measure first-to-ahead-by-k voting against its law, in plain Python, without mdap."""

import random


def race(p: float, k: int, draw: random.Random) -> tuple[bool, int]:
    """Return whether the right answer wins, and the votes it took: one wrong answer gets all wrong votes."""
    lead = votes = 0
    while abs(lead) < k:
        lead += 1 if draw.random() < p else -1
        votes += 1
    return lead > 0, votes


def main() -> None:
    draw = random.Random(7)
    print("   p  k   wrong: law  measured   votes: law  measured")
    for p in (0.6, 0.7, 0.8, 0.9):
        for k in (1, 2, 3, 5):
            races = [race(p, k, draw) for _ in range(100_000)]
            right = 1 / (1 + ((1 - p) / p) ** k)
            votes = k * (2 * right - 1) / (2 * p - 1)
            wrong = sum(not won for won, _ in races) / len(races)
            took = sum(count for _, count in races) / len(races)
            print(f"{p:.2f}  {k}     {1 - right:.5f}   {wrong:.5f}       {votes:.3f}     {took:.3f}")


main()
