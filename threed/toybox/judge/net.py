"""The judge reads kind, colour, finish and view of a toy from a picture, and what scenes hold.

It measures, and trains nothing. Weights from before it knew scenes still load, and read toys.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.cameras import VIEWS
from threed.toybox.world.faces import EXPRESSIONS
from threed.toybox.world.figures import BEARDS, HAIR_COLORS, HAIRS, SKINS
from threed.toybox.world.poses import POSES
from threed.toybox.world.styles import STYLES
from threed.toybox.world.toys import COLORS, FINISHES, KINDS

FRONT_VIEWS = 24  # around a toy, in which its fronts are counted
TOY_HEADS: dict[str, tuple[str, ...]] = {
    "kind": KINDS, "color": tuple(COLORS), "finish": FINISHES, "view": VIEWS,
}  # fmt: skip
SCENE_HEADS: dict[str, tuple[str, ...]] = {
    "scene": ("toy", "pair beside", "pair above", "person", "garment"),
    # of a pair: first is the left or the upper one
    "first_kind": KINDS, "first_color": tuple(COLORS),
    "second_kind": KINDS, "second_color": tuple(COLORS),
    "hat": ("none", *COLORS),
    "upper": ("shirt", "sweater", "dress"), "upper_color": tuple(COLORS), "upper_finish": FINISHES,
    "lower": ("none", "trousers", "shorts", "skirt"), "lower_color": tuple(COLORS),
    "skin": tuple(SKINS), "hair": HAIRS, "hair_color": tuple(HAIR_COLORS),
    "glasses": ("none", "glasses"), "beard": BEARDS, "pose": tuple(POSES),
    "expression": EXPRESSIONS, "style": ("none", *STYLES),
}  # fmt: skip
HEADS = TOY_HEADS | SCENE_HEADS
IDENTITY = ("skin", "hair", "hair_color", "glasses", "beard")  # heads that tell persons apart


@dataclass(frozen=True)
class Verdict:
    """What the judge reads from B pictures: log-probabilities [B, n] for each head."""

    logits: dict[str, Tensor]

    def names(self, head: str) -> list[str]:
        """Give the likeliest name of each picture."""
        return [HEADS[head][i] for i in self.logits[head].argmax(-1).tolist()]

    def together(self, head: str) -> str:
        """Give the one name that fits all pictures best: their log-probabilities are added."""
        return HEADS[head][int(self.logits[head].sum(0).argmax())]

    def likeness(self, other: Verdict) -> Tensor:
        """[B] in 0..1: how surely these pictures and those of `other` show the same persons.

        The mean over IDENTITY of the chance that both have the same name.
        """
        both = [(self.logits[head].exp() * other.logits[head].exp()).sum(-1) for head in IDENTITY]
        return torch.stack(both).mean(0)


def fronts(verdict: Verdict) -> int:
    """Count the separate groups of neighbouring views on a full circle that look like a front.

    The likeness to a front is averaged over 60 degrees (a front is seen over 90), so that one view
    misread among 24 neither splits a front nor makes one.
    """
    likeness = verdict.logits["view"][:, VIEWS.index("front")].exp()
    reach = max(len(likeness) // 12, 1)
    around = torch.cat([likeness[-reach:], likeness, likeness[:reach]])
    here = (F.avg_pool1d(around[None, None], 2 * reach + 1, stride=1)[0, 0] > 0.5).tolist()
    if all(here):
        return 2  # a front wherever one looks: as wrong as two
    return sum(now and not before for now, before in zip(here, [here[-1], *here[:-1]]))


class Judge(nn.Module):
    """A small residual network over 64×64 pictures.

    Its heads over toys see the mean over the picture, those over scenes the means over its left,
    right, upper and lower half: a pair has places.
    """

    def __init__(self, width: int = 32, heads: Sequence[str] = tuple(HEADS)) -> None:
        super().__init__()
        self.width = width
        layers: list[nn.Module] = [nn.Conv2d(3, width, 5, stride=2, padding=2)]
        for i in range(3):
            layers += [Block(width * 2**i), Down(width * 2**i)]
        self.body = nn.Sequential(*layers, Block(8 * width))
        seen = {name: (8 if name in TOY_HEADS else 32) * width for name in heads}
        linear = {name: nn.Linear(seen[name], len(HEADS[name])) for name in heads}
        self.heads = nn.ModuleDict(linear)

    @property
    def knows_scenes(self) -> bool:
        """Tell whether it has all heads; weights from before scenes have those over toys."""
        return set(HEADS) <= set(self.heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give the logits by head of pictures [B, 3, 64, 64] in [0, 1]."""
        features = self.body(images * 2 - 1)
        whole, (h, w) = features.mean((2, 3)), features.shape[2:]
        halves = (features[..., : w // 2], features[..., w // 2 :],
                  features[..., : h // 2, :], features[..., h // 2 :, :])  # fmt: skip
        places = torch.cat([half.mean((2, 3)) for half in halves], 1)
        seen = {name: whole if name in TOY_HEADS else places for name in self.heads}
        return {name: head(seen[name]) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Tensor) -> Verdict:
        """Judge pictures [B, 3, H, W] in [0, 1]; other sizes are resized to 64×64 first."""
        if images.shape[-2:] != (64, 64):
            shrink = min(images.shape[-2:]) > 64
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=shrink)
        logits = self(images.to(next(self.parameters())))
        return Verdict({name: value.float().log_softmax(-1) for name, value in logits.items()})

    def save_pretrained(self, folder: str | Path, **_: object) -> None:
        """Write config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        heads = {name: list(HEADS[name]) for name in self.heads}
        (folder / "config.json").write_text(json.dumps({"width": self.width, "heads": heads}))
        save_file(self.state_dict(), folder / "model.safetensors")


class Block(nn.Module):
    """x + conv(conv(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        y: Tensor = x + self.layers(x)
        return y


class Down(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 2C, H/2, W/2]"""
        y: Tensor = self.conv(x)
        return y


def load_judge(folder: Path) -> Judge:
    """Load the trained judge of a weights folder, in float32, for measuring only."""
    config = json.loads((folder / "config.json").read_text())
    judge = Judge(config["width"], [name for name in config["heads"] if name in HEADS])
    judge.load_state_dict(load_file(folder / "model.safetensors"))  # fp16 becomes float32
    return judge.eval().requires_grad_(False)
