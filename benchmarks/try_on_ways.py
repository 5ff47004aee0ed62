"""The ways in which benchmarks/try_on.py dresses toy persons: four systems, their parts, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.try_on_cases import Case, said_of, spots, wear_of
from threed.diffusion.guide import Guide
from threed.diffusion.images import save_image
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.attention import Record
from threed.diffusion.parts.decoding import repainting
from threed.diffusion.parts.garment_encoder import Clothed, expected_places
from threed.diffusion.score import Score, guided, inside
from threed.learning.data import write_examples
from threed.runs.train import train
from threed.systems.system import Request
from threed.systems.table import SYSTEMS
from threed.systems.tryon import composition, idm_vton, ladi_vton, stable_viton
from threed.toybox.world.dressed import category_of, fitting_pictures, random_dressed, said
from threed.toybox.world.garments import laid_flat
from threed.toybox.world.scenes import draw_scene, random_camera, staged

SIZE, STEPS, SCALE = 64, 20, 5.0  # pixels, of a sampling, and guidance towards words
MIDDLE = 500  # the noise level of 1,000 at which attention is looked at
TAUGHT: dict[str, Any] = {"layers": "decoder", "steps": 100, "lr": 1e-4, "batch": 4}


@dataclass(frozen=True, eq=False)
class Told:
    """A model, where a training is, and where something may be written."""

    base: Any
    place: Path
    out: Path
    loaded: dict[str, Any] = field(default_factory=dict)

    def nets(self, system: str, place: Path | None = None) -> Any:
        """The nets of a system, as they lie in a folder; those of `place` are loaded once."""
        if place is not None:
            return self._load(system, place)
        if system not in self.loaded:
            self.loaded[system] = self._load(system, self.place)
        return self.loaded[system]

    def _load(self, system: str, place: Path) -> Any:
        if system == composition.NAME:
            return composition.load_unet(self.base, place / composition.COMPOSITION)
        return SYSTEMS[system].load(self.base, Request("", inputs={"weights": (place,)}))

    def paint(self, ready: Ready, n: int) -> Tensor:
        """[n, 3, H, W] in [0, 1] pictures of n cases, each from noise of its own."""
        return paint(self.base, ready, n=n, steps=STEPS, seed=1, size=SIZE)


def masked_words(told: Told, cases: Sequence[Case]) -> Tensor:
    """The backbone, which is told what is worn, and paints inside the mask."""
    base, words = told.base, [said_of(case) for case in cases]
    score = guided(base, base.encode_text(words), base.encode_text([""] * len(words)), SCALE)
    return told.paint(Ready(within(base, score, cases)), len(cases))


def through(base: Any, pictures: Tensor) -> Tensor:
    """[N, 3, H, W] pictures as the VAE draws them."""
    with torch.no_grad():
        made: Tensor = base.decode_latents(base.encode_image(pictures.to(base.device)))
    return made.cpu()


def lossy(told: Told, cases: Sequence[Case]) -> Tensor:
    """The truth, as the VAE draws it: what paints by latents comes no nearer."""
    return through(told.base, torch.stack([case.truth for case in cases]))


def within(base: Any, score: Score, cases: Sequence[Case]) -> Score:
    """The Score inside the masks of cases; elsewhere the persons stay as they are."""
    clean = base.encode_image(torch.stack([case.person for case in cases]).to(base.device))
    masks = torch.stack([torch.from_numpy(case.mask)[None] for case in cases])
    return inside(score, masks, clean, base.alphas_cumprod)


def ladi(
    told: Told, cases: Sequence[Case], *, warping: bool = True, emasc: bool = True,
    words: bool = True,
) -> Tensor:  # fmt: skip
    """LaDI-VTON, perhaps without the bent garment, EMASC or pseudo-words."""
    nets, wear = told.nets(ladi_vton.NAME), wear_of(cases)
    nets = replace(nets, emasc=nets.emasc if emasc else None, words=nets.words if words else None)
    captions = [ladi_vton.caption(category_of(case.garments[0])) for case in cases]
    knobs = ladi_vton.Knobs(garment_until=float(warping))
    score = ladi_vton.build(told.base, captions, wear, nets, guide=Guide(SCALE), knobs=knobs)
    return told.paint(ladi_vton.ready(told.base, score, wear, nets), len(cases))


def stable(told: Told, cases: Sequence[Case]) -> Tensor:
    """StableVITON."""
    nets = told.nets(stable_viton.NAME)
    return told.paint(stable_viton.ready(told.base, wear_of(cases), nets), len(cases))


def idm(
    told: Told, cases: Sequence[Case], *, details: float = 1.0, picture: float = 1.0,
    place: Path | None = None,
) -> Tensor:  # fmt: skip
    """IDM-VTON, perhaps without GarmentNet or the adapter, or with weights of its own."""
    nets, wear = told.nets(idm_vton.NAME, place), wear_of(cases)
    knobs = idm_vton.Knobs(details=details, picture=picture)
    texts = [said(case.garments[0]) for case in cases]
    score = idm_vton.build(told.base, texts, nets, wear, knobs=knobs)
    return told.paint(Ready(score, decode=repainting(told.base, wear.repainted)), len(cases))


def customised(told: Told, cases: Sequence[Case]) -> Tensor:
    """IDM-VTON, taught for each case how somebody else wears the garment."""
    made = []
    for case in cases:
        place = told.out / "customised" / str(case.number)
        if not (place / "unet").is_dir():
            with torch.enable_grad():
                train(idm_vton.NAME, pair(case, place.with_name(f"{case.number}-pair")), place,
                      weights=str(told.place), backbone=str(told.base.folder), **TAUGHT
                      )  # fmt: skip
        made.append(idm(told, [case], place=place))
    return torch.cat(made)


def pair(case: Case, folder: Path) -> Path:
    """A training folder of one example: another person in the garment of a case."""
    (garment,), rng = case.garments, np.random.default_rng([case.number, 5])
    category = category_of(garment)
    person = random_dressed(rng, category).wearing(garment)
    view = draw_scene(staged(rng, person, random_camera(rng, (-18, 18), (-4, 10), (1.03, 1.1))))
    pictures = fitting_pictures(view, garment, draw_scene(laid_flat(garment)))
    for role, colors in pictures.items():
        save_image(torch.from_numpy(colors).permute(2, 0, 1), folder / f"{role}.png")
    files = {role: f"{role}.png" for role in pictures}
    texts = {"text": said_of(case), "garment_text": said(garment), "category": category}
    write_examples(folder, [files | texts])
    return folder


def bootcomp(told: Told, cases: Sequence[Case]) -> Tensor:
    """BootComp with all garments of the cases, painted into the persons."""
    score = outfitted(told, cases, [said_of(case) for case in cases])
    return told.paint(Ready(within(told.base, score, cases)), len(cases))


def free(told: Told, cases: Sequence[Case]) -> Tensor:
    """BootComp with all garments of the cases, on anybody."""
    return told.paint(Ready(outfitted(told, cases, ["a person"] * len(cases))), len(cases))


def outfitted(told: Told, cases: Sequence[Case], prompts: Sequence[str]) -> Score:
    """BootComp's Score of the garments of cases."""
    flat = torch.stack([picture for case in cases for picture in case.flat])
    names = [category_of(garment) for case in cases for garment in case.garments]
    outfit = composition.Outfit(flat, names, torch.ones(len(cases), len(names) // len(cases)) > 0)
    return composition.build(told.base, prompts, told.nets(composition.NAME), outfit,
                             guide=Guide(SCALE))  # fmt: skip


def away(told: Told, cases: Sequence[Case]) -> Tensor:
    """[N] how many pixels of the garment StableVITON looks beside where it should, on average.

    Where attention's expected place is, in the truth noised halfway, beside the world's own
    correspondence, over the places that show the garment; NaN where none does.
    """
    base, nets, wear = told.base, told.nets(stable_viton.NAME), wear_of(cases)
    record = Record(lambda site: site.layer.cross)
    clean = base.encode_image(torch.stack([case.truth for case in cases]).to(base.device))
    t = torch.full((len(cases),), MIDDLE, device=base.device)
    alpha, sigma = alpha_sigma(base.alphas_cumprod, t)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).to(clean)
    condition = stable_viton.told(base, wear, nets)
    Clothed(base, nets, record).predict_noise(alpha * clean + sigma * noise, t, condition)
    (weights,) = record.kept.values()
    cell = SIZE // weights.shape[1]
    seen = cell * (expected_places(weights, weights.shape[2]) + 0.5).cpu()
    return torch.stack([_beside(one, spots(case), cell) for one, case in zip(seen, cases)])


def _beside(seen: Tensor, truth: Tensor, cell: int) -> Tensor:
    """[] the mean distance of places [h, w, 2] from the truth [H, W, 2] in cells half full of it.

    NaN where there is no such cell.
    """
    cells = truth.unflatten(1, (-1, cell)).unflatten(0, (-1, cell)).transpose(1, 2).flatten(2, 3)
    known = ~cells.isnan().any(-1)  # [h, w, cell²]
    full = known.float().mean(-1) >= 0.5
    return (seen - cells.nanmean(2)).norm(dim=-1)[full].mean()
