"""How good the family is: each part measured on toys that none of them was trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.cameras import orbit
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.parts.face_net import FOLDER, NUMBERS, SmallFaces
from threed.toybox.family import nets, sharp
from threed.toybox.family.faces import draw_faces
from threed.toybox.family.train import SEEDS
from threed.toybox.judge import measure_scenes as scenes
from threed.toybox.judge.alike import KINDS as LIKENESSES
from threed.toybox.judge.alike import draw_instance, load_likeness, measure_likeness, told_apart
from threed.toybox.judge.measure_scenes import Scores, shares
from threed.toybox.judge.net import FRONT_VIEWS, Judge, fronts, load_judge
from threed.toybox.world import toys
from threed.toybox.world.draw import Light
from threed.toybox.world.kinds import FRONTED
from threed.toybox.world.toys import AROUND, COLORS, KINDS, Set, Toy, draw_set, random_toy

OF_TOYBOX = ("judge", "real toys as assets", "clip", "judge on scenes")  # parts toybox-hd lacks
Say = Callable[[str], None]


def measure(
    weights: Path, *, sets: int = 128, hd: bool = False, say: Say = lambda _: None
) -> Scores:
    """Measure every score of the family, by name; shares are in 0..1.

    sets: how many held-out sets of four pictures the judge, CLIP and the VAE are measured on. Text
    to image is judged over all kinds and colours, multi-view over all kinds in two colours.
    A family that knows scenes is measured on them too; hd: toybox-hd, by toybox's judge. InputError
    where a part is missing.
    """
    for part in ("vae", "unet", "unet_multiview", *(() if hd else ("judge", "clip"))):
        nets.need(weights, part, "measuring the family", hd=hd)
    judge = load_judge((nets.WEIGHTS if hd else weights) / "judge")
    chances = (np.random.default_rng([SEEDS["test"], i]) for i in range(sets))
    size = sharp.SIZE if hd else nets.SIZE
    drawn = [toys.random_set(chance, size) for chance in chances]
    wanted: dict[str, Callable[[], Scores]] = {
        "judge": lambda: judge_scores(judge, drawn),
        "real toys as assets": lambda: turntable_scores(judge),
        "vae": lambda: vae_scores(weights, drawn),
        "clip": lambda: clip_scores(weights, drawn),
        "text to image": lambda: image_scores(weights, judge),
        "multi-view": lambda: multiview_scores(weights, judge),
    }
    if nets.knows_scenes(weights) and judge.knows_scenes:
        wanted |= {
            "judge on scenes": lambda: scenes.judge_scene_scores(judge, 2 * sets),
            "vae on scenes": lambda: scenes.vae_scene_scores(weights, sets, size),
            "pairs": lambda: scenes.pair_scores(load_part(weights), judge),
            "persons": lambda: scenes.person_scores(load_part(weights), judge),
        }
    for name in OF_TOYBOX if hd else ():
        wanted.pop(name, None)
    if hd:
        wanted["beside toybox"] = lambda: beside_toybox(weights, drawn)
    wanted |= {
        f"likeness: {kind}": partial(likeness_scores, weights, kind, 2 * sets)
        for kind in LIKENESSES if (weights / "likeness" / kind).is_dir()
    }  # fmt: skip
    if (weights / FOLDER).is_dir():
        wanted["faces"] = lambda: face_scores(weights, sets)
    if not (nets.knows_scenes(weights) and judge.knows_scenes):
        say("no scores of scenes: the judge or the tokenizer is from before them")
    scores: Scores = {}
    for name, score in wanted.items():
        say(f"measuring {name}")
        scores |= score()
    return {name: round(value, 4) for name, value in scores.items()}


def likeness_scores(weights: Path, kind: str, count: int) -> Scores:
    """Measure how well a judge of likeness tells held-out instances apart."""
    judge = load_likeness(weights / "likeness" / kind)
    drawn = np.stack([np.stack(draw_instance(kind, SEEDS["test"], i)) for i in range(count)])
    areas = measure_likeness(judge, (drawn * 255 + 0.5).astype(np.uint8))
    return {f"{kind}_{name}": value for name, value in areas.items()}


def face_scores(weights: Path, count: int) -> Scores:
    """Measure how often the face encoder finds one face, how near its points are, and whose it is.

    Of portraits of so many held-out persons. Points: the mean distance, of a picture's side.
    """
    encoder, near, known = SmallFaces(weights / FOLDER), list[float](), list[Tensor]()
    drawn = [draw_faces(SEEDS["test"], number) for number in range(count)]
    tries = [(encoder.faces((picture * 255 + 0.5).astype(np.uint8)), points)
             for pictures, notes in drawn
             for picture, points in zip(pictures, notes["points"])]  # fmt: skip
    for found, points in tries:
        if found:
            near.append(float(np.linalg.norm(found[0].points - points, axis=1).mean()) / nets.SIZE)
        numbers = found[0].embedding if found else np.zeros(NUMBERS, np.float32)
        known.append(F.normalize(torch.from_numpy(numbers), dim=0))
    none = [not encoder.faces((pictures[-1] * 255 + 0.5).astype(np.uint8)) for pictures, _ in drawn]
    apart = told_apart(torch.stack(known), len(known) // count)
    return {"faces_found": float(np.mean([len(found) == 1 for found, _ in tries])),
            "faces_none": float(np.mean(none)), "faces_points": float(np.mean(near)),
            **{f"faces_{name}": value for name, value in apart.items()}}  # fmt: skip


def judge_scores(judge: Judge, drawn: list[Set]) -> Scores:
    """Measure how often the judge is right about clean pictures."""
    right = defaultdict[str, list[bool]](list)
    for one in drawn:
        verdict, toy = judge.read(pixels(one)), one.toy
        for head, truth in (("kind", toy.kind), ("color", toy.color), ("finish", toy.finish)):
            right[head] += [name == truth for name in verdict.names(head)]
        if toy.kind in FRONTED:
            words = toys.view_words(one.cameras)
            right["view"] += [a == b for a, b in zip(verdict.names("view"), words)]
    return shares("judge", right)


def turntable_scores(judge: Judge) -> Scores:
    """Measure what `threed evaluate` says of real toys: the most that an asset can be given.

    One toy of every kind: kind and colour from eight views together, the kind of the same toy in
    clay, and for kinds with a front whether it has just one (`judge.net.fronts`).
    """
    right = defaultdict[str, list[bool]](list)
    for i, kind in enumerate(KINDS):
        toy = random_toy(np.random.default_rng([SEEDS["test"], i]), kind)
        coloured = judge.read(turntable(toy, 8))
        right["kind"].append(coloured.together("kind") == kind)
        right["color"].append(coloured.together("color") == toy.color)
        clay = judge.read(turntable(toys.in_clay(toy), 8))
        right["geometry"].append(clay.together("kind") == kind)
        if kind in FRONTED:
            right["front"].append(fronts(judge.read(turntable(toy, FRONT_VIEWS))) == 1)
    return shares("truth", right)


def turntable(toy: Toy, views: int) -> Tensor:
    """[views, 3, size, size] in [0, 1]: a toy from all around, on white."""
    white = np.ones((2, 3), np.float32)
    return pixels(draw_set(toy, orbit(views, nets.SIZE), Light(), white))


def vae_scores(weights: Path, drawn: list[Set]) -> Scores:
    """Measure PSNR in dB over whole pictures, and the mean error of a toy's mean colour."""
    psnr, colours = [], []
    for one, (images, back) in zip(drawn, scenes.through_vae(weights, map(pixels, drawn))):
        psnr += scenes.psnr_db(images, back)
        for picture, before, after in zip(one.pictures, images, back):
            toy = torch.from_numpy(picture.alpha) > 0.5
            colours.append(float((after[:, toy].mean(1) - before[:, toy].mean(1)).abs().mean()))
    return shares("vae", {"psnr_db": psnr, "colour_error": colours})


