"""Toy persons in other garments, with their truth, and what is read of pictures of them.

What a garment is like is read by the world itself, with no net: the same person in the same pose,
light and place is drawn in the garment in every colour and pattern, with every other emblem or
length, and in every other pose. What is painted is read as the nearest of these inside the mask.
A case's `eye` is what drawings pass before they are compared: a VAE, where what is painted did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from threed.diffusion.bodies import is_of
from threed.systems.tryon.wear import Wear
from threed.toybox.world.chance import Rng
from threed.toybox.world.conditions import keypoints
from threed.toybox.world.dressed import (
    Dressed,
    category_of,
    correspondence,
    dense,
    random_dressed,
    random_fitting,
    random_wear,
    regions,
    said,
    to_paint,
)
from threed.toybox.world.emblems import EMBLEMS
from threed.toybox.world.garments import HEMS, SLEEVES, Garment, laid_flat
from threed.toybox.world.poses import ACROSS, POSES
from threed.toybox.world.scenes import Scene, View, draw_scene, random_camera, staged
from threed.toybox.world.toys import COLORS, FINISHES

SEED = 4  # of persons and garments that nothing was trained on
ABOVE = 8  # pixels around hair and hat, in which a hat is painted
SAME = 0.05  # of squared differences, up to which nobody could tell two pictures apart
WINDOW = 7  # pixels a side, over which structures are compared


Eye = Callable[[Tensor], Tensor]  # [N, 3, H, W] pictures -> as they are seen


def plainly(pictures: Tensor) -> Tensor:
    """[N, 3, H, W] as they are."""
    return pictures


class Unrepainted(Wear):
    """What is worn, whose pictures are left as they are made: outside the mask, too."""

    def repainted(self, made: Tensor) -> Tensor:
        """[B, 3, H, W] what was made."""
        return made


@dataclass(frozen=True)
class Case:
    """A person, and garments that come in the place of what it wears."""

    number: int
    scene: Scene  # of the person as it is
    garments: tuple[Garment, ...]
    eye: Eye = plainly

    @cached_property
    def view(self) -> View:
        """What is seen of the person as it is."""
        return draw_scene(self.scene)

    @cached_property
    def person(self) -> Tensor:
        """[3, H, W] the person as it is."""
        return _picture(self.view.picture.rgb)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """[H, W] what is painted anew: as the person and the garments' categories say."""
        parts, person = [], self.scene.subject
        assert isinstance(person, Dressed)
        for garment in self.garments:
            category = category_of(garment)
            if category == "hat":
                known = regions(self.view)
                near = ndimage.maximum_filter(is_of(known, "hair", "hat"), 2 * ABOVE + 1)
                parts.append(near & ~is_of(known, "face"))
            else:
                parts.append(to_paint(self.view, person.garment(category)))
        return np.any(parts, 0)

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """[H, W] face and hands outside the mask."""
        return is_of(regions(self.view), "face", "hands") & ~self.mask

    @cached_property
    def truth(self) -> Tensor:
        """[3, H, W] the person in the garments."""
        return self.dressed(*self.garments)

    @cached_property
    def flat(self) -> list[Tensor]:
        """[3, H, W] each garment, laid flat."""
        return [_picture(draw_scene(laid_flat(garment)).picture.rgb) for garment in self.garments]

    def dressed(self, *garments: Garment, pose: str | None = None) -> Tensor:
        """[3, H, W] the person in garments, and perhaps in another pose."""
        return _picture(draw_scene(self.worn(*garments, pose=pose)).picture.rgb)

    def worn(self, *garments: Garment, pose: str | None = None) -> Scene:
        """The person's scene with these garments on, and perhaps in another pose."""
        person: Any = self.scene.subject
        for garment in garments:
            person = person.wearing(garment)
        if pose is not None:
            person = replace(person, pose=replace(person.pose, name=pose))
        return replace(self.scene, subject=person)

    @cached_property
    def goal(self) -> Tensor:
        """[3, N] the pixels of the mask in the truth, as the eye sees it."""
        return self.seen([self.truth])[0]

    @cached_property
    def dyed(self) -> list[list[tuple[Garment, Tensor]]]:
        """For each garment, it in every colour and pattern, and the pixels of the mask [3, N]."""
        found = []
        for garment in self.garments:
            every, beside = dyes(garment), self.beside(garment)
            seen = self.seen([self.dressed(*beside, one) for one in every])
            found.append([*zip(every, seen)])
        return found

    @cached_property
    def others(self) -> dict[str, list[list[Tensor]]]:
        """What else could be read wrong: the pixels of the mask [3, N] for each garment, by what.

        Those that differ from the truth nowhere are left out.
        """
        found: dict[str, list[list[Tensor]]] = {}
        for garment in self.garments:
            for what, each in variants(garment).items():
                drawn = self._apart([self.dressed(*self.beside(garment), one) for one in each])
                found.setdefault(what, []).append(drawn)
        person = self.scene.subject
        assert isinstance(person, Dressed)
        poses = [name for name in (*POSES, *ACROSS) if name != person.pose.name]
        found["pose"] = [self._apart([self.dressed(*self.garments, pose=name) for name in poses])]
        return found

    def beside(self, garment: Garment) -> list[Garment]:
        """The other garments."""
        return [one for one in self.garments if one is not garment]

    def inside(self, picture: Tensor) -> Tensor:
        """[3, N] the pixels of the mask of a picture [3, H, W]."""
        return picture[:, torch.from_numpy(self.mask)]

    def seen(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        """[3, N] the pixels of the mask of pictures [3, H, W], as the eye sees them."""
        return [self.inside(one) for one in self.eye(torch.stack([*pictures]))]

    def _apart(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        goal = self.inside(self.truth)
        apart = [one for one in pictures if away(self.inside(one), goal) > SAME]
        return self.seen(apart) if apart else []

    def read(self, made: Tensor) -> dict[str, float]:
        """The shares of garments of which a picture [3, H, W] is read right, by what is read.

        What is right is as near as anything else.
        """
        pixels = self.inside(made)
        near, found = away(pixels, self.goal), dict[str, float]()
        for what, others in self.others.items():
            right = [all(near <= away(pixels, other) for other in each) for each in others if each]
            found |= {what: float(np.mean(right))} if right else {}
        hits = [read_dye(garment, [(one, away(pixels, other)) for one, other in dyed])
                for garment, dyed in zip(self.garments, self.dyed)]  # fmt: skip
        return found | dict(zip(("colour", "pattern"), np.mean(hits, 0).tolist()))


def away(one: Tensor, two: Tensor) -> float:
    """The squared differences of pixels, added up."""
    return float((one - two).square().sum())


def dyes(garment: Garment) -> list[Garment]:
    """The garment in every colour and pattern, its own among them."""
    return [replace(garment, color=color, finish=finish) for color in COLORS for finish in FINISHES]


def read_dye(garment: Garment, found: Sequence[tuple[Garment, float]]) -> tuple[bool, bool]:
    """Whether what is nearest has a garment's colour, and whether its pattern."""
    near = min(far for _, far in found)
    nearest = [one for one, far in found if far == near]
    return (any(one.color == garment.color for one in nearest),
            any(one.finish == garment.finish for one in nearest))  # fmt: skip


def variants(garment: Garment) -> dict[str, list[Garment]]:
    """The garment as it is not, by what is read: its emblem and its length, if it has any."""
    found = {}
    if (mark := garment.mark) is not None:
        names = [name for name in EMBLEMS if name != mark.name]
        found["emblem"] = [replace(garment, mark=None)] + [
            replace(garment, mark=replace(mark, name=name)) for name in names
        ]
    if garment.kind in SLEEVES:
        own, lengths = garment.arms(), SLEEVES[garment.kind]
        found["length"] = [replace(garment, sleeve=one) for one in lengths if one != own]
    elif garment.kind in HEMS:
        own, lengths = garment.end(), HEMS[garment.kind]
        found["length"] = [replace(garment, hem=one) for one in lengths if one != own]
    return found


@cache
def fitting_case(number: int, eye: Eye = plainly) -> Case:
    """The person of a number, and a garment of the category of one that it wears."""
    made = random_fitting(np.random.default_rng([SEED, number]))
    return Case(number, made.scene, (made.other,), eye)


@cache
def outfit_case(number: int, count: int, eye: Eye = plainly) -> Case:
    """The person of a number, and an upper garment, a lower one, and a hat: as many as count."""
    rng = np.random.default_rng([SEED, number, 2])
    person = replace(random_dressed(rng, "upper", hat=1.0), near=False)
    scene = staged(rng, person, random_camera(rng, (-18, 18), (-4, 10), (1.03, 1.1)))
    new = [another(rng, person.garment(name)) for name in ("upper", "lower", "hat")]
    return Case(number, scene, tuple(new[:count]), eye)


def another(rng: Rng, garment: Garment) -> Garment:
    """A garment of one's category, in another colour."""
    while (other := random_wear(rng, category_of(garment))).color == garment.color:
        pass
    return other


def wear_of(cases: Sequence[Case]) -> Unrepainted:
    """What is told of cases with a garment each, as systems take it."""
    rows = {
        "person": [case.person for case in cases],
        "garment": [case.flat[0] for case in cases],
        "mask": [torch.from_numpy(case.mask)[None].float() for case in cases],
        "pose": [_picture(keypoints(case.view).clip(0, 1)) for case in cases],
        "dense": [_picture(dense(case.view)) for case in cases],
    }
    told: dict[str, Any] = {name: torch.stack(each) for name, each in rows.items()}
    return Unrepainted(**told, category="", text="")


def measured(case: Case, made: Tensor) -> dict[str, float]:
    """What becomes of a person: a picture [3, H, W] as it was made, before it is repainted.

    psnr and ssim inside the mask, against the truth; what is read right; kept: the psnr of face and
    hands outside of the mask, as they are before they are repainted.
    """
    mask, kept = torch.from_numpy(case.mask), torch.from_numpy(case.kept)
    painted = torch.where(mask, made, case.person)
    found = {"psnr": psnr(painted, case.truth, mask),
             "ssim": float(ssim(painted, case.truth)[mask].mean()),
             "outside": float(((painted - case.person) * ~mask).abs().max())}  # fmt: skip
    found |= {"kept": psnr(made, case.person, kept)} if bool(kept.any()) else {}
    read = case.read(painted)
    both = {"both": float(read["colour"] == read["pattern"] == 1)}
    return found | read | both


def psnr(one: Tensor, two: Tensor, mask: Tensor) -> float:
    """In decibels, of pictures [3, H, W] in [0, 1] where a mask [H, W] is; at most 60."""
    error = float((one - two).square()[:, mask].mean())
    return -10 * float(np.log10(max(error, 1e-6)))


def ssim(one: Tensor, two: Tensor) -> Tensor:
    """[H, W] how alike pictures [3, H, W] are around each pixel (Wang et al. 2004); 1: the same."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, WINDOW, 1, WINDOW // 2, count_include_pad=False)

    a, b = mean(one), mean(two)
    spread = mean(one * one) - a * a, mean(two * two) - b * b
    both = mean(one * two) - a * b
    light = (2 * a * b + 0.01**2) / (a * a + b * b + 0.01**2)
    shape = (2 * both + 0.03**2) / (spread[0] + spread[1] + 0.03**2)
    return (light * shape).mean(0)


def spots(case: Case) -> Tensor:
    """[H, W, 2] which place (row, column) of the flat garment each pixel of the truth shows.

    In pixels; NaN where that is none.
    """
    (garment,) = case.garments
    worn, flat = draw_scene(case.worn(garment)), draw_scene(laid_flat(garment))
    return torch.from_numpy(correspondence(worn, garment, flat)).flip(-1)


def said_of(case: Case) -> str:
    """What a model is told that sees no garment: "a person wearing a striped red shirt"."""
    return f"a person wearing {' and '.join(said(garment) for garment in case.garments)}"


def _picture(colors: NDArray[Any]) -> Tensor:
    """[3, H, W] of colours [H, W, 3] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(colors, np.float32)).permute(2, 0, 1)
