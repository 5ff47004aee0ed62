"""StableVITON: which point of the garment each place shows is learned (arXiv:2312.01725).

An encoder beside the UNet sees the garment, blocks of cross-attention on the way up look at it,
and a loss keeps where they look even. The garment's picture stands in the place of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from threed.core.errors import InputError
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, WEIGHTS, Input
from threed.systems.system import Lesson, Request, System, Training
from threed.systems.tryon import wear
from threed.systems.tryon.outfits import read_fittings
from threed.systems.tryon.wear import Wear

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.garment_encoder import Nets
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "stable_viton"
STAGES = PAINTING, LOOKING = ("painting", "looking")  # before attention's variation counts, too
DROP = 0.2  # so often there is no picture in the place of the text
ROLES = ("image", "garment", "agnostic", "mask", "dense", "warped")
UNLOCKED = 0.3  # of the rate at which the rest learns, that of the UNet where it does
SHOWN_EXAMPLES = 6  # of a sheet
SHIFT = SCALE = 0.2  # persons and garments are moved and scaled by up to so much, each by itself
WHITE = 0.998  # of which the ground is, where a worn garment is cut out
HSV, LIGHT, CONTRAST = (5.0, 0.02, 0.02), (-0.1, 0.02), 0.3  # how far colours change


class Knobs(Settings):
    """How strongly the garment's picture pulls."""

    scale: float = Field(
        1.0, ge=0, description="guidance towards the picture, in the place of --guidance; "
        "at 1, as published, there is none"
    )  # fmt: skip


class Options(Settings):
    """What is taught, and with what."""

    ADDED: ClassVar = frozenset({"unlocked"})

    variation: float = Field(
        0.001, ge=0, description="how much attention's total variation counts in the last stage"
    )
    augment: bool = Field(
        True, description="mirror, move and colour pictures, so that few are many"
    )
    layers: int = Field(
        2, ge=1, le=12, description="between the picture and its word; published are 5"
    )
    unlocked: bool = Field(
        False, description="teach the UNet's way up, too, while the garment is looked at"
    )
    encoder: str | None = Field(
        None, description="the image encoder's folder; if not given, the one beside the backbone"
    )


def build(backbone: Backbone, worn: Wear, nets: Nets, *, knobs: Knobs = Knobs()) -> Score:
    """Make the Score of B persons in a garment each, told its picture in the place of a text.

    It begins from noise: the published code begins from noised latents of the person's picture,
    which in a test shows the garment that is to be found. InputError without a dense pose.
    """
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.garment_encoder import Clothed
    from threed.diffusion.score import guided

    base = require_one_text(backbone, NAME)
    condition = told(base, worn, nets)
    nothing = nets.garment.word.learnable_vector.expand_as(condition.tokens)
    return guided(Clothed(base, nets), condition, replace(condition, tokens=nothing), knobs.scale)


def told(base: StableDiffusion, worn: Wear, nets: Nets) -> Condition:
    """What a clothed backbone is told of B persons in a garment each."""
    import torch

    from threed.diffusion.parts.garment_encoder import shown

    if worn.dense is None:
        raise InputError(f"system {NAME!r} needs --dense, what DensePose draws of the person")
    with torch.no_grad():
        person = [base.encode_image(picture.to(base.device))
                  for picture in (worn.agnostic, worn.dense)]  # fmt: skip
    flat = worn.garment.to(base.device)
    channels = shown(person[0], worn.mask.to(person[0]), person[1], base.encode_image(flat))
    return replace(pictured(base, nets, flat), channels=channels)


def pictured(base: StableDiffusion, nets: Nets, garment: Tensor) -> Condition:
    """What pictures [B, 3, H, W] of garments say, in the place of texts."""
    word = nets.garment.word(nets.eye.states(garment)[1])
    return replace(base.encode_text([""] * len(garment)), tokens=word)


def load(backbone: Backbone, request: Request) -> Nets:
    """Load the nets of a request's weights: of a training's folder, or of the official file."""
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.garment_encoder import read_nets
    from threed.diffusion.weights import find_trained, frozen
    from threed.systems.reference.ip_adapter import find_encoder

    base = require_one_text(backbone, NAME)
    place = find_trained(request.one("weights"), base.folder, NAME)
    eye = find_encoder(base, request.one("encoder"), place / "garment", NAME)
    nets, dtype = read_nets(base, place, eye), base.unet.dtype
    unet, garment = (frozen(net, base.device, dtype) for net in (nets.unet, nets.garment))
    garment.word.float()  # as the image encoder is
    return replace(nets, unet=unet, garment=garment)


def prepare(backbone: Backbone, request: Request, weights: Nets) -> Ready:
    """Make the Score of a request, and keep what its mask keeps of the person."""
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet

    worn = wear.worn(request, require_unet(backbone, NAME), ("dense",))
    with torch.no_grad():
        return ready(backbone, worn, weights, request.knobs or Knobs())


