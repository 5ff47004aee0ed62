"""PhotoMaker's nets (arXiv:2312.04461): pictures of a person fused into a class word's tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.core.files import write_aside
from threed.diffusion.condition import Condition
from threed.diffusion.files import read_json
from threed.diffusion.learned.layers import UNET, layers_of
from threed.diffusion.learned.lora import LoraWeights, lora_from, tensors_of
from threed.diffusion.learned.names import spoken
from threed.diffusion.models.convert import check_shapes
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.models.text import OWN
from threed.diffusion.parts.image_adapter import read_parts
from threed.diffusion.parts.image_encoder import OFFICIAL, ImageEncoder
from threed.diffusion.parts.image_tokens import looked, perceivers
from threed.diffusion.parts.trigger import TRIGGER, class_word
from threed.diffusion.weights import below, filled

FILE = "photomaker.safetensors"
EYE, LORA = "id_encoder", "lora_weights"  # the sections of a file
WIDEST = 128  # channels of a head of the second version's perceiver, as published


@dataclass(frozen=True)
class Sight:
    """What a file of weights does not say of its eye, beside it in config.json; as published."""

    head: int = 64  # channels of an attention's head
    image_mean: tuple[float, ...] = OFFICIAL["image_mean"]
    image_std: tuple[float, ...] = OFFICIAL["image_std"]


class Mix(nn.Module):
    """A norm and two linear maps, by their published names."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(inputs)
        self.fc1, self.fc2 = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., width]."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.layernorm(x))))
        return out


