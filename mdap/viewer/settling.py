"""The desk: pages to settle steps, a queue and a form beside the candidates, and a JSON API for tools."""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial
from sqlite3 import Row
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mdap.audit.review import Ruling
from mdap.errors import ClaimedError, MdapError, RunBusyError, RunNotFoundError, UsageError
from mdap.journal.claims import is_claimed
from mdap.journal.reader import Reader, open_log
from mdap.rules.canonical import canonical
from mdap.rules.digests import answer_key
from mdap.viewer.guard import Key, form_of, object_of, whole_number
from mdap.viewer.pages import Visit
from mdap.viewer.race import ShownCandidate, ShownRace, outcome_of, race_of
from mdap.viewer.source import Desk, Shown, prompts_of
from mdap.viewer.templating import pretty

if TYPE_CHECKING:
    from mdap.viewer.app import Viewer

Act = Callable[[Request], Awaitable[dict[str, Any]]]

_QUEUED: Final = 50
_OFFERED: Final = 8
"""Maximum number of candidates to compare: a step can have hundreds, each with long text."""
_OTHER: Final = "other"
Piece = tuple[str, bool]
"""Some text, and whether it differs."""

_WORDS: Final = re.compile(r"\w+|\s+|[^\w\s]")
_WORDS_COMPARED: Final = 400
"""Maximum number of words to compare: the time grows with its square."""


class _Choice(NamedTuple):
    """A candidate as the form offers it: its answer in pieces, or a reply if the answer is not *known*."""

    candidate: ShownCandidate
    said: list[Piece]
    known: bool
    won: bool


@dataclass(frozen=True, slots=True)
class _Draft:
    """A rejected form: the reason, and the user's input."""

    sentence: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counter:
    """The pages of the desk."""

    viewer: "Viewer"
    desk: Desk
    key: Key

    def routes(self) -> list[Route]:
        """Return the routes."""
        at = "/runs/{run:int}/steps/{step:int}/settle"
        return [
            Route("/waiting", self._waiting),
            Route(at, self._look),
            Route(at, self._act, methods=["POST"]),
        ]

    async def _waiting(self, request: Request) -> Response:
        return self.viewer.answer("waiting.html", {"listed": await self.desk.waiting(None, _QUEUED)})

    async def _look(self, request: Request) -> Response:
        return await self.viewer.show(request, partial(self._page, _Draft()))

    async def _act(self, request: Request) -> Response:
        given = await form_of(request)
        if not self.key.is_form(given.pop("form", "")):
            raise HTTPException(403, "This form is not one of this server's: load the page again.")
        if given.get("do") not in ("claim", "release", "settle"):
            raise HTTPException(400, "This is not a form of these pages.")
        async with open_log(self.viewer.shown.path) as source:
            rows = await source.rows("view_run", request.path_params["run"])
        if not rows:
            raise HTTPException(404, "There is no such run in this database.")
        try:
            query = await self._done(rows[0]["run_id"], request.path_params["step"], given)
        except MdapError as error:
            draft = _Draft(f"{error}.", given)
            return await self.viewer.show(request, partial(self._page, draft), _http_status(error))
        answer = RedirectResponse(f"{request.url.path}{query}", 303)
        self.key.keep_name(answer, given.get("author", ""))
        return answer

    async def _done(self, run_id: str, step: int, given: dict[str, str]) -> str:
        """Do what a form asks, and return the query of the page to show next."""
        author, claim = given.get("author", ""), whole_number(given.get("claim"))
        if given["do"] == "claim":
            return f"?claim={(await self.desk.claim(run_id, step, author, claim)).number}"
        if given["do"] == "release":
            await self.desk.release(run_id, step, author, claim)
            return ""
        if claim is None:
            raise HTTPException(400, "Claim the step first.")
        choice = given.get("choice", "")
        answer = given.get("answer", "") if choice in ("", _OTHER) else f"candidate:{choice}"
        ruling = Ruling(answer, author, given.get("reason", ""), given.get("override") == "yes", claim)
        await self.desk.settle(run_id, step, ruling)
        return ""

    # -- the page of one step ----------------------------------------------------------------------

    async def _page(self, draft: _Draft, visit: Visit) -> tuple[str, dict[str, Any]]:
        run, source, number = visit.run, visit.source, visit.request.path_params["step"]
        openings = await source.rows("view_openings", run.number, number, 1)
        if not openings:
            raise HTTPException(404, "The run has no such step yet.")
        opening = openings[0]
        race = await race_of(source, run.number, opening)
        given = visit.request.query_params.get("claim") or draft.fields.get("claim")
        desk = await self._standing(source, run.number, number, whole_number(given))
        return "settle.html", {
            "number": number,
            "race": race,
            "state": await self._state(source, run.number, opening),
            "choices": await anyio.to_thread.run_sync(_choices, race),
            "prompts": await prompts_of(source, visit.prompts, run, opening),
            "form": self.key.form,
            "name": draft.fields.get("author") or self.key.named(visit.request.headers),
            "draft": draft,
            "other": _OTHER,
            "command": self.viewer.shown.resume_command(run.run_id),
            **desk,
        }

    async def _standing(self, source: Reader, run: int, step: int, mine: int | None) -> dict[str, Any]:
        """Return the claim on a step, and the pending answer to it."""
        rows = await source.rows("view_rulings", run, step)
        claim = next((row for row in rows if row["kind"] in ("claimed", "released", "settled")), None)
        if claim is not None and (claim["kind"] != "claimed" or not (claim["live"] or claim["id"] == mine)):
            claim = None
        done = {row["about"] for row in rows}
        ruled = next((row for row in rows if row["kind"] == "ruled" and row["id"] not in done), None)
        settled = next((row for row in rows if row["kind"] == "settled"), None)
        return {
            "claim": claim,
            "mine": claim is not None and claim["id"] == mine,
            "ruled": ruled,
            "settled": settled,
            "goes_on": None if settled is None else await self._goes_on(source, settled["goes_on"]),
        }

    async def _goes_on(self, source: Reader, run_id: str | None) -> dict[str, Any] | None:
        """Return the run that continues from a settled step: its number, status and resume command."""
        run = None if run_id is None else await source.run(run_id)
        if run is None:
            return None
        alive = is_claimed(source.path, run.number)
        state = run.status if run.status in ("finished", "failed") or alive else "waiting"
        command = self.viewer.shown.resume_command(run.run_id)
        return {"number": run.number, "run_id": run.run_id, "state": state, "command": command}

    async def _state(self, source: Reader, run: int, opening: Row) -> str:
        """Return the state of a step, in a word; *waiting* if a process waits for it."""
        outcome = outcome_of(opening)
        if outcome != "undecided" or is_claimed(source.path, run) is False:
            return outcome
        return "waiting" if await source.rows("waits_for_person", run, opening["step"]) else outcome


