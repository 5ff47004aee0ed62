"""InstantID (arXiv:2401.07519): one picture of a face, and the same person in any other.

A face's embedding becomes tokens, which have an attention of their own beside the text's. A net
beside the UNet, the IdentityNet, is told these tokens in the place of the text, and sees where the
eyes, the nose and the mouth's corners are to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.core.errors import InputError
from threed.core.pictures import Size, middle, sides
from threed.diffusion.guide import Guide
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.control import controlnet
from threed.systems.inputs import BESIDE, POSE, SHOWN, WEIGHTS, Input
from threed.systems.reference import ip_adapter
from threed.systems.reference.faces import (
    RECOGNISER,
    embedding,
    examples_faces,
    face_input,
    finder,
)
from threed.systems.reference.shown import same_people
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.faces import Face
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.image_adapter import ImageAdapter
    from threed.diffusion.score import Score
    from threed.learning.data import Examples
    from threed.learning.loop import Task

NAME = "instant_id"
IDENTITY = "ControlNetModel"  # the folder of the IdentityNet
QUERIES = 16
SHOWN_EXAMPLES = 6  # of a sheet
PLACES = ("pose", "points")  # the inputs that say where the face is


class Knobs(Settings):
    """How strongly the face counts, and where it is to be."""

    scale: float = Field(0.8, description="of the face's attention, beside the words' 1")
    strength: float = Field(0.8, description="of what the IdentityNet adds")


class Options(Settings):
    """What finds the faces that are learned."""

    recogniser: str | None = Field(
        None,
        description="a folder with insightface's models, for examples without face; toybox has its "
        "own",
    )


@dataclass(frozen=True, eq=False)
class Nets:
    """What is trained: the face's tokens with their maps, and the IdentityNet."""

    adapter: ImageAdapter
    identity: Any  # a ControlNetModel


@dataclass(frozen=True, eq=False)
class Told:
    """A face, and where it is to be."""

    face: Tensor  # [1 or B, D] its embedding
    hint: Tensor | None = None  # [1 or B, 3, H, W] in [0, 1] its keypoints, drawn; None: anywhere


@dataclass(frozen=True, eq=False)
class Loaded:
    """Nets, and what was found of the face that a request names."""

    nets: Nets
    face: Tensor  # [1, D]
    where: Face | Tensor  # the face of a picture, or [5, 2] points as shares of the picture


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    nets: Nets,
    told: Told,
    *,
    guide: Guide = Guide(5.0),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance from no words and a face of zeros towards both, as published.

    One prompt, or B of them. With both knobs at 0 it is the words' alone, to the bit. What the
    IdentityNet sees of the words is SDXL's pooled vector only.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.score import guided

    base = require_unet(backbone, NAME)
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    halves = ((words, told.face), ([guide.negative] * len(words), torch.zeros_like(told.face)))
    text, other = (
        with_face(base, base.encode_text(texts), nets, replace(told, face=face), knobs)
        for texts, face in halves
    )
    return guided(base, text, other, guide.scale)


def with_face(
    base: StableDiffusion, text: Condition, nets: Nets, told: Told, knobs: Knobs
) -> Condition:
    """A text of B items with the face's attention and the IdentityNet."""
    from threed.diffusion.parts.control import Around, Control
    from threed.diffusion.parts.image_adapter import ImageTokens

    adapter, count = nets.adapter, len(text)
    tokens = adapter(told.face[:, None, None].to(base.device)).expand(count, -1, -1, -1)
    if knobs.scale:
        scales = dict.fromkeys(adapter.places, knobs.scale)
        text = replace(text, attention=(*text.attention, ImageTokens(tokens, adapter, scales)))
    if knobs.strength and told.hint is not None:
        hint = told.hint.expand(count, -1, -1, -1)
        net = Control(base, Around(nets.identity), hint, knobs.strength, tokens=tokens[:, 0])
        text = replace(text, residuals=(*text.residuals, net))
    return text


