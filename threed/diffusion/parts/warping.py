"""A flat garment bent onto a person: LaDI-VTON's first stage (arXiv:2305.13501, section 3.3).

A net that compares both moves 5 × 5 control points of a thin-plate spline, and a refinement draws
what came out anew. Pictures are in [-1, 1] here, as both nets were taught; names are as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.files import read_json
from threed.diffusion.models.convert import read_state
from threed.diffusion.parts.image_adapter import read_parts
from threed.diffusion.weights import NET, filled

POINTS, REACH = 5, 0.9  # control points a side, and how far out they lie
CLOSE, STRAIGHT = 0.08, 0.02  # how uneven, and how bent, rows of points may be for nothing
UNEVEN, LOOKS = 0.01, 0.25  # how much the lattice counts beside pixels, and how much looks do
PARTS = ("tps", "refinement")


@dataclass(frozen=True)
class Sizes:
    """Of the nets; by default as published."""

    pose: int = 18  # channels that tell the pose, beside the person's three
    height: int = 256  # pixels at which the garment is compared with the person
    width: int = 192
    base: int = 64  # channels at the first resolution
    halvings: int = 4  # down to the places that are compared


class Features(nn.Module):
    """Convolutions down to the places that are compared."""

    def __init__(self, inputs: int, sizes: Sizes) -> None:
        super().__init__()
        widths = [inputs, *(sizes.base * 2**i for i in range(sizes.halvings))]
        layers: list[nn.Module] = []
        for one, two in pairwise(widths):
            layers += [nn.Conv2d(one, two, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(two)]
        for _ in range(2):
            layers += [nn.Conv2d(two, two, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(two)]
        self.model = nn.Sequential(*layers[:-1])
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)

    def forward(self, picture: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, C, h, w], each place of length 1."""
        seen: Tensor = self.model(picture)
        return seen / (seen.square().sum(1, keepdim=True) + 1e-6).sqrt()


