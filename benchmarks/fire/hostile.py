"""Hostile replies through every bundled parser, held against second readers written from the prompts.

Each text goes the way that a reply goes: cleaned, checked for its length, parsed, spelled as canonical JSON.
A parser may grant a vote or raise a red flag, and nothing else, in bounded time; a vote that it grants must
be one that the second reader grants, for the same answer. Of the readers of JSON objects (extract, maker)
the second one knows the names alone, and so it is only asked whether it would refuse.

The texts are honest replies with tokens lost, doubled, swapped or replaced; near misses; echoes of the
prompt; unicode that looks like digits; NaN, Infinity, numbers of 5,000 digits; nesting; bait for regular
expressions that backtrack; and texts of 10 MB.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import finish, parser, print_environment, table
from benchmarks.fire import strict
from mdap import RedFlag, Step
from mdap.rules.canonical import canonical
from mdap.rules.redflags import clean, precheck
from mdap.testing.hostile import OverdueError, corpus, deadline, fuzzed
from mdap_arithmetic import multiplication
from mdap_arithmetic.sorting import Sort
from mdap_extract.documents import Document
from mdap_extract.forms import Forms
from mdap_extract.reading import Asking, rendered
from mdap_extract.schema import fields_of
from mdap_hanoi import Hanoi
from mdap_ledger import Ledger
from mdap_maker import words

SECONDS = 1.0
"""Processor time that reading one reply may take; a megabyte is read in a small part of it."""
MOST_TOKENS = 750
SCHEMA = {
    "type": "object",
    "properties": {
        "vendor": {"type": "string"},
        "day": {"type": "string", "format": "date"},
        "total": {"type": "number"},
        "goods": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["vendor", "day", "total", "goods"],
}
TEXT = "Firm 7, 2026-11-08: 101.75 for paper and toner"
FORMS = {"vendor": "Firm 7", "day": "2026-11-08", "total": 101.75, "goods": ["paper", "toner"]}
PLAN = {"first": "Multiply 4 by 2.", "second": "Multiply 6 by 2.", "compose": "Add them."}


@dataclass(slots=True)
class Target:
    """A parser, honest replies to it, and the second reader.

    Attributes:
        exact: whether the second reader must come to the same; else it is only asked if it would refuse.
    """

    name: str
    step: Step[Any]
    replies: Sequence[str]
    strictly: Callable[[str], Any]
    exact: bool = True
    votes: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def max_tokens(self) -> int:
        return self.step.max_tokens or MOST_TOKENS


def targets() -> list[Target]:
    """Return a parser of each bundled domain, and of each of its agents."""
    return [*hanoi(), *ledger(), *arithmetic(), *extract(), *maker()]


def hanoi() -> Iterator[Target]:
    for disks in (3, 10):
        task = Hanoi(disks=disks)
        state = task.start()
        step = task.step(state)
        assert step is not None
        truth = task.oracle(state)
        replies = [task.render(answer) for answer in (truth, *task.mistakes(state, truth))]
        yield Target(f"hanoi, {disks} disks", step, replies, partial(strict.hanoi, disks=disks))


def ledger() -> Iterator[Target]:
    task = Ledger()
    state = task.start()
    truth = task.oracle(state)
    replies = [task.render(answer) for answer in (truth, *task.mistakes(state, truth))]

    def read(text: str) -> Any:
        names = ("debit", "credit", "amount", "debit_after", "credit_after")
        return dict(zip(names, strict.ledger(text), strict=True))

    yield Target("ledger", task.step(state), replies, read)


def arithmetic() -> Iterator[Target]:
    product = Step("What is 7 times 8?", multiplication.STYLES["full"].read)
    yield Target("multiply", product, ["7 times 8 is 56.\nresult=56", "result=9"], strict.result)
    task = Sort()
    numbers = task.numbers[:8]
    less = sorted(number for number in numbers if number < 300)
    ordered = f"They are these.\nsorted = {sorted(numbers)}"
    split = f"Less are these.\nless = {less}"
    yield Target(
        "sort, order", task._order(numbers), [ordered], lambda text: strict.listed(text, "sorted", numbers)
    )
    yield Target(
        "sort, split", task._split(numbers, 300), [split], lambda text: strict.listed(text, "less", numbers)
    )


def extract() -> Iterator[Target]:
    document, fields = Document("d", TEXT, None), fields_of(SCHEMA)
    names = set(FORMS)
    for evidence in (False, True):
        step = Asking(Forms(), evidence, "", 1).step(document, fields, "d")
        reply = rendered(document, FORMS, evidence=evidence)
        replies = [reply, f"```json\n{reply}\n```", f"\ufeff~~~ JSON\r\n{reply}\r\n~~~", f"```{reply}```"]
        name = "extract, quoted" if evidence else "extract"
        yield Target(name, step, replies, lambda text: strict.record(text, names), exact=False)


def maker() -> Iterator[Target]:
    problem = "Multiply 46 by 2."
    said = words.rendered
    plans = [PLAN, {"simple": True}]
    yield Target(
        "maker, decomposer",
        words.propose_plan((problem,), 1),
        [said("decomposer", plan) for plan in plans],
        lambda text: either(text, [set(PLAN), {"simple"}]),
        exact=False,
    )
    yield Target(
        "maker, solver",
        words.propose_solution(problem, 1),
        [said("solver", "92")],
        lambda text: strict.last_object(text, {"answer"}),
        exact=False,
    )
    choose = words.choose_solution(problem, ["92", "82", "94"])
    yield Target(
        "maker, judge", choose, [said("judge", 1), said("judge", 0)], lambda text: strict.choice(text, 3)
    )


def either(text: str, names: Sequence[set[str]]) -> Any:
    for some in names:
        try:
            return strict.last_object(text, some)
        except strict.Refused:
            continue
    raise strict.Refused


# -- texts -----------------------------------------------------------------------------------------

BAIT = (
    *("move = " + "[" * 100_000, "next_state = " * 3_000, "move " * 9_000, "a_move = [1, 0, 1]\n" * 2_000),
    *("[" * 60_000 + "]" * 60_000, '{"a":' * 50_000, '"' + "\\" * 90_000, "=" * 90_000, " " * 90_000 + "!"),
    *("result=" + "9" * 40_000, "sorted = [" + "1, " * 20_000 + "]", "sorted = [" + "-" * 4_000 + "]"),
    *("x" * 10_000_000, "\n" * 10_000_000, "move = [1, 0, 1] " * 600_000, "\u202e" * 5_000_000),
    *(
        "choice=1\n" * 9_000,
        "```json\n" * 9_000,
        "0" * 4_301,
        "-" * 5_000 + "1",
        '{"answer": "' + "\\u0041" * 9_000,
    ),
)
TRICKS = (
    *(
        "\u0661",
        "\uff11",
        "²",
        "Ⅷ",
        "\u200b",
        "\u00a0",
        "\u2028",
        "\x1f",
        "\x0b",
        "\x85",
        "\ufeff",
        "\u2212",
        "\u2010",
    ),
    *("0x1", "1_0", "1.0", "1e0", "-0", "01", "+1", "true", "null", "NaN", "Infinity", "-Infinity", "1e999"),
    *(
        "9" * 5_000,
        "\ud800",
        "\\ud800",
        "\0",
        "\r",
        "\t",
        "e\u0301",
        "ﬁ",
        "İ",
        "“",
        "'",
        "`",
        "```",
        "//",
        "#",
    ),
)


def texts(target: Target, count: int, seed: int) -> Iterator[str]:
    """Yield *count* texts for a parser: bait and corpus, then drawn ones."""
    yield from BAIT[:count]
    yield from echoes(target)
    drawn = random.Random(f"{seed} {target.name}")
    made = len(BAIT[:count]) + 5
    for text in corpus(target.replies, target.max_tokens):
        if made >= count // 2:
            break
        made += 1
        yield text
    for text in fuzzed(target.replies, (count - made) // 2, f"{seed}", target.max_tokens):
        made += 1
        yield text
    while made < count:
        made += 1
        yield near_miss(target, drawn)


def echoes(target: Target) -> Iterator[str]:
    """Yield the prompt, and replies with the prompt around them."""
    prompt, reply = target.step.user, target.replies[0]
    yield prompt
    yield f"{target.step.system}\n{prompt}"
    yield f"{prompt}\n{reply}"
    yield f"{reply}\n{prompt}"
    yield f"{reply}\n{reply}\n{target.step.system}"


def near_miss(target: Target, rng: random.Random) -> str:
    """Return an honest reply in which little is otherwise: one character, one trick, one line."""
    reply = rng.choice(target.replies)
    place = rng.randrange(len(reply) + 1)
    match rng.randrange(7):
        case 0:
            return reply[:place] + rng.choice(TRICKS) + reply[place:]
        case 1:
            return reply[:place] + rng.choice(TRICKS) + reply[place + 1 :]
        case 2:
            return reply[:place] + reply[place + 1 :]
        case 3:
            return (
                reply[:place]
                + chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x2500)]))
                + reply[place:]
            )
        case 4:
            lines = reply.split("\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice([*lines, *TRICKS, ""]))
            return "\n".join(lines)
        case 5:
            return reply + rng.choice(["\n", " ", "\n\n", ".", *TRICKS]) * rng.randint(1, 3)
        case _:
            digits = [place for place, char in enumerate(reply) if char.isdigit()]
            at = rng.choice(digits or [0])
            return reply[:at] + rng.choice([str(rng.randrange(12)), *TRICKS]) + reply[at + 1 :]


# -- reading ---------------------------------------------------------------------------------------


def attack(target: Target, text: str) -> None:
    """Have one text read, as the engine does, and note what is wrong with that."""
    started = time.process_time()
    spelled: str | None = None
    try:
        with deadline(SECONDS):
            cleaned = clean(text, target.max_tokens)
            flag = precheck(cleaned, "stop", None, target.max_tokens)
            if flag is None:
                spelled = canonical(target.step.parse(cleaned))
    except RedFlag as raised:
        flag = raised.reason
    except OverdueError:
        target.wrong.append(f"took more than {SECONDS:g} s for {len(text)} characters: {text!r:.80}")
        return
    except Exception as error:
        target.wrong.append(f"raised {type(error).__name__}: {error!s:.100} for {text!r:.100}")
        return
    target.slowest = max(target.slowest, time.process_time() - started)
    if spelled is None:
        target.flags[str(flag)] += 1
    else:
        target.votes += 1
    compare(target, cleaned, spelled, flag)


def compare(target: Target, text: str, spelled: str | None, flag: str | None) -> None:
    """Hold what a parser made of a text against the second reader."""
    try:
        second = json.dumps(target.strictly(text), sort_keys=True)
    except strict.Refused:
        if spelled is not None:
            target.wrong.append(f"a vote that a strict reader refuses: {spelled:.100} for {text!r:.160}")
        return
    if spelled is None:
        if target.exact and len(text) <= target.max_tokens * 64:
            target.refused += 1
            target.wrong.append(f"refused ({flag}), where the second reader grants a vote: {text!r:.160}")
    elif target.exact and json.loads(spelled) != json.loads(second):
        target.wrong.append(f"read as {spelled:.100}, by the second reader as {second:.100}: {text!r:.160}")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--replies", type=int, default=100_000, help="in all, shared among the parsers")
    cli.add_argument("--seed", type=int, default=4, help="of what is drawn")
    cli.add_argument("--quick", action="store_true", help="a tenth of it")
    arguments = cli.parse_args()
    environment = print_environment()
    found = targets()
    share = -(-arguments.replies // (10 if arguments.quick else 1) // len(found))
    for target in found:
        for text in texts(target, share, arguments.seed):
            attack(target, text)
    rows = [
        [each.name, f"{each.votes + each.flags.total():,}", f"{each.votes:,}", f"{each.flags.total():,}",
         str(len(each.flags)), f"{1000 * each.slowest:.0f}", str(len(each.wrong))]
        for each in found
    ]  # fmt: skip
    table("replies", ["parser", "replies", "votes", "red flags", "reasons", "slowest, ms", "wrong"], rows)
    total = sum(each.votes + each.flags.total() + len(each.wrong) for each in found)
    wrong = [f"{each.name}: {what}" for each in found for what in each.wrong]
    print(f"{total:,} replies, {len(wrong)} things wrong")
    for what in wrong[:30]:
        print(" ", what)
    results = {
        each.name: {"votes": each.votes, "flags": each.flags, "slowest": each.slowest, "wrong": each.wrong}
        for each in found
    }
    finish(arguments, environment, results)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
