"""A model for the HTTP server that plays Towers of Hanoi and knows nothing but its prompt."""

import json
import random
import re
from typing import Any

__all__ = ["CHECKED", "STORY", "play"]

CHECKED = '{"ok": true}'
STORY = "They called the dog {:032x}, and on that day it rained until the river came up to the door."


def play(body: dict[str, Any], rng: random.Random) -> str:
    """Answer a request: wrong in a tenth of all replies, unreadable in a twentieth.

    What is no step gets a reply as well, as from a model: the probe asks for JSON, and for a story.
    Given a seed in the request, the same request gets the same answer.
    """
    prompt = body["messages"][-1]["content"]
    if "Current state: " not in prompt:
        return CHECKED if "JSON" in prompt else STORY.format(rng.getrandbits(128))
    drawn = random.Random(body["seed"]) if "seed" in body else rng
    point = drawn.random()
    if point < 0.05:
        return "I am sorry, but I would rather talk about something else."
    pegs = json.loads(_after("Current state: ", prompt))
    previous = _after("Previous move: ", prompt)
    small_is_due = previous == "none" or json.loads(previous)[0] != 1
    move = _strategy(pegs, small_is_due, 2 if "counterclockwise" in prompt else 1)
    if point < 0.15:
        move = [move[0], move[1], 3 - move[1] - move[2]]
    pegs[move[1]].remove(move[0])
    pegs[move[2]].append(move[0])
    return f"So this is next.\nmove = {move}\nnext_state = {pegs}"


def _after(label: str, prompt: str) -> str:
    found = re.search(f"^{label}(.*)$", prompt, re.MULTILINE)
    assert found is not None, f"the prompt does not give the {label!r}"
    return found[1]


def _strategy(pegs: list[list[int]], small_is_due: bool, shift: int) -> list[int]:
    home = next(number for number, peg in enumerate(pegs) if 1 in peg)
    if small_is_due:
        return [1, home, (home + shift) % 3]
    first, second = (number for number in range(3) if number != home)
    if not pegs[first] or (pegs[second] and pegs[second][-1] < pegs[first][-1]):
        first, second = second, first
    return [pegs[first][-1], first, second]
