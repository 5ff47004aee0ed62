"""InstructPix2Pix: a picture changed as an instruction says (Brooks et al., arXiv:2211.09800)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.diffusion.guide import Guide
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import PICTURE, WEIGHTS, Input
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.paint import Ready
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "instruct_pix2pix"
DROP = 0.05  # without text only, without picture only, and without both: each so often
SHOWN = 6  # examples of a sheet
ROLES, TEXTS = ("image", "edited"), ("instruction",)  # what an example consists of


class Knobs(Settings):
    """How strongly the instruction and the picture pull."""

    text_scale: float | None = Field(
        None, ge=0, description="towards the instruction; if not given, that of --guidance"
    )
    image_scale: float = Field(1.5, ge=0, description="towards what the picture was")


def build(
    backbone: Backbone,
    instruction: str | Sequence[str],
    image: Tensor,
    unet: Any = None,
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0)), the paper's equation 3.

    image [B, 3, H, W] in [0, 1], as large as the pictures to make; one instruction, or B of them.
    unet: of 8 channels, as load_unet gives it; without one, the backbone's own, which knows no
    pictures.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.channels import unscaled, widened, with_unet
    from threed.diffusion.score import dual_cfg, score
    from threed.diffusion.weights import frozen

    base = require_unet(backbone, NAME)
    if unet is None:
        unet = widened(base.unet, base.latent_channels)
        unet = frozen(unet, base.device, base.unet.dtype)
    with torch.no_grad():
        shown = unscaled(base, base.encode_image(image.to(base.device)))
    words = [instruction] * len(shown) if isinstance(instruction, str) else list(instruction)
    both, only = (
        _show(base.encode_text(texts), shown) for texts in (words, [guide.negative] * len(shown))
    )
    neither = _show(only, torch.zeros_like(shown))
    text_scale = guide.scale if knobs.text_scale is None else knobs.text_scale
    combine = dual_cfg(text_scale, knobs.image_scale)
    return score(with_unet(base, unet), [both, only, neither], combine)


def _show(text: Condition, latents: Tensor) -> Condition:
    return replace(text, channels=latents)


def load_unet(backbone: Backbone, path: Path) -> Any:
    """Load the UNet of a training's folder, of one in diffusers' layout, or of the official file.

    The file (instruct-pix2pix-00-22000.ckpt) has the names of the latent-diffusion code base; of
    its two sets of weights the averaged one is taken, as the official code does.
    """
    from diffusers import UNet2DConditionModel

    from threed.diffusion.models.convert import averaged, diffusers_name, read_state
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.weights import filled, frozen, load_folder

    base = require_unet(backbone, NAME)
    if path.is_dir():
        inner = path / "unet"
        unet = load_folder(UNet2DConditionModel, inner if inner.is_dir() else path)
    else:
        state = averaged(read_state(path))
        layers = base.unet.config.layers_per_block
        config = {**base.unet.config, "in_channels": 2 * base.latent_channels}
        renamed = {diffusers_name(name, layers): value for name, value in state.items()}
        unet = filled(UNet2DConditionModel.from_config(config), renamed, str(path))
    return frozen(unet, base.device, base.unet.dtype)


def find_unet(backbone: Backbone, weights: Path | None) -> Any:
    """Load the UNet of these weights, or of those that came with the backbone."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.weights import find_trained

    base = require_unet(backbone, NAME)
    patterns = ("unet/*.json", "unet/*.safetensors")
    return load_unet(base, find_trained(weights, base.folder, NAME, patterns))


def load(backbone: Backbone, request: Request) -> Any:
    """Load the UNet of a request's weights."""
    return find_unet(backbone, request.one("weights"))


def prepare(backbone: Backbone, request: Request, weights: Any) -> Ready:
    """Make the Score of a request: its prompt is the instruction."""
    from threed.diffusion.images import load_image

    return change(backbone, request, weights, load_image(request.one("image"), request.size))


def change(backbone: Backbone, request: Request, weights: Any, image: Tensor) -> Ready:
    """Make the Score that changes a picture [1, 3, H, W] as a request's prompt says."""
    from threed.diffusion.paint import Ready

    return Ready(build(backbone, request.prompt, image, weights, guide=request.guide,
                       knobs=request.knobs or Knobs()))  # fmt: skip


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the whole 8-channel UNet, from the backbone's, on (image, instruction, edited).

    Of 20 examples one loses its instruction, one its picture, and one both (section 3.2.1).
    """
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready, paint
    from threed.diffusion.parts.channels import unscaled, widened, with_unet
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import denoising_loss, dropped, without_text

    base, examples = require_unet(backbone, NAME), lesson.examples
    unet = widened(base.unet, base.latent_channels)
    wide = with_unet(base, unet)
    before, after = Latents(base, examples, "image"), Latents(base, examples, "edited")
    empty = base.encode_text([""])

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        text = base.encode_text(examples.texts("instruction", indices))
        no_text, no_image = dropped(n, DROP, generator)
        kept = ~no_image[:, None, None, None].to(base.device)
        condition = _show(
            without_text(text, empty, no_text), unscaled(base, before(indices)) * kept
        )
        return denoising_loss(wide, after(indices), condition, generator, debias=lesson.debias)

    def sheet(net: nn.Module) -> Tensor:
        few = list(range(min(SHOWN, len(examples))))
        shown, edited = (examples.pictures(role, few).to(base.device) for role in ROLES)
        guided = build(base, examples.texts("instruction", few), shown, net)
        made = paint(base, Ready(guided), n=len(few), steps=15, size=examples.size)
        return grid(torch.cat([shown, made, edited]), columns=len(few))

    return Task(unet, loss, save, lesson.about, sheet)


def save(unet: Any, out: Path) -> None:
    """Write the UNet in diffusers' layout, to out/unet."""
    unet.register_to_config(_name_or_path="")  # where it was loaded from is nobody else's business
    unet.save_pretrained(out / "unet")


TRAINING = Training(
    data="edits",
    pictures=lambda options: ROLES,
    texts=TEXTS,
    paper=Recipe(steps=10_000, batch=32, lr=1e-4, accumulate=32),  # 1,024: 32 × 4 × 8 GPUs
    small=Recipe(steps=3000, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=lambda backbone, path, options: load_unet(backbone, path),
)
SYSTEM = System(
    name=NAME,
    paper="InstructPix2Pix: Learning to Follow Image Editing Instructions",
    arxiv="2211.09800",
    claim="a picture changed as the prompt says, the rest of it kept",
    inputs=(
        Input("image", PICTURE, "the picture to change", required=True),
        Input(
            "weights", WEIGHTS, "a training's folder, the official file, or owner/name on the hub"
        ),
    ),
    knobs=Knobs,
    trains="a UNet that is shown the picture",
    training=TRAINING,
    several=False,
    seams=("channels", "blend"),
    load=load,
    prepare=prepare,
    change=change,
)
