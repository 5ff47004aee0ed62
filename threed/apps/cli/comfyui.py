"""`threed comfyui`: nodes for ComfyUI."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from threed.apps.cli.command import Command
from threed.apps.cli.show import say
from threed.apps.packs.write import write_nodes
from threed.settings.base import Settings


class Comfyui(Settings):
    """Write nodes for ComfyUI, which have meshes made and painted by `threed serve`."""

    nodes: Path = Field(description="the folder to write, such as ComfyUI/custom_nodes/threed")


def comfyui(job: Comfyui) -> None:
    """Write the nodes, and print where they are."""
    write_nodes(job.nodes)
    say(str(job.nodes))


COMFYUI = Command("comfyui", Comfyui, comfyui)
