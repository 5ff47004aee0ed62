"""MS-Diffusion's nets and their attention (arXiv:2406.07209): subjects, each in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import Attend, Bias, Site, Via, plain
from threed.diffusion.parts.image_adapter import new_maps, read_parts
from threed.diffusion.parts.image_tokens import HEAD, looked, perceivers
from threed.diffusion.weights import filled, frozen, write_net

FILE = "ms_adapter.safetensors"
PARTS = ("image_proj", "ms_adapter", "dummy_image_tokens")
FREQUENCIES, TEMPERATURE = 8, 100.0  # of a box's waves
DUMMIES = 4  # tokens of no subject
CLOSED = -1e4  # of logits outside a subject's place


def waves(boxes: Tensor) -> Tensor:
    """[B, 64] sines and cosines of boxes [B, 4], eight frequencies each, slowest first."""
    powers = torch.arange(FREQUENCIES, device=boxes.device) / FREQUENCIES
    angles = TEMPERATURE**powers * boxes[..., None]
    both = torch.stack((angles.sin(), angles.cos()), -1)  # [B, 4, 8, 2]
    flat: Tensor = both.permute(0, 2, 3, 1).flatten(1)
    return flat


class Grounding(nn.Module):
    """A resampler whose queries are made of a subject's phrase and box, or learned where untold."""

    def __init__(
        self,
        inputs: int,
        width: int,
        phrase: int,
        *,
        inner: int,
        heads: int,
        depth: int = 4,
        tokens: int = 16,
    ) -> None:
        super().__init__()
        self.inputs, self.width, self.phrase, self.inner = inputs, width, phrase, inner
        told = phrase + 8 * FREQUENCIES
        self.grounding_latents = nn.Parameter(torch.randn(1, tokens, inner) / inner**0.5)
        self.latent_proj = nn.Sequential(
            nn.Linear(told, 2 * told), nn.GELU(), nn.Linear(2 * told, tokens * inner)
        )
        self.latent_norm, self.attention_norm = nn.LayerNorm(inner), nn.LayerNorm(inner)
        self.proj_in, self.proj_out = nn.Linear(inputs, inner), nn.Linear(inner, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = perceivers(inner, heads, depth)

    def forward(self, features: Tensor, phrases: Tensor, boxes: Tensor, told: Tensor) -> Tensor:
        """Patches [B, S, inputs], phrases [B, phrase], boxes [B, 4] -> tokens [B, T, width].

        told: [B] bool, whether the phrase and the box count.
        """
        words = torch.cat([phrases, waves(boxes)], -1)
        queries = self.latent_norm(self.latent_proj(words).unflatten(-1, (-1, self.inner)))
        queries = torch.where(told[:, None, None], queries, self.grounding_latents)
        latents = looked(self.layers, self.proj_in(features), queries)
        tokens: Tensor = self.norm_out(self.proj_out(self.attention_norm(latents)))
        return tokens


class SubjectAdapter(nn.Module):
    """What is trained: tokens of each subject, and maps for every cross-attention.

    Its tensors have their published names. The dummy tokens are in the files alone: they count
    where no subject is, and there the published attention is set to zero.
    """

    dummy_image_tokens: Tensor

    def __init__(
        self, backbone: StableDiffusion, image_proj: Grounding, dummies: int = DUMMIES
    ) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.places, self.ms_adapter = new_maps(backbone.unet)
        self.register_buffer("dummy_image_tokens", torch.randn(1, dummies, image_proj.width))

    def forward(self, features: Tensor, phrases: Tensor, boxes: Tensor, told: Tensor) -> Tensor:
        """[B, N, ...] of N subjects each, as `Grounding` takes them -> tokens [B, N, T, C]."""
        given = features, phrases, boxes
        like = self.image_proj.grounding_latents
        flat = [value.flatten(0, 1).to(like) for value in given]
        tokens = self.image_proj(*flat, told.flatten().to(like.device))
        each: Tensor = tokens.unflatten(0, features.shape[:2])
        return each


@dataclass(frozen=True, eq=False)
class Subjects:
    """A second cross-attention, to each subject's tokens where it is, added to the text's.

    Where two subjects are they share one softmax; where none is nothing is added. A subject is in
    its box; one without is where the layer's own text attention, from the least to the most, looks
    at its phrase by more than a threshold.
    """

    tokens: Tensor  # [B, N, T, C] of N subjects
    boxes: Tensor  # [B, N, 4] left, top, right, bottom in 0..1; zeros without a box
    net: SubjectAdapter
    scale: float = 1.0
    strengths: tuple[float, ...] = ()  # of the N subjects; 1 if empty
    spots: Tensor | None = None  # [B, N, S] what each token of the text is of a phrase's, sum 1
    threshold: float = 0.5

    def select(self, index: Tensor) -> Subjects:
        """The rows of index ([N] int64)."""
        index = index.to(self.tokens.device)
        spots = None if self.spots is None else self.spots[index]
        return replace(self, tokens=self.tokens[index], boxes=self.boxes[index], spots=spots)

    def join(self, others: Sequence[Any]) -> Subjects | None:
        """One for all, if they are of one net, with as many subjects, alike in strength."""
        every = [self, *others]
        if not all(isinstance(o, Subjects) and o._kind() == self._kind() for o in others):
            return None
        spots = [one.spots for one in every if one.spots is not None]
        return replace(self, tokens=torch.cat([one.tokens for one in every]),
                       boxes=torch.cat([one.boxes for one in every]),
                       spots=torch.cat(spots) if spots else None)  # fmt: skip

    def _kind(self) -> tuple[Any, ...]:
        found = None if self.spots is None else (self.spots.shape[1:], self.threshold)
        return id(self.net), self.tokens.shape[1:], self.scale, self.strengths, found

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Both attentions, at every cross-attention."""
        if not site.layer.cross:
            return attend

        def both(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            kept: list[Tensor] = []

            def noted(weights: Tensor) -> Tensor:
                kept.append(weights.mean(1))
                return weights if change is None else change(weights)

            words = attend(q, k, v, bias=bias, change=change if self.spots is None else noted)
            places = inside(self.boxes, site.rows, site.columns)
            if self.spots is not None:
                places = places | found(kept[0], self.spots, self.threshold)
            return words + self.scale * self._shown(site, q, places)

        return both

    def _shown(self, site: Site, q: Tensor, places: Tensor) -> Tensor:
        """[B, L, C] what the subjects say to the queries in their places [B, N, L] bool."""
        maps: Any = self.net.ms_adapter[self.net.places[site.layer.name]]
        keys, values = maps(self.tokens.to(q).flatten(1, 2))
        length, here = self.tokens.shape[2], places.transpose(1, 2)
        if self.strengths:
            values = values * q.new_tensor(self.strengths).repeat_interleave(length)[:, None]
        bias = torch.where(here, 0.0, CLOSED).repeat_interleave(length, -1)[:, None]
        seen = plain(site.layer.heads)(q, keys, values, bias=bias)
        return seen * here.any(-1, keepdim=True)


def inside(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """[B, N, rows * columns] bool: the places of a picture that boxes [B, N, 4] touch."""
    sides = boxes * boxes.new_tensor([columns, rows] * 2)
    starts, ends = sides[..., :2, None].floor(), sides[..., 2:, None].ceil()
    across, down = (torch.arange(n, device=boxes.device) for n in (columns, rows))
    wide = (across >= starts[..., 0, :]) & (across < ends[..., 0, :])
    high = (down >= starts[..., 1, :]) & (down < ends[..., 1, :])
    touched: Tensor = (high[..., :, None] & wide[..., None, :]).flatten(-2)
    return touched


def found(weights: Tensor, spots: Tensor, threshold: float) -> Tensor:
    """[B, N, L] bool: where text attention [B, L, S] looks most at phrases, by spots [B, N, S]."""
    maps = torch.einsum("bls,bns->bnl", weights[..., : spots.shape[-1]], spots.to(weights))
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    return (maps - low) / (high - low + 1e-5) > threshold


def load_subject_adapter(backbone: StableDiffusion, path: Path) -> SubjectAdapter:
    """Load an adapter from its file, ms_adapter.bin as published, or .safetensors.

    Nothing in the file is executed. InputError for one of another layout, another backbone, or that
    is damaged.
    """
    state = read_parts(path, PARTS, "MS-Diffusion adapter")
    net = _grounding(state, path)
    width = int(backbone.unet.config.cross_attention_dim)
    phrase = int(backbone.encoders[0].config.hidden_size)
    for what, own, needed in (("tokens", net.width, width), ("phrases", net.phrase, phrase)):
        if own != needed:
            raise InputError(f"{path} was made for another backbone than {backbone.name!r}: its "
                             f"{what} have {own} numbers, not {needed}")  # fmt: skip
    dummies = state[PARTS[2]].shape[1] if state[PARTS[2]].ndim == 3 else DUMMIES
    adapter = filled(SubjectAdapter(backbone, net, dummies), state, str(path))
    loaded: SubjectAdapter = frozen(adapter, backbone.device, backbone.unet.dtype)
    return loaded


def _grounding(state: Mapping[str, Tensor], path: Path) -> Grounding:
    """The resampler, untrained, whose shapes are those of a file."""

    def shape(name: str) -> tuple[int, ...]:
        value = state.get(f"image_proj.{name}")
        return () if value is None else tuple(value.shape)

    latents, told, out = (shape(name) for name in ("grounding_latents", "latent_proj.0.weight",
                                                   "norm_out.weight"))  # fmt: skip
    inputs = shape("proj_in.weight")
    depth = len({name.split(".")[2] for name in state if name.startswith("image_proj.layers")})
    heads = (shape("layers.0.0.to_q.weight") or (0,))[0] // HEAD
    sizes = [len(one) for one in (latents, told, out, inputs)]
    if sizes != [3, 2, 1, 2] or not heads or told[1] <= 8 * FREQUENCIES:
        raise InputError(f"{path} is an MS-Diffusion adapter of an unknown kind: known is the one "
                         "with a grounding resampler")  # fmt: skip
    return Grounding(inputs[1], out[0], told[1] - 8 * FREQUENCIES, inner=latents[2], heads=heads,
                     depth=depth, tokens=latents[1])  # fmt: skip


def save_subject_adapter(net: nn.Module, out: Path) -> None:
    """Write an adapter by its published names, and what its encoder and phrases are to be."""
    kind: Any = net.image_proj
    about = {"inputs": kind.inputs, "width": kind.width, "phrase": kind.phrase}
    write_net(net, out, about, FILE)