def _choices(race: ShownRace) -> list[_Choice]:
    offered = race.candidates[:_OFFERED]
    first: dict[str, str] = {}
    for entry in race.entries:
        if entry.candidate is not None:
            first.setdefault(entry.candidate.key, entry.row["body"] or "")
    answers = [one.answer or _answer_in(first.get(one.key, ""), one.key) for one in offered]
    texts = [
        first.get(one.key, "") if answer is None else pretty(answer)
        for one, answer in zip(offered, answers, strict=True)
    ]
    winner = race.opening["winner"]
    return [
        _Choice(one, said, answer is not None, winner is not None and one.answer == winner)
        for one, answer, said in zip(offered, answers, compared(texts), strict=True)
    ]


def _answer_in(reply: str, key: str) -> str | None:
    """Return the answer in *reply* if the whole reply is the answer: its key shows this."""
    candidates: list[Any] = [reply, reply.strip()]
    with suppress(ValueError, RecursionError):
        candidates.append(json.loads(reply))
    for value in candidates:
        try:
            spelled = canonical(value)
        except (ValueError, TypeError, RecursionError):
            continue
        if answer_key(spelled) == key:
            return spelled
    return None


def compared(texts: Sequence[str]) -> list[list[Piece]]:
    """Return the text of each candidate, most votes first, in pieces.

    Compare the others with the first, and the first with the second.
    """
    words = [_WORDS.findall(text) for text in texts]
    found = []
    for place, own in enumerate(words):
        beside = words[1] if place == 0 and len(words) > 1 else words[0]
        if len(words) == 1 or max(len(own), len(beside)) > _WORDS_COMPARED:
            found.append([(texts[place], False)])
        else:
            found.append(_beside(own, beside))
    return found


