"""How good the family is at scenes: pairs with places and colours, persons and what they wear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.images import make_images
from threed.toybox.family.mix import random_scene, truths
from threed.toybox.family.train import SEEDS
from threed.toybox.judge.net import IDENTITY, Judge, Verdict
from threed.toybox.world.captions import a
from threed.toybox.world.figures import random_identity
from threed.toybox.world.garments import LOWERS, UPPERS, Garment, random_garment
from threed.toybox.world.scenes import Scene, draw_scene
from threed.toybox.world.toys import COLORS, KINDS

PAIR = ("first_kind", "first_color", "second_kind", "second_color")
WORN = ("upper", "upper_color", "lower", "lower_color")
PAIRS, PERSONS = 60, 40  # prompts that are sampled


def judge_scene_scores(judge: Judge, scenes: int) -> dict[str, float]:
    """How often the judge is right about clean held-out scenes, all names of a kind at once."""
    drawn = held_out(scenes)
    verdict = judge.read(torch.cat([shown(scene) for scene in drawn]))
    asked = {"scene": ("scene",), "pair": PAIR, "garment": WORN, "identity": IDENTITY,
             "pose": ("pose",)}  # fmt: skip
    scores = {}
    for name, heads in asked.items():
        right = [
            names_right(verdict, index, {head: truth[head] for head in heads if head in truth})
            for index, truth in enumerate(map(truths, drawn))
            if any(head in truth for head in heads)
        ]
        scores[f"judge_{name}"] = float(np.mean(right))
    return scores


@torch.no_grad()
def vae_scene_scores(weights: Path, scenes: int) -> dict[str, float]:
    """PSNR in dB over whole pictures of held-out scenes."""
    backbone: Any = load_backbone(str(weights / "unet"), device="cpu")
    squares = []
    for scene in held_out(scenes):
        image = shown(scene)
        back = backbone.decode_latents(backbone.encode_image(image))
        squares.append(float((back - image).square().mean()))
    return {"vae_scenes_psnr_db": float(np.mean(-10 * np.log10(np.maximum(squares, 1e-10))))}


def pair_scores(backbone: Backbone, judge: Judge, steps: int, guidance: float) -> dict[str, float]:
    """Of one sample for each of PAIRS prompts: both toys right with their colours, and placed so.

    Both kinds and both colours are counted by themselves, too. A third of the prompts is "X and Y"
    (either may be left), one "X to the left of Y", one "X on top of Y".
    """
    rng = np.random.default_rng(SEEDS["test"])
    both, placed, alike = [], [], list[list[bool]]()
    for index in range(PAIRS):
        kinds, colors = (rng.choice(list(names), 2, replace=False) for names in (KINDS, COLORS))
        one, two = (f"{color} {kind}" for color, kind in zip(colors, kinds))
        way = ("and", "to the left of", "on top of")[index % 3]
        verdict = _sampled(backbone, judge, f"{a(one)} {way} {a(two)}", index, steps, guidance)
        found = pairs_of(verdict)[0]
        both.append(sorted(found) == sorted([one, two]))
        halves = (zip(*(toy.split() for toy in toys)) for toys in (found, (one, two)))
        alike.append([sorted(here) == sorted(there) for here, there in zip(*halves)])
        if way != "and":
            place = "pair beside" if "left" in way else "pair above"
            placed.append(found == [one, two] and verdict.names("scene") == [place])
    colors_right, kinds_right = np.mean(alike, axis=0).tolist()
    return {"image_pair": float(np.mean(both)), "image_pair_place": float(np.mean(placed)),
            "image_pair_kinds": kinds_right, "image_pair_colors": colors_right}  # fmt: skip


def person_scores(
    backbone: Backbone, judge: Judge, steps: int, guidance: float
) -> dict[str, float]:
    """Of one sample for each of PERSONS prompts: both garments with their colours, the identity.

    The identity's score is the mean share of the named traits that are right.
    """
    rng = np.random.default_rng(SEEDS["test"])
    worn, same = [], []
    for index in range(PERSONS):
        one = random_identity(rng)
        upper, lower = (random_garment(rng, kinds) for kinds in (UPPERS, LOWERS))
        prompt = person_prompt(one.words(), upper, lower)
        verdict = _sampled(backbone, judge, prompt, index, steps, guidance)
        worn.append(names_right(verdict, 0, {
            "upper": upper.kind, "upper_color": upper.color, "lower": lower.kind,
            "lower_color": lower.color,
        }))  # fmt: skip
        asked = {"hair": one.hair, "glasses": "glasses" if one.glasses else "none",
                 "beard": one.beard}  # fmt: skip
        if one.hair != "bald":
            asked["hair_color"] = one.hair_color
        traits = [names_right(verdict, 0, {head: name}) for head, name in asked.items()]
        same.append(float(np.mean(traits)))
    return {"image_garment": float(np.mean(worn)), "image_identity": float(np.mean(same))}


def person_prompt(face: Sequence[str], upper: Garment, lower: Garment) -> str:
    """ "a person with short red hair and glasses in a blue shirt and green shorts" """
    bottom = f"{lower.color} {lower.kind}"
    bottom = a(bottom) if lower.kind == "skirt" else bottom
    looks = f"a person with {' and '.join(face)}" if face else "a bald person"
    return f"{looks} in {a(f'{upper.color} {upper.kind}')} and {bottom}"


def pairs_of(verdict: Verdict) -> list[list[str]]:
    """For each picture what the judge reads: ["red ball", "blue cube"], left or upper one first."""
    names = [verdict.names(head) for head in PAIR]
    return [[f"{color} {kind}", f"{shade} {other}"] for kind, color, other, shade in zip(*names)]


def names_right(verdict: Verdict, index: int, truth: dict[str, str]) -> bool:
    """Whether the judge reads all these names, by head, from one of its pictures."""
    return all(verdict.names(head)[index] == name for head, name in truth.items())


def held_out(count: int) -> list[Scene]:
    """Scenes that nothing was trained on."""
    seeds: Iterable[int] = range(count)
    return [random_scene(np.random.default_rng([SEEDS["test"], seed])) for seed in seeds]


def shown(scene: Scene) -> Tensor:
    """[1, 3, 64, 64] in [0, 1] the picture of a scene."""
    return torch.from_numpy(draw_scene(scene).picture.rgb).permute(2, 0, 1)[None]


def _sampled(
    backbone: Backbone, judge: Judge, prompt: str, seed: int, steps: int, guidance: float
) -> Verdict:
    image = make_images(backbone, prompt, steps=steps, guidance_scale=guidance, seed=seed)
    return judge.read(image.cpu())
