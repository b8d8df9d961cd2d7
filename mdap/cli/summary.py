"""The summary of a run: what its reader needs first and, with ``-v``, everything else."""

import shlex
from pathlib import Path
from typing import Any, Final

from mdap.cli.output import chance, number
from mdap.journal.reader import Reader, open_log
from mdap.records import Certificate, Outcome, RunStatus, Solution
from mdap.session.results import Doubt, most_doubtful

_PLACES: Final = 3
_RESULT_SHOWN: Final = 500

Rows = list[tuple[str, str]]


def first_line(solution: Solution) -> str:
    """Return the first line: how the run ended, its outcome and its result."""
    return f"{solution.task}: {standing(solution)}{_headline(solution.result)}"


def standing(solution: Solution) -> str:
    """Return status and outcome, and if the outcome is doubtful, why."""
    status = str(solution.status)
    if solution.outcome is None:
        return status
    if solution.outcome is Outcome.SOLVED:
        return f"{status}, solved"
    if solution.outcome is Outcome.UNSOLVED:
        return f"{status}, NOT SOLVED"
    steps = solution.steps + solution.undecided
    left = f"{number(solution.undecided)} of {number(steps)} steps are undecided"
    return f"{status}, DOUBTFUL: {left if solution.undecided else 'P(no errors) is below 0.5'}"


def how_sure(solution: Solution) -> Rows:
    """Return the rows on how sure one can be, and what the run cost."""
    rows = [] if solution.guarantee is None else [("promise", solution.guarantee.sentence(solution.steps))]
    rows.append(("P(no errors)", _no_errors(solution)))
    if solution.certificate is not None and solution.certificate.voters:
        voters = solution.certificate.voters.items()
        rows.append(("votes by model", ", ".join(f"{model} {number(votes)}" for model, votes in voters)))
    tokens = solution.totals.usage
    if solution.cost_usd is not None:
        saved = f", {solution.saved_usd:,.4f} USD saved on prompts" if solution.saved_usd else ""
        rows.append(("cost", f"{solution.cost_usd:,.4f} USD{saved}"))
    rows.append(("tokens", f"{number(tokens.input_tokens)} in, {number(tokens.output_tokens)} out"))
    return rows


def _no_errors(solution: Solution) -> str:
    if solution.certificate is not None:
        return f"{chance(solution.certificate.p_zero_errors)}, {solution.certificate.condition}"
    if not solution.steps:
        return "unknown: no step is decided"
    if solution.k == 1 and solution.guarantee is None:
        return "unknown: at k = 1, no vote can disagree with the winner"
    return "unknown: the votes of these steps do not tell"


def rest(solution: Solution) -> Rows:
    """Return the rows that ``-v`` adds."""
    rows: Rows = []
    if solution.guarantee is None:
        promise = (
            f"k = {solution.k} bounds each step's error by its own p, and the run's error only if all "
            "steps are equally hard; -k robust needs no such condition"
        )
        rows.append(("promise", promise))
    if (sure := solution.certificate) is not None:
        rate = f"{sure.error_rate:.3%} of the votes, {sure.error_rate_low:.3%} to {sure.error_rate_high:.3%}"
        rows += [("errors", _errors(sure)), ("error rate", rate)]
        if sure.dispersion is not None:
            rows.append(("dispersion", f"{sure.dispersion:.2f}; about 1 if errors are independent"))
    if solution.totals.void:
        rows.append(("void", f"{number(solution.totals.void)} sampled ahead on an answer that did not win"))
    return [*rows, ("digest", solution.digest or "-"), ("seal", solution.seal or "-")]


def _errors(certificate: Certificate) -> str:
    """Return how many wrong decisions to expect, such that it can be compared with P(no errors)."""
    if certificate.errors_if_any is None:
        return "< 0.0001 wrong decisions expected"
    expected, share = certificate.expected_errors, 1 - certificate.p_zero_errors
    wrong = f"{expected:.4f}" if expected < 1 else f"{expected:,.1f}"
    return (
        f"{wrong} wrong decisions expected: {share:.2%} of such runs have any, "
        f"{certificate.errors_if_any:.1f} on average"
    )


async def where_to_look(path: Path, solution: Solution) -> Rows:
    """Return the steps to look at next, each with a command to show it: undecided, then doubtful ones."""
    async with open_log(path) as reader:
        row = await reader.find(solution.run_id)
        places = await _undecided(reader, row.number, solution)
        found = [_command(path, run_id, step, "undecided") for run_id, step in places]
        if solution.certificate is not None and len(found) < _PLACES:
            doubts = await most_doubtful(reader, row.number, _PLACES - len(found))
            found += [
                _command(path, doubt.run_id, doubt.step, _doubt(doubt))
                for doubt in doubts
                if doubt.votes < doubt.total
            ]
        if not found and solution.steps:
            agreed = "no vote disagreed" if solution.certificate is not None else "as an example"
            parts = [] if solution.digest else await reader.parts(row.number, 1)
            found = [_command(path, parts[0][0].run_id if parts else row.run_id, 0, agreed)]
    return [("look at", line) for line in found]


async def _undecided(reader: Reader, run: int, solution: Solution) -> list[tuple[str, int]]:
    if solution.status is not RunStatus.UNDECIDED and not solution.undecided:
        return []
    # A chain may have opened later steps ahead of the one that has no winner.
    most = _PLACES if solution.undecided else 1
    return [(row["run_id"], row["step"]) for row in await reader.rows("first_undecided", run, most)]


def _doubt(doubt: Doubt) -> str:
    wrong = f"{doubt.p_wrong:.4f}" if doubt.p_wrong >= 0.0001 else "< 0.0001"
    return f"{doubt.votes} of {doubt.total} votes, P(wrong) {wrong}"


def _command(path: Path, run_id: str, step: int, what: str) -> str:
    command = f"mdap show {shlex.quote(run_id)} --step {step} --db {shlex.quote(str(path))}"
    return f"{command}  # {what}"


def _headline(result: Any) -> str:
    if not isinstance(result, dict):
        return "" if result is None else f"; result {result}"[:_RESULT_SHOWN]
    # Some results repeat the outcome.
    parts = [
        f"{value:,} {name}" if type(value) is int else f"{name} {value}"
        for name, value in result.items()
        if name != "solved"
    ]
    return f"; {', '.join(parts)}"[:_RESULT_SHOWN] if parts else ""