def check(request: Request) -> None:
    """InputError unless it is said once whose face it is, and where it is to be."""
    pose, points = (name in request.inputs for name in PLACES)
    if pose and points:
        raise InputError("--pose and --points both say where the face is: give one of them")
    if request.one("image") is None and request.one("face") is None:
        raise InputError(f"system {NAME!r} needs --image, a picture of the face, or --face, its "
                         "embedding")  # fmt: skip
    if request.one("image") is None and not (pose or points):
        raise InputError("--face does not say where the face is to be: give --points, or a picture "
                         "by --pose or --image")  # fmt: skip


def settle(request: Request) -> Request:
    """The request in which it is said where the face is: in its picture, for that one's camera."""
    if any(name in request.inputs for name in PLACES):
        return request
    return replace(request, inputs={**request.inputs, "pose": request.all("image")})


def load(backbone: Backbone, request: Request) -> Loaded:
    """Load the nets of a request's weights, and find its faces."""
    import torch

    from threed.diffusion.faces import face_in, read_embedding, read_points
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.weights import find_trained

    base = require_unet(backbone, NAME)
    patterns = ("*.json", "*.safetensors", "*.bin")
    nets = load_nets(base, find_trained(request.one("weights"), base.folder, NAME, patterns))
    width = int(nets.adapter.image_proj.inputs)
    file, points, request = request.one("face"), request.one("points"), settle(request)
    pictures = [*request.all("pose"), *(request.all("image") if file is None else ())]
    encoder = finder(base, request.one("recogniser")) if pictures else None
    seen = {path: face_in(path, encoder) for path in dict.fromkeys(pictures) if encoder}
    face = (read_embedding(file, width) if file is not None
            else embedding(request, seen[request.one("image")], width)[None])  # fmt: skip
    where = seen[request.one("pose")] if points is None else torch.tensor(read_points(points))
    return Loaded(nets, face, where)


def load_nets(base: StableDiffusion, place: Path) -> Nets:
    """Load the published layout: ip-adapter.bin (or .safetensors) beside ControlNetModel/.

    place: the folder, or the file. InputError if one is missing, or of another kind.
    """
    from threed.diffusion.parts.image_adapter import load_image_adapter
    from threed.diffusion.parts.image_tokens import Resampler

    file = ip_adapter.adapter_file(place)
    folder = file.parent / IDENTITY
    if not folder.is_dir():
        raise InputError(
            f"{file.parent} holds no folder {IDENTITY}, the IdentityNet of {file.name}"
        )
    adapter, _ = load_image_adapter(base, file)
    if not isinstance(adapter.image_proj, Resampler):
        raise InputError(f"{file} is another kind of IP-Adapter than InstantID's, whose face is "
                         "resampled")  # fmt: skip
    return Nets(adapter, controlnet.load_net(base, folder))


def prepare(backbone: Backbone, request: Request, weights: Loaded) -> Ready:
    """Make the Score of a request's prompt and face.

    From another view than the one of the keypoints the face is anywhere.
    """
    from threed.diffusion.paint import Ready

    turned = any(name in request.inputs and not request.all(name) for name in PLACES)
    hint = None if turned else drawn(weights.where, request.size)
    return Ready(build(backbone, request.prompt, weights.nets, Told(weights.face, hint),
                       guide=request.guide, knobs=request.knobs or Knobs()))  # fmt: skip


