"""Self-guidance (arXiv:2306.00986): things are moved and resized by the model's own attention.

The original and the edited picture are made side by side from the same noise. At each step the
attention to the words of the prompt says where things are and how they look, and the gradient of
what is wrong about that (diffusion/parts/goals.py) joins the edited picture's noise. The original
is never changed. Nothing is trained. How things look is read from the decoder's last activations,
as in the paper.

The paper has no limit of what the gradient adds. Here it acts in nearly every step, since the
gradient's size changes sevenfold between them; a strength at which it rarely acts moves things
less (docs/systems.md has the numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, LOOK, PLACE, PROMPT, WORD, WORD_FACTOR, WORD_SHIFT, Input
from threed.systems.system import Request, System

if TYPE_CHECKING:
    from torch import Tensor

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.goals import Vector
    from threed.diffusion.score import Score


class Knobs(Settings):
    """How much each energy counts, and for how long."""

    strength: float = Field(3.0, description="of the gradients; 0 gives plain samples")
    until: float = Field(0.8, ge=0, le=1, description="share of the sampling in which they act")
    place_weight: float = Field(2.0, description="of where a thing is")
    size_weight: float = Field(0.5, description="of how large it is")
    shape_weight: float = Field(1.0, description="of its outline")
    look_weight: float = Field(0.1, description="of how it looks")
    keep_weight: float = Field(1.0, description="of what stays, beside what is changed")
    limit: float = Field(0.7, ge=0, description="most that they add, as a multiple of the noise")
    tokens: int = Field(1024, ge=1, description="places of the largest maps that are read")


@dataclass(frozen=True)
class Asked:
    """What is asked of words of the prompt; lengths are fractions of the picture."""

    move: Sequence[tuple[str, Vector]] = ()  # by how much, to the right and down
    resize: Sequence[tuple[str, float]] = ()  # factors of their area
    appearance: Sequence[tuple[str, Tensor]] = ()  # [1, 3, H, W] in [0, 1] whose look is copied
    layout: Sequence[tuple[str, Tensor]] = ()  # the same whose place and shape are copied
    keep: Sequence[str] | None = None  # what stays; None: the last word of each other phrase


def build(
    backbone: Backbone,
    prompt: str,
    source: str | None = None,
    *,
    asked: Asked = Asked(),
    guide: Guide = Guide(),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make the Score of pairs [original, edited] of neighbours. The original is never changed.

    source: the original's prompt, with as many words; words that differ take the place and shape of
    those they stand for. InputError for words that are not in the prompt, and for moves and factors
    that leave no picture.
    """
    import torch

    from threed.diffusion.parts.goals import Goals, Weights, Wrong
    from threed.diffusion.score import guided, switch, with_gradient

    k = knobs
    goals = Goals(backbone, prompt, prompt if source is None else source)
    aim = Weights(k.place_weight, k.size_weight, k.shape_weight, k.look_weight)
    goals.edit(asked.move, asked.resize, aim)
    goals.copy(asked.appearance, asked.layout, aim)
    goals.replace_words(aim)
    goals.keep(
        asked.keep,
        Weights(shape=k.keep_weight * k.shape_weight, look=k.keep_weight * k.look_weight),
    )
    texts = backbone.encode_text([goals.source, prompt, guide.negative])
    pair, other = (
        texts.select(torch.tensor(i, device=texts.tokens.device)) for i in ([0, 1], [2, 2])
    )
    base = guided(backbone, pair, other, guide.scale)
    if k.strength == 0 or not goals.terms:
        return base
    wrong = Wrong(backbone, pair, tuple(goals.terms), tuple(goals.pictures), k.strength, k.tokens)
    pushed = with_gradient(base, wrong, backbone.alphas_cumprod, k.limit)
    return switch(pushed, base, k.until)


def check(request: Request) -> None:
    """InputError if there is nothing to do."""
    if not request.inputs.keys() & {"source", "move", "resize", "appearance", "layout"}:
        raise InputError("self_guidance needs something to do: --move, --resize, --appearance, "
                         "--layout or --source")  # fmt: skip


def prepare(backbone: Backbone, request: Request, weights: None = None) -> Ready:
    """Make the pair's Score."""
    from threed.diffusion.images import load_image
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.goals import ROWS

    def pictures(name: str) -> list[tuple[str, Tensor]]:
        return [(word, load_image(path, request.size)) for word, path in request.all(name)]

    asked = Asked(
        request.all("move"),
        request.all("resize"),
        pictures("appearance"),
        pictures("layout"),
        request.all("keep") or None,
    )
    source, guide, knobs = request.one("source"), request.guide, request.knobs or Knobs()
    built = build(backbone, request.prompt, source, asked=asked, guide=guide, knobs=knobs)
    return Ready(built, rows=ROWS)


SYSTEM = System(
    name="self_guidance",
    paper="Diffusion Self-Guidance for Controllable Image Generation",
    arxiv="2306.00986",
    claim="moves, resizes and replaces things, and copies looks or layouts, by the model's own "
    "attention",
    inputs=(
        Input("move", WORD_SHIFT, "a word, and how far to the right and down", many=True),
        Input("resize", WORD_FACTOR, "a word, and the factor of its area", many=True),
        Input(
            "source",
            PROMPT,
            "the original's prompt, where words are to replace others in their place",
        ),
        Input("appearance", LOOK, "a word, and a picture of what it shall look like", many=True),
        Input("layout", PLACE, "a word, and a picture of where and how it shall stand", many=True),
        Input(
            "keep", WORD, "a word that stays; if not given, all that nothing is asked of", many=True
        ),
        BESIDE,
    ),
    knobs=Knobs,
    several=False,
    seams=("attention", "norms", "step"),
    prepare=prepare,
    check=check,
)
