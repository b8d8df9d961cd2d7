"""Wrong addresses of ten kinds: how long, and how many requests, until the command line says what is wrong.

  nowhere   nobody listens
  html      a web application, which answers everything with its page
  json      another API, with status 200
  text      a server that says in plain text that it works
  stream    a server that streams every answer
  gzip      compressed in a way that nobody asked for
  moved     a redirect to another address
  status    a status that no standard knows
  no_v1     the right server without /v1, which says 404
  studio    the right server without /v1, which says so with status 200
  slow      for comparison: a server that is silent for a while as it loads its model, and then answers

`requests` are those that left: a connection that fails is one. `seconds` are those of the run, and of the
whole command, its start and imports included.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import finish, parser, print_environment, scratch
from mdap.testing import Canned, Faults, FaultyServer
from tests.acceptance.player import play

STUDIO = "Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"
ANSWERS = {
    "html": Canned(200, "<!doctype html>\n<html>App</html>", {"Content-Type": "text/html"}),
    "json": Canned(200, {"status": "ok", "version": "1.2"}),
    "text": Canned(200, "It works!", {"Content-Type": "text/plain"}),
    "stream": Canned(200, 'data: {"choices": []}\n\ndata: [DONE]\n\n', {"Content-Type": "text/event-stream"}),
    "gzip": Canned(200, b"\x0b\x02\x80", {"Content-Encoding": "br"}),
    "moved": Canned(308, headers={"Location": "https://elsewhere.invalid/v1/chat/completions"}),
    "status": Canned(498, {"error": {"message": "Flex tier capacity exceeded"}}),
    "studio": Canned(200, {"error": STUDIO}),
}
KINDS = ("nowhere", "html", "json", "text", "stream", "gzip", "moved", "status", "no_v1", "studio", "slow")


def tried(kind: str, folder: Path) -> dict[str, Any]:
    script = [ANSWERS[kind]] * 500 if kind in ANSWERS else []
    faults = Faults(latency=3.0) if kind == "slow" else Faults()
    with FaultyServer.in_thread(play, script=script, faults=faults) as server:
        url = server.base_url
        if kind != "nowhere":
            return {
                "kind": kind,
                **run(url.removesuffix("/v1") if kind == "no_v1" else url, folder),
                **seen(server),
            }
    return {"kind": kind, **run(url, folder)}


def seen(server: FaultyServer) -> dict[str, int]:
    return {"requests": len(server.log)} if server.log else {}


def run(url: str, folder: Path) -> dict[str, Any]:
    env = {**os.environ, "OPENAI_BASE_URL": url, "MDAP_DB": str(folder / "a.db")}
    line = [sys.executable, "-m", "mdap", "run", "hanoi", "-p", "disks=3", "--model", "openai/m", "--json"]
    started = time.monotonic()
    ended = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True)
    seconds = time.monotonic() - started
    told = json.loads(ended.stdout)
    # Where nobody listens, every attempt is a request.
    return {
        "requests": told["failed_attempts"],
        "seconds": told["seconds"],
        "command_seconds": seconds,
        "code": ended.returncode,
        "said": ended.stderr.strip(),
    }


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments: argparse.Namespace = cli.parse_args()
    environment = print_environment("openai", "aiohttp")
    results = []
    for kind in arguments.kinds:
        with scratch() as folder:
            results.append(tried(kind, folder))
        one = results[-1]
        took = f"{one['requests']:3} requests {one['seconds']:5.1f} s of {one['command_seconds']:5.1f} s"
        print(f"{kind:8} {took}  exit {one['code']}  {one['said']}", flush=True)
    finish(arguments, environment, {"addresses": results})


if __name__ == "__main__":
    main()
