"""What goes on beside Blender, in threads: a server, and jobs that are followed. Knows no bpy.

A thread writes into its own object, `state` last; the main thread reads it. Nothing else is shared.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from threed.apps.packs.blender.forms import Offers
from threed.apps.packs.client import OVER, Client, Refused, Shown

WAIT = 120.0  # seconds for a server to begin
PAUSE = 1.0  # seconds between looks at a job


@dataclass
class Server:
    """A server that Blender has started."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]  # what it says

    @classmethod
    def start(cls, program: str, folder: str, client: Client) -> Server:
        """Start one where a client expects it. Refused, in words."""
        try:
            place = urlsplit(client.url)
            host, port = place.hostname or "", place.port or 80
        except ValueError as error:
            raise Refused(0, f"{client.url} is no address of a server: {error}") from error
        command = [program, "serve", folder, "--host", host, "--port", str(port)]
        around = {**os.environ, "THREED_TOKEN": client.token}  # where others do not read it
        said = tempfile.TemporaryFile()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=around,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            said.close()
            raise Refused(0, f"cannot start {program!r}: {error.strerror}; say in the "
                             "preferences where the program threed is") from error  # fmt: skip
        return cls(process, said)

    def check(self) -> None:
        """Refused where it has ended, with what it said last."""
        if self.process.poll() is not None and not self.said.closed:
            self.said.seek(0)
            lines = self.said.read().decode(errors="replace").strip().splitlines()
            raise Refused(0, f"the server ended: {lines[-1] if lines else 'it said nothing'}")

    def stop(self) -> None:
        """End it; jobs at hand are given back."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()


@dataclass
class Link:
    """The way to a server, which a thread finds."""

    client: Client
    program: str = ""  # that starts a server where none answers; none if empty
    folder: str = ""
    state: Literal["connecting", "on", "off"] = "connecting"
    trouble: str = ""
    offers: Offers | None = None
    server: Server | None = None
    left: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Look for the server in a thread."""
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        """Find a server or start one, and ask what it offers."""
        try:
            try:
                self.offers = Offers.of(self.client)
            except Refused as refused:
                if refused.status or not (self.program and self.client.is_local):
                    raise
                self.server = Server.start(self.program, self.folder, self.client)
                self.offers = self._wait(self.server)
            self.state = "on"
        except Refused as refused:
            self._end()
            self.trouble, self.state = str(refused), "off"

    def _wait(self, server: Server) -> Offers:
        until = time.monotonic() + WAIT
        while not self.left.wait(0.2):
            server.check()
            try:
                return Offers.of(self.client)
            except Refused as refused:
                if refused.status or time.monotonic() > until:
                    raise
        raise Refused(0, "it was not waited for the server")

    def stop(self) -> None:
        """End what this has started."""
        self.left.set()
        self._end()

    def _end(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.stop()


@dataclass
class Row:
    """A job, from the moment when it is sent."""

    title: str
    job: dict[str, Any]
    goal: Any = None  # what becomes of the asset
    mesh: Path | None = None  # that is sent, alone in a folder, which goes afterwards
    state: str = "sending"  # then as the server says; then "here", when `content` is
    message: str = ""
    share: float = 0.0  # of its steps
    content: bytes = b""  # of asset.glb
    left: threading.Event = field(default_factory=threading.Event)  # nobody waits for it any more
    cancelled: bool = False
    number: int = field(default_factory=itertools.count(1).__next__)

    def start(self, client: Client) -> None:
        """Have it done, in a thread."""
        threading.Thread(target=self.run, args=(client,), daemon=True).start()

    def cancel(self) -> None:
        """Have it not done."""
        self.cancelled = True
        self.left.set()

    @property
    def is_alive(self) -> bool:
        """Whether a thread is at it."""
        return self.state not in (*OVER, "here")

    def run(self, client: Client) -> None:
        """Send it, follow it, and fetch what it made."""
        try:
            self._follow(client)
        except Refused as refused:
            self.message, self.state = str(refused), "failed"
        finally:
            if self.mesh is not None:
                shutil.rmtree(self.mesh.parent, ignore_errors=True)

    def _follow(self, client: Client) -> None:
        for shown in client.follow(client.submit(self.job), PAUSE):
            self._hear(shown)
            if self.left.is_set() and shown["state"] not in OVER:
                if self.cancelled:
                    with suppress(Refused):  # it is done by now
                        client.cancel(shown["id"])
                self.state = "cancelled"
                return
        if shown["state"] == "done":
            self.content = client.file(shown["id"], "asset.glb")
            self.state = "here"
        else:
            self.message, self.state = shown.get("reason", ""), shown["state"]

    def _hear(self, shown: Shown) -> None:
        self.share = shown["step"] / max(1, shown["steps"])
        ahead = f"{shown['ahead']} before it" if shown["ahead"] else ""
        self.message = shown["message"] or ahead
        if shown["state"] not in OVER:
            self.state = shown["state"]
