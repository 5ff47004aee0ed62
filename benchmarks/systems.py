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

from benchmarks.common import lines, measure_parser, share, show
from benchmarks.silhouette import centroids, coloured, overlap, silhouettes
from threed.core.cameras import orbit
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import make_images
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.plans import read_regions
from threed.systems.control import rpg, self_guidance
from threed.systems.editing import prompt_to_prompt
from threed.systems.personalization import style_aligned
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.measure import pixels, turntable
from threed.toybox.judge.net import load_judge
from threed.toybox.world.toys import (
    COLORS,
    KINDS,
    draw_set,
    random_background,
    random_light,
    random_toy,
)

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
    """Toys in another colour: outline and colour, beside a fresh sample of the same seed.

    The most that can be read is of a toy that is drawn twice.
    """
    judge = load_judge(WEIGHTS / "judge")
    twice = torch.stack([drawn(backbone, *asked) for asked in recolours(count)], 1)
    rows, hits, fresh_hits, kinds = [], [], [], []
    for kind, old, new, seed in recolours(count):
        source, prompt = f"a {old} {kind}", f"a {new} {kind}"
        score = prompt_to_prompt.build(
            backbone,
            prompt,
            source,
            words=prompt_to_prompt.Words(blend=(kind,)),
            guide=Guide(SCALE),
        )
        pair = paint(backbone, Ready(score, rows=2), steps=STEPS, seed=seed)
        fresh = make_images(backbone, prompt, steps=STEPS, seed=seed, guide=Guide(SCALE))
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
        "outline of a toy drawn in both colours (IoU)": float(
            overlap(*map(silhouettes, twice)).mean()
        ),
        "new colour read": share(hits),
        "new colour read, fresh sample": share(fresh_hits),
        "kind read": share(kinds),
    }


def drawn(backbone: Backbone, kind: str, old: str, new: str, seed: int) -> Tensor:
    """[2, 3, H, W] one toy in both colours, as the backbone's VAE shows it; all else alike."""
    rng = np.random.default_rng(seed)
    camera = orbit(1, backbone.image_size, start_deg=float(rng.uniform(0, 360)))
    light, (_, background) = random_light(rng), random_background(rng)
    pictures = []
    for color in (old, new):
        toy = random_toy(np.random.default_rng(seed + 100), kind, color, "plain")
        pictures.append(pixels(draw_set(toy, camera, light, background)))
    with torch.no_grad():
        return backbone.decode_latents(backbone.encode_image(torch.cat(pictures))).clamp(0, 1)


