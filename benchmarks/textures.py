"""Does `threed texture` give meshes from elsewhere the prompted colour? The judge of toybox says.

    python benchmarks/textures.py [--out outputs/textures] [--limit 10] [NAME=VALUE ...]

Ten prompts, five on a mug of trimesh's primitives, in millimetres, and five on the same mug torn
open, turned over and with faces that crowd an edge. Can be cut and continued with the same --out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import trimesh

import exporters
from benchmarks.common import head, row
from exporters import load
from exporters.pictures import fit_ball
from threed.apps.cli.evaluate import judge_mesh
from threed.apps.cli.show import complain, say
from threed.runs.folder import RunFolder
from threed.runs.generate import resume, texture
from threed.settings.presets import load_run
from threed.toybox.world.toys import COLORS

KIND = "mug"
FINISHES = ("plain", "striped", "dotted", "checkered")


def mug(path: Path, broken: bool) -> Path:
    """A cylinder with a ring for a handle, 90 mm high, as an STL file."""
    body = trimesh.creation.cylinder(radius=38, height=90, sections=48)
    ring = trimesh.creation.torus(major_radius=24, minor_radius=6)
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, [0, 1, 0])
    ring.apply_transform(turn).apply_translation([0, 42, 0])
    mesh = trimesh.util.concatenate([body, ring])
    if broken:
        faces = np.concatenate([mesh.faces[9:], mesh.faces[20:24], [[0, 5, 70]]])
        mesh = trimesh.Trimesh(mesh.vertices, faces, process=False)
        mesh.invert()
    name = path / ("broken.stl" if broken else "mug.stl")
    mesh.export(name)
    return name


def painted(folder: Path, mesh: Path, prompt: str, words: list[str]) -> Path:
    """The asset.glb of a mesh painted as the prompt says, made or gone on with."""
    if not (folder / "config.yaml").exists():
        texture(mesh, prompt, load_run("toybox-texture", words), out=folder)
    elif not RunFolder.open(folder).finished:
        resume(folder)
    return folder / "asset.glb"


def reads(glb: Path, color: str, finish: str) -> bool:
    """Whether the judge sees the colour on it."""
    with tempfile.TemporaryDirectory() as place:
        near = Path(place) / "near.glb"  # the judge's cameras look at the unit ball
        exporters.save(fit_ball(load(glb)), near)
        return bool(judge_mesh(near, KIND, color, finish)["color"])


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/textures"))
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    say(head("prompt", "mesh", "colour"))
    hits = []
    for index, color in enumerate(list(COLORS)[: asked.limit]):
        finish = FINISHES[index % len(FINISHES)]
        words = [color, KIND] if finish == "plain" else [finish, color, KIND]
        prompt = f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
        mesh = mug(asked.out, index % 2 == 1)
        glb = painted(asked.out / prompt.replace(" ", "-"), mesh, prompt, asked.settings)
        hits.append(reads(glb, color, finish))
        say(row(prompt, mesh.stem, "yes" if hits[-1] else "no"))
    complain(f"{sum(hits)} of {len(hits)}", "colours read")


if __name__ == "__main__":
    main()
