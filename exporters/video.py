"""A turntable: the mesh goes round once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from exporters import pictures, topology
from exporters.normals import bake_relief
from renderers.film import film
from renderers.shading import Look
from threed.core import files
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.mesh import Mesh

FPS = 30
BACKGROUND = 0.92  # a light, neutral grey
QUALITY = "18"  # x264's constant rate factor: visually lossless


def save_turntable(
    mesh: Mesh, path: Path, *, frames: int = 120, size: int = 512, look: Look = "shaded"
) -> None:
    """Write an MP4 (H.264, yuv420p, 30 frames a second) of one turn around the mesh.

    The mesh fills the picture whatever its size. No frame comes twice: played in a loop, it turns
    evenly. InputError for fewer than 2 frames, a size that is not even (H.264 halves the colour's
    resolution) or out of 16..4096, and for a place that cannot be written to.
    """
    import av

    if frames < 2:
        raise InputError(f"a turntable needs at least 2 frames, got {frames}")
    if size % 2 or not 16 <= size <= 4096:
        raise InputError(f"the size of a video must be even and in 16..4096, got {size}")
    with files.write_aside(path) as part:
        # PyAV would close the file before an error of the disk's came to light
        with part.open("wb") as file, av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": QUALITY, "preset": "veryfast"}
            for frame in _draw_frames(mesh, frames, size, look):
                picture = av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def _draw_frames(mesh: Mesh, frames: int, size: int, look: Look) -> Iterator[Tensor]:
    """Draw the frames, [size, size, 3] uint8 each."""
    mesh = pictures.fit_ball(mesh)
    background, solid = torch.full((3,), BACKGROUND), topology.is_solid(mesh)
    views = orbit(frames, size)
    relief = bake_relief(mesh)
    for image in film(mesh, views, background=background, look=look, solid=solid, relief=relief):
        yield pictures.to_bytes(image)