class Regression(nn.Module):
    """How alike the places are -> control points, which begin where those of no change lie."""

    def __init__(self, rows: int, columns: int, base: int) -> None:
        super().__init__()
        widths, layers = (rows * columns, 8 * base, 4 * base, 2 * base, base), list[nn.Module]()
        for number, (one, two) in enumerate(pairwise(widths)):
            conv = nn.Conv2d(one, two, *((4, 2, 1) if number < 2 else (3, 1, 1)))
            layers += [conv, nn.BatchNorm2d(two), nn.ReLU()]
        self.conv = nn.Sequential(*layers)
        self.linear = nn.Linear(base * (rows // 4) * (columns // 4), 2 * POINTS**2)
        nn.init.zeros_(self.linear.weight)
        self.linear.bias.data.copy_(lattice().flatten().atanh())

    def forward(self, alike: Tensor) -> Tensor:
        """[B, rows * columns, rows, columns] -> [B, 25, 2] (x, y) in -1..1."""
        points: Tensor = self.linear(self.conv(alike).flatten(1)).tanh().unflatten(1, (-1, 2))
        return points


class Tps(nn.Module):
    """Where a garment's control points go, and what grid that makes."""

    spline: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.size = sizes.height, sizes.width
        rows, columns = (side // 2**sizes.halvings for side in self.size)
        self.extractionA = Features(3, sizes)
        self.extractionB = Features(3 + sizes.pose, sizes)
        self.loc_net = nn.ModuleDict({"regression": Regression(rows, columns, sizes.base)})
        self.register_buffer("spline", thin_plates(*self.size), persistent=False)

    def forward(self, garment: Tensor, person: Tensor) -> Tensor:
        """[B, 3, H, W] and [B, 3 + pose, H, W], resized as needed -> control points [B, 25, 2]."""
        one, two = (resized(x, self.size) for x in (garment, person))
        a, b = self.extractionA(one), self.extractionB(two)
        alike = torch.einsum("bcij,bchw->bjihw", a, b).flatten(1, 2)  # columns first, as published
        points: Tensor = self.loc_net["regression"](alike)
        return points

    def grid(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, H, W, 2] where in the garment each place of a picture of that size looks."""
        places = (self.spline @ points).unflatten(1, self.size)
        return resized(places.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, H, W] at another (height, width), as the published code resizes."""
    # a CPU has no gradient of it in half precision
    return F.interpolate(x.float(), size, mode="bilinear", antialias=True).to(x.dtype)


def lattice() -> Tensor:
    """[25, 2] (x, y) control points of no change, row by row."""
    line = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64, device="cpu")
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def thin_plates(height: int, width: int) -> Tensor:
    """[H * W, 25] how much each control point says of where each pixel looks.

    The thin-plate spline of Bookstein (1989) through the lattice, solved once.
    """
    points = lattice()
    ends = (torch.linspace(-1, 1, n, dtype=torch.float64, device="cpu") for n in (height, width))
    y, x = torch.meshgrid(*ends, indexing="ij")
    pixels = torch.stack([x, y], -1).flatten(0, 1)

    def system(places: Tensor) -> Tensor:
        square = (places[:, None] - points).square().sum(-1)
        bend = 0.5 * torch.special.xlogy(square, square)
        return torch.cat([bend, places.new_ones(len(places), 1), places], 1)

    affine = F.pad(system(points)[:, len(points) :].T, (0, 3))
    solved: Tensor = torch.linalg.inv(torch.cat([system(points), affine]))
    return (system(pixels) @ solved[:, : len(points)]).float()


def unevenness(points: Tensor) -> Tensor:
    """[] how unevenly control points [B, 25, 2] lie in their rows and columns, and how bent.

    The published constraint: differences of neighbours' squared distances, and what neighbours
    span, summed over the lattice. What is little of either costs nothing to lessen. The published
    code looks at the first item for the second, here each counts.
    """
    placed, total = points.unflatten(1, (POINTS, POINTS)), points.new_zeros(())
    for axis in (1, 2):
        steps = placed.diff(dim=axis)
        uneven = steps.square().diff(dim=axis).abs()
        total = total + uneven.clamp(min=CLOSE).flatten(0, 2).mean(0).sum()
        there, back = (steps.narrow(axis, start, POINTS - 2).unbind(-1) for start in (0, 1))
        spanned = (there[0] * back[1] - there[1] * back[0]).abs()
        total = total + spanned.sum((1, 2)).clamp(min=STRAIGHT).mean()
    return total


class Twice(nn.Sequential):
    """Two convolutions, each normalised."""

    def __init__(self, inputs: int, outputs: int, between: int | None = None) -> None:
        layers: list[nn.Module] = []
        for one, two in pairwise((inputs, between or outputs, outputs)):
            layers += [nn.Conv2d(one, two, 3, padding=1, bias=False), nn.BatchNorm2d(two),
                       nn.ReLU()]  # fmt: skip
        super().__init__()
        self.double_conv = nn.Sequential(*layers)


class Refinement(nn.Module):
    """A U-Net that draws the bent garment anew, as it is worn."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        w = sizes.base
        self.inc = Twice(6 + sizes.pose, w)
        self.down1, self.down2, self.down3, self.down4 = (
            nn.ModuleDict({"maxpool_conv": nn.Sequential(nn.MaxPool2d(2), Twice(one, two))})
            for one, two in pairwise((w, 2 * w, 4 * w, 8 * w, 8 * w))
        )
        self.up1, self.up2, self.up3, self.up4 = (
            nn.ModuleDict({"conv": Twice(2 * one, two, one)})
            for one, two in pairwise((8 * w, 4 * w, 2 * w, w, w))
        )
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(w, 3, 1)})

    def forward(self, person: Tensor, bent: Tensor) -> Tensor:
        """[B, 3 + pose, H, W] and the bent garment [B, 3, H, W] -> [B, 3, H, W] unbounded."""
        levels = [self.inc(torch.cat([person, bent], 1))]
        for down in (self.down1, self.down2, self.down3, self.down4):
            levels.append(down["maxpool_conv"](levels[-1]))
        h = levels.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            skip = levels.pop()
            twice = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
            down, right = (a - b for a, b in zip(skip.shape[-2:], twice.shape[-2:]))
            twice = F.pad(twice, (right // 2, right - right // 2, down // 2, down - down // 2))
            h = up["conv"](torch.cat([skip, twice], 1))
        made: Tensor = self.outc["conv"](h)
        return made


class Warper(nn.Module):
    """Both nets, and what they make of a garment together."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, self.tps, self.refinement = sizes, Tps(sizes), Refinement(sizes)

    def bent(self, garment: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
        """The garment [B, 3, H, W] as the spline bends it, and the control points [B, 25, 2]."""
        points = self.tps(garment, person)
        grid = self.tps.grid(points, (garment.shape[-2], garment.shape[-1]))
        return F.grid_sample(garment, grid, padding_mode="border", align_corners=False), points

    def forward(self, garment: Tensor, agnostic: Tensor, pose: Tensor) -> Tensor:
        """[B, 3, H, W], [B, 3, H, W], [B, pose, H, W] in [0, 1] -> the worn garment, the same."""
        person = beside(agnostic, pose)
        made: Tensor = self.refinement(person, self.bent(2 * garment - 1, person)[0])
        return made.clamp(-1, 1) / 2 + 0.5


Looks = Callable[[Tensor, Tensor], Tensor]
"""How unlike two batches of pictures [B, 3, H, W] in [-1, 1] look, []."""


def bending_loss(warper: Warper, garment: Tensor, person: Tensor, worn: Tensor) -> Tensor:
    """[] of the spline alone: the garment's pixels as they are worn, and an even lattice.

    All are [B, ., H, W] as the nets take them; they are compared at the size that the spline sees.
    """
    small, real = (resized(x, warper.tps.size) for x in (garment, worn))
    bent, points = warper.bent(small, person)
    return F.l1_loss(bent, real) + UNEVEN * unevenness(points)


def refining_loss(
    warper: Warper, garment: Tensor, person: Tensor, worn: Tensor, looks: Looks | None
) -> Tensor:
    """[] of the refinement alone, by pixels and, if there is a measure of them, by looks."""
    with torch.no_grad():
        bent = warper.bent(garment, person)[0]
    made = warper.refinement(person, bent)
    loss = F.l1_loss(made, worn)
    return loss if looks is None else loss + LOOKS * looks(made, worn)


def beside(agnostic: Tensor, pose: Tensor) -> Tensor:
    """[B, 3 + pose, H, W] a person without the garment, in [0, 1], and its pose, for both nets."""
    return torch.cat([2 * agnostic - 1, pose], 1)


def load_warper(path: Path) -> Warper:
    """Load both nets: of a training's folder, or of the published warping_*.pth.

    Nothing in the file is executed. InputError for damage, or another layout.
    """
    if path.is_dir():
        sizes = Sizes(**_numbers(path / "config.json"))
        state = read_state(path / NET)
        return _filled(Warper(sizes), state, str(path / NET))
    named = read_parts(path, PARTS, "warping module")
    state = {name: value for name, value in named.items() if ".gridGen." not in name}
    first = [state.get(f"{name}.weight", torch.empty(0)) for name in
             ("tps.extractionB.model.0", "refinement.inc.double_conv.0")]  # fmt: skip
    if any(value.ndim != 4 for value in first):
        raise InputError(f"{path} holds no warping module: the nets in it have other layers")
    sizes = Sizes(pose=first[0].shape[1] - 3, base=len(first[1]))
    return _filled(Warper(sizes), state, str(path))


def _filled(net: Warper, state: Mapping[str, Tensor], source: str) -> Warper:
    done: Warper = filled(net, state, source)
    return done


def _numbers(path: Path) -> dict[str, int]:
    """The sizes that a config says. InputError for anything else."""
    config = read_json(path)
    if config.keys() != asdict(Sizes()).keys() or not all(
        isinstance(value, int) and 0 < value <= 4096 for value in config.values()
    ):
        needed = ", ".join(asdict(Sizes()))
        raise InputError(f"{path} describes no warping module: it needs {needed}")
    return config
