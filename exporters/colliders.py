"""Convex parts that stand for a mesh where things collide. Needs coacd, of the extra [engine].

Approximate convex decomposition by collision-aware concavity (Wei et al. 2022, arXiv:2205.02961).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from exporters.clean import weld
from exporters.simplify import simplify
from threed.core.errors import InputError
from threed.core.mesh import Mesh

FACES = 2_000  # that are looked at: more of them take as much longer, and show nothing more
CONCAVITY = 0.05  # how far a part may be from its convex hull, by CoACD's measure
PARTS = 32  # at most
CORNERS = 128  # of a part, at most: 252 triangles, and Unity takes 255


def convex_parts(mesh: Mesh) -> list[Mesh]:
    """Find at most PARTS convex meshes that together fill about what a mesh does.

    The same mesh gives the same parts. InputError where coacd is not installed.
    """
    coacd = _import_coacd()
    few = simplify(weld(Mesh(mesh.vertices, mesh.faces)), FACES)
    found = coacd.run_coacd(
        coacd.Mesh(few.vertices.double().numpy(), few.faces.int().numpy()),
        threshold=CONCAVITY, max_convex_hull=PARTS, max_ch_vertex=CORNERS, decimate=True, seed=0,
    )  # fmt: skip
    return [Mesh(torch.from_numpy(places).float(), torch.from_numpy(faces).long())
            for places, faces in found]  # fmt: skip


def _import_coacd() -> Any:
    """Import coacd, quiet; InputError where it is not installed."""
    try:
        coacd = importlib.import_module("coacd")
    except ImportError as error:
        raise InputError("colliders need coacd: pip install 'threed[engine]'") from error
    coacd.set_log_level("error")
    return coacd
