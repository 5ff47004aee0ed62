"""Toy persons' assets in other garments: what eight views show. For benchmarks/try_on.py."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import exporters
from benchmarks.edit3d import solid as volume
from benchmarks.try_on_cases import Eye, another, away, dyes, plainly, psnr, read_dye
from exporters import load
from renderers.raster import render_mesh
from tests.toys import solid
from threed.core.cameras import Cameras, orbit
from threed.core.mesh import Mesh
from threed.diffusion.images import grid, save_image
from threed.runs.generate import edit3d
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import SystemSettings
from threed.toybox.world.draw import Light
from threed.toybox.world.dressed import Dressed, category_of, random_dressed, said, to_paint
from threed.toybox.world.garments import WHITE, Garment, laid_flat
from threed.toybox.world.poses import POSES, random_pose
from threed.toybox.world.scenes import Scene, draw_scene

SEED = 5  # of persons and garments
VIEWS = 8


@dataclass(frozen=True)
class Asked:
    """Which system dresses an asset, and where everything lies."""

    system: str
    weights: Path
    backbone: Path
    out: Path


@dataclass(frozen=True)
class Worn:
    """A person whose asset is dressed, and the garment."""

    number: int
    person: Dressed
    garment: Garment

    def seen(self, camera: Cameras, garment: Garment | None = None) -> Scene:
        """The person before a camera, in even light, perhaps in a garment."""
        person = self.person if garment is None else self.person.wearing(garment)
        return Scene(person, Light(ambient=1.0), WHITE, camera)


def asset_case(number: int) -> Worn:
    """The person of a number, in plain clothes, and a garment without an emblem."""
    rng = np.random.default_rng([SEED, number])
    category = ("upper", "lower", "dress")[number % 3]
    person = changed(random_dressed(rng, category, hat=0.0), near=False)
    plain = [changed(one, finish="plain", mark=None) for one in person.worn()]
    person = changed(person, pose=random_pose(rng, tuple(POSES)), upper=plain[0],
                     lower=plain[1] if len(plain) > 1 else None)  # fmt: skip
    return Worn(number, person, changed(another(rng, person.garment(category)), mark=None))


def asset(asked: Asked, case: Worn, eye: Eye = plainly) -> dict[str, float]:
    """Dress an asset; what eight views of it show, and what became of the rest.

    colour, pattern: whether the world's drawings of the garment that are nearest inside the masks
    have its own. They pass the eye first, as what the asset learned from came out of a VAE.
    rest: the psnr of the person outside of the masks. iou: of volumes.
    """
    before, after = dress(asked, case)
    cameras = orbit(VIEWS, 64)
    pictures = [render_mesh(mesh, cameras, antialias_factor=3).rgb.movedim(-1, 1)
                for mesh in (before, after)]  # fmt: skip
    views = [draw_scene(case.seen(cameras[i : i + 1])) for i in range(VIEWS)]
    worn = case.person.garment(category_of(case.garment))
    masks = torch.stack([torch.from_numpy(to_paint(view, worn)) for view in views])[:, None]
    rest = torch.stack([torch.from_numpy(view.picture.alpha > 0.5) for view in views])[:, None]

    def far(garment: Garment) -> float:
        return away(pictures[1] * masks, eye(drawn(case, cameras, garment)) * masks)

    read = read_dye(case.garment, [(one, far(one)) for one in dyes(case.garment)])
    found = dict(zip(("colour", "pattern"), map(float, read)))
    kept = [psnr(*pair, (one & ~mask)[0]) for *pair, one, mask in zip(*pictures, rest, masks)]
    here, there = volume(before), volume(after)
    save_image(grid(torch.cat([pictures[0][::2], drawn(case, cameras, case.garment)[::2],
                               pictures[1][::2]]), VIEWS // 2),
               asked.out / f"{asked.system} {case.number}.png")  # fmt: skip
    return found | {"both": found["colour"] * found["pattern"], "rest": float(np.mean(kept)),
                    "iou": float((here & there).sum() / (here | there).sum())}  # fmt: skip


def drawn(case: Worn, cameras: Cameras, garment: Garment) -> Tensor:
    """[N, 3, 64, 64] the person in a garment, as the world draws it."""
    views = [draw_scene(case.seen(cameras[i : i + 1], garment)) for i in range(len(cameras))]
    pictures = torch.from_numpy(np.stack([view.picture.rgb for view in views]))
    return pictures.movedim(-1, 1)


def dress(asked: Asked, case: Worn) -> tuple[Mesh, Mesh]:
    """The asset of a person, before and after; made if it is not there yet."""
    home, own = asked.out / str(case.number), asked.out / f"{asked.system}-{case.number}"
    garment, file = home / "garment.png", home / "person.glb"
    if not file.is_file():
        home.mkdir(parents=True, exist_ok=True)
        flat = draw_scene(laid_flat(case.garment)).picture.rgb
        save_image(torch.from_numpy(flat).permute(2, 0, 1), garment)
        exporters.save(solid(case.person.things()[0].rows), file)
    if not (own / "asset.glb").is_file():
        inputs = {"garment": (str(garment),), "category": (category_of(case.garment),)}
        if asked.system == "bootcomp":  # it knows by the name where a garment is worn
            inputs = {"garment": (f"{case.garment.kind}:{garment}",)}
        inputs["weights"] = (str(asked.weights),)
        run = load_run("toybox-edit", ["turntable_frames=2", "turntable_size=16"])
        told = SystemSettings(name=asked.system, inputs=inputs)
        run = replace(run, backbone=str(asked.backbone), system=told)
        edit3d(file, said(case.garment), run, out=own)
    return load(file), load(own / "asset.glb")
