"""What virtual try-on does on toybox, beside the truth: python benchmarks/try_on.py --out DIR

    --weights DIR    trainings: ladi_vton, stable_viton, stable_viton-plain (variation=0),
                     idm_vton, bootcomp, bootcomp-all (kept=1); if not given, the backbone's
    --only NAME ...  of these parts or ways alone
    --merge DIR ...  take in what was found in other folders
    --table          run nothing

Persons and garments are of seeds that nothing was trained on, and nobody wears the garment that is
given. What is read, and by what: benchmarks/try_on_cases.py. Results are in DIR/results.jsonl; cut,
it goes on. At the end DIR/try_on.md has the tables, and DIR/try_on.png has a row for each of the
first persons: person, garment, the backbone told by words, the systems, truth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import head, keep, row
from benchmarks.try_on_assets import Asked, asset, asset_case
from benchmarks.try_on_cases import Case, fitting_case, measured, outfit_case
from benchmarks.try_on_ways import (
    Told,
    away,
    bootcomp,
    customised,
    free,
    idm,
    ladi,
    lossy,
    masked_words,
    stable,
    through,
)
from threed.apps.cli.show import complain, say
from threed.diffusion.catalog import load_backbone
from threed.diffusion.images import grid, load_image, save_image
from threed.toybox.judge.net import Judge, load_judge
from threed.toybox.judge.truth import truths_of_garment

PAIRS, OUTFITS, LOOKS, CUSTOM, ASSETS = 100, 50, 40, 8, 6  # cases of each part
AT_ONCE = 10  # cases that share a sampling
SHOWN = 8  # persons of the sheet
FOUR = ("ladi_vton", "stable_viton", "idm_vton", "bootcomp")
COLUMNS = {  # of the table, and how a mean is written
    "psnr": "{:.2f} dB", "ssim": "{:.3f}", "both": "{:.0%}", "colour": "{:.0%}",
    "pattern": "{:.0%}", "emblem": "{:.0%}", "length": "{:.0%}", "pose": "{:.0%}",
    "judged": "{:.0%}", "kept": "{:.2f} dB", "outside": "{:.2g}", "away": "{:.2f} pixels",
    "iou": "{:.3f}", "rest": "{:.2f} dB",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How pictures [N, 3, H, W] of cases are made, and which trainings that needs."""

    draw: Callable[[Told, Sequence[Case]], Tensor]
    weights: str | None = None  # a folder's name
    most: int = PAIRS  # cases


WAYS = {
    "truth, by the VAE": Way(lossy),
    "words": Way(masked_words),
    "ladi_vton": Way(ladi, "ladi_vton"),
    "ladi_vton, no warping": Way(partial(ladi, warping=False), "ladi_vton"),
    "ladi_vton, no EMASC": Way(partial(ladi, emasc=False), "ladi_vton"),
    "ladi_vton, no words": Way(partial(ladi, words=False), "ladi_vton"),
    "stable_viton": Way(stable, "stable_viton"),
    "stable_viton, no variation": Way(stable, "stable_viton-plain"),
    "idm_vton": Way(idm, "idm_vton"),
    "idm_vton, no GarmentNet": Way(partial(idm, details=0.0), "idm_vton"),
    "idm_vton, no adapter": Way(partial(idm, picture=0.0), "idm_vton"),
    "idm_vton, customised": Way(customised, "idm_vton", CUSTOM),
    "bootcomp": Way(bootcomp, "bootcomp"),
    "bootcomp, no filter": Way(bootcomp, "bootcomp-all"),
}


