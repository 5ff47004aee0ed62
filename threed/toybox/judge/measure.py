"""How good the family is: each part measured on toys that none of them was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threed.core.cameras import orbit, view_name
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.images import make_images
from threed.toybox.family import nets as family
from threed.toybox.family.shelf import in_clay, random_set
from threed.toybox.family.train import SEEDS
from threed.toybox.judge import measure_scenes as scenes
from threed.toybox.judge.net import FRONT_VIEWS, Judge, fronts, load_judge
from threed.toybox.world.draw import Light
from threed.toybox.world.toys import COLORS, FRONTED, KINDS, Set, Toy, draw_set, random_toy

STEPS, GUIDANCE = 30, 5.0  # of every sample that is judged
Say = Callable[[str], None]


def measure(weights: Path, *, sets: int = 128, say: Say = lambda _: None) -> dict[str, float]:
    """Every score of the family, by name; shares are in 0..1.

    sets: how many held-out sets of four pictures the judge, CLIP and the VAE are measured on. Text
    to image is judged over all kinds and colours, multi-view over all kinds in two colours.
    A family that knows scenes is measured on them too (threed.toybox.measure_scenes). InputError
    where a part is missing.
    """
    for part in ("judge", "vae", "clip", "unet", "unet_multiview"):
        family.need(weights, part, "measuring the family")
    judge = load_judge(weights / "judge")
    drawn = [random_set(np.random.default_rng([SEEDS["test"], i])) for i in range(sets)]
    scores: dict[str, float] = {}
    wanted: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("judge", lambda: judge_scores(judge, drawn)),
        ("real toys as assets", lambda: turntable_scores(judge)),
        ("vae", lambda: vae_scores(weights, drawn)),
        ("clip", lambda: clip_scores(weights, drawn)),
        ("text to image", lambda: image_scores(weights, judge)),
        ("multi-view", lambda: multiview_scores(weights, judge)),
    ]
    if family.knows_scenes(weights) and judge.knows_scenes:
        wanted += [
            ("judge on scenes", lambda: scenes.judge_scene_scores(judge, 2 * sets)),
            ("vae on scenes", lambda: scenes.vae_scene_scores(weights, sets)),
            ("pairs", lambda: scenes.pair_scores(plain(weights), judge, STEPS, GUIDANCE)),
            ("persons", lambda: scenes.person_scores(plain(weights), judge, STEPS, GUIDANCE)),
        ]
    else:
        say("no scores of scenes: the judge or the tokenizer is from before them")
    for name, score in wanted:
        say(f"measuring {name}")
        scores |= score()
    return {name: round(value, 4) for name, value in scores.items()}


def judge_scores(judge: Judge, drawn: list[Set]) -> dict[str, float]:
    """How often the judge is right about clean pictures."""
    right: dict[str, list[bool]] = {"kind": [], "color": [], "finish": [], "view": []}
    for one in drawn:
        verdict = judge.read(pixels(one))
        views = view_words(one)
        for head, truth in (("kind", one.toy.kind), ("color", one.toy.color),
                            ("finish", one.toy.finish)):  # fmt: skip
            right[head] += [name == truth for name in verdict.names(head)]
        if one.toy.kind in FRONTED:
            right["view"] += [a == b for a, b in zip(verdict.names("view"), views)]
    return {f"judge_{head}": float(np.mean(hits)) for head, hits in right.items()}


def turntable_scores(judge: Judge) -> dict[str, float]:
    """What `threed evaluate` would say of real toys: the most that an asset can be given.

    One toy of every kind: kind and colour from eight views together, the kind of the same toy in
    clay, and for kinds with a front whether it has just one (`judge.fronts`).
    """
    right: dict[str, list[bool]] = {"kind": [], "color": [], "geometry": [], "front": []}
    for i, kind in enumerate(KINDS):
        toy = random_toy(np.random.default_rng([SEEDS["test"], i]), kind)
        coloured = judge.read(turntable(toy, 8))
        right["kind"].append(coloured.together("kind") == kind)
        right["color"].append(coloured.together("color") == toy.color)
        right["geometry"].append(judge.read(turntable(in_clay(toy), 8)).together("kind") == kind)
        if kind in FRONTED:
            right["front"].append(fronts(judge.read(turntable(toy, FRONT_VIEWS))) == 1)
    return {f"truth_{name}": float(np.mean(hits)) for name, hits in right.items()}


def turntable(toy: Toy, views: int) -> Tensor:
    """[views, 3, size, size] in [0, 1]: a toy from all around, on white."""
    white = np.ones((2, 3), np.float32)
    return pixels(draw_set(toy, orbit(views, family.SIZE), Light(), white))


@torch.no_grad()
def vae_scores(weights: Path, drawn: list[Set]) -> dict[str, float]:
    """PSNR in dB over whole pictures, and the mean absolute error of a toy's mean colour."""
    backbone: Any = load_backbone(str(weights / "unet"), device="cpu")
    squares, colours = [], []
    for one in drawn:
        images = pixels(one)
        back = backbone.decode_latents(backbone.encode_image(images))
        squares += (back - images).square().mean((1, 2, 3)).tolist()
        for picture, before, after in zip(one.pictures, images, back):
            toy = torch.from_numpy(picture.alpha) > 0.5
            colours.append(float((after[:, toy].mean(1) - before[:, toy].mean(1)).abs().mean()))
    psnr = -10 * np.log10(np.maximum(squares, 1e-10))
    return {"vae_psnr_db": float(np.mean(psnr)), "vae_colour_error": float(np.mean(colours))}


