"""MCP: what a language model's program may have done, over standard input and output or /mcp."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from threed import __version__
from threed.apps.serve.desk import Desk, Shown
from threed.core.errors import InputError
from threed.systems.table import SYSTEMS

ABOUT = (
    "Makes 3D assets (GLB) and pictures of texts. submit gives a job's id; ask status until it is "
    "done, which takes minutes; result then says where the files are."
)
Place = Callable[[str, str], str]  # of a job's id and a file's name: where it can be had
CLIENT = "mcp"


@dataclass(frozen=True)
class Tools:
    """What a model may call; place says where it finds a file."""

    desk: Desk
    place: Place

    async def submit(
        self,
        job: Literal["generate", "texture", "edit3d", "image", "export"],
        fields: dict[str, Any],
    ) -> dict[str, Any]:
        """Have a job done. Fields: {"prompt": "a red mug"} for generate and image, with "seed",
        "preset", "backbone", "system", "inputs" as needed; {"mesh": ID, "prompt": ...} for texture;
        {"asset": ID, "instruction": "make it blue"} for edit3d. ID is of what was sent, or
        "JOB/asset.glb" of a job that is done. The answer has the job's id.
        """
        return await self.status(await self._do(self.desk.submit, {**fields, "job": job}, CLIENT))

    async def status(self, id: str) -> dict[str, Any]:
        """How a job goes: its state, what is being done, its steps, and why it failed."""
        shown: Shown = await self._do(self.desk.show, id)
        return shown.model_dump(mode="json")

    async def result(self, id: str) -> dict[str, str]:
        """Where the files are that a job has made, by name; none before it is done."""
        names = (await self.status(id))["files"]
        return {name: await self._do(self.place, id, name) for name in names}

    async def cancel(self, id: str) -> dict[str, Any]:
        """Have a job not done."""
        await self._do(self.desk.cancel, id)
        return await self.status(id)

    async def send(self, name: str, content: str) -> dict[str, Any]:
        """Send a picture or a mesh in base64, with its name; the answer's id names it in jobs."""
        kept: dict[str, Any] = await self._do(keep, self.desk, name, content)
        return kept

    async def systems(self) -> dict[str, Any]:
        """The systems that can guide a job, by name: what they do, their inputs and their knobs."""
        return {name: system.schema() for name, system in SYSTEMS.items()}

    async def _do(self, act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await anyio.to_thread.run_sync(act, *arguments)
        except InputError as error:
            raise ToolError(self.desk.spoken(str(error))) from error


def make_tools(desk: Desk, place: Place) -> MCPServer[Any]:
    """The server of the tools over a desk."""
    server = MCPServer[Any]("threed", instructions=ABOUT, version=__version__, log_level="WARNING")
    tools = Tools(desk, place)
    for tool in (tools.submit, tools.status, tools.result, tools.cancel, tools.send, tools.systems):
        server.add_tool(tool)
    return server


def keep(desk: Desk, name: str, content: str) -> dict[str, object]:
    """Keep a file that came in base64."""
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("content must be base64") from error
    return desk.uploads.keep(data, name)


def speak(desk: Desk) -> None:
    """Speak MCP on standard input and output until the client leaves."""
    make_tools(desk, lambda own, name: str(desk.file(own, name))).run("stdio")