class Bench:
    """The model, the judge, where trainings are, and where results are kept."""

    def __init__(self, out: Path, backbone: str, weights: Path | None, only: Sequence[str]) -> None:
        self.out, self.results, self.only = out, out / "results.jsonl", only
        self.base: Any = load_backbone(backbone)
        self.judge = load_judge(self.base.folder / "judge")
        self.eye = partial(through, self.base)  # what is read is compared as the VAE shows it
        self.weights = weights or self.base.folder
        self.done = {key(line) for line in read(self.results)}

    def asked(self, name: str) -> bool:
        """Whether a part or a way is to be run."""
        return not self.only or name in self.only

    def told(self, way: str, weights: str | None) -> Told | None:
        """What a way of drawing is told; None, and a word, where its training is missing."""
        place = self.weights / (weights or "")
        if place.is_dir():
            return Told(self.base, place, self.out)
        complain(f"{way} is left out: there is no {place}", "note")
        return None

    def run(self, part: str, name: str, way: Way, case: Callable[[int], Case], count: int,
            measure: Callable[[Case, Tensor], dict[str, float]]) -> None:  # fmt: skip
        """Draw and measure what is left of a part's cases in one way."""
        left = [number for number in range(min(count, way.most))
                if key({"part": part, "way": name, "number": number}) not in self.done]  # fmt: skip
        told = self.told(name, way.weights) if left else None
        for first in range(0, len(left) if told else 0, AT_ONCE):
            cases = [case(number) for number in left[first : first + AT_ONCE]]
            assert told is not None
            with torch.no_grad():
                pictures = way.draw(told, cases).cpu()
            for one, made in zip(cases, pictures):
                if part == "pairs" and one.number < SHOWN:
                    self.show(one, name, made)
                found = measure(one, made)
                keep(self.results, {"part": part, "way": name, "number": one.number, **found})

    def show(self, case: Case, name: str, made: Tensor) -> None:
        """Keep what the sheet shows of a case."""
        mask, person = torch.from_numpy(case.mask), case.person
        for about, picture in (("person", person), ("garment", case.flat[0]),
                               ("truth", case.truth),
                               (name, torch.where(mask, made, person))):  # fmt: skip
            save_image(picture, self.out / "pictures" / f"{case.number} {about}.png")

    def found(self, case: Case, made: Tensor) -> dict[str, float]:
        """What becomes of a person, and whether the judge reads its clothes right."""
        painted = torch.where(torch.from_numpy(case.mask), made, case.person)
        return measured(case, made) | self.judged(case, painted)

    def judged(self, case: Case, picture: Tensor) -> dict[str, float]:
        """The share of garments that the judge reads right."""
        return {"judged": judged(self.judge, case, picture)}


def judged(judge: Judge, case: Case, picture: Tensor) -> float:
    """The share of garments whose colour, and if upper ones pattern, a judge reads right.

    It knows no hats of persons.
    """
    verdict = judge.read(picture[None])
    worn = [truths_of_garment(one) for one in case.garments[:2]]
    right = [all(verdict.names(name) == [value] for name, value in truths.items()
                 if name.endswith(("color", "finish"))) for truths in worn]  # fmt: skip
    return float(np.mean(right))


def pairs(bench: Bench) -> None:
    """A person and a garment that it does not wear: each system, its ablations, words alone."""
    for name, way in WAYS.items():
        if bench.asked("pairs") or bench.asked(name):
            case = partial(fitting_case, eye=bench.eye)
            bench.run("pairs", name, way, case, PAIRS, bench.found)


def looking(bench: Bench) -> None:
    """How far StableVITON's attention is from where it should look, with and without the loss."""
    for name, weights in (("stable_viton", "stable_viton"),
                          ("stable_viton, no variation", "stable_viton-plain")):  # fmt: skip
        way = Way(away, weights)
        bench.run("looking", name, way, fitting_case, LOOKS, far)


def far(_: Case, pixels: Tensor) -> dict[str, float]:
    """How far it is, where anything is seen of the garment."""
    return {} if bool(pixels.isnan()) else {"away": float(pixels)}