def ready(backbone: Backbone, worn: Wear, nets: Nets, knobs: Knobs = Knobs()) -> Ready:
    """The Score of B persons, and how its latents become pictures."""
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.decoding import repainting

    score = build(backbone, worn, nets, knobs=knobs)
    return Ready(score, decode=repainting(backbone, worn.repainted))


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train in three stages: to paint by a picture, to look at the garment, and to look evenly.

    The first is Paint by Example with a dense pose, all of the UNet; published weights begin from
    one such. Then the UNet stays as it is (`unlocked`: up to its middle), and its encoder's copy
    learns, with what looks at it and the picture's word. Last the variation of where it looks
    counts.
    """
    from threed.learning.loop import Task

    school = School(backbone, lesson)
    net, rates = school.looker, {"unet.": UNLOCKED} if lesson.options.unlocked else {}
    first = (
        Task(school.painter, school.painting_loss, school.unsaved,
             {**lesson.about, "stage": PAINTING}),
        Task(net, school.looking_loss, school.unsaved, {**lesson.about, "stage": LOOKING},
             rates=rates, hold=school.hold,
             start=lambda: school.nets.garment.begin(school.nets.unet)),
    )  # fmt: skip
    return Task(net, school.loss, school.save, lesson.about, school.sheet, rates, hold=school.hold,
                first=() if lesson.start else first)  # fmt: skip


class School:
    """What the stages share: the nets, the examples, and what they are told of them."""

    def __init__(self, backbone: Backbone, lesson: Lesson) -> None:
        from torch import nn

        from threed.diffusion.models.stable_diffusion import require_one_text
        from threed.diffusion.parts.attention import Record
        from threed.diffusion.parts.channels import with_unet
        from threed.diffusion.parts.garment_encoder import Clothed, new_nets, read_nets
        from threed.learning.data import Latents
        from threed.systems.reference.ip_adapter import find_encoder

        self.base = base = require_one_text(backbone, NAME)
        self.lesson, self.examples, options = lesson, lesson.examples, lesson.options
        given = None if options.encoder is None else Path(options.encoder)
        eye = find_encoder(base, given, None, NAME)
        self.nets = (new_nets(base, eye, options.layers) if lesson.start is None
                     else read_nets(base, lesson.start, eye))  # fmt: skip
        word, self.record = self.nets.garment.word, Record(lambda site: site.layer.cross)
        self.painter = nn.ModuleDict({"unet": self.nets.unet, "word": word})
        self.looker = nn.ModuleDict({"garment": self.nets.garment, "unet": self.nets.unet})
        self.painting, self.clothed = with_unet(base, self.nets.unet), Clothed(base, self.nets)
        self.watched = Clothed(base, self.nets, self.record)
        self.latents = {role: Latents(base, self.examples, role)
                        for role in ("image", "agnostic", "dense", "garment")}  # fmt: skip

    def __len__(self) -> int:
        return len(self.examples)

    def hold(self) -> None:
        """Let the UNet stay as it is, but for its way up where that is unlocked."""
        from threed.diffusion.parts.channels import let_learn

        learned = ("up_blocks.", "conv_out.") if self.lesson.options.unlocked else ()
        let_learn(self.nets.unet, lambda name: name.startswith(learned))

    def unsaved(self, net: nn.Module, out: Path) -> None:
        """Write nothing: the last stage writes all nets."""

    def save(self, net: nn.Module, out: Path) -> None:
        """Write all nets as they are by now."""
        from threed.diffusion.parts.garment_encoder import write_nets

        write_nets(self.nets, out)

    def seen(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """[B, 3, H, W] of examples by role; the mask, and where it is `worn`, have one channel."""
        found = {role: self.examples.pictures(role, indices) for role in ROLES}
        found["mask"] = (found["mask"][:, :1] >= 0.5).float()
        found["worn"] = (found.pop("warped") < WHITE).any(1, keepdim=True).float()
        return found

    def told(self, n: int, generator: torch.Generator) -> tuple[Tensor, Condition, Tensor]:
        """Latents of n persons [n, C, h, w], what is told of them, and where the garment is worn.

        Of a share no picture stands in the place of the text.
        """
        import torch

        from threed.diffusion.parts.garment_encoder import shown
        from threed.learning.losses import chosen

        indices = self.examples.draw(n, generator)
        seen, base = self.seen(indices), self.base
        if self.lesson.options.augment:
            seen = moved(seen, generator)
            with torch.no_grad():
                latents = {role: base.encode_image(seen[role].to(base.device))
                           for role in self.latents}  # fmt: skip
        else:
            latents = {role: read(indices) for role, read in self.latents.items()}
        image, agnostic, dense, garment = latents.values()
        channels = shown(agnostic, seen["mask"].to(image), dense, garment)
        condition = pictured(base, self.nets, seen["garment"].to(base.device))
        nothing = self.nets.garment.word.learnable_vector
        lost = chosen(n, DROP, generator).to(base.device)[:, None, None]
        tokens = torch.where(lost, nothing, condition.tokens)
        told = replace(condition, tokens=tokens, channels=channels)
        return image, told, seen["worn"].to(base.device)

    def painting_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] the noise that the UNet predicts by the picture's word alone."""
        from threed.learning.losses import denoising_loss

        latents, told, _ = self.told(n, generator)
        assert told.channels is not None
        told = replace(told, channels=told.channels[:, : -latents.shape[1]])
        return denoising_loss(self.painting, latents, told, generator, debias=self.lesson.debias)

    def looking_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] the noise that it predicts when it looks at the garment."""
        from threed.learning.losses import denoising_loss

        latents, told, _ = self.told(n, generator)
        return denoising_loss(self.clothed, latents, told, generator, debias=self.lesson.debias)

    def loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] that, and how uneven it is where it looks."""
        from torch.nn import functional as F

        from threed.diffusion.parts.garment_encoder import expected_places, variation
        from threed.learning.losses import denoising_loss

        latents, told, worn = self.told(n, generator)
        loss = denoising_loss(self.watched, latents, told, generator, debias=self.lesson.debias)
        (weights,) = self.record.kept.values()
        self.record.kept.clear()
        places = expected_places(weights, weights.shape[2])
        small = F.interpolate(worn, weights.shape[1:3])[:, 0]
        weight: float = self.lesson.options.variation
        return loss + weight * variation(places, small)

    def sheet(self, net: nn.Module) -> Tensor:
        """[3, H, W] the first examples: garments, persons without them, what is made, the truth."""
        import torch

        from threed.diffusion.images import grid
        from threed.diffusion.paint import paint

        few = list(range(min(SHOWN_EXAMPLES, len(self))))
        seen = self.seen(few)
        worn = Wear(seen["image"], seen["garment"], seen["mask"], "upper", "", dense=seen["dense"])
        made = paint(self.base, ready(self.base, worn, self.nets), n=len(few), steps=15,
                     size=self.examples.size).cpu()  # fmt: skip
        return grid(torch.cat([worn.garment, worn.agnostic, made, worn.person]),
                    columns=len(few))  # fmt: skip


