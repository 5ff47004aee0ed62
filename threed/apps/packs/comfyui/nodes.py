"""The nodes: what ComfyUI asks of a class, and REST. What is ComfyUI's own is imported when used.

A mesh goes from node to node as a `Made`.
"""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed.apps.packs.client import Client, Refused, Sent, Shown

MESH = "THREED_MESH"
ENDINGS = (".glb", ".obj", ".ply", ".stl")
URL = Client().url
Types = dict[str, dict[str, tuple[Any, ...]]]
PROMPT = ("STRING", {"multiline": True, "default": "a red mug"})
SEED = ("INT", {"default": 0, "min": 0, "max": 2**31 - 1, "control_after_generate": True})
COMMON: dict[str, tuple[Any, ...]] = {
    "preset": ("STRING", {"default": "", "tooltip": "a name of the server's; what suits if empty"}),
    "backbone": ("STRING", {"default": "", "tooltip": "a name of the server's"}),
    "settings": ("STRING", {"default": "", "tooltip": "NAME=VALUE of the run, as in steps=600"}),
    "server": (
        "STRING",
        {"default": URL, "tooltip": "its token is the environment's THREED_TOKEN"},
    ),
}


@dataclass(frozen=True)
class Made:
    """A mesh between nodes."""

    content: bytes
    ending: str = ".glb"
    picture: bytes = b""  # PNG; none of a mesh that was loaded


class Node:
    """What all nodes have."""

    CATEGORY = "threed"
    FUNCTION = "run"
    RETURN_TYPES: tuple[str, ...] = (MESH,)
    RETURN_NAMES: tuple[str, ...] = ("mesh",)


class TextToMesh(Node):
    """Make a mesh of a prompt."""

    DESCRIPTION = __doc__

    @classmethod
    def INPUT_TYPES(cls) -> Types:
        """What can be said."""
        best = ("INT", {"default": 1, "min": 1, "max": 64,
                        "tooltip": "begin so many seeds; the best of them goes on"})  # fmt: skip
        return {
            "required": {"prompt": PROMPT, "seed": SEED},
            "optional": {"best_of": best, **COMMON},
        }

    def run(self, prompt: str, seed: int, best_of: int = 1, **more: str) -> tuple[Made]:
        """Have it made. ValueError, in the server's words."""
        job = {"job": "generate", "prompt": prompt, "seed": seed}
        return (make(job | ({"best_of": best_of} if best_of > 1 else {}), **more),)


class PaintMesh(Node):
    """Paint a mesh as a prompt says; its shape stays."""

    DESCRIPTION = __doc__

    @classmethod
    def INPUT_TYPES(cls) -> Types:
        """What can be said."""
        keep = ("BOOLEAN", {"default": False, "tooltip": "into its own texture coordinates"})
        return {"required": {"mesh": (MESH,), "prompt": PROMPT, "seed": SEED},
                "optional": {"keep_uv": keep, **COMMON}}  # fmt: skip

    def run(
        self, mesh: Made, prompt: str, seed: int, keep_uv: bool = False, **more: str
    ) -> tuple[Made]:
        """Have it painted. ValueError, in the server's words."""
        with tempfile.TemporaryDirectory(prefix="threed-") as folder:
            path = Path(folder) / f"mesh{mesh.ending}"
            path.write_bytes(mesh.content)
            job = {"job": "texture", "prompt": prompt, "seed": seed, "keep_uv": keep_uv,
                   "mesh": Sent(path)}  # fmt: skip
            return (make(job, **more),)


class LoadMesh(Node):
    """Load a mesh of ComfyUI's input folder: .glb, .obj, .ply or .stl."""

    DESCRIPTION = __doc__

    @classmethod
    def INPUT_TYPES(cls) -> Types:
        """What can be said."""
        import folder_paths

        names = sorted(os.listdir(folder_paths.get_input_directory()))
        return {"required": {"file": ([name for name in names if ending(name) in ENDINGS],)}}

    def run(self, file: str) -> tuple[Made]:
        """Read it."""
        import folder_paths

        path = Path(folder_paths.get_annotated_filepath(file))
        return (Made(path.read_bytes(), ending(file)),)


