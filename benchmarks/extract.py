"""Extraction from made-up invoices through a noisy model on a loopback server: what voting is worth.

The model knows the right record of each document and gets it wrong in ways that models do: a wrong value,
an overlooked one, another form of the right one, a field too many, prose around the JSON, a quote that the
document does not contain. Most fields are easy (a wrong value in 2 to 12 of 100 samples). A share of --hard
of all fields is hard: 25 to 60 of 100 samples are wrong, and most wrong ones agree with one another, as real
errors do.

Compared are one sample for each field (the first that passes), votes by field, and votes by record. Shown
are the share of right fields, samples and tokens, the price at 0.40 and 1.60 USD per million tokens in and
out, and which share of the wrong and undecided fields the first 5 % of the review queue hold.
"""

import argparse
import json
import os
import random
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import anyio

import mdap
from benchmarks.common import finish, parser, print_environment, scratch, table
from mdap.testing import FaultyServer
from mdap_extract import Extract

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "vendor": {"type": "string", "description": "who sent the invoice"},
        "number": {"type": "string", "description": "the invoice's number"},
        "date": {"type": "string", "format": "date", "description": "the day of the invoice"},
        "due": {"type": ["string", "null"], "format": "date", "description": "the last day to pay"},
        "total": {"type": "number", "description": "what is to be paid, with tax"},
        "currency": {"enum": ["EUR", "USD", "CHF", "GBP"]},
        "category": {"enum": ["office", "travel", "software", "repair", "other"]},
    },
    "required": ["vendor", "number", "date", "total", "currency", "category"],
}
FIELDS = list(SCHEMA["properties"])
VENDORS = (
    "Lund GmbH",
    "Okafor & Sons",
    "M. Tanaka Ltd.",
    "Atelier Roth",
    "Blue Harbor Inc.",
    "Nuovo Forno S.r.l.",
)
GOODS = {
    "office": ("paper and toner", "two desks", "envelopes"),
    "travel": ("a night in Graz", "train to Lyon", "taxi rides in May"),
    "software": ("ten seats, one year", "support plan", "hosting"),
    "repair": ("new pump, two hours' work", "window pane", "brakes, front"),
    "other": ("flowers", "a course in first aid", "room hire"),
}
PRICES = (0.40e-6, 1.60e-6)


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--documents", type=int, default=2_000)
    cli.add_argument("--hard", type=float, default=0.03, help="the share of hard fields")
    cli.add_argument("--seed", type=int, default=0)
    arguments = cli.parse_args()
    environment = print_environment()
    documents = [invented(number, arguments.seed) for number in range(arguments.documents)]
    ways = [("one sample", "field", 1), ("votes by field", "field", 3), ("votes by field", "field", 5)]
    ways += [("one record", "record", 1), ("votes by record", "record", 3)]
    with scratch() as folder:
        path = folder / "invoices.jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in documents), "utf-8")
        results = [measured(arguments, path, documents, *way) for way in ways]
    show(results)
    finish(arguments, environment, {"ways": results})


def measured(
    arguments: argparse.Namespace, path: Path, documents: list[dict[str, Any]], name: str, vote: Any, k: int
) -> dict[str, Any]:
    task = Extract(
        input=str(path), schema=SCHEMA, truth="gold", vote=vote, evidence=True, case=False, dates="DMY"
    )
    model = Model(documents, arguments)
    started = time.monotonic()
    solution = anyio.run(solved, task, model, k, path.with_suffix(f".{vote}{k}.db"))
    result, usage = solution.result, solution.usage
    gold = {document["id"]: document["gold"] for document in documents}
    wrong = set()
    with Path(result["output"]).open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            for field in FIELDS:
                if field in line["undecided"] or not alike(line["record"][field], gold[line["id"]][field]):
                    wrong.add((line["id"], field))
    with Path(result["queue"]).open(encoding="utf-8") as file:
        queued = {(line["id"], line["field"]) for line in map(json.loads, file)}
    return {
        "way": f"{name}, k = {k}",
        "accuracy": 1 - len(wrong) / result["fields"],
        "wrong": len(wrong),
        "undecided": result["undecided"],
        "fields": result["fields"],
        "samples": solution.totals.samples,
        "flags": solution.totals.red_flags,
        "tokens": [usage.input_tokens, usage.output_tokens],
        "usd": usage.input_tokens * PRICES[0] + usage.output_tokens * PRICES[1],
        "queue": len(queued) / result["fields"],
        "found": len(wrong & queued) / len(wrong) if wrong else None,
        "seconds": time.monotonic() - started,
    }


async def solved(task: Extract, model: "Model", k: int, db: Path) -> mdap.Solution:
    async with FaultyServer(model.answer) as server:
        os.environ["OPENAI_API_KEY"] = "none"
        options = {"base_url": server.base_url}
        return await mdap.solve(task, model="openai/noisy", options=options, k=k, db=db)


def alike(value: Any, right: Any) -> bool:
    """Return whether a value is right; capitals do not matter in a name."""
    return value == right or (
        isinstance(value, str) and isinstance(right, str) and value.lower() == right.lower()
    )


