"""``mdap audit seal``: a run's seal, for somebody else to keep."""

from pathlib import Path
from typing import Any

import anyio
import click

from mdap.cli.files import check_apart, database_files, written
from mdap.cli.options import as_json, database, run_argument
from mdap.cli.output import print_json, say
from mdap.session.signing import seal_run

__all__ = ["seal"]


@click.command()
@run_argument
@click.option("--sign", metavar="KEY", help="Sign the seal with this SSH key, and record the signature.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the text that a signature or a timestamp covers, and the signature beside it as FILE.sig.",
)
@database
@as_json
def seal(**given: Any) -> None:
    """Print or sign the seal of a run, to keep it elsewhere.

    If the run ended without a seal, it takes one.
    """
    place = None if given["output"] is None else Path(given["output"])
    if place is not None:
        check_apart("-o", place, {**database_files(given["db"]), "--sign": given["sign"]})
    sealed = anyio.run(seal_run, given["db"], given["run_id"], given["sign"])
    if place is not None:
        texts = {place: sealed.message, Path(f"{place}.sig"): sealed.signature}
        for path, text in texts.items():
            if text is not None:
                with written("-o", path) as out:
                    out.write(text.encode())
    if given["json"]:
        print_json(sealed._asdict())
        return
    say(sealed.seal)