class PreviewMesh(Node):
    """Show a mesh that was made or painted: eight views of it, colours above, normals below."""

    DESCRIPTION = __doc__
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Types:
        """What can be said."""
        return {"required": {"mesh": (MESH,)}}

    def run(self, mesh: Made) -> dict[str, Any]:
        """A picture [1, H, W, 3] in [0, 1]. ValueError for a mesh that was loaded."""
        import folder_paths
        import numpy as np
        import torch
        from PIL import Image

        if not mesh.picture:
            raise ValueError("a mesh that was loaded has no picture yet: paint it first")
        with Image.open(io.BytesIO(mesh.picture)) as file:
            pixels = np.asarray(file.convert("RGB"), np.float32) / 255
        said = keep(mesh.picture, "threed", ".png", folder_paths.get_temp_directory(), "temp")
        return {"ui": {"images": [said]}, "result": (torch.from_numpy(pixels)[None],)}


class SaveMesh(Node):
    """Save a mesh in ComfyUI's output folder."""

    DESCRIPTION = __doc__
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Types:
        """What can be said."""
        prefix = ("STRING", {"default": "mesh/threed"})
        return {"required": {"mesh": (MESH,), "filename_prefix": prefix}}

    def run(self, mesh: Made, filename_prefix: str) -> dict[str, Any]:
        """Write it under the next free number."""
        import folder_paths

        place = folder_paths.get_output_directory()
        said = keep(mesh.content, filename_prefix, mesh.ending, place, "output")
        file = "/".join(filter(None, (said["subfolder"], said["filename"])))
        return {"ui": {"3d": [said]}, "result": (file,)}


NODES: dict[str, type[Node]] = {
    "ThreedTextToMesh": TextToMesh, "ThreedPaintMesh": PaintMesh, "ThreedLoadMesh": LoadMesh,
    "ThreedPreviewMesh": PreviewMesh, "ThreedSaveMesh": SaveMesh,
}  # fmt: skip
NAMES = {
    "ThreedTextToMesh": "Text to mesh (threed)", "ThreedPaintMesh": "Paint mesh (threed)",
    "ThreedLoadMesh": "Load mesh (threed)", "ThreedPreviewMesh": "Preview mesh (threed)",
    "ThreedSaveMesh": "Save mesh (threed)",
}  # fmt: skip


def ending(name: str) -> str:
    """The ending of a file's name, in small letters."""
    return os.path.splitext(name)[1].lower()


def keep(content: bytes, prefix: str, suffix: str, place: str, kind: str) -> dict[str, str]:
    """Write a file under the next free number of its prefix; what ComfyUI is told of it."""
    import folder_paths

    folder, name, number, under, _ = folder_paths.get_save_image_path(prefix, place)
    file = f"{name}_{number:05}_{suffix}"
    Path(folder, file).write_bytes(content)
    return {"filename": file, "subfolder": under, "type": kind}


def make(
    job: Shown, preset: str = "", backbone: str = "", settings: str = "", server: str = URL
) -> Made:
    """Have a job done, and wait for it. ValueError, in words, where it is not.

    Whoever interrupts ComfyUI cancels the job.
    """
    named = {"preset": preset.strip(), "backbone": backbone.strip(), "settings": settings.split()}
    job = job | {name: value for name, value in named.items() if value}
    client = Client(server.strip(), os.environ.get("THREED_TOKEN", ""))
    try:
        shown = wait(client, client.submit(job))
        if shown["state"] != "done":
            raise ValueError(shown["reason"] or f"the job was {shown['state']}")
        content = client.file(shown["id"], "asset.glb")
        return Made(content, picture=client.file(shown["id"], "preview.png"))
    except Refused as refused:
        raise ValueError(str(refused)) from None


def wait(client: Client, shown: Shown) -> Shown:
    """Follow a job until it is over, with ComfyUI's bar. Refused; what ComfyUI raises to stop."""
    from comfy.model_management import throw_exception_if_processing_interrupted
    from comfy.utils import ProgressBar

    bar = ProgressBar(100)
    for now in client.follow(shown):
        try:
            throw_exception_if_processing_interrupted()
        except BaseException:
            with suppress(Refused):
                client.cancel(shown["id"])
            raise
        bar.update_absolute(round(100 * now["step"] / max(1, now["steps"])))
        shown = now
    return shown