def self_guidance_moves(backbone: Backbone, count: int, sheet: Path | None) -> Scores:
    """Single toys that are moved, and one toy of two: how far their centre is from the target."""
    rows, errors, ways, moves, others = [], [], [], [], []
    for i, (prompt, word, colors, shift) in enumerate(movings(count)):
        score = self_guidance.build(
            backbone, prompt, asked=self_guidance.Asked(move=((word, shift),)), guide=Guide(SCALE)
        )
        pair = paint(backbone, Ready(score, rows=2), steps=STEPS, seed=i).cpu()
        rows.append(pair)
        if len(colors) == 1:
            places = centroids(silhouettes(pair))[:, None]
        else:
            masks = coloured(pair, [COLORS[name] for name in colors])
            places = torch.stack([centroids(masks[:, k]) for k in range(len(colors))], 1)
        went = places[1] - places[0]  # [things, 2]
        errors.append(float((went[0] - torch.tensor(shift)).norm()))
        ways.append(math.hypot(*shift))
        moves.append(float((went[0] * torch.tensor(shift)).sum()) / ways[-1] ** 2)
        others += went[1:].norm(dim=1).tolist()
    show(torch.cat(rows), sheet, columns=8)
    half = len(errors) // 2
    return {
        "error of a single toy's centre, of the picture": sum(errors[:half]) / half,
        "error of a single toy that is left where it is": sum(ways[:half]) / half,
        "share of the way that single toys go": sum(moves[:half]) / half,
        "error of one of two": sum(errors[half:]) / half,
        "error of one of two that is left where it is": sum(ways[half:]) / half,
        "share of the way that one of two goes": sum(moves[half:]) / half,
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


Named = tuple[str, str]  # colour, kind
Asked = tuple[str, str, list[Named]]  # a layout, a prompt, the toys from left to right and down
LAYOUTS = {"beside": ("1,1", (2, 1)), "above": ("1;1", (1, 2)), "four": ("1,1,1;1,1,1", (2, 2))}
"""RPG's split, and columns and rows."""


def rpg_pairs(backbone: Backbone, count: int, sheet: Path | None) -> Scores:
    """Two toys beside or above each other, in a picture twice as long as the backbone's."""
    return regional(backbone, list(pairs(count)), sheet)


def rpg_quarters(backbone: Backbone, count: int, sheet: Path | None) -> Scores:
    """Four toys in the quarters of a picture of twice the backbone's size."""
    return regional(backbone, list(fours(count)), sheet)


def pairs(count: int) -> Iterator[Asked]:
    """Two toys of different kinds and colours; white ones have no outline on white."""
    rng = np.random.default_rng(5)
    for i in range(count):
        kinds = rng.choice(KINDS, 2, replace=False)
        colors = rng.choice([name for name in COLORS if name != "white"], 2, replace=False)
        toys = [(str(color), str(kind)) for color, kind in zip(colors, kinds)]
        words = f" {('to the left of', 'on top of')[i % 2]} ".join(named(*toy) for toy in toys)
        yield ("beside", "above")[i % 2], words, toys


def fours(count: int) -> Iterator[Asked]:
    """Four toys of different kinds and colours."""
    names = [name for name in COLORS if name != "white"]
    for i in range(count):
        toys = [(names[(4 * i + 2 * k) % len(names)], KINDS[(5 * i + 7 * k) % len(KINDS)])
                for k in range(4)]  # fmt: skip
        yield "four", " and ".join(named(*toy) for toy in toys), toys


def regional(backbone: Backbone, asked: Sequence[Asked], sheet: Path | None) -> Scores:
    """Toys in their regions, by RPG in both its ways and by the prompt alone.

    Every region is as large as the pictures that the backbone knows.
    """
    side, judge = backbone.image_size, load_judge(WEIGHTS / "judge")
    ways = {
        "the prompt alone": rpg.Knobs(base_ratio=1.0),
        "attention": rpg.Knobs(way="attention"),
        "latents": rpg.Knobs(way="latents"),
    }
    made: dict[str, list[Tensor]] = {name: [] for name in ways}
    for i, (layout, prompt, toys) in enumerate(asked):
        split, (columns, rows) = LAYOUTS[layout]
        plan = read_regions(prompt, [named(*toy) for toy in toys], split)
        for name, knobs in ways.items():
            ready = Ready(rpg.build(backbone, plan, guide=Guide(SCALE), knobs=knobs))
            size = columns * side, rows * side
            picture = paint(backbone, ready, steps=STEPS, seed=i, size=size).cpu()
            cells = picture[0].unfold(1, side, side).unfold(2, side, side)
            made[name].append(cells.permute(1, 2, 0, 3, 4).flatten(0, 1))
    scores: Scores = {}
    for name, cells in made.items():
        rest = judge.read(torch.cat(cells))
        read = iter(zip(rest.names("color"), rest.names("kind")))
        right = [[(next(read), toy) for toy in toys] for _, _, toys in asked]
        each = [pair for pairs in right for pair in pairs]
        scores |= {
            f"pictures with all toys in their colours, {name}": share(
                [all(r == t for r, t in picture) for picture in right]
            ),
            f"toys in their colours, {name}": share([r == t for r, t in each]),
            f"colours where they belong, {name}": share([r[0] == t[0] for r, t in each]),
        }
    show(torch.cat([torch.cat(cells) for cells in made.values()]), sheet, columns=len(each))
    return scores


def named(color: str, kind: str) -> str:
    """A toy with its article."""
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {kind}"


def style_aligned_series(backbone: Backbone, count: int, sheet: Path | None) -> Scores:
    """Three pictures each, the first of which has a style, with what is shared and without.

    A style is here what a picture's colours are like: the means and deviations of its channels.
    """
    judge, kinds = load_judge(WEIGHTS / "judge"), ("car", "house", "duck", "boat", "fish", "chair")
    finishes, grounds = ("checkered", "dotted", "striped"), ("pink", "yellow", "green", "blue")
    ways = {
        "style shared": style_aligned.Knobs(),
        "the prompts alone": style_aligned.Knobs(plain_share=1.0, norms=False),
    }
    made: dict[str, list[Tensor]] = {name: [] for name in ways}
    asked: list[str] = []
    for i in range(count):
        style = f"a {finishes[i % 3]} {[*COLORS][i % len(COLORS)]} hat"
        things = [kinds[2 * i % 6], kinds[(2 * i + 1) % 6]]
        prompts = [f"{style} on a {grounds[i % 4]} background", *(f"a {kind}" for kind in things)]
        asked += things
        for name, knobs in ways.items():
            series = style_aligned.build(backbone, prompts, guide=Guide(SCALE), knobs=knobs)
            ready = Ready(series, rows=3, own_noise=True)
            made[name].append(paint(backbone, ready, steps=STEPS, seed=i).cpu())
    scores: Scores = {}
    for name, pictures in made.items():
        every = torch.stack(pictures)  # [series, 3, 3, H, W]
        looks = torch.cat([every.mean((3, 4)), every.std((3, 4))], 2)
        away = (looks[:, 1:] - looks[:, :1]).norm(dim=2).mean()
        read = judge.read(every[:, 1:].flatten(0, 1)).names("kind")
        scores |= {
            f"distance of the series from its first in colours, {name}": float(away),
            f"kind read, {name}": share([a == b for a, b in zip(read, asked)]),
        }
    show(torch.cat([torch.cat(pictures) for pictures in made.values()]), sheet, columns=3 * count)
    return scores


Measure = Callable[[Backbone, int, Path | None], Scores]
MEASURES: dict[str, tuple[Measure, int]] = {  # and how many pictures it takes
    "prompt_to_prompt": (prompt_to_prompt_recolours, 40),
    "self_guidance": (self_guidance_moves, 16),
    "style_aligned": (style_aligned_series, 8),
    "rpg": (rpg_pairs, 24),
    "rpg_quarters": (rpg_quarters, 10),
}


def main() -> None:
    """Print the scores of one measure, and write its pictures if asked to."""
    parser = measure_parser(__doc__, MEASURES)
    parser.add_argument("--scores", type=Path, help="a file for what is printed")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # sums in other orders have other last digits, and pictures in the end
    measure, count = MEASURES[asked.name]
    count = max(count // 8, 1) if asked.small else count
    text = lines(measure(load_backbone(asked.backbone), count, asked.sheet))
    sys.stdout.write(text)
    if asked.scores is not None:
        asked.scores.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
