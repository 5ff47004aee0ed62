"""Starting a server: a socket, workers beside it, and an end in peace."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from threed.apps.serve.desk import Desk
from threed.apps.serve.options import Serve
from threed.apps.serve.room import Room
from threed.core.errors import InputError
from threed.queue.crew import employ, terminable
from threed.queue.folder import Queue

INSTALL = "threed serve needs more packages: pip install 'threed[app]'"
TIDY = 30.0  # seconds between looks at what results take of the disk
AGAIN = 20.0  # seconds until workers that had to stop are tried again
LEAST = 16  # characters of a token
Tell = Callable[[str], None]


def serve(options: Serve, tell: Tell) -> None:
    """Serve until Ctrl-C or SIGTERM. InputError for what cannot be served or listened on."""
    token = token_of(options)
    if options.models is not None and not options.models.is_dir():
        raise InputError(f"models: there is no folder {options.models}")
    queue = Queue.create(options.folder)
    queue.check_writable()
    desk = Desk(queue, options)
    try:
        import uvicorn

        from threed.apps.serve import app, tools
    except ImportError as error:
        raise InputError(INSTALL) from error
    if options.mcp:
        with terminable(), working(desk, options.workers, tell):
            tools.speak(desk)
        return
    listener = listen(options.host, options.port)
    with terminable(), listener, working(desk, options.workers, tell):
        tell(f"http://{address(listener)}")
        config = uvicorn.Config(
            app.make_app(desk, token, options.name), log_config=None, log_level="error",
            access_log=False, server_header=False, ws="none",
            limit_concurrency=256, timeout_keep_alive=10, timeout_graceful_shutdown=5,
        )  # fmt: skip
        app.Server(config, desk).run(sockets=[listener])


def token_of(options: Serve) -> str | None:
    """The token that clients must send; None on this machine alone, if none is set."""
    token = options.token or os.environ.get("THREED_TOKEN") or None
    if token is not None and not (token.isascii() and token.isprintable() and len(token) >= LEAST
                                  and " " not in token):  # fmt: skip
        raise InputError(f"a token must have {LEAST} letters, digits or signs at least, no blanks")
    if token is None and not is_local(options.host):
        raise InputError(f"host {options.host} can be reached by others, who could have jobs done: "
                         "set a token (the environment's THREED_TOKEN)")  # fmt: skip
    return token


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. InputError where the port is taken, or the address is not ours."""
    try:
        return socket.create_server((host, port), family=family(host), backlog=256)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise InputError(f"cannot listen on {host}, port {port}: {reason}; choose another with "
                         "--port, or --port 0 for one that is free") from error  # fmt: skip


def family(host: str) -> socket.AddressFamily:
    """The family of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def address(listener: socket.socket) -> str:
    """Where a socket listens, as in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def working(desk: Desk, workers: int, tell: Tell) -> Iterator[None]:
    """Within, workers do the jobs of the queue; in the end they give back what they have.

    Old results are removed, if the options say how much may be kept.
    """

    def labour() -> None:
        while not desk.closing.is_set():
            try:
                employ(desk.queue, workers, stay=True, stop=desk.closing.is_set)
            except InputError as error:
                desk.trouble = str(error)
                tell(f"the workers stopped, and are tried again in {AGAIN:g} s: {error}")
                desk.closing.wait(AGAIN)
                desk.trouble = ""

    def tidy(room: Room) -> None:
        while not desk.closing.wait(TIDY):
            for key in room.make():
                tell(f"removed the result of {key}, to make room")

    threads = [threading.Thread(target=labour)] if workers else []
    if desk.limits.keep is not None:
        room = Room(desk.queue, desk.limits.keep * 1e9)
        threads.append(threading.Thread(target=tidy, args=[room]))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        desk.closing.set()
        for thread in threads:
            thread.join()
