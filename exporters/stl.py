"""Binary STL: bare triangles, for printing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from exporters import axes
from exporters.glb import Extras
from threed.core import files
from threed.core.mesh import Mesh


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write an STL, z up, in world units; it holds neither colour nor more of `extras` than fits.

    The 80 bytes of its header name the prompt where there is one.
    """
    corners = axes.to_z_up(mesh.vertices)[mesh.faces]
    a, b, c = corners.unbind(1)
    normal = F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    rows = np.zeros(len(corners), [("values", "<f4", (4, 3)), ("attribute", "<u2")])
    rows["values"] = torch.cat([normal[:, None], corners], 1).numpy()
    # a text header must not begin with "solid", which marks the other, textual kind of file
    title = f"threed {extras.get('prompt', '')}".encode("ascii", "replace")[:80].ljust(80)
    files.write(path, title + np.uint32(len(rows)).tobytes() + rows.tobytes())