@torch.no_grad()
def beside_toybox(weights: Path, drawn: list[Set]) -> Scores:
    """Measure toybox's VAE on pictures of twice its size, as the one of toybox-hd is measured.

    Its own come back from half the size, enlarged: PSNR in dB. And how far toybox-hd's first
    latents are from toybox's, as a share of their variance.
    """
    large, small = (load_part(place) for place in (weights, nets.WEIGHTS))
    psnr, apart, spread = list[float](), list[float](), list[float]()
    for images in map(pixels, drawn):
        known = small.encode_image(F.avg_pool2d(images, 2))
        back = F.interpolate(small.decode_latents(known), scale_factor=2.0, mode="bicubic")
        psnr += scenes.psnr_db(images, back.clamp(0, 1))
        first = large.encode_image(images)[:, : known.shape[1]]
        apart.append(float((first - known).square().mean()))
        spread.append(float((known - known.mean((0, 2, 3), keepdim=True)).square().mean()))
    share = float(np.mean(apart) / np.mean(spread))
    return {"enlarged_psnr_db": float(np.mean(psnr)), "first_latents_apart": share}


@torch.no_grad()
def clip_scores(weights: Path, drawn: list[Set]) -> Scores:
    """Measure how often a plain picture is nearest to its caption, of every kind and colour."""
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


def image_scores(weights: Path, judge: Judge) -> Scores:
    """Measure how often the judge reads what was asked for, over all kinds and colours."""
    backbone, right = load_part(weights), defaultdict[str, list[bool]](list)
    for i, kind in enumerate(KINDS):
        for j, color in enumerate(COLORS):
            verdict = scenes.sampled(backbone, judge, f"a {color} {kind}", 1000 * i + j)
            right["kind"].append(verdict.names("kind") == [kind])
            right["color"].append(verdict.names("color") == [color])
    return shares("image", right)


def multiview_scores(weights: Path, judge: Judge) -> Scores:
    """Measure four views 90 degrees apart: the view's word, and whether they agree."""
    backbone, right = load_part(weights, "unet_multiview"), defaultdict[str, list[bool]](list)
    cameras = orbit(AROUND, backbone.image_size)
    words = toys.view_words(cameras)
    for i, kind in enumerate(KINDS):
        for j, color in enumerate(list(COLORS)[i % 5 :: 5]):
            verdict = scenes.sampled(backbone, judge, f"a {color} {kind}", 1000 * i + j, cameras)
            agree = all(len(set(verdict.names(head))) == 1 for head in ("kind", "color"))
            right["agree"].append(agree)
            right["kind"].append(verdict.together("kind") == kind)
            if kind in FRONTED:
                right["view"] += [a == b for a, b in zip(verdict.names("view"), words)]
    return shares("multiview", right)


def load_part(weights: Path, part: str = "unet") -> Backbone:
    """Load the family's text-to-image part, or its multi-view part."""
    return load_backbone(str(weights / part), device="auto")


def pixels(one: Set) -> Tensor:
    """[V, 3, size, size] in [0, 1]: the pictures of a set."""
    return torch.from_numpy(np.stack([picture.rgb for picture in one.pictures])).permute(0, 3, 1, 2)
