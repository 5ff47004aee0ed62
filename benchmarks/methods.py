"""The methods on toybox, by what they make: colour, fronts, speed and diversity, beside real toys.

    python benchmarks/methods.py --out outputs/methods [--limit 6] [--seeds 1] [--only vsd,sds]
    python benchmarks/methods.py --out outputs/methods --part 1/2     # the other part elsewhere

Every method of METHODS makes an asset of each of the first prompts of a kind with a front, for each
seed, in a folder of its own (`threed evaluate`'s runs), so it can be cut and continued. Pictures on
the way are read by toybox's judge: the score of a step is the mean probability of the kind and the
colour that were asked for. It writes table.md and sheet.png, a row for each method.

Pairs answer what readers asked: sds-100 beside vsd-7.5 and vsd (colours), dreamflow beside vsd (the
same falling noise levels, scale, critic) and beside vsd-random (random levels, the same ends).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import head, row
from exporters import load
from renderers.raster import render_mesh
from threed.apps.cli.evaluate import (
    Row,
    contact_sheet,
    evaluate_one,
    folder_of,
    part_of,
    prompts,
    summary,
)
from threed.apps.cli.show import complain, say
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.parts.clip import Clip
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.looks import real_looks
from threed.toybox.judge.net import HEADS, Judge, load_judge
from threed.toybox.world.kinds import FRONTED

EVERY = 25  # steps between pictures on the way
SHARE = 0.95  # of the final score
HIGH = 0.8  # a score that all are asked how soon they reach
CHEAP = (f"preview_every={EVERY}", "asset.turntable_frames=2", "asset.preview_size=64")
FALLING = "{{0: 0.98, {steps}: 0.2}}"  # the levels of toybox-dreamflow and of toybox-vsd
# as in the papers: no rescaling, at first much noise, then little
STRONG = ("rescale=0", "t_min={0: 0.5, 200: 0.02}", "t_max={0: 0.98, 200: 0.3}")
# preset, and what is changed in it
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mvdream": (  # the guidance alone, without what toybox-mvdream paints after it
        "toybox-sds",
        ("backbone=toybox-multiview", "guidance=mvdream", "random_background=0.5"),
    ),
    "sds": ("toybox-sds", ()),
    "sds-100": ("toybox-vsd", ("guidance=sds", "guidance_scale=100", *STRONG)),
    "vsd-7.5": ("toybox-vsd", ("guidance_scale=7.5", *STRONG)),
    "vsd": ("toybox-vsd", (f"t_min={FALLING}", f"t_max={FALLING}")),
    "vsd-random": ("toybox-vsd", ("t_min=0.2", "t_max=0.98")),
    "dreamflow": ("toybox-dreamflow", ()),
}


@dataclass(frozen=True)
class Asked:
    """One asset to make."""

    method: str
    seed: int
    prompt: tuple[str, str, str, str]  # words, kind, colour, finish

    def folder(self, out: Path) -> Path:
        """Where its run is."""
        return folder_of(out / self.method / f"seed{self.seed}", self.prompt[0])

    def words(self, steps: int) -> list[str]:
        """Its settings besides the preset's."""
        changes = [word.format(steps=steps) if "{steps}" in word else word
                   for word in METHODS[self.method][1]]  # fmt: skip
        return [f"steps={steps}", f"seed={self.seed}", *CHEAP, *changes]


@dataclass(frozen=True)
class Way:
    """How soon a run was good."""

    score: float  # of the last picture
    steps: int  # to SHARE of it
    seconds: float  # until then, in steps alone
    high: int | None  # steps to HIGH; None: never


def way(folder: Path, judge: Judge, kind: str, color: str) -> Way:
    """What the pictures on the way of a run say."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    times = [record["seconds"] for record in map(json.loads, lines) if "seconds" in record]
    scores = {}
    for path in sorted((folder / "progress").glob("stage0-*.png")):
        scores[int(path.stem.partition("-")[2])] = score(path, judge, kind, color)
    last = list(scores.values())[-1]
    steps = next(step for step, value in scores.items() if value >= SHARE * last)
    high = next((step for step, value in scores.items() if value >= HIGH), None)
    return Way(last, steps, sum(times[:steps]), high)


def score(path: Path, judge: Judge, kind: str, color: str) -> float:
    """The mean probability of the kind and the colour over the views in a picture, 0 to 1."""
    with Image.open(path) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
    views = torch.stack(pixels.split(pixels.shape[1], dim=2))
    seen = judge.read(views).logits
    parts = [seen[head][:, HEADS[head].index(name)].exp().mean()
             for head, name in (("kind", kind), ("color", color))]  # fmt: skip
    return float(sum(parts) / 2)


def embedding(folder: Path, clip: Clip) -> Tensor:
    """[D] where an asset is among pictures: the mean of CLIP's vectors around it."""
    seen = render_mesh(load(folder / "asset.glb"), orbit(8, 64), look="albedo", antialias_factor=3)
    return F.normalize(clip.images(seen.rgb.permute(0, 3, 1, 2)), dim=-1).mean(0)