def _beside(own: list[str], other: list[str]) -> list[Piece]:
    matcher = SequenceMatcher(None, other, own, autojunk=False)
    pieces = [
        ("".join(own[first:last]), kind != "equal")
        for kind, _, _, first, last in matcher.get_opcodes()
        if first < last
    ]
    return pieces or [("", False)]


@dataclass(frozen=True, slots=True)
class Interface:
    """The JSON API, below ``/api``."""

    desk: Desk
    key: Key
    shown: Shown

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/waiting", self._endpoint(self._waiting)),
            Route("/api/claim", self._endpoint(self._claim), methods=["POST"]),
            Route("/api/release", self._endpoint(self._release), methods=["POST"]),
            Route("/api/settle", self._endpoint(self._settle), methods=["POST"]),
        ]

    def _endpoint(self, act: Act) -> Callable[[Request], Awaitable[Response]]:
        """Return *act* as an endpoint, which checks the token and answers errors as JSON."""

        async def endpoint(request: Request) -> Response:
            try:
                # A form of a foreign page can send neither this header nor JSON.
                if request.method == "POST" and not self.key.by_token(request.headers):
                    raise HTTPException(401, "Send the token: Authorization: Bearer TOKEN.")
                return _json(await act(request))
            except HTTPException as error:
                return _json({"error": error.detail}, error.status_code)
            except MdapError as error:
                return _json({"error": str(error)}, _http_status(error))

        return endpoint

    async def _waiting(self, request: Request) -> dict[str, Any]:
        given = request.query_params.get("most", "50")
        most = whole_number(given)
        if most is None or not 1 <= most <= 1000:
            raise HTTPException(400, "most must be a whole number from 1 to 1000.")
        found = await self.desk.waiting(request.query_params.get("run") or None, most)
        return {"waiting": [one.to_dict() for one in found]}

    async def _claim(self, request: Request) -> dict[str, Any]:
        run, step, given = await _asked(request, "author")
        claim = await self.desk.claim(run, step, given["author"], given.get("claim"))
        return claim.to_dict()

    async def _release(self, request: Request) -> dict[str, Any]:
        run, step, given = await _asked(request, "author")
        await self.desk.release(run, step, given["author"], given.get("claim"))
        return {"released": True}

    async def _settle(self, request: Request) -> dict[str, Any]:
        run, step, given = await _asked(request, "author", "reason", answer=True)
        override = given.get("override", False)
        if not isinstance(override, bool):
            raise HTTPException(400, "override must be true or false.")
        spelled = given["candidate"] if "candidate" in given else json.dumps(given["answer"])
        ruling = Ruling(spelled, given["author"], given["reason"], override, given.get("claim"))
        settled = (await self.desk.settle(run, step, ruling)).to_dict()
        command = None if settled["goes_on"] else self.shown.resume_command(settled["run_id"])
        return {**settled, "resume": command}


async def _asked(request: Request, *names: str, answer: bool = False) -> tuple[str, int, dict[str, Any]]:
    """Return the run, the step and the whole object of a request, after checking its members.

    *names* must be strings; with *answer*, there must be an answer or the key of a candidate.
    """
    given = await object_of(request)
    known = {"run", "step", "claim", *names}
    if answer:
        known |= {"answer", "candidate", "override"}
        if ("answer" in given) == ("candidate" in given):
            raise HTTPException(400, "Give either answer, a JSON value, or candidate, the key of one.")
        if "candidate" in given:
            given["candidate"] = f"candidate:{given['candidate']}"
    if strange := sorted(set(given) - known):
        raise HTTPException(400, f"There is no {strange[0]:.60}: give {', '.join(sorted(known))}.")
    for name in ("run", *names):
        if not isinstance(given.get(name), str):
            raise HTTPException(400, f"{name} must be a text.")
    for name in ("step", *(["claim"] if given.get("claim") is not None else ())):
        number = given.get(name)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**62:
            raise HTTPException(400, f"{name} must be a whole number from 0 on.")
    return given["run"], given["step"], given


def _json(content: dict[str, Any], status: int = 200) -> Response:
    # Escaped, since half a surrogate pair has no other form.
    return Response(json.dumps(content), status, media_type="application/json")


def _http_status(error: MdapError) -> int:
    if isinstance(error, RunNotFoundError):
        return 404
    if isinstance(error, ClaimedError | RunBusyError):
        return 409
    return 400 if isinstance(error, UsageError) else 500
