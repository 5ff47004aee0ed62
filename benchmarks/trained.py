"""What trained systems do on toybox, as numbers: python benchmarks/trained.py NAME --weights DIR

Every name of MEASURES is the claim of one system on scenes of a seed that nothing was trained on.
--small takes an eighth of the pictures; --sheet writes them, --plot the curve of s_I.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from benchmarks.common import lines, measure_parser, share, show
from benchmarks.plots import plot
from benchmarks.silhouette import overlap, silhouettes
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.detect import edges
from threed.diffusion.guide import Guide
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.clip import Clip, clip_of
from threed.diffusion.parts.uni_adapters import load_adapters
from threed.systems.control import controlnet, uni_controlnet
from threed.systems.editing import instruct_pix2pix
from threed.systems.editing.edit_pairs import Triple, likeness
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.net import Judge, load_judge
from threed.toybox.judge.truth import truths
from threed.toybox.world.conditions import condition_map
from threed.toybox.world.edits import DrawnEdit, random_edit
from threed.toybox.world.pairs import random_toy_scene
from threed.toybox.world.scenes import View, draw_scene

SEED = 3  # of the world: the family and its systems learn from 1, the judge from 2
STEPS, SCALE = 25, 5.0
IMAGE_SCALES = (0.5, 1.0, 1.5, 2.5, 4.0)  # of the curve
BATCH = 8
Scores = dict[str, float]


@dataclass(frozen=True)
class Options:
    """What a measure is told."""

    weights: Path
    other: Path | None  # weights to compare with
    count: int
    sheet: Path | None
    plot: Path | None


def picture(view: View) -> Tensor:
    """[3, H, W] in [0, 1]."""
    return torch.from_numpy(view.picture.rgb).permute(2, 0, 1)


# ---------------------------------------------------------------- InstructPix2Pix


def edited(backbone: Backbone, unet: Any, edits: Sequence[DrawnEdit], image_scale: float) -> Tensor:
    """[N, 3, H, W]: what the instructions make of the pictures."""
    made = []
    for first in range(0, len(edits), BATCH):
        part = edits[first : first + BATCH]
        before = torch.stack([picture(drawn.before) for drawn in part])
        words = [drawn.edit.instruction for drawn in part]
        guided = instruct_pix2pix.build(
            backbone,
            words,
            before,
            unet,
            guide=Guide(SCALE),
            knobs=instruct_pix2pix.Knobs(image_scale=image_scale),
        )
        made.append(paint(backbone, Ready(guided), n=len(part), steps=STEPS, seed=first))
    return torch.cat(made)


def followed(judge: Judge, drawn: DrawnEdit, made: Tensor) -> bool:
    """Whether a picture [3, H, W] shows what the instruction asked for.

    The judge says so, from every head whose name is another after the edit. It reads no
    backgrounds, nor finishes of one toy of a pair: there, what may change has to differ from
    the true picture after the edit by less than half of what the one before differs by.
    """
    before, after = (truths(scene) for scene in (drawn.edit.before, drawn.edit.after))
    asked = {head: name for head, name in after.items() if head in before and
             before[head] != name}  # fmt: skip
    if asked:
        verdict = judge.read(made[None])
        return all(verdict.names(head)[0] == name for head, name in asked.items())
    region = torch.from_numpy(drawn.region)
    truth = picture(drawn.after)
    left, whole = (float((p - truth)[:, region].abs().mean())
                   for p in (made, picture(drawn.before)))  # fmt: skip
    return left < whole / 2


def error_outside(drawn: DrawnEdit, made: Tensor) -> float:
    """Mean absolute error, of 1, where nothing was to change, two pixels away from the edit.

    NaN where everything was.
    """
    kept = torch.from_numpy(~ndimage.binary_dilation(drawn.region, iterations=2))
    return float((made - picture(drawn.before))[:, kept].abs().mean())


def instructions(backbone: Backbone, options: Options) -> Scores:
    """Held-out edits: how many are followed, what else changed, and the curve over s_I."""
    unet, judge = (
        instruct_pix2pix.load_unet(backbone, options.weights),
        load_judge(WEIGHTS / "judge"),
    )
    rng = [np.random.default_rng([SEED, i]) for i in range(options.count)]
    edits = [random_edit(r).draw() for r in rng]
    made = edited(backbone, unet, edits, 1.5).cpu()
    hits = [followed(judge, drawn, m) for drawn, m in zip(edits, made)]
    before = torch.stack([picture(drawn.before) for drawn in edits])
    floor, truth = restored(backbone, before), torch.stack([picture(d.after) for d in edits])
    scores = {"instruction followed": share(hits)}
    for name, pictures in (
        ("the true pictures", truth),
        ("these through the VAE", restored(backbone, truth)),
        ("the pictures before", before),
    ):
        scores[f"read as followed, of {name}"] = share(
            [followed(judge, drawn, one) for drawn, one in zip(edits, pictures)]
        )
    for kind in sorted({drawn.edit.kind for drawn in edits}):
        scores[f"followed: {kind}"] = share(
            [hit for hit, drawn in zip(hits, edits) if drawn.edit.kind == kind]
        )
    scores["error elsewhere"] = mean(error_outside(d, m) for d, m in zip(edits, made))
    scores["error elsewhere, of the VAE alone"] = mean(
        error_outside(d, m) for d, m in zip(edits, floor)
    )
    show_rows(options.sheet, before, made, truth)
    if options.plot is not None:
        points = curve(backbone, unet, edits[: max(8, options.count // 2)])
        named = [(*point, f"s_I {scale:g}") for point, scale in zip(points, IMAGE_SCALES)]
        plot(options.plot, {"": named}, "likeness of the pictures (CLIP)", "of their change (CLIP)")
    return scores


def curve(backbone: Any, unet: Any, edits: Sequence[DrawnEdit]) -> list[tuple[float, float]]:
    """For each s_I the paper's two likenesses: of the pictures, and of the changes."""
    clip, points = clip_of(backbone), []
    before = torch.stack([picture(drawn.before) for drawn in edits])
    triples = [captions(drawn, i) for i, drawn in enumerate(edits)]
    for scale in IMAGE_SCALES:
        made = edited(backbone, unet, edits, scale).cpu()
        seen = [likeness(clip, torch.stack(pair), triple)
                for pair, triple in zip(zip(before, made), triples)]  # fmt: skip
        points.append((mean(s.image for s in seen), mean(s.direction for s in seen)))
    return points