class Fuse(nn.Module):
    """A class word's embedding and a person's -> the person's in the place of the word's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp1, self.mlp2 = Mix(2 * width, width), Mix(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, word: Tensor, who: Tensor) -> Tensor:
        """[..., C] and [..., C] -> [..., C]."""
        both = self.mlp1(torch.cat([word, who], -1)) + word
        fused: Tensor = self.layer_norm(both + self.mlp2(both))
        return fused


class _Resampler(nn.Module):
    """Queries that are given, which look at patches; names as published."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        head = min(WIDEST, width)
        self.proj_in, self.proj_out = nn.Linear(inputs, width), nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = perceivers(width, width // head, depth, head)

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        """[B, tokens, width] and [B, patches, inputs] -> [B, tokens, width]."""
        tokens: Tensor = self.norm_out(
            self.proj_out(looked(self.layers, self.proj_in(patches), queries))
        )
        return tokens


class Recalled(nn.Module):
    """A face's embedding -> tokens, which then look at the patches of its picture (version 2)."""

    def __init__(self, faces: int, width: int, tokens: int, eye: int, depth: int = 4) -> None:
        super().__init__()
        self.faces, self.tokens = faces, tokens
        self.token_proj = nn.Sequential(nn.Linear(faces, 4 * faces), nn.GELU(),
                                        nn.Linear(4 * faces, tokens * width))  # fmt: skip
        self.token_norm = nn.LayerNorm(width)
        self.perceiver_resampler = _Resampler(eye, width, depth)

    def forward(self, faces: Tensor, patches: Tensor) -> Tensor:
        """[B, faces] and [B, patches, eye] -> [B, tokens, width]."""
        queries = self.token_norm(self.token_proj(faces).unflatten(-1, (self.tokens, -1)))
        tokens: Tensor = queries + self.perceiver_resampler(queries, patches)
        return tokens


class IdEncoder(nn.Module):
    """A CLIP's eye and what makes a person's tokens of what it sees; names as published.

    The first version has a token for each picture. The second has `recalled`, and as many as that.
    """

    def __init__(
        self, eye: nn.Module, projections: tuple[int, int], sight: Sight,
        recalled: Recalled | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        config: Any = eye.config
        self.vision_model, self.sight, self.width = eye, sight, sum(projections)
        self.size = int(config.image_size)
        self.visual_projection, self.visual_projection_2 = (
            nn.Linear(config.hidden_size, width, bias=False) for width in projections
        )
        self.fuse_module = Fuse(self.width)
        if recalled is not None:
            self.qformer_perceiver = recalled

    @property
    def faces(self) -> int:
        """How many numbers of a face it takes; 0 for the first version, which takes none."""
        return self.qformer_perceiver.faces if "qformer_perceiver" in self._modules else 0

    @property
    def tokens(self) -> int:
        """How many tokens a picture becomes."""
        return self.qformer_perceiver.tokens if self.faces else 1

    def forward(self, pictures: Tensor, faces: Tensor | None = None) -> Tensor:
        """[N, 3, S, S] in [0, 1], and [N, faces] if it takes them -> [N, tokens, width]."""
        scale = (torch.tensor(v).to(pictures)[:, None, None]
                 for v in (self.sight.image_mean, self.sight.image_std))  # fmt: skip
        seen = self.vision_model(pixel_values=(pictures - next(scale)) / next(scale))
        if self.faces:
            tokens: Tensor = self.qformer_perceiver(faces, seen.last_hidden_state)
            return tokens
        one = seen.pooler_output
        return torch.cat([self.visual_projection(one), self.visual_projection_2(one)], -1)[:, None]


def told(base: StableDiffusion, prompt: str, net: IdEncoder, who: Tensor) -> Condition:
    """A prompt in which a class word with TRIGGER behind it is a person.

    who: [N, tokens, C] what the net makes of N pictures. The word's last token is there N * tokens
    times, and each is fused with one of them. InputError where the prompt is too long for that.
    """
    who = who.flatten(0, 1)
    condition, places = repeated(base, prompt, len(who))
    tokens = condition.tokens.clone()
    own = tokens[0, places]
    tokens[0, places] = net.fuse_module(own.float(), who.to(own.device)).to(tokens)
    return replace(condition, tokens=tokens)


def repeated(base: StableDiffusion, prompt: str, count: int) -> tuple[Condition, list[int]]:
    """A prompt without TRIGGER, the token before it `count` times; and where these are."""
    tables = [encoder.get_input_embeddings().weight.detach() for encoder in base.encoders]
    marked = base.with_words({TRIGGER: [table[:1] for table in tables]})
    ids, limit = marked.token_ids(prompt), marked.token_count(prompt)[1]
    mark = OWN + sum(len(rows[0]) for rows in base.words.values())
    place = ids.index(mark) - 1 if mark in ids else limit
    if place + count > limit - 1:  # the last token is the end
        raise InputError(f"{prompt!r} is too long for the {limit} tokens that backbone "
                         f"{base.name!r} reads: the pictures take {count} of them at "
                         f"{TRIGGER!r}; say the person sooner, or give fewer")  # fmt: skip
    word = class_word(prompt)
    if ids[place] >= OWN or (base.vocabulary is not None and base.vocabulary.unknown(word)):
        raise InputError(f"{word!r}, which stands before {TRIGGER!r}, is no word that backbone "
                         f"{base.name!r} was shown: say what the person is by another")  # fmt: skip
    if count == 1:
        made = base.encode_text([spoken(prompt, {TRIGGER: ""})])
    else:
        rows = [table[ids[place]].expand(count - 1, -1) for table in tables]
        made = base.encode_text([prompt], {TRIGGER: rows})
    return made, [*range(place, place + count)]


def load_photomaker(base: StableDiffusion, path: Path) -> tuple[IdEncoder, LoraWeights]:
    """Load published weights, photomaker-v1.bin, v2, or what a training wrote; nothing is executed.

    InputError for a file of another layout, for another backbone, or that is damaged.
    """
    state = read_parts(path, (EYE, LORA), "PhotoMaker")
    parts = {part: below(state, f"{part}.") for part in (EYE, LORA)}
    # a buffer of older versions of transformers, always the same
    parts[EYE].pop("vision_model.embeddings.position_ids", None)
    config = path.parent / "config.json"
    sight = _sight(config) if config.is_file() else Sight()
    with torch.device("meta"):
        blank = _encoder(parts[EYE], sight, path)
    check_shapes(blank, parts[EYE], str(path))  # before a large net is made
    width = int(base.unet.config.cross_attention_dim)
    if blank.width != width:
        raise InputError(f"{path} was made for another backbone than {base.name!r}: its tokens "
                         f"have {blank.width} numbers, not {width}")  # fmt: skip
    lora = lora_from(parts[LORA], layers_of(base), path)
    if any(pairs for net, pairs in lora.nets.items() if net != UNET):
        raise InputError(f"{path} holds a LoRA of a text encoder, and PhotoMaker's has none")
    return filled(_encoder(parts[EYE], sight, path), parts[EYE], str(path)), lora


def _sight(config: Path) -> Sight:
    """What config.json says. InputError if it says something else."""
    said = read_json(config)
    try:
        mean, std = (tuple(map(float, said[name])) for name in OFFICIAL)
        if len(mean) == len(std) == 3 and min(std) > 0 and int(said["head"]) > 0:
            return Sight(int(said["head"]), mean, std)
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(f"{config} does not describe PhotoMaker's eye: it needs head, image_mean and "
                     "image_std")  # fmt: skip


def _encoder(state: Mapping[str, Tensor], sight: Sight, path: Path) -> IdEncoder:
    """The net, untrained, whose shapes are those of a file."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    def shape(name: str, dims: int) -> tuple[int, ...]:
        value = state.get(name)
        if value is None or value.ndim != dims or not value.numel():
            raise InputError(f"{path} holds no PhotoMaker: {EYE}.{name} is missing or empty")
        return tuple(value.shape)

    hidden, _, patch, _ = shape("vision_model.embeddings.patch_embedding.weight", 4)
    positions, _ = shape("vision_model.embeddings.position_embedding.weight", 2)
    inner, _ = shape("vision_model.encoder.layers.0.mlp.fc1.weight", 2)
    depth = _count(state, "vision_model.encoder.layers.")
    projections = (shape("visual_projection.weight", 2)[0],
                   shape("visual_projection_2.weight", 2)[0])  # fmt: skip
    config = CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=depth,
        num_attention_heads=max(hidden // sight.head, 1), patch_size=patch,
        image_size=patch * round((positions - 1) ** 0.5),
    )  # fmt: skip
    recalled, width = None, sum(projections)
    if any(name.startswith("qformer_perceiver.") for name in state):
        outputs, inputs = shape("qformer_perceiver.token_proj.2.weight", 2)
        layers = _count(state, "qformer_perceiver.perceiver_resampler.layers.")
        recalled = Recalled(inputs // 4, width, outputs // width, hidden, layers)
    try:
        eye = CLIPVisionModelWithProjection(config).vision_model
    except ValueError as error:  # heads that do not divide the width
        raise InputError(f"{path} does not fit its config.json: {error}") from error
    return IdEncoder(eye, projections, sight, recalled)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers there are of this prefix."""
    own = (name for name in state if name.startswith(prefix))
    return len({name.removeprefix(prefix).partition(".")[0] for name in own})


def new_encoder(encoder: ImageEncoder, width: int) -> IdEncoder:
    """Make an untrained one of the first version, which sees as an image encoder does."""
    import copy

    eye = copy.deepcopy(encoder.model.vision_model)
    head = encoder.eye.hidden_size // encoder.eye.num_attention_heads
    sight = Sight(head, *(tuple(v.flatten().tolist()) for v in (encoder.mean, encoder.std)))
    first = 3 * width // 8  # 768 of 2048, as published
    net = IdEncoder(eye, (first, width - first), sight)
    known = encoder.model.visual_projection.weight
    if known.shape == net.visual_projection.weight.shape:
        net.visual_projection.weight.data.copy_(known)
    return net.float().to(encoder.device)


def save_photomaker(net: IdEncoder, lora: LoraWeights, out: Path) -> None:
    """Write the weights in the published layout, and what they do not say of the eye."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"{EYE}.{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"{LORA}.{name}": value for name, value in tensors_of(lora).items()}
    with write_aside(out / FILE) as part:
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, {"format": "pt"})
    (out / "config.json").write_text(json.dumps(asdict(net.sight), indent=2) + "\n",
                                     encoding="utf-8")  # fmt: skip