def moved(seen: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Pictures [B, C, H, W] of examples by role, mirrored, moved and coloured otherwise.

    Whatever is of the person moves with the person's picture: its mask, too, and where the garment
    is worn, which the published code leaves where it was.
    """
    import torch

    from threed.diffusion.bodies import GREY
    from threed.learning.augment import draw_moves, draw_tints
    from threed.learning.losses import chosen

    n = len(seen["image"])
    mirrored, tint = chosen(n, 0.5, generator), draw_tints(
        n, generator, hsv=HSV, light=LIGHT, contrast=CONTRAST)  # fmt: skip
    person, garment = (
        replace(draw_moves(n, generator, shift=SHIFT, scale=SCALE), mirrored=mirrored)
        for _ in range(2)
    )
    found = {role: person(picture) for role, picture in seen.items() if role != "garment"}
    found["garment"] = garment(seen["garment"])
    for role in ("mask", "worn"):
        found[role] = (found[role] >= 0.5).float()
    for role in ("image", "garment"):
        found[role] = tint(found[role])
    found["agnostic"] = torch.where(found["mask"] > 0, GREY, found["image"])
    return found


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load what was trained, to go on from."""
    from torch import nn

    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.garment_encoder import read_nets
    from threed.systems.reference.ip_adapter import find_encoder

    base = require_one_text(backbone, NAME)
    given = None if options.encoder is None else Path(options.encoder)
    nets = read_nets(base, path, find_encoder(base, given, path / "garment", NAME))
    return nn.ModuleDict({"garment": nets.garment, "unet": nets.unet})


TRAINING = Training(
    data="tryon",
    pictures=lambda options: ROLES,
    texts=(),
    paper=Recipe(steps=360_000, batch=32, lr=1e-4),  # up to 1,000 epochs of VITON-HD
    small=Recipe(steps=2000, batch=32, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
    read=lambda folder, size, options: read_fittings(folder, size, ROLES),
    stages=STAGES,
)
SYSTEM = System(
    name=NAME,
    paper="StableVITON: Learning Semantic Correspondence with Latent Diffusion Model for Virtual "
    "Try-On",
    arxiv="2312.01725",
    claim="a person in another garment, each place told which point of it to show",
    inputs=(
        *wear.INPUTS,
        Input("weights", WEIGHTS, "a training's folder, or the official VITONHD.ckpt"),
        Input("encoder", WEIGHTS, "the image encoder's folder, if it is not beside the weights"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="an encoder of the garment, cross-attention to it, and a UNet that paints",
    training=TRAINING,
    shows=True,
    several=False,
    seams=("tokens", "channels", "skips", "decoding"),
    load=load,
    prepare=prepare,
    dress=lambda backbone, request, nets, sight: ready(
        backbone, sight.wearing(request), nets, request.knobs or Knobs()
    ),
    check=wear.check,
)
