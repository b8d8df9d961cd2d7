"""Check the log of a run without mdap, by nothing but Python's standard library.

    python verify_log.py DATABASE RUN

It recomputes the digest of every reply and of every recorded prompt, the chain of digests over all decisions,
and the seals; it counts every race again, and what each step of `-k robust` has paid; it looks for rows of no
run, and for missing runs and events. The parts of a run have seals of their own: check them by their own
names. It does not ask whether the prompts were the right ones, nor whether the replies say what is recorded:
that takes the task's own code, and `mdap audit verify`.

It ends with exit code 1 if anything is not as it must be, and says at which step.
"""

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from itertools import groupby
from typing import Any

RUN = "run_id, kind, parent, task, task_version, params, settings, provider, k, mdap_version, created_at"
STATUS = ("started", "resumed", "finished", "undecided", "stopped", "failed")
EVENTS = "SELECT kind, at, author, reason, step, opening, data FROM run_events WHERE run = ? ORDER BY id"
DECISIONS = """
SELECT d.step, d.opening, d.digest, p.step, p.key, p.input, p.prompt_digest,
       d.place, d.winner, d.tally, d.votes, d.margin, d.author, d.reason
FROM decisions d LEFT JOIN steps p USING (run, step, opening) WHERE d.run = ? ORDER BY d.place"""
COLUMNS = """s.verdict, s.answer_key, s.flag_reason, s.model, s.view, s.temperature, s.input_tokens,
       s.output_tokens, s.cached_tokens, s.latency, s.attempts, s.request_id, s.finish_reason, t.digest,
       s.served_model, s.fingerprint, s.reasoning_tokens, h.digest, s.cache_write_tokens"""
# Columns that came with schemas 2 and 8: left out of the digests where they and all behind them are NULL.
LATER = [4, 1]
TEXTS = "LEFT JOIN texts t ON t.id = s.text LEFT JOIN texts h ON h.id = s.reasoning"
COUNTED = f"""
SELECT s.counted, t.body, h.body, s.ordinal, {COLUMNS} FROM samples s {TEXTS}
WHERE s.run = ? AND s.step = ? AND s.opening = ? AND s.counted IS NOT NULL ORDER BY s.ordinal"""
NOT_COUNTED = f"""
SELECT t.body, h.body, s.step, s.opening, s.counted, s.ordinal, {COLUMNS}
FROM %s s {TEXTS} WHERE s.run = ? AND %s ORDER BY s.step, s.opening, s.ordinal"""
UNDECIDED = """
SELECT step, opening, key, input, prompt_digest FROM steps p WHERE run = ? AND NOT EXISTS (SELECT 1
FROM decisions d WHERE (d.run, d.step, d.opening) = (p.run, p.step, p.opening)) ORDER BY step, opening"""
PROMPTS = """
SELECT p.step, p.opening, p.view, s.digest, u.digest, j.digest, p.max_tokens,
       s.body, u.body, j.body, o.prompt_digest
FROM prompts p LEFT JOIN steps o USING (run, step, opening) LEFT JOIN texts s ON s.id = p.system
LEFT JOIN texts u ON u.id = p.user LEFT JOIN texts j ON j.id = p.schema
WHERE p.run = ? ORDER BY p.step, p.opening, p.view"""

# The newest seal of each part, among the events up to one.
PARTS = """
SELECT r.run_id, e.data ->> 'seal' FROM runs r JOIN run_events e ON e.id = (SELECT max(x.id) FROM run_events x
WHERE x.run = r.id AND x.kind = 'sealed' AND x.id <= ?2) WHERE r.parent = ?1 ORDER BY r.id"""
TIMES = """
SELECT min(step), group_concat(coalesce(began, '')), count(began) FROM (SELECT step, began FROM samples
WHERE run = ?1 AND step >= ?2 * 4096 AND step < (?2 + 1) * 4096 ORDER BY step, opening, ordinal)"""
PAID = "SELECT data FROM run_events WHERE run = ? AND kind = 'paid' ORDER BY id"

problems: list[str] = []


def check(what: str, expected: object, found: object) -> None:
    if expected != found:
        problems.append(f"{what}: expected {expected!s:.100}, found {found!s:.100}")


def spelled(values: Iterable[Any]) -> str:
    return json.dumps(list(values), separators=(",", ":"), ensure_ascii=True)


