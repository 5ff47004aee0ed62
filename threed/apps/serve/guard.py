"""What every request passes first: whose it is, from where, how many there are, how large it is.

Bodies are counted while they come in, whatever their headers say.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threed.apps.serve.options import MIB, Serve

BURST = 3  # seconds' worth of requests that may come at once
CLIENTS = 4096  # that are remembered
PAUSE = 30.0  # seconds without a byte of a body
WHOLE = 600.0  # seconds that a body may take
JSON_BYTES = MIB // 4  # of a body that holds no file
OPEN = re.compile(r"/(page/[a-z]+\.(js|css)|favicon\.ico)?")  # to all: nothing of anybody's
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' "
    "blob:; connect-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
}


@dataclass
class Guard:
    """Lets requests through to an app, or answers them itself."""

    app: ASGIApp
    limits: Serve
    token: str | None = None
    names: Iterable[str] = ()  # of this machine, besides addresses
    _spent: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        headers = {n.decode("latin-1"): value.decode("latin-1") for n, value in scope["headers"]}
        refused = self.judge(scope, headers)
        if refused is not None:
            return await answer(send, *refused)
        await self.app(scope, self._counted(scope, receive), _marked(send))

    def judge(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the words of a refusal; None for a request that may pass."""
        host, is_open = headers.get("host", ""), OPEN.fullmatch(scope["path"]) is not None
        if not self._is_ours(host):
            return 421, "this server is not known by that name: start it with --name"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "requests from the pages of other sites are refused"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_open:
            return 403, "requests from the pages of other sites are refused"
        if not self._has_rate(client_of(scope)):
            return 429, "too many requests: wait a moment"
        if self.token is not None and not is_open:
            said = headers.get("authorization", "")
            if not secrets.compare_digest(said.encode(), f"Bearer {self.token}".encode()):
                return 401, "a token is needed: send Authorization: Bearer TOKEN"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 15:
            return 400, "Content-Length must be a number"
        if int(length) > self.most(scope["path"]):
            return 413, f"at most {self.most(scope['path']):,} bytes are taken here"
        return None

    def most(self, path: str) -> int:
        """Bytes of a body that a path takes."""
        if path == "/v1/files":
            return self.limits.upload_bytes
        if path in ("/send", "/generate"):  # with a file in base64
            return self.limits.upload_bytes * 4 // 3 + JSON_BYTES
        return JSON_BYTES

    def _is_ours(self, host: str) -> bool:
        """Whether a name is an address or of this machine: a page elsewhere may lend us its own."""
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", host, re.ASCII)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        if name in ("localhost", socket.gethostname().lower(), *map(str.lower, self.names)):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _has_rate(self, client: str) -> bool:
        """Whether a client may ask once more now; what it may goes on growing up to a burst."""
        now, most = time.monotonic(), float(self.limits.rate * BURST)
        left, since = self._spent.pop(client, (most, now))
        left = min(most, left + (now - since) * self.limits.rate)
        self._spent[client] = (max(0.0, left - 1), now)
        if len(self._spent) > CLIENTS:
            self._spent.popitem(last=False)
        return left >= 1

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """What gives a request's body, and ends it where it is too large or too slow."""
        most, began = self.most(scope["path"]), time.monotonic()
        size, over = 0, False

        async def counted() -> Message:
            nonlocal size, over
            if over:  # from here on one waits for the client to leave
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), PAUSE)
            except asyncio.TimeoutError as error:
                raise HTTPException(408, "the request's body does not come") from error
            size += len(message.get("body", b""))
            over = not message.get("more_body", False)
            if size > most:
                raise HTTPException(413, f"at most {most:,} bytes are taken here")
            if not over and time.monotonic() - began > WHOLE:
                raise HTTPException(408, "the request's body takes too long")
            return message

        return counted


def client_of(scope: Scope) -> str:
    """Whose a request is: the address that it comes from."""
    client = scope.get("client")
    return str(client[0]) if client else "here"


def _marked(send: Send) -> Send:
    """What sends an answer with HEADERS, unless it has them."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            have = {name.lower() for name, _ in message.get("headers", [])}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()
                    if name.encode() not in have]  # fmt: skip
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return marked


async def answer(send: Send, status: int, words: str) -> None:
    """Answer with an error."""
    body = json.dumps({"error": words}).encode()
    headers: list[Any] = [(b"content-type", b"application/json"),
                          (b"content-length", str(len(body)).encode())]  # fmt: skip
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    if status == 413:
        headers.append((b"connection", b"close"))
    marked = _marked(send)
    await marked({"type": "http.response.start", "status": status, "headers": headers})
    await marked({"type": "http.response.body", "body": body})
