"""How good the family is at scenes: pairs with places and colours, persons and what they wear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threed.core.cameras import Cameras
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import make_images
from threed.toybox.family.train import SEEDS
from threed.toybox.judge.net import IDENTITY, Judge, Verdict
from threed.toybox.judge.truth import truths, truths_of_face, truths_of_garment
from threed.toybox.world.captions import a
from threed.toybox.world.figures import random_identity
from threed.toybox.world.garments import LOWERS, UPPERS, Garment, random_garment
from threed.toybox.world.mix import random_scene
from threed.toybox.world.scenes import Scene, draw_scene
from threed.toybox.world.toys import COLORS, KINDS

PAIR = ("first_kind", "first_color", "second_kind", "second_color")
WORN = ("upper", "upper_color", "lower", "lower_color")
PAIRS, PERSONS = 60, 40  # prompts that are sampled


STEPS, GUIDANCE = 30, 5.0  # of every sample that is judged
Scores = dict[str, float]


def judge_scene_scores(judge: Judge, scenes: int) -> Scores:
    """Measure how often the judge is right about clean scenes, all names of a kind at once."""
    drawn = held_out(scenes)
    verdict = judge.read(torch.cat([shown(scene) for scene in drawn]))
    asked = {"scene": ("scene",), "pair": PAIR, "garment": WORN, "identity": IDENTITY,
             "pose": ("pose",)}  # fmt: skip
    right = defaultdict[str, list[bool]](list)
    for index, truth in enumerate(map(truths, drawn)):
        for name, heads in asked.items():
            named = {head: truth[head] for head in heads if head in truth}
            if named:
                right[name].append(names_right(verdict, index, named))
    return shares("judge", {name: right[name] for name in asked})


def vae_scene_scores(weights: Path, scenes: int, size: int) -> Scores:
    """Measure PSNR in dB over whole pictures, of size² pixels, of held-out scenes."""
    pairs = through_vae(weights, (shown(scene, size) for scene in held_out(scenes)))
    return shares("vae_scenes", {"psnr_db": [psnr_db(*pair)[0] for pair in pairs]})


def through_vae(weights: Path, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pictures [B, 3, H, W] in [0, 1] and what the VAE makes of them."""
    backbone: Any = load_backbone(str(weights / "unet"), device="cpu")
    for images in batches:
        with torch.no_grad():
            back = backbone.decode_latents(backbone.encode_image(images))
        yield images, back


def psnr_db(images: Tensor, back: Tensor) -> list[float]:
    """Give the PSNR of each of two batches of pictures [B, 3, H, W] in [0, 1]."""
    squares = (back - images).square().mean((1, 2, 3)).numpy()
    decibels: list[float] = (-10 * np.log10(np.maximum(squares, 1e-10))).tolist()
    return decibels


def shares(prefix: str, found: Mapping[str, Sequence[float]]) -> Scores:
    """Take the mean of what was found by name; the names get a prefix."""
    return {f"{prefix}_{name}": float(np.mean(values)) for name, values in found.items()}


def pair_scores(backbone: Backbone, judge: Judge) -> Scores:
    """Measure, in PAIRS samples, whether both toys have their colours, and stand where they should.

    Both kinds and both colours are counted by themselves, too. A third of the prompts is "X and Y"
    (either may be left), one "X to the left of Y", one "X on top of Y".
    """
    rng, right = np.random.default_rng(SEEDS["test"]), defaultdict[str, list[bool]](list)
    for index in range(PAIRS):
        kinds, colors = (rng.choice(list(names), 2, replace=False) for names in (KINDS, COLORS))
        one, two = (f"{color} {kind}" for color, kind in zip(colors, kinds))
        way = ("and", "to the left of", "on top of")[index % 3]
        verdict = sampled(backbone, judge, f"{a(one)} {way} {a(two)}", index)
        found = pairs_of(verdict)[0]
        right["pair"].append(sorted(found) == sorted([one, two]))
        halves = (zip(*(toy.split() for toy in toys)) for toys in (found, (one, two)))
        for name, here, there in zip(("pair_colors", "pair_kinds"), *halves):
            right[name].append(sorted(here) == sorted(there))
        if way != "and":
            place = "pair beside" if "left" in way else "pair above"
            placed = found == [one, two] and verdict.names("scene") == [place]
            right["pair_place"].append(placed)
    return shares("image", right)


def person_scores(backbone: Backbone, judge: Judge) -> Scores:
    """Measure, in PERSONS samples, both garments with their colours, and the identity.

    The identity's score is the mean share of the named traits that are right.
    """
    rng = np.random.default_rng(SEEDS["test"])
    worn, same = [], []
    for index in range(PERSONS):
        one = random_identity(rng)
        upper, lower = (random_garment(rng, kinds) for kinds in (UPPERS, LOWERS))
        verdict = sampled(backbone, judge, person_prompt(one.words(), upper, lower), index)
        named = truths_of_garment(upper) | truths_of_garment(lower)
        worn.append(names_right(verdict, 0, {head: named[head] for head in WORN}))
        asked = truths_of_face(one)
        if one.hair == "bald":  # its prompt says nothing of the colour
            asked.pop("hair_color", None)
        traits = [names_right(verdict, 0, {head: name}) for head, name in asked.items()]
        same.append(float(np.mean(traits)))
    return shares("image", {"garment": worn, "identity": same})


def person_prompt(face: Sequence[str], upper: Garment, lower: Garment) -> str:
    """ "a person with short red hair and glasses in a blue shirt and green shorts" """
    bottom = f"{lower.color} {lower.kind}"
    bottom = a(bottom) if lower.kind == "skirt" else bottom
    looks = f"a person with {' and '.join(face)}" if face else "a bald person"
    return f"{looks} in {a(f'{upper.color} {upper.kind}')} and {bottom}"


def pairs_of(verdict: Verdict) -> list[list[str]]:
    """List what the judge reads in each picture: ["red ball", "blue cube"], left or upper first."""
    names = [verdict.names(head) for head in PAIR]
    return [[f"{color} {kind}", f"{shade} {other}"] for kind, color, other, shade in zip(*names)]


def names_right(verdict: Verdict, index: int, truth: dict[str, str]) -> bool:
    """Tell whether the judge reads all these names, by head, from one of its pictures."""
    return all(verdict.names(head)[index] == name for head, name in truth.items())


def held_out(count: int) -> list[Scene]:
    """Make scenes that nothing was trained on."""
    return [random_scene(np.random.default_rng([SEEDS["test"], i])) for i in range(count)]


def shown(scene: Scene, size: int = 64) -> Tensor:
    """[1, 3, size, size] in [0, 1] the picture of a scene."""
    return torch.from_numpy(draw_scene(scene, size).picture.rgb).permute(2, 0, 1)[None]


def sampled(
    backbone: Backbone, judge: Judge, prompt: str, seed: int, cameras: Cameras | None = None
) -> Verdict:
    """Judge a sample of a prompt, or one from each of the cameras."""
    count, guide = 1 if cameras is None else len(cameras), Guide(GUIDANCE)
    options = {"n": count, "steps": STEPS, "seed": seed}
    images = make_images(backbone, prompt, cameras=cameras, guide=guide, **options)
    return judge.read(images.cpu())