@torch.no_grad()
def clip_scores(weights: Path, drawn: list[Set]) -> dict[str, float]:
    """How often, of every kind and colour, a plain picture is nearest to its own caption."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(weights / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")
    names = [(kind, color) for kind in KINDS for color in COLORS]
    texts = [f"a {color} {kind}" for kind, color in names]
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    hits = []
    for one in drawn:
        out = model(input_ids=tokens.input_ids, pixel_values=pixels(one) * 2 - 1)
        best = [names[i] for i in out.logits_per_image.argmax(1).tolist()]
        hits += [pair == (one.toy.kind, one.toy.color) for pair in best]
    return {"clip_retrieval": float(np.mean(hits))}


def image_scores(weights: Path, judge: Judge) -> dict[str, float]:
    """Of one sample for every kind and colour: how often the judge reads what was asked for."""
    backbone = plain(weights)
    kinds, colors = [], []
    for i, kind in enumerate(KINDS):
        for j, color in enumerate(COLORS):
            image = make_images(
                backbone, f"a {color} {kind}", steps=STEPS, guidance_scale=GUIDANCE,
                seed=1000 * i + j,
            )  # fmt: skip
            verdict = judge.read(image.cpu())
            kinds.append(verdict.names("kind")[0] == kind)
            colors.append(verdict.names("color")[0] == color)
    return {"image_kind": float(np.mean(kinds)), "image_color": float(np.mean(colors))}


def multiview_scores(weights: Path, judge: Judge) -> dict[str, float]:
    """Of four views 90 degrees apart: the view's word, and whether they agree with each other."""
    backbone = load_backbone(str(weights / "unet_multiview"), device="auto")
    cameras = orbit(4, family.SIZE)
    words = [view_name(float(azimuth), 15.0) for azimuth in cameras.azimuth_deg]
    right, agree, kinds = [], [], []
    for i, kind in enumerate(KINDS):
        for j, color in enumerate(list(COLORS)[i % 5 :: 5]):
            images = make_images(
                backbone, f"a {color} {kind}", n=4, steps=STEPS, guidance_scale=GUIDANCE,
                seed=1000 * i + j, cameras=cameras,
            )  # fmt: skip
            verdict = judge.read(images.cpu())
            agree.append(all(len(set(verdict.names(head))) == 1 for head in ("kind", "color")))
            kinds.append(verdict.together("kind") == kind)
            if kind in FRONTED:
                right += [a == b for a, b in zip(verdict.names("view"), words)]
    return {"multiview_view": float(np.mean(right)), "multiview_agree": float(np.mean(agree)),
            "multiview_kind": float(np.mean(kinds))}  # fmt: skip


def plain(weights: Path) -> Backbone:
    """The family's text-to-image part."""
    return load_backbone(str(weights / "unet"), device="auto")


def pixels(one: Set) -> Tensor:
    """[V, 3, size, size] in [0, 1]: the pictures of a set."""
    return torch.from_numpy(np.stack([picture.rgb for picture in one.pictures])).permute(0, 3, 1, 2)


def view_words(one: Set) -> list[str]:
    """What each view of a set is called, of VIEWS."""
    cameras = one.cameras
    pairs = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
    return [view_name(azimuth, elevation) for azimuth, elevation in pairs]
