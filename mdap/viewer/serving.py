"""The server that shows the pages."""

from typing import Final

import uvicorn
from starlette.types import ASGIApp

__all__ = ["server"]

_PATIENCE: Final = 2  # seconds for pages that are being made when it is stopped


def server(app: ASGIApp) -> uvicorn.Server:
    """Return a server for *app*, which says nothing and knows only plain HTTP."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",  # what goes wrong stands on the page
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE,
        )
    )
