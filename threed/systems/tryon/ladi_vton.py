"""LaDI-VTON: a garment bent onto a person, and told in pseudo-words (arXiv:2305.13501).

Four nets, each taught after the other: one that bends the garment, skips past the VAE for what the
mask leaves of the person (EMASC), words of the garment's picture, and a UNet that is shown it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from threed.core.errors import InputError
from threed.core.pictures import sides
from threed.diffusion.guide import Guide
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
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.ladi_nets import Nets
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "ladi_vton"
STAGES = BENDING, WARPING, EMASC, WORDS = ("bending", "warping", "emasc", "words")
WORN = {"upper": "an upper body garment", "lower": "a lower body garment", "dress": "a dress"}
DROP = 0.2  # each of text, pose and warped garment: so often it is left out
ROLES = ("image", "garment", "agnostic", "mask", "pose", "warped")
SMALL = 128  # pixels a side up to which the nets that bend are small
# which shares of the last stage's steps others take, and how many times its rate, as published: 50
# epochs of VITON-HD by 16 at 1e-4 for each of the nets that bend, 40,000 steps of EMASC
PUBLISHED = {BENDING: (0.18, 10.0), WARPING: (0.18, 10.0), EMASC: (0.2, 1.0)}
SHOWN_EXAMPLES = 6  # of a sheet


class Knobs(Settings):
    """For how long the warped garment is told."""

    garment_until: float = Field(
        1.0, ge=0, le=1, description="share of the sampling until which the warped garment is told"
    )


class Options(Settings):
    """What is taught, and with what."""

    pose: Literal["drawing", "joints"] = Field(
        "drawing", description="what the nets are told of the pose: its drawing, or a map for each "
        "of its 18 joints, as published"
    )  # fmt: skip
    tokens: int = Field(16, ge=1, le=64, description="pseudo-words of a garment")
    encoder: str | None = Field(
        None, description="the image encoder's folder; if not given, the one beside the backbone"
    )
    vgg: str | None = Field(
        None, description="torchvision's file of VGG-19; without it, looks are compared by pixels"
    )

    @property
    def channels(self) -> int:
        """How many channels tell the pose."""
        return 3 if self.pose == "drawing" else 18


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    worn: Wear,
    nets: Nets,
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance from a masked person alone towards the person in a garment.

    One prompt, or B of them with a garment each. In the unconditional half there are no words, no
    pose and no warped garment; mask and masked person stay. InputError without a drawn pose.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.channels import with_unet
    from threed.diffusion.parts.ladi_nets import pose_for, said, shown
    from threed.diffusion.score import guided, switch

    base = require_unet(backbone, NAME)
    if worn.pose is None:
        raise InputError(f"system {NAME!r} needs --pose, the person's keypoints as they are drawn")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    wide, pose = with_unet(base, nets.unet), pose_for(nets.unet, base, worn.pose)
    text = said(base, prompts, worn.garment, nets)
    empty = base.encode_text([guide.negative] * len(prompts))
    with torch.no_grad():
        masked = base.encode_image(worn.agnostic.to(base.device))
    garment = torch.zeros_like(masked)
    if nets.warper is not None and knobs.garment_until > 0:
        flat, agnostic = worn.garment.to(base.device), worn.agnostic.to(base.device)
        garment = base.encode_image(nets.warper(flat, agnostic, pose))
    mask, nothing = worn.mask.to(masked), torch.zeros_like(pose)

    def score(garment: Tensor) -> Score:
        told = replace(text, channels=shown(mask, masked, pose, garment))
        other = shown(mask, masked, nothing, torch.zeros_like(garment))
        return guided(wide, told, replace(empty, channels=other), guide.scale)

    if knobs.garment_until == 1:
        return score(garment)
    return switch(score(garment), score(torch.zeros_like(garment)), knobs.garment_until)


def caption(category: str) -> str:
    """What the published nets were told of a garment's category."""
    return f"a photo of a model wearing {WORN[category]}"


def load(backbone: Backbone, request: Request) -> Nets:
    """Load the nets of a request's weights: of a training's folder, or of the official files."""
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.ladi_nets import read_nets
    from threed.diffusion.weights import find_trained, frozen
    from threed.systems.reference.ip_adapter import find_encoder

    base = require_one_text(backbone, NAME)
    place = find_trained(request.one("weights"), base.folder, NAME)
    encoder = find_encoder(base, request.one("encoder"), place / WORDS, NAME)
    nets = read_nets(base, place, encoder)
    return replace(nets, unet=frozen(nets.unet, base.device, base.unet.dtype))


def prepare(backbone: Backbone, request: Request, weights: Nets) -> Ready:
    """Make the Score of a request, and how its latents become the person in the garment.

    Its prompt is not told: the nets know the caption of a category, and the garment's own words.
    """
    from threed.diffusion.models.stable_diffusion import require_unet

    worn = wear.worn(request, require_unet(backbone, NAME), ("pose",))
    return dressed(backbone, request, weights, worn)


