"""Self-guidance (arXiv:2306.00986): things are moved and resized by the model's own attention.

The original and the edited picture are made side by side from the same noise. At each step the
attention to the words of the prompt says where things are and how they look (energies.py), and the
gradient of what is wrong about that joins the edited picture's noise. The original is never
changed. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.images import load_image
from threed.diffusion.paint import Ready
from threed.diffusion.parts.goals import ROWS, Goals, Vector, Weights, Wrong
from threed.diffusion.score import Score, guided, switch, with_gradient
from threed.systems.system import Input, Request, System


def build(
    backbone: Backbone,
    prompt: str,
    source: str | None = None,
    *,
    move: Sequence[tuple[str, Vector]] = (),
    resize: Sequence[tuple[str, float]] = (),
    appearance: Sequence[tuple[str, Tensor]] = (),
    layout: Sequence[tuple[str, Tensor]] = (),
    keep: Sequence[str] | None = None,
    negative: str = "",
    scale: float = 5.0,
    strength: float = 3.0,
    until: float = 0.8,
    place_weight: float = 2.0,
    size_weight: float = 0.5,
    shape_weight: float = 1.0,
    look_weight: float = 0.1,
    keep_weight: float = 1.0,
    limit: float = 0.7,
    tokens: int = 1024,
) -> Score:
    """The Score of pairs [original, edited] of neighbours. The original is never changed.

    move: words and by how much, in fractions of the picture to the right and down. resize: words
    and factors of their area. appearance, layout: words and pictures [1, 3, H, W] in [0, 1], of
    the final size, whose own look or place and shape are copied. source: the original's prompt,
    with as many words; words that differ take place and shape of those they stand for. keep: words
    that stay as they are; by default the last of each phrase without any of the words above.

    strength multiplies the gradients (0 gives plain samples); what they add is at most `limit`
    times the noise; until is the share of the sampling in which they act, tokens the size of the
    largest maps that are read. InputError for words that are not in the prompt, and for moves and
    factors that leave no picture.
    """
    goals = Goals(backbone, prompt, prompt if source is None else source)
    aim = Weights(place_weight, size_weight, shape_weight, look_weight)
    goals.edit(move, resize, aim)
    goals.copy(appearance, layout, aim)
    goals.replace_words(aim)
    goals.keep(keep, Weights(0.0, 0.0, keep_weight * shape_weight, keep_weight * look_weight))
    texts = backbone.encode_text([goals.source, prompt, negative])
    pair, other = (texts.select(torch.tensor(i, device=texts.tokens.device))
                   for i in ([0, 1], [2, 2]))  # fmt: skip
    base = guided(backbone, pair, other, scale)
    if strength == 0 or not goals.terms:
        return base
    wrong = Wrong(backbone, pair, tuple(goals.terms), tuple(goals.pictures), strength, tokens)
    pushed = with_gradient(base, wrong, backbone.alphas_cumprod, limit)
    return switch(pushed, base, below=1000 * (1 - until))


def prepare(backbone: Backbone, request: Request) -> Ready:
    """The pair's Score from what a user says."""
    if not (request.source or request.move or request.resize or request.appearance
            or request.layout):  # fmt: skip
        raise InputError("self_guidance needs something to do: --move, --resize, --appearance, "
                         "--layout or --source")  # fmt: skip
    options = request.options() | {
        name: [(word, load_image(path, request.size)) for word, path in getattr(request, name)]
        for name in ("appearance", "layout")
    }
    built = build(
        backbone, request.prompt, request.source, move=request.move, resize=request.resize,
        keep=request.keep or None, **options,
    )  # fmt: skip
    return Ready(built, rows=ROWS)


SYSTEM = System(
    name="self_guidance",
    paper="Diffusion Self-Guidance for Controllable Image Generation",
    arxiv="2306.00986",
    claim="moves, resizes and replaces things, and copies looks or layouts, by the model's own "
    "attention",
    inputs=(
        Input("move", "a word, and how far to the right and down"),
        Input("resize", "a word, and the factor of its area"),
        Input("source", "the original's prompt, where words are to replace others in their place"),
        Input("appearance", "a word, and a picture of what it shall look like"),
        Input("layout", "a word, and a picture of where and how it shall stand"),
        Input("keep", "a word that stays; if not given, all that nothing is asked of"),
    ),
    trains="nothing",
    seams=("attention", "step"),
    build=build,
    prepare=prepare,
)