def hashed(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


class ByLead:
    """A step is decided by a lead of k."""

    def __init__(self, k: int) -> None:
        self.k = k

    def of(self, step: int, tier: int) -> "ByLead":
        return self

    def won(self, race: Counter[str]) -> bool:
        return lead(race) >= self.k

    def free(self, race: Counter[str]) -> bool:
        return True


class Rung(ByLead):
    """A step is decided smoothly, over fewer than d other votes that count three times; or by a lead of k."""

    def __init__(self, m: int, k: int, d: int, price: Fraction) -> None:
        self.m, self.k, self.d, self.price = m, k, d, price

    def won(self, race: Counter[str]) -> bool:
        against = race.total() - max(race.values(), default=0)
        if against < self.d:
            return max(race.values(), default=0) >= self.m + 3 * against
        return lead(race) >= self.k > 0

    def free(self, race: Counter[str]) -> bool:
        return self.won(race) and race.total() - max(race.values()) < self.d


class Budget(ByLead):
    """The rungs of a run of `-k robust`, from what it has paid."""

    def __init__(self, terms: dict[str, Any], paid: list[dict[str, Any]]) -> None:
        self.floor, self.whole = Fraction(repr(terms["floor"])), 1 - Fraction(repr(terms["target"]))
        self.decides, self.length = terms["contested"] == "decide", terms["length"]
        self.paid = sorted(paid, key=self.place)
        self.due: set[tuple[int, int, int]] = set()
        m = 2
        while rung(self.floor, m, min(m, 6), 0, self.decides).price > self.whole / 2:
            m += 1
        self.rungs = [rung(self.floor, m, min(m, 6), 0, self.decides)]
        for one in self.paid:
            if "m" in one:
                rule = self.of(one["step"], one["tier"])
                said = (str(rule.price), 1, rule.m, rule.k)
                found = (one["price"], one["payments"], one["m"], one["lead"])
                check(f"step {one['step']}, what it paid", said, found)
        check("spent within the budget", True, sum(Fraction(one["price"]) for one in self.paid) <= self.whole)

    def place(self, one: dict[str, Any]) -> tuple[int, int, int]:
        if one["why"] == "returned":
            return one["before"], 0, 0
        return one["step"], 1, one.get("tier", 0)

    def of(self, step: int, tier: int) -> Rung:
        before = [one for one in self.paid if self.place(one) < (step, 1, tier)]
        spent = sum((Fraction(one["price"]) for one in before), Fraction(0))
        number = sum(one["payments"] for one in before)
        if self.length is None:
            limit = self.whole / ((number + 1) * (number + 2))
        else:
            to_come = Fraction(number * max(self.length - step, 0), step) if step else 0
            limit = (self.whole - spent) / (2 + to_come)
        while self.rungs[-1].price > limit:
            last = self.rungs[-1]
            self.rungs.append(rung(self.floor, last.m + 1, last.d, last.k, self.decides))
        return next(one for one in self.rungs if one.price <= limit) if number else self.rungs[0]

    def compare(self) -> None:
        """Compare the steps that are not smooth with those that have paid; others may have been given up."""
        why = {(one["step"], one["opening"], one["tier"]): one["why"] for one in self.paid if "m" in one}
        check("steps that are not smooth and have not paid", [], sorted(self.due - set(why)))
        gone = [place for place, reason in why.items() if reason == "contested" and place not in self.due]
        check("steps that have paid and are not contested", [], gone)


def rung(floor: Fraction, m: int, d: int, lowest: int, decides: bool) -> Rung:
    """Return a rung and its price: 1/c, and what a wider lead may get wrong."""
    share = 1 / Fraction(int(ratio(Fraction(int(floor * 20), 20), m, d) * 100), 100)
    if not decides:
        return Rung(m, 0, d, share)
    k, odds = max(lowest, m + 3 * (d - 1)), floor / (1 - floor)
    while 1 / (1 + odds**k) > share / 4:
        k += 1
    return Rung(m, k, d, share + 1 / (1 + odds**k))


@cache
def ratio(p: Fraction, m: int, d: int) -> Fraction:
    """Return how much more often a step is not smooth than smoothly wrong, vote by vote."""
    wrong, not_smooth, open_ = Fraction(0), Fraction(0), {(0, 0): Fraction(1)}
    while open_:
        after: dict[tuple[int, int], Fraction] = {}
        for (right, other), weight in open_.items():
            for state, chance in (((right + 1, other), p), ((right, other + 1), 1 - p)):
                if min(state) >= d:
                    not_smooth += weight * chance
                elif max(state) >= m + 3 * min(state):
                    wrong += weight * chance * (state[1] > state[0])
                else:
                    after[state] = after.get(state, Fraction(0)) + weight * chance
        open_ = after
    return not_smooth / wrong


def count(step: int, decided: list[Any], samples: list[list[Any]], rules: ByLead, tier_size: int) -> None:
    """Count a race again, in the order in which its samples were counted."""
    winner, tally, votes, margin, author, reason = decided[1:7]
    if author is None and reason == "proposal":
        rules = ByLead(1)  # the first reply was taken, for others to vote on
    rule = rules.of(step, 0)
    check(f"step {step}, order of counting", list(range(1, len(samples) + 1)), [s[0] for s in samples])
    tier, race = 0, Counter[str]()
    for _, _, _, ordinal, verdict, key, flag, *_ in samples:
        if ordinal // tier_size > tier:
            check(f"step {step}, votes of a tier that was left", False, rule.won(race))
            charge(rules, (step, decided[-1], tier))
            tier, race = ordinal // tier_size, Counter()
            rule = rules.of(step, tier)
        check(f"step {step}, sample {ordinal}, counted after the decision", False, rule.won(race))
        check(f"step {step}, sample {ordinal}, vote or flag", ["flag", "vote"][flag is None], verdict)
        check(f"step {step}, sample {ordinal}, answer or flag", flag is None, key is not None)
        if key is not None:
            race[key] += 1
    key = hashed(winner, 8)
    others = max((number for other, number in race.items() if other != key), default=0)
    check(f"step {step}, votes and margin", (race[key], race[key] - others), (votes, margin))
    check(f"step {step}, tally", dict(race), {hashed(a, 8): n for a, n in json.loads(tally).items()})
    check(f"step {step}, winner of the votes", author is None, rule.won(race))
    if samples and not rule.free(race):
        charge(rules, (step, decided[-1], tier))


def charge(rules: ByLead, place: tuple[int, int, int]) -> None:
    if isinstance(rules, Budget):
        rules.due.add(place)


def lead(race: Counter[str]) -> int:
    best = [number for _, number in race.most_common(2)]
    return best[0] - best[1] if len(best) == 2 else sum(best)


def decisions(log: sqlite3.Connection, run: int, rules: ByLead, tier_size: int) -> Iterator[str]:
    """Go along the chain; yield the digest recorded for each decision."""
    head = "0" * 64
    for number, (step, opening, digest, *covered) in enumerate(log.execute(DECISIONS, (run,))):
        check(f"step {step}, place", number, covered[4])
        samples = [list(row) for row in log.execute(COUNTED, (run, step, opening))]
        lines = [spelled([head, *covered])]
        for _, body, reasoning, *columns in samples:
            check_texts(f"step {step}, sample {columns[0]}", body, reasoning, columns)
            lines.append(spelled(without_later(columns)))
        check(f"step {step}, digest", hashed("\n".join(lines), 32), digest)
        samples.sort()
        count(step, [*covered[4:], opening], samples, rules, tier_size)
        head = digest
        yield head


def check_texts(where: str, body: str | None, reasoning: str | None, columns: list[Any]) -> None:
    check(
        f"{where}, digest of the reply", columns[-1 - sum(LATER)], None if body is None else hashed(body, 16)
    )
    check(
        f"{where}, digest of the reasoning", columns[-2], None if reasoning is None else hashed(reasoning, 16)
    )


def without_later(columns: list[Any]) -> list[Any]:
    for count in reversed(LATER):
        if columns[-count:] != [None] * count:
            break
        columns = columns[:-count]
    return columns


def strays(log: sqlite3.Connection) -> None:
    """Find rows of runs that are not in the log, and gaps in the numbers of runs and events."""
    for table in ("run_events", "steps", "prompts", "samples", "pending", "decisions"):
        for (run,) in log.execute(f"SELECT DISTINCT run FROM {table} WHERE run NOT IN (SELECT id FROM runs)"):
            check(f"run {run} of some rows in {table}", "a row in runs", None)
    for table in ("runs", "run_events"):
        check(
            f"rows missing from {table}",
            (0,),
            log.execute(f"SELECT max(id) - count(*) FROM {table}").fetchone(),
        )
    orphans = "SELECT run_id FROM runs WHERE parent NOT IN (SELECT id FROM runs)"
    check("runs without the run that they are part of", [], log.execute(orphans).fetchall())


def rest(log: sqlite3.Connection, run: int) -> str:
    """Return the digest over what the chain does not cover."""
    undecided = log.execute(UNDECIDED, (run,)).fetchall()
    rows: list[list[Any]] = [list(row) for row in undecided]
    rows += not_counted(log, "samples", "s.counted IS NULL", run)
    for step, opening, *_ in undecided:
        which = f"s.step = {step:d} AND s.opening = {opening:d} AND s.counted IS NOT NULL"
        rows += not_counted(log, "samples", which, run)
    rows += not_counted(log, "pending", "true", run)
    rows += prompts(log, run)
    return hashed("".join(f"{spelled(row)}\n" for row in rows), 32)


def not_counted(log: sqlite3.Connection, table: str, which: str, run: int) -> Iterator[list[Any]]:
    for body, reasoning, *row in log.execute(NOT_COUNTED % (table, which), (run,)):
        check_texts(f"step {row[0]}, opening {row[1]}, sample {row[3]}", body, reasoning, row)
        yield without_later(row)


def prompts(log: sqlite3.Connection, run: int) -> Iterator[list[Any]]:
    """Check the recorded prompts against the digests of their steps, which the chain covers."""
    for (step, opening), rows in groupby(log.execute(PROMPTS, (run,)), lambda row: row[:2]):
        views, digest = [], None
        for *row, system, user, schema, digest in rows:  # noqa: B007
            for part, body in zip(row[3:6], (system, user, schema), strict=True):
                check(f"step {step}, digest of a prompt", part, None if body is None else hashed(body, 16))
            yield row
            views.append(hashed(f"{len((system or '').encode())}\n{system or ''}{user}", 16))
        found = views[0] if len(views) == 1 else hashed(" ".join(views), 16)
        check(f"step {step}, opening {opening}, digest of its prompt", digest, found)


def times(log: sqlite3.Connection, run: int) -> str | None:
    """Return the digest over when samples were asked for; None where no sample has a time."""
    sql = "SELECT coalesce(max(step) / 4096, -1) FROM samples WHERE run = ?"
    [last] = log.execute(sql, (run,)).fetchone()
    rows = [log.execute(TIMES, (run, page)).fetchone() for page in range(last + 1)]
    lines = [f"{spelled((first, began))}\n" for first, began, timed in rows if timed]
    return hashed("".join(lines), 32) if lines else None


def seals(log: sqlite3.Connection, run: int, heads: list[str]) -> str | None:
    """Check every seal against the events before it, and the last one against all there is."""
    row = log.execute(f"SELECT {RUN} FROM runs WHERE id = ?", (run,)).fetchone()
    lines = f"{spelled(row)}\n"
    last: dict[str, Any] | None = None
    sealed_now, status = False, None
    outcome = None
    for kind, *event in log.execute(EVENTS, (run,)):
        sealed_now = kind == "sealed" or (kind == "signed" and sealed_now)
        status = kind if kind in STATUS else status
        if kind == "sealed":
            last = json.loads(event[-1])
            names = ["decisions", "digest", "events", "rest"] + ["parts", "until"] * ("parts" in last)
            names += ["times"] * ("times" in last)
            held = [last[name] for name in names]
            check("seal", hashed(f"{spelled(held)}\n", 32), last["seal"])
            check("seal", (4 * [None], len(names) + 1), (event[1:5], len(last)))
            if "parts" in last:
                of_parts = "".join(f"{spelled(row)}\n" for row in log.execute(PARTS, (run, last["until"])))
                check("seals of the parts", last["parts"], hashed(of_parts, 32))
            check("run and events before a seal", last["events"], hashed(lines, 32))
            sealed = last["decisions"]
            check("decisions that were sealed", [last["digest"]], heads[sealed : sealed + 1])
        elif kind == "finished":
            outcome = json.loads(event[-1]).get("outcome")
        lines += f"{spelled([kind, *event])}\n"
    check("outcome", [(outcome,)], log.execute("SELECT outcome FROM runs WHERE id = ?", (run,)).fetchall())
    found = rest(log, run)
    check("what happened to the run", True, status is not None)
    check("seal of a run that has ended", True, sealed_now or status in ("started", "resumed"))
    if sealed_now and last is not None:
        check("samples that were not counted, and prompts", last["rest"], found)
        check("when samples were asked for", last.get("times"), times(log, run))
        check("number of decisions", last["decisions"], len(heads) - 1)
        return str(last["seal"])
    return None


def main(path: str, run_id: str) -> None:
    log = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    log.execute("BEGIN")  # one snapshot, should the run still go on
    found = log.execute("SELECT id, k, settings FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if found is None:
        sys.exit(f"there is no run {run_id}")
    run, k, settings = found
    voting = json.loads(settings)
    tier_size = voting["max_samples"] or 100 + 20 * k
    rules = ByLead(k)
    if voting.get("robust") is not None:
        rules = Budget(voting["robust"], [json.loads(data) for (data,) in log.execute(PAID, (run,))])
        check("m of the first step", rules.rungs[0].m, k)
    heads = ["0" * 64, *decisions(log, run, rules, tier_size)]
    if isinstance(rules, Budget):
        rules.compare()
    seal = seals(log, run, heads)
    strays(log)
    for problem in problems[:100]:
        print(problem)
    if problems:
        sys.exit(f"{len(problems)} things do not match")
    print(f"{len(heads) - 1} decisions, head {heads[-1]}")
    print(f"seal {seal}" if seal else "not sealed: the run has not ended in order")


main(*sys.argv[1:])
