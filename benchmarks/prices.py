"""Measure the cost of `extract` on long documents: ordinary requests, `n`, the cache, both, and batches.

A server on loopback caches prompt prefixes as the vendor's pages describe it, and bills each request by a
price sheet: gpt-4.1-mini (caches prefixes of 1,024 tokens and more by itself, and reads them at a quarter of
the price) and claude-sonnet-4-5 (caches marked prefixes for five minutes, writes them at 1.25 times the price
and reads them at a tenth of it). The table shows the server's ledger; mdap's own figure must agree with it.
Batch APIs halve each price and read no cache: the ways that end in "batch" are measured, the column "halved"
is arithmetic.

The table compares these with ordinary requests that pay every token in full, and with the same requests where
a vendor's cache helps by chance.
"""

import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import anyio

import mdap
from benchmarks.common import finish, parser, print_environment, scratch, table
from mdap.testing import ANTHROPIC_SHEET, OPENAI_SHEET, Faults, FaultyServer, Ledger
from mdap_extract import Extract

FIELDS = ("vendor", "number", "total", "currency", "city")
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in FIELDS},
    "required": [*FIELDS],
}
WORDS = ("the", "order", "was", "sent", "by", "rail", "in", "spring", "and", "paid", "late", "for", "tools")
ASKED = re.compile(r'^- "(\w+)":', re.MULTILINE)

# By vendor and way: options of the model, whether requests wait for a warm cache, temperatures. A way whose
# name ends in "batch" goes in jobs of the batch API.
WAYS: dict[str, dict[str, tuple[dict[str, Any], bool, tuple[float, ...]]]] = {
    "openai": {
        "ordinary": ({"n": False}, False, (0.0, 0.1)),
        "n": ({}, False, (0.0, 0.1)),
        "n, one temperature": ({}, False, (0.1,)),
        "cache": ({"n": False}, True, (0.0, 0.1)),
        "n and cache": ({}, True, (0.0, 0.1)),
        "n and cache, one temperature": ({}, True, (0.1,)),
        "batch": ({"n": False}, False, (0.0, 0.1)),
        "n and batch": ({}, False, (0.0, 0.1)),
        "n, one temperature, batch": ({}, False, (0.1,)),
    },
    "anthropic": {
        "ordinary": ({"cache_breakpoints": False}, False, (0.0, 0.1)),
        "cache": ({}, True, (0.0, 0.1)),
        "batch": ({"cache_breakpoints": False}, False, (0.0, 0.1)),
    },
}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--documents", type=int, default=300)
    cli.add_argument("--tokens", type=int, default=4_000, help="tokens of a document")
    cli.add_argument("--error-rate", type=float, default=0.02, help="wrong answers per sample")
    cli.add_argument("--latency", type=float, default=0.2, help="seconds that a reply takes, in the median")
    arguments = cli.parse_args()
    environment = print_environment()
    results = []
    with scratch() as folder:
        path = folder / "documents.jsonl"
        path.write_text("".join(f"{json.dumps(each)}\n" for each in documents(arguments)), "utf-8")
        for vendor, ways in WAYS.items():
            results += [measured(arguments, path, vendor, way, *how) for way, how in ways.items()]
    show(results)
    finish(arguments, environment, {"ways": results})


def documents(arguments: Any) -> list[dict[str, Any]]:
    """Return made-up documents of `--tokens` tokens, four characters each, with their records."""
    rng, made = random.Random(5), []
    for number in range(arguments.documents):
        record = {name: f"{name}-{rng.randrange(10**6)}" for name in FIELDS}
        text = f"Document {number}\n" + "\n".join(f"{name}: {value}" for name, value in record.items())
        while len(text) < 4 * arguments.tokens:
            text += "\n" + " ".join(rng.choices(WORDS, k=12))
        made.append({"id": str(number), "text": text, "record": record})
    return made