def drawn(where: Face | Tensor, size: Size) -> Tensor:
    """[1, 3, H, W] in [0, 1]: keypoints, drawn where they are in pictures of a size.

    A picture with a face is cut to its middle, as pictures are. InputError if that leaves some out.
    """
    import numpy as np
    import torch

    from threed.diffusion.keypoints import draw_points

    width, height = sides(size)
    points: Any
    if isinstance(where, torch.Tensor):
        points = where.numpy() * (width, height)
    else:
        left, top, right, _ = middle(where.size, size)
        points = (where.points - (left, top)) * (width / (right - left))
    if (points < 0).any() or (points >= (width, height)).any():
        raise InputError(f"the keypoints lie outside of the middle that is {width}×{height}: "
                         "choose another --size, or a picture of a face in its middle")  # fmt: skip
    pixels = draw_points(points.astype(np.float32), size)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the face's tokens and the IdentityNet on (image, text, face, keypoints drawn).

    Nothing is left out on the way, neither words nor faces, as published. Where examples say whose
    picture they are, the face is that of another one of the same person.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.control import new_controlnet
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import denoising_loss

    base, given = require_unet(backbone, NAME), lesson.options.recogniser
    models = None if given is None else Path(given)
    examples, faces = examples_faces(base, lesson.examples, models)
    adapter = new_adapter(base, faces.shape[1])
    latents = Latents(base, examples, "image")

    def told(indices: Sequence[int], generator: torch.Generator) -> Told:
        whose = same_people(examples, indices, 1, generator)
        return Told(faces[whose], examples.pictures("points", indices))

    def loss(nets: Any, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        text = base.encode_text(examples.texts("text", indices))
        whole = Knobs(scale=1.0, strength=1.0)
        face = told(indices, generator)
        condition = with_face(base, text, Nets(**dict(nets.items())), face, whole)
        return denoising_loss(base, latents(indices), condition, generator, debias=lesson.debias)

    def sheet(nets: Any) -> Tensor:
        few = list(range(min(SHOWN_EXAMPLES, len(examples))))
        face = told(few, torch.Generator().manual_seed(lesson.seed))
        score = build(base, examples.texts("text", few), Nets(**dict(nets.items())), face)
        return _sheet(base, examples, score, few)

    nets = torch.nn.ModuleDict({"adapter": adapter, "identity": new_controlnet(base)})
    return Task(nets, loss, save, lesson.about, sheet)


def _sheet(base: StableDiffusion, examples: Examples, score: Score, few: Sequence[int]) -> Tensor:
    """[3, H, W] examples' keypoints, what is made of them, and the examples."""
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.paint import Ready, paint

    made = paint(base, Ready(score, rows=len(few)), steps=15, size=examples.size)
    hint, real = (examples.pictures(role, few).to(base.device) for role in ("points", "image"))
    return grid(torch.cat([hint, made, real]), columns=len(few))


def new_adapter(base: StableDiffusion, faces: int) -> ImageAdapter:
    """Make an untrained adapter for embeddings of so many numbers; for SDXL as published."""
    from threed.diffusion.parts.image_adapter import ImageAdapter
    from threed.diffusion.parts.image_tokens import HEAD, Resampler

    width = int(base.unet.config.cross_attention_dim)
    heads = max(5 * width // (8 * HEAD), 1)  # 20 for SDXL
    resampler = Resampler(faces, width, inner=heads * HEAD, heads=heads, tokens=QUERIES)
    return ImageAdapter(base, resampler).float()


def save(nets: Any, out: Path) -> None:
    """Write both nets in the published layout."""
    from threed.diffusion.parts.image_adapter import save_image_adapter

    save_image_adapter(nets["adapter"], out)
    nets["identity"].save_pretrained(out / IDENTITY)


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load trained nets to go on from."""
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet

    nets = load_nets(require_unet(backbone, NAME), path)
    return torch.nn.ModuleDict({"adapter": nets.adapter, "identity": nets.identity})


TRAINING = Training(
    data="persons",
    pictures=lambda options: ("image", "points"),
    texts=("text",),
    # 96: 2 on each of 48 GPUs; how many steps, at which rate, is not published
    paper=Recipe(steps=100_000, batch=2, lr=1e-5, accumulate=48),
    small=Recipe(steps=750, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
)
SYSTEM = System(
    name=NAME,
    paper="InstantID: Zero-shot Identity-Preserving Generation in Seconds",
    arxiv="2401.07519",
    claim="the face of one picture in any other, where five keypoints say",
    inputs=(
        Input("image", SHOWN, "a picture of the face"),
        Input(
            "pose", POSE, "a picture of a face that says where it is to be; --image if not given"
        ),
        Input(
            "points",
            replace(POSE, name="keypoints"),
            "the same in a .json file: [x, y] of both "
            "eyes, the nose and the mouth's corners, left first, as shares of the picture",
        ),
        face_input(", in the place of --image"),
        RECOGNISER,
        Input(
            "weights",
            WEIGHTS,
            "a training's folder, a folder with the official files, or owner/name",
        ),
        BESIDE,
    ),
    knobs=Knobs,
    trains="a face's tokens, their keys and values, and a copy of the UNet's encoder",
    training=TRAINING,
    shows=True,
    seams=("attention", "residuals"),
    load=load,
    prepare=prepare,
    check=check,
    settle=settle,
)
