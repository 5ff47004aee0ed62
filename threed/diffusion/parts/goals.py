"""Self-guidance's goals (arXiv:2306.00986): where things should be, and how far off they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.noise import diffuse
from threed.diffusion.parts import energies
from threed.diffusion.parts.attention import Record, Site
from threed.diffusion.parts.heat import largest_maps
from threed.diffusion.parts.norms import Decoded
from threed.diffusion.parts.words import phrases, word_tokens

ROWS = 2  # original, edited


Vector = tuple[float, float]
Moves = Sequence[tuple[str, Vector]]
Pictures = Sequence[tuple[str, Tensor]]  # words with pictures [1, 3, H, W]


@dataclass(frozen=True)
class Weights:
    """How much each kind of energy counts."""

    place: float = 0.0
    size: float = 0.0
    shape: float = 0.0
    look: float = 0.0


@dataclass(frozen=True)
class Term:
    """What one word of the edited prompt has to be like."""

    tokens: tuple[int, ...]  # of the word in the edited picture's prompt
    model: tuple[int, ...]  # of the word that it is compared with
    picture: int  # where that is: 0 the original, 1 and on the given pictures
    weights: Weights
    shift: Vector = (0.0, 0.0)
    factor: float = 1.0


@dataclass(frozen=True)
class Seen:
    """What the UNet says about n pictures."""

    maps: Tensor  # [n, h, w, S] how much each place looks at each token
    features: Tensor  # [n, C, h', w'] the last activations of its decoder

    def of(self, tokens: tuple[int, ...]) -> Tensor:
        """[n, h, w] how much each place looks at a word."""
        return self.maps[..., list(tokens)].sum(-1)


class Goals:
    """The terms, put together from what is asked for."""

    def __init__(self, backbone: Backbone, prompt: str, source: str) -> None:
        self.backbone = backbone
        self.prompt, self.source = backbone.reads(prompt), backbone.reads(source)
        self.terms: list[Term] = []
        self.pictures: list[Tensor] = []  # latents
        self.edited: list[str] = []  # words of the prompt

    def edit(self, move: Moves, resize: Sequence[tuple[str, float]], aim: Weights) -> None:
        """Words that go somewhere, or grow, and look as they did."""
        shifts, factors = dict(move), dict(resize)
        for word, (dx, dy) in shifts.items():
            if not (abs(dx) < 1 and abs(dy) < 1):
                raise InputError(f"move {word}: fractions of the picture in -1..1 are needed, got "
                                 f"{dx:g}, {dy:g}")  # fmt: skip
        for word, factor in factors.items():
            if not 0.05 <= factor <= 20:
                raise InputError(f"resize {word}: a factor in 0.05..20 is needed, got {factor:g}")
        for word in dict.fromkeys([*shifts, *factors]):
            here, there = self._tokens(self.prompt, word), self._tokens(self.source, word)
            shift, factor = shifts.get(word, (0.0, 0.0)), factors.get(word, 1.0)
            self.terms.append(Term(here, there, 0, aim, shift, factor))
            self.edited.append(word)

    def copy(self, appearance: Pictures, layout: Pictures, aim: Weights) -> None:
        """Words that look, or stand, like their namesakes in pictures [1, 3, H, W] in [0, 1]."""
        look, stand = Weights(look=aim.look), replace(aim, look=0.0)
        for pairs, weights in ((appearance, look), (layout, stand)):
            for word, picture in pairs:
                with torch.no_grad():
                    latents = self.backbone.encode_image(picture.to(self.backbone.device))
                self.pictures.append(latents)
                tokens = self._tokens(self.prompt, word)
                self.terms.append(Term(tokens, tokens, len(self.pictures), weights))
                self.edited.append(word)

    def replace_words(self, aim: Weights) -> None:
        """Words that stand for other words of the source, in their place and shape."""
        old, new = self.source.split(), self.prompt.split()
        if len(old) != len(new):
            raise InputError(f"source and prompt need equally many words: {self.source!r} has "
                             f"{len(old)}, {self.prompt!r} has {len(new)}")  # fmt: skip
        for a, b in zip(old, new):
            if a != b:
                here, there = self._tokens(self.prompt, b), self._tokens(self.source, a)
                self.terms.append(Term(here, there, 0, replace(aim, look=0.0)))
                self.edited.append(b)

    def keep(self, words: Sequence[str] | None, aim: Weights) -> None:
        """Words that stay: the given ones, or the last of each phrase that nothing is asked of."""
        if words is None:
            edited = (self.backbone.reads(word).lower().split() for word in self.edited)
            touched = {part for words in edited for part in words}
            words = [phrase[-1] for phrase in phrases(self.prompt) if not touched & {*phrase}]
        for word in words:
            here = self._tokens(self.prompt, word)
            self.terms.append(Term(here, self._tokens(self.source, word), 0, aim))

    def _tokens(self, prompt: str, word: str) -> tuple[int, ...]:
        return tuple(word_tokens(self.backbone, prompt, word))


@dataclass(frozen=True)
class Wrong:
    """The energy (x_t, t) -> [B]: 0 for the originals, and how far off the edited pictures are.

    Times the number of a picture's latents, so that its gradient does not depend on their number.
    """

    backbone: Backbone
    pair: Condition  # [original, edited], plain
    terms: tuple[Term, ...]
    pictures: tuple[Tensor, ...]  # [1, C, h, w] each
    strength: float
    tokens: int

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x [B, C, h, w] and t [B], pairs of neighbours."""
        times = t[::ROWS]
        with torch.no_grad():
            models = [self._see(x[::ROWS], times, 0)]
            models += [self._see(self._noised(z, times), times, 1) for z in self.pictures]
        edited = self._see(x[1::ROWS], times, 1)
        energy = x.new_zeros(len(times))
        energy = sum((_off(term, edited, models[term.picture]) for term in self.terms), energy)
        energy = self.strength * x[0].numel() * energy
        return torch.stack([torch.zeros_like(energy), energy], 1).flatten()

    def _see(self, x: Tensor, t: Tensor, row: int) -> Seen:
        """Look at pictures [n, C, h, w] with the prompt of a row."""

        def read(site: Site) -> bool:
            return site.layer.place == "up" and site.rows * site.columns <= self.tokens

        look, decoded = Record(lambda site: site.layer.cross and read(site)), Decoded()
        text = self.pair.select(torch.full((len(x),), row, device=self.pair.tokens.device))
        self.backbone.predict_noise(x, t, replace(text, attention=(look,), norms=(decoded,)))
        if not look.kept:
            raise InputError(f"no attention of backbone {self.backbone.name!r} on the way up has "
                             f"at most {self.tokens} places; tokens must be larger")  # fmt: skip
        assert decoded.features is not None  # every UNet has a last norm
        return Seen(largest_maps(look.kept, self.tokens), decoded.features)

    def _noised(self, z: Tensor, t: Tensor) -> Tensor:
        """A given picture at the noise levels t [n], with noise that is always the same."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(z.shape, generator=generator).to(z)
        return diffuse(z, t, noise, self.backbone.alphas_cumprod.to(z)).x


def _off(term: Term, edited: Seen, model: Seen) -> Tensor:
    """[n] the weighted energies of one word, L1 as in the paper."""
    here, there = edited.of(term.tokens), model.of(term.model)
    goal = energies.centroid(there) + torch.tensor(term.shift, device=there.device)
    w, energy = term.weights, here.new_zeros(len(here))
    if w.place:
        energy = energy + w.place * (energies.centroid(here) - goal).abs().sum(1)
    if w.size:
        wanted = term.factor * energies.size(there)
        energy = energy + w.size * (energies.size(here) - wanted).abs()
    if w.shape:
        wanted = energies.moved(energies.shape(there), term.shift, term.factor)
        energy = energy + w.shape * (energies.shape(here) - wanted).abs().mean((1, 2))
    if w.look:
        wanted = energies.appearance(there, model.features)
        look = energies.appearance(here, edited.features)
        energy = energy + w.look * (look - wanted).abs().mean(1)
    return energy
