"""The web app: routes over a desk, behind a guard."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from mcp.server.transport_security import TransportSecuritySettings
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from threed import __version__
from threed.apps.serve.compat import COMPAT
from threed.apps.serve.desk import Desk
from threed.apps.serve.guard import Guard
from threed.apps.serve.refusal import status_of
from threed.apps.serve.site import SITE
from threed.apps.serve.tools import make_tools
from threed.apps.serve.v1 import V1, answer_of
from threed.core.errors import InputError


def make_app(desk: Desk, token: str | None = None, names: Iterable[str] = ()) -> ASGIApp:
    """The app over a desk. token: what clients must send. names: of this machine, for clients."""
    tools = make_tools(desk, lambda own, name: f"/v1/jobs/{own}/files/{name}")
    # who may ask is the guard's business
    asked = tools.streamable_http_app(
        stateless_http=True, json_response=True, transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=False))  # fmt: skip

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        async with tools.session_manager.run():
            yield

    # the pages that FastAPI makes of its documentation load scripts from elsewhere
    app = FastAPI(title="threed", version=__version__, docs_url=None, redoc_url=None,
                  redirect_slashes=False, lifespan=living,
                  description="Text to 3D assets, over a queue")  # fmt: skip
    app.state.desk, app.state.waiting = desk, Counter[str]()
    app.include_router(V1)
    app.include_router(COMPAT)
    app.include_router(SITE)
    app.router.routes.extend(asked.routes)
    app.add_exception_handler(InputError, _mistaken)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(ClientDisconnect, _left)
    return Guard(app, desk.limits, token, tuple(names))


async def _mistaken(request: Request, error: Exception) -> Response:
    """What a user can change."""
    assert isinstance(error, InputError)
    desk: Desk = request.app.state.desk
    return answer_of(desk.spoken(str(error)), status_of(error))


async def _misread(request: Request, error: Exception) -> Response:
    """A parameter of a path or a query that is wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return answer_of(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 422)


async def _refused(request: Request, error: Exception) -> Response:
    """What the routing or the guard refuses."""
    assert isinstance(error, HTTPException)
    answer = answer_of(str(error.detail), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _left(request: Request, error: Exception) -> Response:
    """A client that left in the middle of its request; nobody hears this."""
    return answer_of("the request was not sent as a whole", 400)


class Server(uvicorn.Server):
    """A server that tells what waits for jobs that it ends."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Hear of Ctrl-C or SIGTERM."""
        self._desk.closing.set()
        super().handle_exit(sig, frame)
