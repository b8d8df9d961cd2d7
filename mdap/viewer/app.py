"""The web application of the viewer: its addresses and its server."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mdap.errors import MdapError
from mdap.journal.claims import is_claimed
from mdap.journal.reader import Reader, open_log
from mdap.records import TallyShape
from mdap.rules.certificate import certify
from mdap.viewer import comparing, pages
from mdap.viewer.about import About, about
from mdap.viewer.catalog import Catalog, RunFilter
from mdap.viewer.counting import RunCounts
from mdap.viewer.guard import Key, RequestGuard
from mdap.viewer.settling import Counter, Interface
from mdap.viewer.source import Shown
from mdap.viewer.templating import environment, static

_PATIENCE: Final = 2  # seconds for unfinished pages after a stop
_FILES: Final = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_LONGEST_NAME: Final = 200

Page = Callable[[pages.Visit], Awaitable[tuple[str, dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Viewer:
    """The state that all pages share."""

    shown: Shown
    counts: RunCounts
    catalog: Catalog

    async def show(self, request: Request, page: Page, status: int = 200) -> Response:
        """Return a page about the requested run."""
        async with open_log(self.shown.path) as source:
            run = await self._run(source, request.path_params["run"])
            visit = pages.Visit(source, run, request, self.counts, self.shown.prompts)
            template, values = await page(visit)
        return self.answer(template, {"run": run, **values}, status)

    async def _run(self, source: Reader, number: int) -> About:
        run = await about(source, number)
        # Processes claim the cases of a batch, not the batch.
        if run is not None and run.running and run.kind != "batch":
            alive = is_claimed(source.path, number)
            # Its process may have ended since the read: then the log now has its end.
            run = await about(source, number) if alive is False else run
            run = run and replace(run, alive=alive)
        if run is None:
            raise HTTPException(404, "There is no such run in this database.")
        return run

    async def runs(self, request: Request) -> Response:
        """List the runs."""
        wanted = RunFilter.of(request)
        async with open_log(self.shown.path) as source:
            values = await self.catalog.page(source, self.counts, wanted, pages.RUNS)
        return self.answer("runs.html", values)

    async def compare(self, request: Request) -> Response:
        """Show two runs side by side, or the runs to compare one with."""
        names = [request.query_params.get(name, "").strip()[:_LONGEST_NAME] for name in ("a", "b")]
        values: dict[str, Any] = {"names": names, "sides": [], "alike": [], "sentence": None}
        async with open_log(self.shown.path) as source:
            found = []
            for name in filter(None, names):
                number = await comparing.number_of(source, name)
                run = None if number is None else await about(source, number)
                if run is None:
                    values["sentence"] = "There is no such run in this database: give its id, or its number."
                else:
                    found.append(run)
            if len(found) == 2:
                values |= await comparing.compared(source, self.counts, found)
                values |= await comparing.differences(source, found, pages.key(request, "from", 0))
            elif found and names[0] and not names[1]:
                values["alike"] = await comparing.alike(source, found[0])
        return self.answer("compare.html", values)

    async def text(self, request: Request) -> Response:
        """Return a recorded text unchanged, as plain text."""
        async with open_log(self.shown.path) as source:
            rows = await source.rows("view_text", request.path_params["text"])
        if not rows:
            raise HTTPException(404, "There is no such text in this database.")
        return PlainTextResponse(rows[0]["body"], headers={"Content-Security-Policy": "sandbox"})

    def answer(self, template: str, values: dict[str, Any], status: int = 200) -> HTMLResponse:
        """Return a page."""
        shared = {"database": str(self.shown.path), "deciding": self.shown.desk is not None}
        return HTMLResponse(environment().get_template(template).render(shared | values), status)

    async def refused(self, request: Request, error: Exception) -> Response:
        """Return a page with one sentence about the error."""
        if isinstance(error, OverflowError):  # larger than any row number
            error = HTTPException(404, "There is no such page.")
        status = error.status_code if isinstance(error, HTTPException) else 500
        sentence = f"{error}."
        if isinstance(error, HTTPException):
            sentence = error.detail
        elif not isinstance(error, MdapError):
            sentence = f"Unexpected {type(error).__name__}: {error}. This is a bug of mdap."
        return self.answer("error.html", {"sentence": sentence, "status": status}, status)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        raise HTTPException(404, "There is no such file.")
    return Response(static(name), media_type=_FILES[name], headers={"Cache-Control": "max-age=3600"})


def create_app(shown: Shown, hosts: Collection[str], key: Key | None = None) -> ASGIApp:
    """Return the viewer as an ASGI application.

    Args:
        shown: the database.
        hosts: accepted values of the Host header, with the port.
        key: the secret that requests must show; required if people can settle steps.
    """
    _warm_up()
    viewer = Viewer(shown, RunCounts(), Catalog())
    about_run: dict[str, Page] = {
        "": pages.overview,
        "/live": pages.live,
        "/steps": pages.steps,
        "/steps/{step:int}": pages.step,
        "/search": pages.search,
        "/events": pages.events,
        "/timeline": pages.times,
        "/tree": pages.tree,
    }
    routes = [
        Route("/", viewer.runs),
        *(
            Route(f"/runs/{{run:int}}{path}", partial(viewer.show, page=page))
            for path, page in about_run.items()
        ),
        Route("/compare", viewer.compare),
        Route("/texts/{text:int}", viewer.text),
        Route("/static/{name}", _static),
    ]
    if shown.desk is not None:
        assert key is not None
        counter = Counter(viewer, shown.desk, key)
        routes += [*counter.routes(), *Interface(shown.desk, key, shown).routes()]
    handlers: dict[Any, Any] = dict.fromkeys(
        (HTTPException, MdapError, OverflowError, Exception), viewer.refused
    )
    # Outermost, so that even responses to internal errors carry its headers.
    return RequestGuard(Starlette(routes=routes, exception_handlers=handlers), hosts, key)


def _warm_up() -> None:
    """Read templates and run late imports now, so that the first page is as fast as the others."""
    for template in environment().list_templates():
        environment().get_template(template)
    certify([TallyShape(3, 0, 3, 1)])


def server(app: ASGIApp) -> uvicorn.Server:
    """Return a silent server for *app* that speaks plain HTTP only."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",  # the page shows errors
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE,
        )
    )
