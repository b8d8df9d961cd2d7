"""The desk as a JSON API for tools, with the token in a header."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mdap.audit.queue import Ruling
from mdap.errors import ClaimedError, MdapError, RunBusyError, RunNotFoundError, UsageError
from mdap.viewer.guard import Key, object_of, whole_number
from mdap.viewer.source import Desk, Shown

__all__ = ["Interface", "status_of"]

Act = Callable[[Request], Awaitable[dict[str, Any]]]


def status_of(error: MdapError) -> int:
    """Return the HTTP status for *error*."""
    if isinstance(error, RunNotFoundError):
        return 404
    if isinstance(error, ClaimedError | RunBusyError):
        return 409
    return 400 if isinstance(error, UsageError) else 500


@dataclass(frozen=True, slots=True)
class Interface:
    """The addresses below ``/api``.

    Attributes:
        desk: settles steps.
        key: the secret that a request must show.
        shown: the database.
    """

    desk: Desk
    key: Key
    shown: Shown

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/waiting", self._answering(self._waiting)),
            Route("/api/claim", self._answering(self._claim), methods=["POST"]),
            Route("/api/release", self._answering(self._release), methods=["POST"]),
            Route("/api/settle", self._answering(self._settle), methods=["POST"]),
        ]

    def _answering(self, act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                # A form of a foreign page can send neither this header nor JSON.
                if request.method == "POST" and not self.key.by_token(request.headers):
                    raise HTTPException(401, "Send the token: Authorization: Bearer TOKEN.")
                return JSONResponse(await act(request))
            except HTTPException as error:
                return JSONResponse({"error": error.detail}, error.status_code)
            except MdapError as error:
                return JSONResponse({"error": str(error)}, status_of(error))

        return endpoint

    async def _waiting(self, request: Request) -> dict[str, Any]:
        given = request.query_params.get("most", "50")
        most = whole_number(given)
        if most is None or not 1 <= most <= 1000:
            raise HTTPException(400, "most must be a whole number from 1 to 1000.")
        found = await self.desk.waiting(request.query_params.get("run") or None, most)
        return {"waiting": [one.to_dict() for one in found]}

    async def _claim(self, request: Request) -> dict[str, Any]:
        run, step, given = await _about(request, "author")
        claim = await self.desk.claim(run, step, given["author"], given.get("claim"))
        return claim.to_dict()

    async def _release(self, request: Request) -> dict[str, Any]:
        run, step, given = await _about(request, "author")
        await self.desk.release(run, step, given["author"], given.get("claim"))
        return {"released": True}

    async def _settle(self, request: Request) -> dict[str, Any]:
        run, step, given = await _about(request, "author", "reason", answer=True)
        override = given.get("override", False)
        if not isinstance(override, bool):
            raise HTTPException(400, "override must be true or false.")
        spelled = given["candidate"] if "candidate" in given else json.dumps(given["answer"])
        ruling = Ruling(spelled, given["author"], given["reason"], override, given.get("claim"))
        settled = (await self.desk.settle(run, step, ruling)).to_dict()
        command = None if settled["goes_on"] else self.shown.resume_command(settled["run_id"])
        return {**settled, "resume": command}


async def _about(request: Request, *names: str, answer: bool = False) -> tuple[str, int, dict[str, Any]]:
    """Return the run, the step and the whole object of a request, after checking its members.

    Args:
        request: the request.
        names: further members that must be strings.
        answer: whether it must contain an answer or the key of a candidate.
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