class Reader:
    """A model that reads the fields which it is asked for, and at times says something else."""

    def __init__(self, error_rate: float) -> None:
        self._error_rate = error_rate

    def __call__(self, body: dict[str, Any], rng: random.Random) -> str:
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else "".join(block["text"] for block in content)
        if "Surprise me" in text:
            return f"They called it {rng.randrange(10**9)}, and the day ended as quietly as it had begun."
        if not (asked := ASKED.findall(text)):
            return '{"ok": true}'
        said = {name: re.search(rf"^{name}: (.*)$", text, re.MULTILINE)[1] for name in asked}  # type: ignore[index]
        return json.dumps({name: self._misread(value, rng) for name, value in said.items()})

    def _misread(self, value: str, rng: random.Random) -> str:
        return value if rng.random() >= self._error_rate else f"{value[:-1]}?"


def measured(
    arguments: Any,
    path: Path,
    vendor: str,
    way: str,
    options: dict[str, Any],
    warm: bool,
    temperatures: tuple[float, ...],
) -> dict[str, Any]:
    """Extract once, and return what the server's ledger and mdap say of it."""
    ledger = Ledger(OPENAI_SHEET if vendor == "openai" else ANTHROPIC_SHEET)
    sheet = ledger.sheet
    price = mdap.Price(
        input=sheet.input, output=sheet.output, cached_input=sheet.cached_input, cache_write=sheet.cache_write
    )
    plain = way in ("ordinary", "batch")
    task = Extract(input=str(path), schema=SCHEMA, truth="record", text="text", share_schema=not plain)
    faults = Faults(latency=arguments.latency, sigma=0.3)
    with FaultyServer.in_thread(Reader(arguments.error_rate), faults=faults, ledger=ledger) as server:
        os.environ["OPENAI_BASE_URL"] = server.base_url
        os.environ["ANTHROPIC_BASE_URL"] = server.base_url.removesuffix("/v1")

        async def run() -> mdap.Solution[Any]:
            model = f"{vendor}/m"
            async with mdap.Session(
                model,
                db=path.with_name(f"{vendor}-{way}.db"),
                options=options,
                prices={model: price},
                limits=mdap.Limits(warm_cache=warm, concurrency=64),
                lane="batch" if way.endswith("batch") else "requests",
                waves=mdap.Waves(quiet=1.0, poll=0.2),
            ) as session:
                voting = mdap.VotingSettings(k=3, temperatures=temperatures)
                return await session.run(task, voting=voting)

        began = time.perf_counter()
        solution = anyio.run(run)
        seconds = time.perf_counter() - began
    full = (ledger.input_tokens * sheet.input + ledger.output_tokens * sheet.output) / 1e6
    return {
        "vendor": vendor,
        "way": way,
        "requests": ledger.requests,
        "prompt_tokens": ledger.input_tokens,
        "read": ledger.cached_tokens,
        "written": ledger.written_tokens,
        "usd": ledger.usd,
        "in_full": full,
        "mdap_usd": solution.cost_usd,
        "saved_usd": solution.saved_usd,
        "accuracy": solution.result["accuracy"],
        "seconds": seconds,
    }


def show(results: list[dict[str, Any]]) -> None:
    rows = []
    base = {one["vendor"]: one["in_full"] for one in results if one["way"] == "ordinary"}
    for one in results:
        share, vendor = one["usd"] / base[one["vendor"]], one["vendor"]
        assert abs(one["mdap_usd"] - one["usd"]) < 1e-6 * max(1.0, one["usd"]), one
        rows.append(
            (
                vendor,
                one["way"],
                f"{one['requests']:,}",
                f"{one['prompt_tokens'] / 1e6:.2f}",
                f"{one['read'] / 1e6:.2f}",
                f"{one['written'] / 1e6:.2f}",
                f"{one['usd']:.2f}",
                f"{share:.2f}",
                f"{share / 2:.2f}",
                f"{one['saved_usd']:.2f}",
                f"{one['accuracy']:.4f}",
                f"{one['seconds']:.0f}",
            )
        )
    print(f"ordinary, all tokens in full: {', '.join(f'{name} {usd:.2f} USD' for name, usd in base.items())}")
    heads = ("vendor", "way", "requests", "M prompt", "M read", "M written", "USD", "of full", "halved")
    table("What the ledger says", [*heads, "mdap: saved", "right", "seconds"], rows)


if __name__ == "__main__":
    main()