def diversity(assets: Sequence[Tensor]) -> float | None:
    """The mean of 1 - cosine over all pairs of seeds of one prompt; None of one seed."""
    pairs = [1 - float(F.cosine_similarity(a, b, dim=0))
             for a, b in itertools.combinations(assets, 2)]  # fmt: skip
    return float(np.mean(pairs)) if pairs else None


def colour_distance(judged: Row, asked: Asked) -> float:
    """How far saturation and contrast, both in 0..1, are from real toys': the sum of both.

    Not the ratio: of a black toy's little saturation any other is a multiple.
    """
    real = real_looks(*asked.prompt[1:])
    shares = (judged.saturation, real.saturation), (judged.contrast, real.contrast)
    return sum(abs(share - 1) * truth for share, truth in shares)


def line(method: str, made: Mapping[Asked, tuple[Row, Way]], spread: float | None) -> str:
    """A method's line: shares, medians, the mean colour distance, and how soon it was good."""

    def share(hits: Sequence[bool]) -> str:
        return f"{sum(hits)}/{len(hits)}"

    def middle(values: Sequence[float], digits: int = 2) -> str:
        return f"{np.median(values):.{digits}f}"

    rows, ways = zip(*made.values())
    apart = float(np.mean([colour_distance(judged, asked) for asked, (judged, _) in made.items()]))
    reached = [w.high for w in ways if w.high is not None]
    cells = [
        method, share([r.kind for r in rows]), share([r.color for r in rows]),
        share([r.geometry for r in rows]), share([r.fronts == 1 for r in rows]),
        middle([r.saturation for r in rows]), middle([r.contrast for r in rows]),
        f"{apart:.3f}", middle([w.score for w in ways]),
        middle([w.steps for w in ways], 0), middle([w.seconds for w in ways], 0),
        f"{middle(reached, 0) if reached else 'never'} ({len(reached)}/{len(ways)})",
        "" if spread is None else f"{spread:.3f}",
    ]  # fmt: skip
    return row(*cells)


HEAD = ("method", "kind", "colour", "geometry", "one front", "saturation", "contrast",
        "colour distance", "score", "steps to 95 %", "s to 95 %", f"steps to {HIGH}",
        "diversity")  # fmt: skip


def table(made: Mapping[Asked, tuple[Row, Way]], out: Path) -> str:
    """Markdown of all that was made."""
    clip = Clip(WEIGHTS / "clip", torch.device("cpu"))
    lines = [head(*HEAD)]
    for method in METHODS:
        own = {asked: found for asked, found in made.items() if asked.method == method}
        if not own:
            continue
        spreads = []
        for prompt in dict.fromkeys(asked.prompt for asked in own):
            assets = [embedding(a.folder(out), clip) for a in own if a.prompt == prompt]
            spreads.append(diversity(assets))
        known = [spread for spread in spreads if spread is not None]
        lines.append(line(method, own, float(np.mean(known)) if known else None))
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/methods"))
    parser.add_argument("--limit", type=int, default=6, help="prompts")
    parser.add_argument("--seeds", type=int, default=1, help="of each prompt")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", help="methods, with commas between")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th from the K-th")
    options = parser.parse_args()
    methods = options.only.split(",") if options.only else list(METHODS)
    if unknown := set(methods) - METHODS.keys():
        raise InputError(f"there is no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
    chosen = [asked for asked in prompts(0) if asked[1] in FRONTED][: options.limit]
    every = [Asked(method, seed, prompt) for seed in range(options.seeds) for prompt in chosen
             for method in methods]  # fmt: skip
    k, n = part_of(options.part)
    judge, made = load_judge(WEIGHTS / "judge"), {}
    for asked in every[k - 1 :: n]:
        folder, (text, kind, color, _) = asked.folder(options.out), asked.prompt
        judged = evaluate_one(
            folder, asked.prompt, METHODS[asked.method][0], asked.words(options.steps)
        )
        made[asked] = judged, way(folder, judge, kind, color)
        complain(f"{summary([judged])}; {asdict(made[asked][1])}", f"{asked.method}: {text}")
    text = table(made, options.out)
    if n == 1:
        (options.out / "table.md").write_text(text + "\n")
        first = sorted((a for a in made if a.seed == 0), key=lambda a: methods.index(a.method))
        contact_sheet([a.folder(options.out) / "asset.glb" for a in first],
                      options.out / "sheet.png", columns=2 * len(chosen))  # fmt: skip
    say(text)


if __name__ == "__main__":
    main()