def dressed(backbone: Backbone, request: Request, weights: Nets, worn: Wear) -> Ready:
    """Make the Score of a person and a garment that are known."""
    score = build(backbone, caption(worn.category), worn, weights, guide=request.guide,
                  knobs=request.knobs or Knobs())  # fmt: skip
    return ready(backbone, score, worn, weights)


def ready(backbone: Backbone, score: Score, worn: Wear, nets: Nets) -> Ready:
    """How the Score's latents become pictures: past the VAE with EMASC, then repainted.

    Of B persons, or any multiple of them.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.decoding import repainting
    from threed.diffusion.parts.emasc import emasc_skips

    base = require_unet(backbone, NAME)
    skips: tuple[Tensor, ...] = ()
    if nets.emasc is not None:
        with torch.no_grad():
            skips = emasc_skips(base, nets.emasc, worn.agnostic, worn.mask)

    return Ready(score, decode=repainting(base, worn.repainted, skips))


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the nets one after the other, as the paper does, and last the whole UNet.

    The first two: the garment's pixels as they are worn, bent and then drawn anew. EMASC: what the
    VAE loses of a person outside the mask. Words: the noise that the frozen UNet predicts.
    """
    from threed.learning.loop import Task

    school = School(backbone, lesson)
    nets: Any = school.nets
    stages = (
        (BENDING, nets.warper.tps, school.bending_loss),
        (WARPING, nets.warper.refinement, school.warping_loss),
        (EMASC, nets.emasc, school.emasc_loss),
        (WORDS, nets.words, school.words_loss),
    )
    paces = {} if lesson.debias else PUBLISHED  # small nets learn alike
    first = []
    for stage, net, loss in stages:  # the last writes them all
        share, rate = paces.get(stage, (1.0, 1.0))
        about = {**lesson.about, "stage": stage}
        first.append(Task(net, loss, lambda net, out: None, about, rates={"": rate}, share=share))
    return Task(nets.unet, school.loss, school.save, lesson.about, school.sheet,
                first=() if lesson.start else tuple(first))  # fmt: skip