def captions(drawn: DrawnEdit, seed: int) -> Triple:
    """The captions of both scenes, said in the same way."""
    source, target = (scene.caption(np.random.default_rng([SEED, seed]))
                      for scene in (drawn.edit.before, drawn.edit.after))  # fmt: skip
    return Triple(source, drawn.edit.instruction, target)


# ---------------------------------------------------------------- maps


def f_score(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall of edges [H, W], pixel by pixel.

    Boundaries are usually compared with a tolerance of 0.75 % of the diagonal: of 64×64 pixels,
    0.68 of one. With a whole pixel, edges of an unrelated toy reach 0.35, so dense are they here.
    """
    return float(2 * (found & wanted).sum() / max(found.sum() + wanted.sum(), 1))


def follows_edges(made: Tensor, wanted: Tensor) -> float:
    """Mean F-score of the edges found in pictures [N, 3, H, W] against maps [N, 3, H, W]."""
    return mean(f_score(f[0].numpy() > 0.5, w[0].numpy() > 0.5)
                for f, w in zip(outlines(made), wanted))  # fmt: skip


def outlines(pictures: Tensor) -> Tensor:
    """[N, 3, H, W] the edges that are found in pictures [N, 3, H, W]."""
    pixels = (pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return torch.from_numpy(np.stack([edges(p) for p in pixels])).permute(0, 3, 1, 2) / 255


def scenes(count: int) -> tuple[list[str], list[View]]:
    """Held-out single toys with their captions."""
    rngs = [np.random.default_rng([SEED, i, 1]) for i in range(count)]
    made = [random_toy_scene(r) for r in rngs]
    return [s.caption(r) for s, r in zip(made, rngs)], [draw_scene(s) for s in made]


def maps(kind: str, views: Sequence[View]) -> Tensor:
    """[N, 3, H, W] maps of a kind: edges as they are found in the pictures, others the truth."""
    if kind == "edges":
        return outlines(torch.stack([picture(view) for view in views]))
    return torch.stack([condition_map(kind, view) for view in views])


def painted(backbone: Backbone, prompts: Sequence[str], build: Callable[[slice], Any]) -> Tensor:
    """[N, 3, H, W]: pictures of the Scores that build makes for a part of the prompts."""
    made = []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        made.append(paint(backbone, Ready(build(part)), n=len(prompts[part]), steps=STEPS,
                          seed=first))  # fmt: skip
    return torch.cat(made).cpu()


def edges_followed(backbone: Backbone, options: Options) -> Scores:
    """ControlNet: the edges of the pictures against the map, beside pictures without it."""
    net = controlnet.load_net(backbone, options.weights)
    prompts, views = scenes(options.count)
    wanted = maps("edges", views)

    def with_strength(strength: float) -> Tensor:
        return painted(
            backbone,
            prompts,
            lambda part: controlnet.build(
                backbone,
                prompts[part],
                [controlnet.Given(net, wanted[part])],
                guide=Guide(SCALE),
                knobs=controlnet.Knobs(strength=strength),
            ),
        )

    made, free = with_strength(1.0), with_strength(0.0)
    real = torch.stack([picture(view) for view in views])
    show_rows(options.sheet, wanted, made, free, real)
    controlled, plain = follows_edges(made, wanted), follows_edges(free, wanted)
    best = follows_edges(restored(backbone, real), wanted)
    return {"F-score of the edges": controlled, "F-score without control": plain,
            "times": controlled / max(plain, 1e-9),
            "F-score of the VAE alone": best}  # fmt: skip


def restored(backbone: Backbone, pictures: Tensor) -> Tensor:
    """Pictures through the VAE and back: the best that any sample can be."""
    with torch.no_grad():
        return backbone.decode_latents(backbone.encode_image(pictures)).cpu()


def all_in_one(backbone: Any, options: Options) -> Scores:
    """Uni-ControlNet: two maps together and each alone; content; --other was trained on all maps.

    Edges and depth are those of the whole picture: either alone says where the outline is.
    """
    adapters = load_adapters(backbone, options.weights)
    prompts, views = scenes(options.count)
    edge, near = maps("edges", views), maps("depth", views)
    outline = near.amax(1) > 0
    rows, scores = [edge, near], {}

    def told(which: Any, given: dict[str, Tensor]) -> Tensor:
        return painted(
            backbone,
            prompts,
            lambda part: uni_controlnet.build(
                backbone,
                prompts[part],
                which,
                {k: v[part] for k, v in given.items()},
                guide=Guide(SCALE),
            ),
        )

    cases = {"both": {"edges": edge, "depth": near}, "edges alone": {"edges": edge},
             "depth alone": {"depth": near}, "nothing": {}}  # fmt: skip
    for name, given in cases.items():
        made = told(adapters, given)
        rows.append(made)
        scores[f"{name}: F-score of the edges"] = follows_edges(made, edge)
        scores[f"{name}: outline of the depth (IoU)"] = float(
            overlap(silhouettes(made), outline).mean()
        )
    if options.other is not None:
        other = load_adapters(backbone, options.other)
        for name in ("edges alone", "depth alone"):
            made = told(other, cases[name])
            rows.append(made)
            scores[f"without dropout, {name}: F-score"] = follows_edges(made, edge)
            scores[f"without dropout, {name}: outline (IoU)"] = float(
                overlap(silhouettes(made), outline).mean()
            )
    if adapters.world is not None:
        scores |= content_shown(backbone, adapters, views, clip_of(backbone), rows)
    show_rows(options.sheet, *rows, torch.stack([picture(view) for view in views]))
    return scores


def content_shown(backbone: Backbone, adapters: Any, views: Sequence[View], clip: Clip,
                  rows: list[Tensor]) -> Scores:  # fmt: skip
    """Pictures of a picture's content and no text: colour and kind as the judge reads them."""
    features = clip.images(torch.stack([picture(view) for view in views]))
    empty = [""] * len(views)
    made = painted(
        backbone,
        empty,
        lambda part: uni_controlnet.build(
            backbone, empty[part], adapters, content=features[part], guide=Guide(SCALE)
        ),
    )
    rows.append(made)
    verdict = load_judge(WEIGHTS / "judge").read(made)
    toys: list[Any] = [view.scene.subject for view in views]
    return {f"content: {head} read": share(
        [name == getattr(toy, head) for name, toy in zip(verdict.names(head), toys)]
    ) for head in ("color", "kind")}  # fmt: skip


# ---------------------------------------------------------------- what is written


def mean(values: Any) -> float:
    """The mean of those numbers that are any."""
    return float(np.nanmean(list(values)))


def show_rows(sheet: Path | None, *rows: Tensor) -> None:
    """Write rows of pictures [N, 3, H, W], a dozen columns of them."""
    few = [row[:12].cpu() for row in rows]
    show(torch.cat(few), sheet, columns=len(few[0]))


MEASURES: dict[str, tuple[Callable[[Any, Options], Scores], int]] = {  # and of how many scenes
    "instruct_pix2pix": (instructions, 120),
    "controlnet": (edges_followed, 64),
    "uni_controlnet": (all_in_one, 48),
}


def main() -> None:
    """Print the scores of one measure."""
    parser = measure_parser(__doc__, MEASURES)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--other", type=Path, help="Uni-ControlNet's, trained with dropout=false")
    parser.add_argument("--plot", type=Path, help="a file for InstructPix2Pix's curve")
    said = parser.parse_args()
    measure, count = MEASURES[said.name]
    count = count // 8 if said.small else count
    options = Options(said.weights, said.other, count, said.sheet, said.plot)
    sys.stdout.write(lines(measure(load_backbone(said.backbone), options)))


if __name__ == "__main__":
    main()
