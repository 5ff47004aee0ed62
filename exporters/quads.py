"""Quads instead of triangles, for modellers. Needs pynanoinstantmeshes, of the extra [engine].

Instant Field-Aligned Meshes (Jakob et al. 2015). It runs as another process: it prints what it
does, and a crash there is not ours.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from exporters import topology
from exporters.budget import TEXTURE, dressed
from exporters.clean import weld
from exporters.mended import moved
from exporters.transfer import Skin
from threed.core.budget import SIZES
from threed.core.errors import InputError
from threed.core.mesh import Mesh

SCRIPT = Path(__file__).with_name("quads_script.py")
PATIENCE = 300.0  # seconds
TOLERANCE = 0.4  # of the number: it is a wish, since all quads must fit together
APART = 0.02  # of the diagonal: how far they may be from what they stand for
CURE = "ask for more of them, or make the mesh whole first: threed repair"


def to_quads(mesh: Mesh, count: int, texture: int | None = None) -> Mesh:
    """Remesh to about `count` quads; colours and pictures are carried over to a map of their own.

    That has `texture` texels a side; if not said, as many as the mesh's, and at least TEXTURE. The
    same mesh gives the same quads. InputError where pynanoinstantmeshes is not installed or fails,
    and as from `check_made`.
    """
    bare = weld(Mesh(mesh.vertices, mesh.faces))
    made = _remesh(bare, count)
    check_made(bare, made, count)
    sides = [max(image.shape[:2]) for image in mesh.material.maps().values()]
    size = texture or min(max([TEXTURE, *sides]), SIZES[1])
    return dressed(made, Skin(mesh), size)


def check_made(mesh: Mesh, made: Mesh, count: int) -> None:
    """InputError unless quads are what was asked for.

    That is: near the count; nowhere farther than APART from the mesh, nor the mesh from them;
    closed, and outside out, where it is; and nowhere three of them at one edge where it has none.
    """
    found, edges, own = len(made.faces) // 2, topology.edges(made.faces), topology.edges(mesh.faces)
    problem = None
    if abs(found - count) > TOLERANCE * count:
        problem = f"are {found:,}, not about {count:,}"
    elif bool(edges.crowded.any()) and not bool(own.crowded.any()):
        problem = f"have {int(edges.crowded.sum()):,} edges of more than two"
    elif topology.is_watertight(own) and not topology.is_watertight(edges):
        problem = f"have {int(edges.open.sum()):,} open edges, and the mesh is closed"
    elif topology.is_watertight(own) and _volume(mesh) * _volume(made) < 0:
        problem = "look the other way"
    else:
        away = max(moved(mesh, made)[1], moved(made, mesh)[1])
        if away > APART:
            problem = f"are off by {away:.1%} of the mesh's diagonal"
    if problem is not None:
        raise InputError(f"the quads {problem}: {CURE}")


def _remesh(mesh: Mesh, count: int) -> Mesh:
    """Have another process remesh a welded mesh."""
    if find_spec("pynanoinstantmeshes") is None:
        raise InputError("quads need pynanoinstantmeshes: pip install 'threed[engine]'")
    with tempfile.TemporaryDirectory(prefix="threed-") as name:
        folder = Path(name)
        np.savez(folder / "mesh.npz", vertices=mesh.vertices.numpy(), faces=mesh.faces.numpy())
        command = [sys.executable, str(SCRIPT), name, str(count)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"no quads were found in {PATIENCE:g} s: {CURE}") from error
        if done.returncode or not (folder / "done.npz").is_file():
            raise InputError(f"Instant Meshes crashed on this mesh (status {done.returncode}): "
                             f"{CURE}")  # fmt: skip
        with np.load(folder / "done.npz") as found:
            places, quads = found["vertices"], torch.from_numpy(found["quads"].astype(np.int64))
    if not len(quads) or not np.isfinite(places).all():
        raise InputError(f"Instant Meshes made nothing of this mesh: {CURE}")
    halves = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    return Mesh(torch.from_numpy(places.astype(np.float32)), halves, quads=True)


def _volume(mesh: Mesh) -> float:
    return float(topology.volumes(mesh).sum())