class School:
    """What the stages share: the nets, the examples, and what is made of their pictures."""

    def __init__(self, backbone: Backbone, lesson: Lesson) -> None:
        from threed.diffusion.models.stable_diffusion import require_one_text
        from threed.diffusion.parts.channels import with_unet
        from threed.diffusion.parts.ladi_nets import new_nets, read_nets
        from threed.learning.data import Latents
        from threed.learning.perceptual import Perceptual
        from threed.systems.reference.ip_adapter import find_encoder

        self.base, self.lesson = require_one_text(backbone, NAME), lesson
        self.examples, options, base = lesson.examples, lesson.options, self.base
        given = None if options.encoder is None else Path(options.encoder)
        encoder = find_encoder(base, given, None, NAME)
        self.size = self.examples.size
        if lesson.start is not None:
            self.nets = read_nets(base, lesson.start, encoder)
        else:
            small = self.size if max(sides(self.size)) <= SMALL else None
            self.nets = new_nets(base, encoder, options.tokens, options.channels, small)
        self.wide, self.empty = with_unet(base, self.nets.unet), base.encode_text([""])
        vgg = options.vgg
        self.looks = None if vgg is None else Perceptual(Path(vgg)).to(base.device)
        self.image, self.agnostic = (
            Latents(base, self.examples, role) for role in ("image", "agnostic")
        )
        self.garment = Latents(base, self, "bent")

    def __len__(self) -> int:
        return len(self.examples)

    def pictures(self, role: str, indices: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [0, 1] of examples; "bent": the garment as the nets bend it."""
        import torch

        if role != "bent":
            return self.examples.pictures(role, indices).to(self.base.device)
        garment, agnostic = (self.pictures(role, indices) for role in ("garment", "agnostic"))
        warper: Any = self.nets.warper
        with torch.no_grad():
            made: Tensor = warper(garment, agnostic, self.pose(indices))
        return made

    def mask(self, indices: Sequence[int]) -> Tensor:
        """[B, 1, H, W] 1 where the person of an example is painted anew, else 0."""
        return (self.pictures("mask", indices)[:, :1] >= 0.5).float()

    def pose(self, indices: Sequence[int]) -> Tensor:
        """[B, P, H, W] the poses of examples, as the nets are told them."""
        from threed.diffusion.parts.joints import pose_channels

        return pose_channels(self.pictures("pose", indices), self.lesson.options.channels)

    def fitting(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """[B, ., H, W] garments, persons with their poses, worn garments: as they are bent."""
        from threed.diffusion.parts.warping import beside

        person = beside(self.pictures("agnostic", indices), self.pose(indices))
        worn = self.examples.pictures("warped", indices).to(person)
        return 2 * self.pictures("garment", indices) - 1, person, 2 * worn - 1

    def bending_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] the garment bent by the spline alone."""
        from threed.diffusion.parts.warping import bending_loss

        warper: Any = self.nets.warper
        return bending_loss(warper, *self.fitting(self.examples.draw(n, generator)))

    def warping_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] the bent garment, drawn anew."""
        from threed.diffusion.parts.warping import refining_loss

        warper: Any = self.nets.warper
        return refining_loss(warper, *self.fitting(self.examples.draw(n, generator)), self.looks)

    def emasc_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] the person, decoded past the mask."""
        from threed.diffusion.parts.emasc import emasc_loss

        indices = self.examples.draw(n, generator)
        masked, own = self.pictures("agnostic", indices), self.pictures("image", indices)
        emasc: Any = net
        return emasc_loss(self.base, emasc, self.image(indices), own, masked, self.mask(indices),
                          self.looks)  # fmt: skip

    def words_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] the noise that the frozen UNet predicts by the words, shown the masked person."""
        from threed.diffusion.parts.ladi_nets import shown
        from threed.learning.losses import denoising_loss

        indices, base = self.examples.draw(n, generator), self.base
        text = self.said(indices)
        more = base.unet.config.in_channels - base.latent_channels
        if more:
            masked, pose = self.agnostic(indices), self.pose(indices)
            channels = shown(self.mask(indices), masked, pose, masked)[:, :more]
            text = replace(text, channels=channels)
        return denoising_loss(base, self.image(indices), text, generator,
                              debias=self.lesson.debias)  # fmt: skip

    def said(self, indices: Sequence[int]) -> Condition:
        """What the captions of examples say, with their garments' words."""
        from threed.diffusion.parts.ladi_nets import said

        captions = [caption(category) for category in self.examples.texts("category", indices)]
        return said(self.base, captions, self.pictures("garment", indices), self.nets)

    def loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] the noise that the UNet predicts, told words, pose and garment, or some of them."""
        import torch

        from threed.diffusion.parts.ladi_nets import shown
        from threed.learning.losses import chosen, denoising_loss, without_text

        indices = self.examples.draw(n, generator)
        lost = [chosen(n, DROP, generator).to(self.base.device) for _ in range(3)]
        with torch.no_grad():
            text = without_text(self.said(indices), self.empty, lost[0])
        pose, garment = (value * ~drop[:, None, None, None] for value, drop in
                         zip((self.pose(indices), self.garment(indices)), lost[1:]))  # fmt: skip
        channels = shown(self.mask(indices), self.agnostic(indices), pose, garment)
        return denoising_loss(self.wide, self.image(indices), replace(text, channels=channels),
                              generator, debias=self.lesson.debias)  # fmt: skip

    def save(self, net: nn.Module, out: Path) -> None:
        """Write the nets as they are by now."""
        from threed.diffusion.parts.ladi_nets import write_nets

        write_nets(self.nets, out)

    def sheet(self, net: nn.Module) -> Tensor:
        """[3, H, W] the first examples: garments, bent ones, what is made, and what was there."""
        import torch

        from threed.diffusion.images import grid
        from threed.diffusion.paint import paint

        few = list(range(min(SHOWN_EXAMPLES, len(self))))
        person, garment, pose = (self.pictures(role, few) for role in ("image", "garment", "pose"))
        worn = Wear(person, garment, self.mask(few), "upper", "", pose)
        captions = [caption(category) for category in self.examples.texts("category", few)]
        made = paint(self.base, ready(self.base, build(self.base, captions, worn, self.nets), worn,
                                      self.nets), n=len(few), steps=15, size=self.size)  # fmt: skip
        return grid(torch.cat([garment, self.pictures("bent", few), made, person]),
                    columns=len(few))  # fmt: skip


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load a trained UNet to go on from; the other nets are as they were taught."""
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.ladi_nets import part_of, read_unet

    unet: nn.Module = read_unet(require_one_text(backbone, NAME), part_of(path, "unet"))
    return unet


TRAINING = Training(
    data="tryon",
    pictures=lambda options: ROLES,
    texts=(),
    paper=Recipe(steps=200_000, batch=16, lr=1e-5),  # and PUBLISHED
    small=Recipe(steps=1500, batch=32, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
    read=lambda folder, size, options: read_fittings(folder, size, ROLES),
    stages=STAGES,
)
SYSTEM = System(
    name=NAME,
    paper="LaDI-VTON: Latent Diffusion Textual-Inversion Enhanced Virtual Try-On",
    arxiv="2305.13501",
    claim="a person in another garment, bent onto them and told in words of its own",
    inputs=(
        *wear.INPUTS,
        Input("weights", WEIGHTS, "a training's folder, or one with the official files"),
        Input("encoder", WEIGHTS, "the image encoder's folder, if it is not beside the weights"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="a net that bends the garment, skips past the VAE, words, and a UNet",
    training=TRAINING,
    shows=True,
    several=False,
    seams=("words", "channels", "decoding", "step"),
    load=load,
    prepare=prepare,
    dress=lambda base, request, nets, sight: dressed(base, request, nets, sight.wearing(request)),
    check=wear.check,
)
