"""What the image systems do on toybox, as numbers: `python benchmarks/systems.py NAME`.

Every name of MEASURES is one claim of one system, measured on pictures that the packaged weights
make; the judge reads what they show. --small takes an eighth of the pictures.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import lines, measure_parser, share, show
from threed.diffusion.backbone import Backbone, load_backbone
from threed.diffusion.images import make_images
from threed.systems import prompt_to_prompt, rpg, self_guidance
from threed.systems.planners import by_rules
from threed.systems.system import Ready, paint
from threed.toybox.family import WEIGHTS
from threed.toybox.judge import load_judge
from threed.toybox.measure import turntable
from threed.toybox.silhouette import centroids, coloured, overlap, silhouettes
from threed.toybox.world import COLORS, KINDS, random_toy

STEPS, SCALE = 25, 5.0
Scores = dict[str, float]


def turning() -> list[str]:
    """Kinds whose outline depends on the view, by their truth: the others' keeps itself."""
    found = []
    for i, kind in enumerate(KINDS):
        toy = random_toy(np.random.default_rng(i), kind, "red", "plain")
        front, side = silhouettes(turntable(toy, 4)).unsqueeze(1)[:2]
        if float(overlap(front, side)) < 0.75:
            found.append(kind)
    return found


def recolours(count: int) -> Iterator[tuple[str, str, str, int]]:
    """Kind, colour, new colour, seed. White toys have no outline on white: none is asked for."""
    names, kinds = [name for name in COLORS if name != "white"], turning()
    for i in range(count):
        old = names[i % len(names)]
        new = names[(i + 1 + i // len(names) % (len(names) - 1)) % len(names)]
        yield kinds[i % len(kinds)], old, new, i


def prompt_to_prompt_recolours(backbone: Backbone, count: int, sheet: Path | None) -> Scores:
    """Toys in another colour: outline and colour, beside a fresh sample of the same seed."""
    judge = load_judge(WEIGHTS / "judge")
    rows, hits, fresh_hits, kinds = [], [], [], []
    for kind, old, new, seed in recolours(count):
        source, prompt = f"a {old} {kind}", f"a {new} {kind}"
        score = prompt_to_prompt.build(backbone, prompt, source, scale=SCALE, blend=(kind,))
        pair = paint(backbone, Ready(score, rows=2), steps=STEPS, seed=seed)
        fresh = make_images(backbone, prompt, steps=STEPS, guidance_scale=SCALE, seed=seed)
        rows.append(torch.cat([pair, fresh]).cpu())
        verdict = judge.read(rows[-1][1:])
        hits.append(verdict.names("color")[0] == new)
        fresh_hits.append(verdict.names("color")[1] == new)
        kinds.append(verdict.names("kind")[0] == kind)
    source, edited, fresh = torch.stack(rows, 1)
    outlines = silhouettes(source)
    show(torch.cat(rows), sheet, columns=12)
    return {
        "outline kept (IoU)": float(overlap(outlines, silhouettes(edited)).mean()),
        "outline of a fresh sample (IoU)": float(overlap(outlines, silhouettes(fresh)).mean()),
        "new colour read": share(hits),
        "new colour read, fresh sample": share(fresh_hits),
        "kind read": share(kinds),
    }


def self_guidance_moves(backbone: Backbone, count: int, sheet: Path | None) -> Scores:
    """Single toys that are moved, and one toy of two: how far their centre is from the target."""
    rows, errors, moves, others = [], [], [], []
    for i, (prompt, word, colors, shift) in enumerate(movings(count)):
        score = self_guidance.build(backbone, prompt, move=((word, shift),), scale=SCALE)
        pair = paint(backbone, Ready(score, rows=2), steps=STEPS, seed=i).cpu()
        rows.append(pair)
        if len(colors) == 1:
            places = centroids(silhouettes(pair))[:, None]
        else:
            masks = coloured(pair, [COLORS[name] for name in colors])
            places = torch.stack([centroids(masks[:, k]) for k in range(len(colors))], 1)
        went = places[1] - places[0]  # [things, 2]
        errors.append(float((went[0] - torch.tensor(shift)).norm()))
        moves.append(float((went[0] * torch.tensor(shift)).sum()) / math.hypot(*shift) ** 2)
        others += went[1:].norm(dim=1).tolist()
    show(torch.cat(rows), sheet, columns=8)
    half = len(errors) // 2
    return {
        "error of a single toy's centre, of the picture": sum(errors[:half]) / half,
        "share of the way that single toys go": sum(moves[:half]) / half,
        "error of one of two": sum(errors[half:]) / half,
        "the other's motion": sum(others) / max(len(others), 1),
    }


def movings(count: int) -> Iterator[tuple[str, str, tuple[str, ...], tuple[float, float]]]:
    """Prompt, word, the colours of the things (the moved one first), shift: half of it pairs."""
    kinds = ("mug", "hat", "apple", "teapot", "cupcake", "mushroom", "cube", "ball")
    colors = ("red", "blue", "green", "purple", "yellow")
    shifts = ((0.15, 0.0), (-0.15, 0.0), (0.0, 0.12), (0.0, -0.12))
    for i in range(count // 2):
        kind, color = kinds[i % len(kinds)], colors[i % len(colors)]
        yield f"a {color} {kind}", kind, (color,), shifts[i % 4]
    for i in range(count // 2):
        first, second = kinds[i % len(kinds)], kinds[(i + 3) % len(kinds)]
        a, b = colors[i % len(colors)], colors[(i + 2) % len(colors)]
        up_or_down = shifts[2 + i % 2]  # beside each other: sideways they would meet
        yield f"a {a} {first} and a {b} {second}", first, (a, b), up_or_down


def rpg_pairs(backbone: Backbone, count: int, sheet: Path | None) -> Scores:
    """Two toys of two colours, by RPG's rules in both its ways and by the prompt alone."""
    asked = list(pairs(count))
    made: dict[str, list[Tensor]] = {"by the prompt alone": [], **{way: [] for way in rpg.WAYS}}
    for i, (first, second) in enumerate(asked):
        prompt = f"a {' '.join(first)} and a {' '.join(second)}"
        made["by the prompt alone"].append(
            make_images(backbone, prompt, steps=STEPS, guidance_scale=SCALE, seed=i)
        )
        for way in rpg.WAYS:
            score = rpg.build(backbone, by_rules(prompt), scale=SCALE, way=way)
            made[way].append(paint(backbone, Ready(score), steps=STEPS, seed=i))
    scores, rows = {}, []
    for name, pictures in made.items():
        rows.append(torch.cat(pictures).cpu())
        colors, whole = bound(rows[-1], asked)
        scores |= {f"both colours where they belong, {name}": share(colors),
                   f"both toys and colours, {name}": share(whole)}  # fmt: skip
    show(torch.cat(rows), sheet, columns=count)
    return scores


Named = tuple[str, str]  # colour, kind


def pairs(count: int) -> Iterator[tuple[Named, Named]]:
    """Two toys of different kinds and colours."""
    names = [name for name in COLORS if name != "white"]
    for i in range(count):
        j = (i + 1 + i // len(names) % (len(names) - 1)) % len(names)
        first, second = (names[i % len(names)], names[j])
        yield (first, KINDS[3 * i % len(KINDS)]), (second, KINDS[(3 * i + 11) % len(KINDS)])


def bound(images: Tensor, asked: Sequence[tuple[Named, Named]]) -> tuple[list[bool], list[bool]]:
    """Of pictures [B, 3, H, W]: whether both colours, and all of both toys, are where asked.

    Read by the judge's heads over pairs; by one that knows single toys only, from each half.
    """
    judge = load_judge(WEIGHTS / "judge")
    if judge.knows_scenes:
        verdict = judge.read(images)
        read = [list(zip(verdict.names(f"{place}_color"), verdict.names(f"{place}_kind")))
                for place in ("first", "second")]  # fmt: skip
    else:
        margin = images.shape[-1] // 4
        halves = [F.pad(half, (margin, margin, 0, 0), mode="replicate")
                  for half in images.chunk(2, -1)]  # fmt: skip
        verdicts = [judge.read(half) for half in halves]
        read = [list(zip(v.names("color"), v.names("kind"))) for v in verdicts]
    found = list(zip(*read))
    colors = [[one[0] for one in a] == [one[0] for one in b] for a, b in zip(found, asked)]
    return colors, [a == b for a, b in zip(found, asked)]


Measure = Callable[[Backbone, int, Path | None], Scores]
MEASURES: dict[str, tuple[Measure, int]] = {  # and how many pictures it takes
    "prompt_to_prompt": (prompt_to_prompt_recolours, 40),
    "self_guidance": (self_guidance_moves, 32),
    "rpg": (rpg_pairs, 40),
}


def main() -> None:
    """Print the scores of one measure, and write its pictures if asked to."""
    parser = measure_parser(__doc__, MEASURES)
    parser.add_argument("--scores", type=Path, help="a file for what is printed")
    asked = parser.parse_args()
    measure, count = MEASURES[asked.name]
    count = count // 8 if asked.small else count
    text = lines(measure(load_backbone(asked.backbone), count, asked.sheet))
    sys.stdout.write(text)
    if asked.scores is not None:
        asked.scores.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
