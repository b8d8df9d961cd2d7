"""A service that solves towers: one session, so that all requests share its models, limits and database.

Run it with ``pip install fastapi uvicorn`` and ``uvicorn fastapi_service:app``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query

import mdap
from mdap_hanoi import Hanoi


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with mdap.Session("sim", db="service.db") as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)
Name = Annotated[str, Path(pattern="^[a-z0-9-]{1,40}$")]


@app.post("/towers/{name}")
async def solve(name: Name, disks: Annotated[int, Query(ge=1, le=10)] = 5) -> dict[str, Any]:
    """Solve a tower, wait for the request that is solving it, or return what was solved before."""
    session: mdap.Session = app.state.session
    try:
        solution = await session.solve(Hanoi(disks=disks), run_id=name)
    except (mdap.RunBusyError, mdap.StoppedError) as error:
        raise HTTPException(503, str(error), {"Retry-After": "60"}) from None
    except mdap.UsageError as error:
        raise HTTPException(409, str(error)) from None
    except mdap.RunError as error:
        raise HTTPException(502, str(error)) from None
    return {"run": solution.run_id, "result": solution.result, "votes": solution.totals.votes}


@app.get("/towers/{name}")
async def find(name: Name) -> dict[str, Any]:
    """Return how a tower stands."""
    solution = await app.state.session.find(name)
    if solution is None:
        raise HTTPException(404, f"there is no tower {name}")
    return {"run": solution.run_id, "status": str(solution.status), "steps": solution.steps}