def show(results: list[dict[str, Any]]) -> None:
    rows = []
    for each in results:
        found = "-" if each["found"] is None else f"{each['found']:.0%}"
        rows.append(
            [
                each["way"],
                f"{each['accuracy']:.4%}",
                f"{each['wrong']:,}",
                f"{each['undecided']:,}",
                f"{each['samples'] / each['fields']:.2f}",
                f"{sum(each['tokens']) / each['fields']:,.0f}",
                f"{each['usd']:.2f}",
                found,
                f"{each['seconds']:.0f}",
            ]
        )
    heads = [
        "",
        "fields right",
        "not right",
        "undecided",
        "samples/field",
        "tokens/field",
        "USD",
        "in first 5 %",
        "s",
    ]
    table(f"{results[0]['fields']:,} fields", heads, rows)


# -- documents -------------------------------------------------------------------------------------


def invented(number: int, seed: int) -> dict[str, Any]:
    """Return a made-up invoice with its right record."""
    draw = random.Random(f"{seed} document {number}")
    category = draw.choice(list(GOODS))
    day = date(2025, 1, 1) + timedelta(days=draw.randrange(700))
    due = day + timedelta(days=draw.choice((10, 14, 30))) if draw.random() < 0.7 else None
    gold = {
        "vendor": draw.choice(VENDORS),
        "number": f"{draw.choice('ABRX')}-{draw.randint(1000, 99999)}",
        "date": day.isoformat(),
        "due": due.isoformat() if due else None,
        "total": draw.randint(900, 900_000) / 100,
        "currency": draw.choice(SCHEMA["properties"]["currency"]["enum"]),
        "category": category,
    }
    lines = [
        draw.choice(
            (f"{gold['vendor']}", f"From: {gold['vendor']}", f"{gold['vendor']}, accounts department")
        ),
        draw.choice(
            (f"Invoice {gold['number']}", f"INVOICE no. {gold['number']}", f"Re: our ref. {gold['number']}")
        ),
        draw.choice((f"Date: {worded(day, draw)}", f"issued {worded(day, draw)}")),
        f"{draw.choice(GOODS[category]).capitalize()}.",
        f"Net {gold['total'] / 1.2:,.2f}, tax {gold['total'] - gold['total'] / 1.2:,.2f}",
        f"To be paid: {gold['currency']} {gold['total']:,.2f}",
    ]
    if due:
        lines.append(f"Please pay by {worded(due, draw)}.")
    return {"id": f"inv{number}", "text": "\n".join(lines), "gold": gold}


def worded(day: date, draw: random.Random) -> str:
    return draw.choice((day.isoformat(), f"{day:%d}.{day:%m}.{day:%Y}", f"{day.day} {day:%B} {day.year}"))


# -- the model -------------------------------------------------------------------------------------


class Model:
    """Answers from the right record, with noise; it sees nothing but the prompt."""

    def __init__(self, documents: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
        self._documents = {document["text"]: document for document in documents}
        self._hard = arguments.hard
        self._seed = arguments.seed

    def answer(self, body: dict[str, Any], draw: random.Random) -> str:
        """Write one reply."""
        prompt = body["messages"][-1]["content"]
        line = prompt.split("\n")[1]
        _, text, rest = prompt.split(line)
        document = self._documents[text.strip("\n")]
        fields = [
            json.loads(part[2:].partition(": {")[0]) for part in rest.split("\n") if part.startswith("- ")
        ]
        reply: dict[str, Any] = {name: self._field(document, name, draw) for name in fields}
        point = draw.random()
        if point < 0.01:
            reply["note"] = "as printed"
        elif point < 0.02:
            reply.pop(fields[0])
        written = json.dumps(reply, ensure_ascii=draw.random() < 0.5)
        if point > 0.98:
            return f"Here is the record:\n{written}"
        return f"```json\n{written}\n```" if point > 0.9 else written

    def _field(self, document: dict[str, Any], name: str, draw: random.Random) -> Any:
        own = random.Random(f"{self._seed} {document['id']} {name}")
        hard = own.random() < self._hard
        rate = own.uniform(0.25, 0.6) if hard else own.uniform(0.02, 0.12)
        favourite = own.randrange(3)
        value = document["gold"][name]
        if draw.random() < rate:
            wrong = mistaken(document, name, value)
            value = (
                wrong[favourite % len(wrong)]
                if draw.random() < (0.8 if hard else 0.3)
                else draw.choice(wrong)
            )
        quote = None if value is None else draw.choice(document["text"].split("\n"))
        if quote and draw.random() < 0.03:
            quote = f"{quote} (see overleaf)"  # which the document does not say
        return {"value": reformatted(value, draw), "quote": quote}


def mistaken(document: dict[str, Any], name: str, value: Any) -> list[Any]:
    """Return three wrong values or more."""
    gold = document["gold"]
    if name in ("date", "due"):
        other = gold["due" if name == "date" else "date"] or "2025-06-01"
        day = date.fromisoformat(value or other)
        wrong = [other, (day + timedelta(days=1)).isoformat(), day.replace(day=1).isoformat()]
        return [each for each in [*wrong, (day - timedelta(days=31)).isoformat()] if each != value]
    if name == "total":
        return [round(value / 1.2, 2), round(value * 10, 2), round(value + 9, 2)]
    if name in ("currency", "category"):
        return [choice for choice in SCHEMA["properties"][name]["enum"] if choice != value]
    return [gold["number" if name == "vendor" else "vendor"], f"{value}1", f"{value}"[:-1]]


def reformatted(value: Any, draw: random.Random) -> Any:
    """Return the value as another model might write it."""
    point = draw.random()
    if point > 0.3 or value is None:
        return value
    if isinstance(value, float):
        return f"{value:,.2f}"
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return value.upper() if point < 0.1 else f" {value} "
    return worded(day, draw)


if __name__ == "__main__":
    main()
