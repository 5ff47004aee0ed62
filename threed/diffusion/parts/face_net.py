"""A small face encoder: a net that finds faces, and one that says of each whose it is, and where.

Toybox's own (`threed toybox train faces`): what insightface is to photos. Both see 64×64 pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from threed.diffusion.faces import Face
from threed.diffusion.files import read_json
from threed.diffusion.models.convert import read_safetensors
from threed.diffusion.weights import filled

FOLDER = "faces"  # of the nets, beside a backbone
SIZE, CELLS, CROP = 64, 8, 48  # pixels a side, cells a side in which faces are looked for, a crop's
POINTS, NUMBERS = 5, 64  # of a face
TRUTH = 40  # numbers that toybox's world has of one
REACH = SIZE / 4  # the unit in which points are told from their cell
AROUND = 1.3  # a crop is so many times as high as the face
BOTH = 0.3  # of their union that two boxes share which are one face
LIFT, WIDE, HIGH = 0.28, 1.25, 1.5  # of a face's box, in distances from the eyes to the mouth


def boxes_of(points: Tensor) -> Tensor:
    """[..., 4] left, top, right, bottom of faces with these points [..., 5, 2], eyes first."""
    eyes, mouth = points[..., :2, :].mean(-2), points[..., 3:, :].mean(-2)
    long = (mouth - eyes).norm(dim=-1, keepdim=True)
    middle = (eyes + mouth) / 2 + LIFT * (eyes - mouth)
    half = long * long.new_tensor([WIDE, HIGH])
    return torch.cat([middle - half, middle + half], -1)


def crops(images: Tensor, boxes: Tensor) -> Tensor:
    """[B, 3, CROP, CROP] what is in the squares around boxes [B, 4], in pixels of [B, 3, S, S]."""
    middle, half = squares(boxes)
    size = images.shape[-1]
    turn = boxes.new_zeros(len(boxes), 2, 3)
    turn[:, [0, 1], [0, 1]] = 2 * half / size
    turn[:, :, 2] = 2 * middle / size - 1
    places = F.affine_grid(turn, [len(boxes), 3, CROP, CROP], align_corners=False)
    return F.grid_sample(images, places.to(images), padding_mode="border", align_corners=False)


def squares(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The middles [..., 2] and half the sides [..., 1] of the squares around boxes [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, (high - low)[..., 1:] * (AROUND / 2)


class FaceNet(nn.Module):
    """What finds faces, and what knows them."""

    def __init__(self, width: int = 24, numbers: int = NUMBERS) -> None:
        super().__init__()
        self.width, self.numbers, w = width, numbers, width
        self.finder = nn.Sequential(
            *_layer(3, w, 5, 2), *_layer(w, 2 * w, 3, 2), *_layer(2 * w, 4 * w, 3, 2),
            *_layer(4 * w, 4 * w, 3), *_layer(4 * w, 4 * w, 3, spread=2),
            *_layer(4 * w, 4 * w, 3), nn.Conv2d(4 * w, 1 + 2 * POINTS, 1),
        )  # fmt: skip
        self.knower = nn.Sequential(
            *_layer(3, w, 5, 2), *_layer(w, 2 * w, 3, 2), *_layer(2 * w, 2 * w, 3),
            *_layer(2 * w, 4 * w, 3, 2), *_layer(4 * w, 4 * w, 3), *_layer(4 * w, 4 * w, 3, 2),
            nn.Flatten(), nn.Linear(9 * 4 * w, 8 * w), nn.SiLU(),
            nn.Linear(8 * w, 2 * POINTS + numbers),
        )  # fmt: skip
        self.truth = nn.Linear(numbers, TRUTH)  # for its training

    def find(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, CELLS, CELLS] and points [B, CELLS, CELLS, 5, 2] in pixels.

        Of pictures [B, 3, SIZE, SIZE] in [0, 1]; a score above 0 is a face with its middle there.
        """
        told = self.finder(images * 2 - 1).float().permute(0, 2, 3, 1)
        far = told[..., 1:].unflatten(-1, (POINTS, 2)) * REACH
        return told[..., 0], far + centers().to(far)[:, :, None]

    def know(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Points [B, 5, 2] in pixels, and embeddings [B, numbers] with numbers around 1.

        Of the faces in boxes [B, 4] of pictures [B, 3, SIZE, SIZE] in [0, 1].
        """
        told = self.knower(crops(images, boxes) * 2 - 1).float()
        middle, half = squares(boxes)
        points = told[:, : 2 * POINTS].unflatten(1, (POINTS, 2)) * half[:, None] + middle[:, None]
        numbers = F.normalize(told[:, 2 * POINTS :], dim=1) * self.numbers**0.5
        return points, numbers

    def save_pretrained(self, folder: str | Path, **_: object) -> None:
        """Write config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"width": self.width, "numbers": self.numbers}
        (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
        save_file(self.state_dict(), folder / "model.safetensors")


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1, *,
           spread: int = 1) -> tuple[nn.Module, ...]:  # fmt: skip
    conv = nn.Conv2d(inputs, outputs, kernel, stride, spread * (kernel // 2), spread)
    return conv, nn.GroupNorm(8, outputs), nn.SiLU()


def centers() -> Tensor:
    """[CELLS, CELLS, 2] the middles of the cells, x and y in pixels."""
    middles = (torch.arange(CELLS) + 0.5) * (SIZE / CELLS)
    return torch.stack(torch.meshgrid(middles, middles, indexing="xy"), -1)


def load_faces(folder: Path) -> FaceNet:
    """Load trained nets, in float32. InputError if they are damaged."""
    config, file = read_json(folder / "config.json"), folder / "model.safetensors"
    net: FaceNet = filled(FaceNet(**config), read_safetensors(file), str(file))
    return net.eval().requires_grad_(False)


class SmallFaces:
    """A `FaceEncoder` (threed/diffusion/faces.py) of these nets, on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.net = load_faces(folder)

    @torch.no_grad()
    def faces(self, picture: NDArray[np.uint8]) -> list[Face]:
        """All faces of a picture [H, W, 3], sRGB, the surest first; embeddings have NUMBERS."""
        image, scale, corner = fitted(picture)
        scores, points = (told[0] for told in self.net.find(image))
        peaks = F.max_pool2d(scores[None], 3, 1, 1)[0]
        cells = ((scores > 0) & (scores == peaks)).nonzero()
        order = scores[cells[:, 0], cells[:, 1]].argsort(descending=True)
        found: list[Face] = []
        boxes: list[Tensor] = []
        for row, column in cells[order].tolist():
            box = boxes_of(points[row, column])
            if all(_shared(box, other) < BOTH for other in boxes):
                boxes.append(box)
                fine, numbers = (told[0] for told in self.net.know(image, box[None]))
                places = [((one - corner) / scale).numpy()
                          for one in (boxes_of(fine).view(2, 2), fine)]  # fmt: skip
                size = picture.shape[1], picture.shape[0]
                found.append(Face(size, places[0].ravel(), places[1], numbers.numpy()))
        return found


def fitted(picture: NDArray[np.uint8]) -> tuple[Tensor, float, Tensor]:
    """[1, 3, SIZE, SIZE] in [0, 1] a picture [H, W, 3], whole, with its borders drawn out.

    And its scale, and the place [2] of its left upper corner.
    """
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    height, width = picture.shape[:2]
    scale = SIZE / max(height, width)
    small = max(round(scale * height), 1), max(round(scale * width), 1)
    if small != (height, width):
        image = F.interpolate(image, small, mode="bilinear", antialias=True).clamp(0, 1)
    up, left = ((SIZE - side) // 2 for side in small)
    around = (left, SIZE - small[1] - left, up, SIZE - small[0] - up)
    return F.pad(image, around, mode="replicate"), scale, torch.tensor([left, up])


def _shared(one: Tensor, other: Tensor) -> float:
    """The share of their union that two boxes [4] have in common."""
    common = (torch.minimum(one, other)[2:] - torch.maximum(one, other)[:2]).clamp_min(0).prod()
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return float(common / (sum(areas) - common))
