"""From a prompt and cameras to conditions: view words, a negative prompt, everything cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from guidance.views import NEGATIVES, Blend, negative_weights, shares
from threed.core.cameras import VIEWS, Cameras
from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.noise import Noised
from threed.diffusion.reading import PROMPT, notes
from threed.diffusion.score import Score, cfg, perp_neg, rescaled, score

NOTHING: Mapping[str, str] = MappingProxyType({})


def prompt_warnings(
    backbone: Backbone, prompt: str, others: Mapping[str, str] = NOTHING, *, instructs: bool = False
) -> list[str]:
    """What a user should know before a long run: words that are left out, and what is left.

    others: further texts that the backbone is given, by what they are called. instructs: the prompt
    says what to change, and need not name a thing.
    """
    shown = backbone.vocabulary
    warnings = notes(backbone.name, shown, {PROMPT: prompt, **others})
    if shown is not None and not instructs and not shown.has_kind(prompt):
        warnings.append(
            f"the prompt names no thing that backbone {backbone.name!r} can draw, so it may draw "
            f"anything; it knows {', '.join(shown.kinds)}"
        )
    count, limit = backbone.token_count(prompt)
    if count > limit:
        warnings.append(
            f"the prompt has {count} tokens, and backbone {backbone.name!r} reads the first "
            f"{limit}: its end is ignored"
        )
    return warnings


class Prompts:
    """Conditions for the views of one prompt, and the Score that they make together.

    With view_words, ", front view" and the like (core.cameras.view_name) follow the prompt, mixed
    as blend says; the negative prompt has no view. Texts are encoded once, when this is made. A
    multi-view backbone is told the cameras too.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: str,
        *,
        negative: str = "",
        view_words: bool = True,
        blend: Blend = "nearest",
        front_deg: float = 45.0,
    ) -> None:
        self.backbone, self.blend, self.view_words = backbone, blend, view_words
        self.front_deg = front_deg
        self.prompt, self.negative = prompt, negative
        texts = dict.fromkeys([prompt, *map(self._view, VIEWS), negative, ""])
        self._places = {text: place for place, text in enumerate(texts)}
        self._encoded = backbone.encode_text(list(texts))

    def score(self, cameras: Cameras, scale: float, rescale: float = 0.0) -> Score:
        """The guided noise of what B cameras see, rescaled (MVDream) if asked for.

        CFG starts from the negative prompt; with blend "perp_neg", Perp-Neg joins in.
        """
        cameras = cameras.to(self.backbone.device)
        conditions = [self.text(cameras), self.same(self.negative, cameras)]
        combine = cfg(scale)
        if self.blend == "perp_neg" and self.view_words:
            conditions += [self.same(self._view(name), cameras) for name in NEGATIVES]
            combine = perp_neg(scale, negative_weights(cameras).unbind(-1))
        if rescale:
            backbone = self.backbone
            combine = rescaled(combine, rescale, backbone.alphas_cumprod, backbone.views)
        return score(self.backbone, conditions, combine)

    def less(self, cameras: Cameras, scale: float) -> Callable[[Noised], Tensor]:
        """What distillation subtracts from the guided noise: the noise [B, C, h, w] itself."""
        return lambda seen: seen.noise

    def text(self, cameras: Cameras) -> Condition:
        """The prompt with the view's words, an item for each camera."""
        if not self.view_words:
            return self.bare(cameras)
        views = self._encoded.select(self._at([self._view(name) for name in VIEWS]))
        weights = shares(cameras.to(self.backbone.device), self.blend, self.front_deg)

        def mixed(values: Tensor) -> Tensor:
            mean: Tensor = torch.tensordot(weights.to(values.dtype), values, 1)
            return mean

        pooled = None if views.pooled is None else mixed(views.pooled)
        return self._seen(Condition(mixed(views.tokens), pooled), cameras)

    def bare(self, cameras: Cameras) -> Condition:
        """The prompt alone for each camera, whatever its view."""
        return self.same(self.prompt, cameras)

    def same(self, text: str, cameras: Cameras) -> Condition:
        """The same text for each camera: the prompt, one of its views, the negative one, or ""."""
        return self._seen(self._encoded.select(self._at([text] * len(cameras))), cameras)

    def _view(self, name: str) -> str:
        return f"{self.prompt}, {name} view" if self.view_words else self.prompt

    def _at(self, texts: list[str]) -> Tensor:
        places = [self._places[text] for text in texts]
        return torch.tensor(places, device=self._encoded.tokens.device)

    def _seen(self, condition: Condition, cameras: Cameras) -> Condition:
        if self.backbone.views == 1:
            return condition
        return replace(condition, cameras=cameras.to(self.backbone.device))