def outfits(bench: Bench) -> None:
    """One, two and three garments at once by BootComp, with and without its filter.

    Painted into a person, beside the truth; and any person, made freely, as the judge reads it.
    """
    for count in (1, 2, 3):
        for name, weights in (("bootcomp", "bootcomp"), ("no filter", "bootcomp-all")):
            about = f"{name}, {count} garment{'s' * (count > 1)}"
            case = partial(outfit_case, count=count, eye=bench.eye)
            way = Way(bootcomp, weights)
            bench.run("outfits", about, way, case, OUTFITS, bench.found)
            bench.run("outfits", f"{about}, free", Way(free, weights), case, OUTFITS, bench.judged)


def assets(bench: Bench) -> None:
    """Persons' assets in another garment by each system, seen from eight sides."""
    for name in FOUR:
        for number in range(ASSETS):
            about = {"part": "assets", "way": name, "number": number}
            if key(about) in bench.done or (told := bench.told(name, name)) is None:
                continue
            asked = Asked(name, told.place, bench.base.folder, bench.out / "assets")
            keep(bench.results, {**about, **asset(asked, asset_case(number), bench.eye)})


PARTS = {"pairs": pairs, "looking": looking, "outfits": outfits, "assets": assets}


def key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a result from others."""
    return tuple(line[name] for name in ("part", "way", "number"))


def read(results: Path) -> list[dict[str, Any]]:
    """The results of a file, none if there is no such file."""
    return [*map(json.loads, results.read_text().splitlines())] if results.is_file() else []


def merge(results: Path, others: Sequence[Path]) -> None:
    """Take in what is not known yet of the results in other folders, and their pictures."""
    known = {key(line) for line in read(results)}
    for place in others:
        for line in read(place / results.name):
            if key(line) not in known:
                known.add(key(line))
                keep(results, line)
        for picture in (place / "pictures").glob("*.png"):
            copy = results.parent / "pictures" / picture.name
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(picture.read_bytes())


def tables(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table in Markdown for each part: the means of each way over the cases that have a value."""
    for part in dict.fromkeys(line["part"] for line in lines):
        own = [line for line in lines if line["part"] == part]
        shown = [name for name in COLUMNS if any(name in line for line in own)]
        yield f"## {part}\n\n{head('', *shown, 'cases')}"
        for way in dict.fromkeys(line["way"] for line in own):
            group = [line for line in own if line["way"] == way]
            each = [[line[name] for line in group if name in line] for name in shown]
            cells = [COLUMNS[name].format(np.mean(some)) if some else ""
                     for name, some in zip(shown, each)]  # fmt: skip
            yield row(way, *cells, len(group))
        yield ""


def sheet(pictures: Path) -> Tensor | None:
    """[3, H, W] a row for each person of whom all is there; None if there is none.

    Systems that have drawn nobody are left out.
    """
    drew = [name for name in ("words", *FOUR) if any(pictures.glob(f"* {name}.png"))]
    names = ("person", "garment", *drew, "truth")
    rows = [[pictures / f"{number} {name}.png" for name in names] for number in range(SHOWN)]
    whole = [torch.cat([load_image(path, 64) for path in paths])
             for paths in rows if all(path.is_file() for path in paths)]  # fmt: skip
    return grid(torch.cat(whole), len(names)) if whole else None


def write(out: Path) -> str:
    """Write the tables and the sheet of what was found so far; return the tables."""
    text = "\n".join(tables(read(out / "results.jsonl")))
    (out / "try_on.md").write_text(text, encoding="utf-8")
    if (seen := sheet(out / "pictures")) is not None:
        save_image(seen, out / "try_on.png")
    return text


def main() -> None:
    """Run what is left, and write the tables and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", default="toybox")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--only", nargs="*", default=[], choices=[*PARTS, *WAYS], metavar="NAME")
    parser.add_argument("--merge", nargs="*", type=Path, default=[])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    merge(options.out / "results.jsonl", options.merge)
    if not options.table:
        bench = Bench(options.out, options.backbone, options.weights, options.only)
        for name, part in PARTS.items():
            if bench.asked(name) or (name == "pairs" and set(options.only) & WAYS.keys()):
                part(bench)
    say(write(options.out))


if __name__ == "__main__":
    main()
