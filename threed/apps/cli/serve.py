"""`threed serve`: a queue over HTTP and MCP, with workers."""

from __future__ import annotations

from threed.apps.cli.command import Command
from threed.apps.cli.show import complain, say
from threed.apps.serve.options import Serve
from threed.core.files import check_out


def serve(options: Serve) -> None:
    """Serve until Ctrl-C."""
    check_out(options.folder, folder=True)
    from threed.apps.serve.run import serve as start

    try:  # standard output is for answers where MCP is spoken
        start(options, lambda line: complain(line, "serve") if options.mcp else say(line))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


SERVE = Command("serve", Serve, serve)
