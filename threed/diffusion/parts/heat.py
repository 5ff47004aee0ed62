"""Where a picture's places look: cross-attention per word, as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from threed.core.pictures import Size
from threed.diffusion.backbone import Backbone
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.attention import Layer, Record
from threed.diffusion.parts.words import word_spans
from threed.diffusion.score import Score, guided

LABEL = 12  # pixels below a map for its word
SIDE = 128  # of a map, at least


def largest_maps(kept: Mapping[Layer, Tensor], limit: int) -> Tensor:
    """[B, h, w, S] the mean of recorded weights [B, h, w, S] over the layers of one size.

    That is the largest with at most `limit` places, or the smallest there is.
    """
    counts = {layer: weights.shape[1] * weights.shape[2] for layer, weights in kept.items()}
    fitting = [count for count in counts.values() if count <= limit]
    best = max(fitting) if fitting else min(counts.values())
    return torch.stack([kept[layer] for layer, count in counts.items() if count == best]).mean(0)


class Heat:
    """Watches a Score, and remembers the mean of the attention over its calls."""

    def __init__(self, limit: int = 1024) -> None:
        self.record = Record(lambda site: site.layer.cross)  # an edit of the watched conditions
        self.limit, self.calls = limit, 0
        self.total = torch.zeros(())

    def watching(self, score: Score) -> Score:
        """The same Score; its conditions hold self.record."""

        def noise(x: Tensor, t: Tensor) -> Tensor:
            out = score(x, t)
            maps = largest_maps(self.record.kept, self.limit)
            self.total, self.calls = self.total + maps.detach(), self.calls + 1
            return out

        return noise

    def words(self, backbone: Backbone, prompt: str, row: int = 0) -> dict[str, Tensor]:
        """[h, w] in 0..1 for each word of the prompt that a picture of the batch was made of.

        All words have one scale: 1 is the most that any place looks at any of them. One that is
        said twice counts wherever it is said.
        """
        mean = (self.total / max(self.calls, 1))[row]
        spans = zip(backbone.reads(prompt).split(), word_spans(backbone, prompt))
        read = mean[..., :-1]  # the last token read is the end
        maps: dict[str, Tensor] = {}
        for word, span in spans:
            here = read[..., span.start : span.stop].sum(-1)
            maps[word] = maps[word] + here if word in maps else here
        most = max(float(value.max()) for value in maps.values())
        return {word: value / max(most, 1e-12) for word, value in maps.items()}


def heat_maps(
    backbone: Backbone,
    prompt: str,
    *,
    steps: int = 30,
    scale: float = 5.0,
    negative: str = "",
    seed: int = 0,
    size: Size | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A sample [3, H, W], as make_images makes it, and where it looked at each word, [h, w]."""
    heat = Heat()
    text, other = (backbone.encode_text([words]) for words in (prompt, negative))
    text = replace(text, attention=(heat.record,))
    ready = Ready(heat.watching(guided(backbone, text, other, scale)))
    (picture,) = paint(backbone, ready, steps=steps, seed=seed, size=size)
    return picture, heat.words(backbone, prompt)


def drawn(picture: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
    """[3, h, w] the picture, and beside it a map over it in grey for each word, named below."""
    height, width = picture.shape[-2:]
    scale = max(1.0, SIDE / max(height, width))
    size = round(scale * height), round(scale * width)
    large = _resized(picture, size)
    tiles = [_labelled(large, "")]
    for word, values in maps.items():
        tiles.append(_labelled(tinted(large, _resized(values[None], size)[0].clamp(0, 1)), word))
    return torch.cat(tiles, 2)


def tinted(picture: Tensor, warm: Tensor) -> Tensor:
    """[3, H, W] a picture in grey, and orange as far as `warm` [H, W], in 0..1, says."""
    grey = picture.mean(0, keepdim=True).expand_as(picture) * 0.35 + 0.3
    color = torch.tensor([1.0, 0.45, 0.0])[:, None, None]
    return torch.lerp(grey, color.expand_as(grey), warm[None])


def _resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(picture[None].float().cpu(), size, mode="bilinear")[0]


def _labelled(tile: Tensor, word: str) -> Tensor:
    """The tile with a white strip below it that holds the word."""
    strip = Image.new("L", (tile.shape[-1], LABEL), 255)
    ImageDraw.Draw(strip).text((2, 0), word, fill=0)
    below = torch.from_numpy(np.array(strip)).float()[None] / 255
    return torch.cat([tile, below.expand(3, -1, -1)], 1)
