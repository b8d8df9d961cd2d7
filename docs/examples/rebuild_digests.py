"""Rebuild the digest chain of a run from its database, without mdap: python rebuild_digests.py DB RUN."""

import json
import sqlite3
import sys
from hashlib import blake2b
from typing import Any

DECISIONS = """
SELECT d.run, d.step, d.opening, d.digest,
       p.step, p.key, p.input, p.prompt_digest,
       d.place, d.winner, d.tally, d.votes, d.margin, d.author, d.reason
FROM decisions d JOIN steps p USING (run, step, opening) JOIN runs r ON r.id = d.run
WHERE r.run_id = ? ORDER BY d.place
"""
SAMPLES = """
SELECT s.ordinal, s.verdict, s.answer_key, s.flag_reason, s.model, s.view, s.temperature,
       s.input_tokens, s.output_tokens, s.cached_tokens, s.latency, s.attempts, s.request_id,
       s.finish_reason, t.digest, t.body
FROM samples s LEFT JOIN texts t ON t.id = s.text
WHERE s.run = ? AND s.step = ? AND s.opening = ? AND s.counted IS NOT NULL ORDER BY s.ordinal
"""


def spelled(values: list[Any]) -> str:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=True)


def hashed(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


def main(path: str, run_id: str) -> None:
    log = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    head, number = "0" * 64, 0
    for run, step, opening, digest, *covered in log.execute(DECISIONS, (run_id,)):
        lines = [spelled([head, *covered])]
        for *columns, text_digest, body in log.execute(SAMPLES, (run, step, opening)):
            if text_digest != hashed(body, 16):
                sys.exit(f"step {step}: a reply is not what was recorded")
            lines.append(spelled([*columns, text_digest]))
        head = hashed("\n".join(lines), 32)
        if head != digest:
            sys.exit(f"step {step}: the chain breaks here")
        number += 1
    print(f"{number} decisions, head {head}")


main(*sys.argv[1:])
