"""Show an evolution: its drift during training, a plot and the report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mdap.cli.output import complain, fields, number, say, table
from mdap.journal.evolutions import IterationRow
from mdap.viewer.plots import Axis, Line, ceiling, chart
from mdap_evolve.evolving import Report, Study, Watch

PLOT: Final = "drift.svg"
"""The plot beside a new model."""

_STYLE: Final = """<style>svg{background:#fff;font:11px sans-serif}.grid{stroke:#ddd;fill:none}
.axis{stroke:#888;fill:none}.line{fill:none;stroke-width:2}text{fill:#333}%s</style>"""
_COLOURS: Final = ("#00897b", "#f57c00", "#5e6bd8", "#d81b60", "#8a8a8a")
_TOLD: Final = 10


@contextmanager
def watching(study: Study, *, quiet: bool) -> Iterator[Watch | None]:
    """Give a function that shows each update: a bar on a terminal, otherwise a line per tenth."""
    console = Console(stderr=True)
    total = study.recipe.iterations
    if quiet:
        yield None
    elif console.is_terminal:
        done = TextColumn("evolving"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}")
        with Progress(*done, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda row: bar.update(task, completed=row.iteration, description=_told(row))
    else:
        stride = max(1, total // _TOLD)

        def tell(row: IterationRow) -> None:
            if row.iteration % stride == 0:
                complain(f"iteration {row.iteration} of {total}: {_told(row)}")

        yield tell


def _told(row: IterationRow) -> str:
    measured = ", ".join(f"{name} {100 * right:.1f} %" for name, right in row.measured.items())
    return f"right: {measured}; distance {row.distance:.2f}"


def drift_plot(rows: Sequence[IterationRow]) -> str:
    """Return a plot of P(wrong) on held-out steps and on kept tasks by iteration, as SVG."""
    lines = {
        name: [(float(row.iteration), 100 * (1 - row.measured[name])) for row in rows]
        for name in rows[0].measured
    }
    return plotted("P(wrong) by iteration", lines)


def plotted(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return P(wrong) in percent by iteration as SVG, a line for each name."""
    across = Axis("iteration", 0, max(at for points in lines.values() for at, _ in points))
    up = Axis("P(wrong), %", 0, ceiling(max(value for points in lines.values() for _, value in points)))
    drawn = [Line(f"l{place}", points) for place, points in enumerate(lines.values())]
    colours = [_COLOURS[place % len(_COLOURS)] for place in range(len(lines))]
    style = _STYLE % "".join(f".l{place}{{stroke:{colour}}}" for place, colour in enumerate(colours))
    legend = "".join(
        f'<text x="500" y="{44 + 14 * place}" text-anchor="end" style="fill:{colour}">{escape(name)}</text>'
        for place, (name, colour) in enumerate(zip(lines, colours, strict=True))
    )
    head, _, inside = chart(title, across, up, drawn).partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}>{style}{inside.removesuffix('</svg>')}{legend}</svg>\n"


def describe(report: Report, study: Study) -> None:
    """Print how an evolution ended, and what it changed: P(right), p, v, k and cost, before and after."""
    verdict = "refused" if report.refusal else f"finished; use it with --model local/{report.out}"
    say(f"{report.evolution_id}: {verdict}")
    taught = report.lessons
    gain, error = report.gain
    rows = [
        ("method", f"{report.method}, {report.iterations} iterations in {number(report.seconds, 1)} s"),
        (
            "learned",
            f"{number(taught['learned'])} prompts, {number(taught['contested'])} of them contested; another "
            f"model voted on {number(taught['helped'])} of all",
        ),
        ("held out", f"{number(taught['held_out'])} prompts; {_gained(gain, error, study)}"),
        ("distance", f"{report.distance:.3f} from the base model"),
    ]
    if report.out is not None:
        rows += [("written to", report.out), ("weights", str(report.weights))]
    fields(rows)
    say()
    cells = []
    for name, figures in report.before.items():
        cells.append([name, "before", *_cells(figures)])
        cells.append(["", "after", *_cells(report.after[name])])
    table(("", "", "P(right)", "p", "v", "k", "samples", "tokens"), cells)
    say(
        f"k, samples and tokens are for one run at P(no errors) {study.about.target:g}, if all steps are "
        "equally hard; '-': no margin serves, or the length is not known"
    )


def _gained(gain: float, error: float, study: Study) -> str:
    if study.about.own_votes:
        return (
            "no gain is claimed: only the learner voted, and its agreement with itself does not show "
            "what is right"
        )
    if gain <= 2 * error:
        return f"no gain beyond two standard errors ({100 * gain:+.2f} ± {100 * error:.2f} points)"
    return f"P(right) gained {100 * gain:.2f} points (standard error {100 * error:.2f})"


def _cells(figures: dict[str, Any]) -> list[str]:
    shares = [figures[name] for name in ("right", "p", "v")]
    cells = ["-" if share is None else f"{share:.4f}" for share in shares]
    return cells + [number(figures[name]) for name in ("k", "samples", "tokens")]
