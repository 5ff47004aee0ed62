"""Persons and garments of a few pixels, for the tests of try-on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from threed.learning.data import write_examples
from threed.systems.tryon.wear import Wear

SIDE = 32  # pixels


def fitting(count: int = 1) -> Wear:
    """Random persons, garments and poses, with the mask in their middle."""
    g = torch.Generator().manual_seed(7)
    person, garment, pose, dense = torch.rand(4, count, 3, SIDE, SIDE, generator=g)
    mask = torch.zeros(count, 1, SIDE, SIDE)
    mask[..., 8:24, 8:24] = 1
    return Wear(person, garment, mask, "upper", "a hat", pose, dense)


def fitting_folder(place: Path) -> Path:
    """Write four examples: a bar on a ground, which is the garment, and where it is worn."""
    place.mkdir(parents=True)
    rows = []
    for i in range(4):
        files = {role: f"{i}-{role}.png" for role in
                 ("image", "garment", "agnostic", "mask", "pose", "dense", "warped")}  # fmt: skip
        box, colour = (4 * i + 4, 8, 4 * i + 12, 24), (60 * i, 200, 30)
        for role, ground, inside in (
            ("image", (90, 90, 160), colour), ("garment", "white", colour),
            ("agnostic", (90, 90, 160), (128,) * 3), ("mask", "black", (255,) * 3),
            ("pose", "black", (255, 0, 0)), ("dense", "black", (0, 90, 90)),
            ("warped", "white", colour),
        ):  # fmt: skip
            picture = Image.new("RGB", (SIDE, SIDE), ground)
            picture.paste(inside, box if role != "garment" else (12, 8, 20, 24))
            picture.save(place / files[role])
        rows.append({**files, "category": "upper", "garment_text": "a bar", "text": "a bar"})
    write_examples(place, rows)
    return place


def stirred(net: Any, size: float = 0.1) -> Any:
    """The net with something in its zeros, too, always the same."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in net.parameters():
            value += size * torch.randn(value.shape, generator=generator)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean += torch.randn(module.num_features, generator=generator) / 4
    return net.eval().requires_grad_(False)


def files_of(place: Path) -> dict[str, Path]:
    """The options of a request for the first example of a folder."""
    return {"person": place / "0-image.png"} | {
        role: place / f"0-{role}.png" for role in ("garment", "mask", "pose", "dense")
    }
