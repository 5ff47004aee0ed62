"""A client of `threed serve`, of the standard library alone: a copy goes into every pack."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

SECONDS = 60.0  # that an answer may take
JUDGED = 180.0  # seconds, where a mesh is sent, which the server reads
OVER = ("done", "failed", "cancelled")
AWAY = (0, 429, 500, 502, 503, 504)  # of answers that may be others a moment later
Shown = dict[str, Any]  # a job as the server shows it


class Refused(Exception):
    """What the server did not do, in words; status 0: it does not answer."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class Sent:
    """A file in the place of a job's value: it is sent, and its id is said after `before`."""

    path: Path
    before: str = ""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the token is meant for one server."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Client:
    """A server as its client sees it."""

    url: str = "http://127.0.0.1:8081"
    token: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        try:
            host = urlsplit(self.url).hostname or ""
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def call(
        self, method: str, path: str, body: bytes | None = None, seconds: float = SECONDS
    ) -> bytes:
        """What the server answers. Refused, in its words if it has any."""
        proxies = {} if self.is_local else urllib.request.getproxies()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _Stay)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            request = urllib.request.Request(
                self.url.rstrip("/") + path, body, headers, method=method
            )
            with opener.open(request, timeout=seconds) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, _words(error)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Refused(0, f"no server answers at {self.url}: {reason}") from error

    def ask(self, method: str, path: str, data: Any = None) -> Any:
        """What the server answers as JSON. Refused."""
        content = self.call(method, path, None if data is None else json.dumps(data).encode())
        try:
            return json.loads(content)
        except ValueError as error:
            raise Refused(500, f"what answers at {self.url} is no threed server") from error

    def submit(self, job: Shown) -> Shown:
        """Have a job done; files in it are sent first. Refused."""
        shown: Shown = self.ask("POST", "/v1/jobs", self._named(job))
        return shown

    def _named(self, value: Any) -> Any:
        """A job's data with ids in the place of files."""
        if isinstance(value, dict):
            return {name: self._named(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._named(item) for item in value]
        return self.send(value) if isinstance(value, Sent) else value

    def send(self, file: Sent) -> str:
        """Send a file. Returns what names it. Refused, also where it cannot be read."""
        try:
            content = file.path.read_bytes()
        except OSError as error:
            raise Refused(400, f"cannot read {file.path}: {error.strerror}") from error
        path = f"/v1/files?name={quote(file.path.name)}"
        told = json.loads(self.call("POST", path, content, JUDGED))
        return f"{file.before}{told['id']}"

    def show(self, own: str) -> Shown:
        """How a job goes. Refused."""
        shown: Shown = self.ask("GET", f"/v1/jobs/{own}")
        return shown

    def cancel(self, own: str) -> None:
        """Have a job not done. Refused where it is done already."""
        self.ask("DELETE", f"/v1/jobs/{own}")

    def file(self, own: str, name: str) -> bytes:
        """A file that a job has made. Refused."""
        return self.call("GET", f"/v1/jobs/{own}/files/{name}")

    def follow(self, shown: Shown, pause: float = 1.0) -> Iterator[Shown]:
        """How a job goes, every `pause` seconds, until it is over.

        While the server is away its job's data stays, with a message. Refused where it is gone.
        """
        while shown["state"] not in OVER:
            yield shown
            time.sleep(pause)
            try:
                shown = self.show(shown["id"])
            except Refused as refused:
                if refused.status not in AWAY:
                    raise
                shown = {**shown, "message": str(refused)}
        yield shown


def _words(error: urllib.error.HTTPError) -> str:
    """What an answer says of why it is none."""
    try:
        return str(json.loads(error.read(100_000))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"
