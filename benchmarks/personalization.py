"""What is learned of things with no name, on toybox: how like it stays, and what is still obeyed.

    python benchmarks/personalization.py --out DIR            each subject in each way
    python benchmarks/personalization.py --out DIR --merge    a subject and a style, merged
    python benchmarks/personalization.py --out DIR --table    what was found, and pictures of it

Subjects and prompts are of seeds that nothing was trained on. Each method learns a subject from
five pictures. Pictures of eight prompts are measured by the judge of sameness, against pictures of
the subject that were not learned, and by the judge's reading of what the prompt asks for; plain
pictures of the kind say what became of it. What is done is in DIR/results.jsonl; cut, it goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import head, keep, row
from benchmarks.plots import plot
from threed.apps.cli.show import say
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import grid, save_image
from threed.diffusion.paint import paint
from threed.learning import loop
from threed.learning.data import read_picture
from threed.systems.system import Lesson, Request
from threed.systems.table import SYSTEMS
from threed.toybox.family.examples import draw_subject
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.alike import load_likeness
from threed.toybox.judge.net import Judge, load_judge
from threed.toybox.world.grounds import shade
from threed.toybox.world.mix import random_scene
from threed.toybox.world.scenes import View, draw_scene
from threed.toybox.world.styles import Style, random_style
from threed.toybox.world.subjects import Keepsake, random_subject_scene
from threed.toybox.world.toys import KINDS

SEED = 7000  # of the first subject
PICTURES, HELD = 5, 12  # of a subject: learned, and kept for measuring
AT = (0.5, 1.0)  # of a training's steps: where it is measured
ABLE = 0.5  # share of a kind's own pictures from which on a prompt counts
EACH, PLAIN, SAMPLING = 4, 12, 12  # pictures of a prompt, of the kind, steps of each
GAP = 8  # pixels between sheets
WORD, LOOK = "<toy>", "<look>"
UNNAMED = ("palette", "hatched", "dotted", "outlined")  # styles without words
MERGED = ("lora", "dco")


@dataclass(frozen=True)
class Method:
    """A way to learn, and the ways in which what it learned is used at last."""

    system: str
    options: Mapping[str, Any] = field(default_factory=dict)
    uses: Sequence[Mapping[str, float]] = ()


SCALE = 5.0  # of the guidance
SCALES = tuple({"guidance": scale} for scale in (2.5, 8.0))
METHODS = {
    "textual inversion": Method("textual_inversion"),
    "dreambooth": Method("dreambooth", {"prior": 1.0}),
    "dreambooth, no prior": Method("dreambooth", {"prior": 0.0}),
    "lora": Method("lora", uses=SCALES),
    "lora, prior": Method("lora", {"prior": 1.0}, uses=SCALES),
    "dco": Method("dco", uses=(*SCALES, *({"consistency": c} for c in (1.0, 2.0, 4.0, 7.0)))),
}


@dataclass(frozen=True)
class Ask:
    """A prompt, and what the judge should read; {} is the word or the kind."""

    text: str
    reads: Mapping[str, str] = field(default_factory=dict)
    ground: str | None = None  # the colour behind it


ASKS = (
    Ask("a {} on a pink background", ground="pink"),
    Ask("a {} on a green background", ground="green"),
    Ask("a {} and a red ball", {"second_kind": "ball", "second_color": "red"}),
    Ask("a {} on a blue cube", {"scene": "pair above", "second_kind": "cube"}),
    Ask("a {}, back view", {"view": "back"}),
    Ask("a {}, side view", {"view": "side"}),
    Ask("a red {}", {"color": "red"}),
    Ask("a {} at night", {"style": "night"}),
)


class Bench:
    """The model, the judges, and where results are kept."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.base = out, load_backbone("toybox")
        self.same, self.look = (
            load_likeness(WEIGHTS / "likeness" / kind) for kind in ("sameness", "style")
        )
        self.judge = load_judge(WEIGHTS / "judge")
        self.results = out / "results.jsonl"
        lines = self.results.read_text().splitlines() if self.results.is_file() else []
        self.done = {key(json.loads(line)) for line in lines}

    def subject(self, number: int) -> tuple[Keepsake, str, Path, list[View]]:
        """A subject, its kind, the folder of the pictures to learn from, and views kept back."""
        kind = KINDS[5 * number % len(KINDS)]
        folder = self.out / f"subject{number:02d}" / "pictures"
        subject = draw_subject(folder, PICTURES, SEED + number, kind)
        rng = np.random.default_rng([SEED + number, 99])
        return (subject, kind, folder,
                [draw_scene(random_subject_scene(rng, subject)) for _ in range(HELD)])  # fmt: skip

    def run(self, number: int, methods: Sequence[str]) -> None:
        """Learn one subject in every way, and measure it."""
        _, kind, folder, views = self.subject(number)
        held = stacked([view.picture.rgb for view in views])
        self.measure({"subject": number, "method": "the kind alone", "at": 0.0}, (), kind, held)
        for name in methods:
            place = learn(METHODS[name], folder, folder.parent / name.replace(" ", "-"), kind)
            for at in AT:
                uses = METHODS[name].uses if at == AT[-1] else ()
                for told in ({}, *uses):
                    about = {"subject": number, "method": name, "at": at, **told}
                    self.measure(about, ((place / f"at{at}", 1.0),), kind, held)

    def measure(self, about: dict[str, Any], loras: Sequence[tuple[Path, float]], kind: str,
                held: Tensor) -> None:  # fmt: skip
        """Draw the prompts and the plain kind, and keep what the judges say."""
        if key(about) in self.done:
            return
        word = WORD if loras else kind
        pictures = torch.cat([self.draw(about, loras, ask.text.format(word)) for ask in ASKS])
        plain = self.draw(about, loras, f"a {kind}", PLAIN)
        drawn = grid(torch.cat([held[:EACH], pictures]), EACH)
        save_image(drawn, self.out / f"{tag(*about.values())}.png")
        each = [obeyed(self.judge, ask, some) for ask, some in zip(ASKS, pictures.split(EACH))]
        read = self.judge.read(plain)
        keep(self.results, about | {
            "sameness": float(self.same.likeness(pictures, held).mean()),
            "each": each,
            "spread": 1 - float(self.same.likeness(plain, plain).mean()),
            "colors": read.logits["color"].exp().mean(0).tolist(),
            "reads": float(np.mean([name == kind for name in read.names("kind")])),
        })  # fmt: skip

    def draw(self, about: Mapping[str, Any], learned: Sequence[tuple[Path, float]], prompt: str,
             n: int = EACH) -> Tensor:  # fmt: skip
        """[n, 3, 64, 64] pictures of a prompt, by a model that knows what was learned."""
        method = METHODS.get(about["method"], METHODS["textual inversion"])
        system = SYSTEMS[method.system]
        knobs = {name: about[name] for name in ("consistency",) if name in about}
        guide = Guide(about.get("guidance", SCALE))
        request = Request(prompt, guide, SAMPLING, 64, {"weights": tuple(learned)},
                          system.knobs(**knobs) if knobs else None)  # fmt: skip
        model = system.equipped(self.base, request)
        with torch.no_grad():
            return paint(model, system.prepare(model, request, None), n=n, steps=SAMPLING, seed=1)

    def merge(self, number: int) -> None:
        """Learn a subject and a style by themselves, and draw the one in the other."""
        _, kind, folder, views = self.subject(number)
        name = UNNAMED[number % len(UNNAMED)]
        style = random_style(np.random.default_rng([SEED + number, 7]), name)
        looks, shown = self.draw_style(style, number)
        truth = stacked([style.paint(view) for view in views])
        for system in MERGED:
            about = {"subject": number, "method": f"{system}, merged", "at": 1.0, "style": name}
            if key(about) in self.done:
                continue
            method, home = METHODS[system], folder.parent
            toy = learn(method, folder, home / system, kind) / f"at{AT[-1]}"
            look = learn(method, looks, home / f"{system}-look", "style", LOOK) / f"at{AT[-1]}"
            given = ((toy, 1.0), (look, 1.0))
            pictures = self.draw({"method": system}, given, f"a {WORD} in {LOOK}", 16)
            save_image(
                grid(torch.cat([truth[:8], pictures]), 8), self.out / f"{system}-{number}.png"
            )
            keep(self.results, about | {
                "sameness": float(self.same.likeness(pictures, truth).mean()),
                "look": float(self.look.likeness(pictures, shown).mean()),
            })  # fmt: skip

    def draw_style(self, style: Style, number: int) -> tuple[Path, Tensor]:
        """A folder with captioned pictures of toys in a style, and others [N, 3, 64, 64] in it."""
        folder, rng = self.out / f"subject{number:02d}" / "look", np.random.default_rng([number, 3])
        shown = []
        for index in range(PICTURES + HELD):
            view = draw_scene(random_scene(rng))
            shown.append(style.paint(view))
            if index < PICTURES:
                save_image(stacked(shown[-1:])[0], folder / f"{index:02d}.png")
                text = f"{view.scene.caption(rng)} in {{}}\n"
                (folder / f"{index:02d}.txt").write_text(text, encoding="utf-8")
        return folder, stacked(shown[PICTURES:])


def learn(
    method: Method, pictures: Path, place: Path, kind: str, name: str = WORD,
    backbone: str = "toybox",
) -> Path:  # fmt: skip
    """Learn from pictures in a folder, once; what it was at each of AT lies in the other."""
    if (place / f"at{AT[-1]}").is_dir():
        return place
    training = SYSTEMS[method.system].training
    assert training is not None
    assert training.read is not None
    options: Any = training.options(name=name, kind=kind, **method.options)
    about = {"system": method.system, "backbone": backbone}
    lesson = Lesson(training.read(pictures, 64, options), about, options, True, out=place)
    model: Any = load_backbone(backbone)
    task, recipe, fractions = training.learn(model, lesson), training.small, iter(AT)
    numbers = sum(p.numel() for p in task.net.parameters() if p.requires_grad)

    def save(net: Any, out: Path) -> None:
        there = out / f"at{next(fractions)}"
        task.save(net, there)
        (there / "settings.json").write_text(json.dumps(dict(task.about)))

    loop.train(replace(task, save=save, sheet=None), recipe, place, device=model.device,
               sheet_every=recipe.steps // 2)  # fmt: skip
    (place / "numbers.json").write_text(json.dumps(numbers))
    return place


def obeyed(judge: Judge, ask: Ask, pictures: Tensor) -> float:
    """The share of pictures that show what a prompt asks for beside the subject."""
    verdict = judge.read(pictures)
    hits = np.ones(len(pictures), bool)
    for name, wanted in ask.reads.items():
        hits &= np.array([read == wanted for read in verdict.names(name)])
    if ask.ground is not None:
        goal = torch.tensor(shade(ask.ground, np.random.default_rng(0)))
        for corner in (pictures[..., :4, :4], pictures[..., :4, -4:]):
            hits &= ((corner.mean((2, 3)) - goal).norm(dim=1) < 0.2).numpy()
    return float(hits.mean())


def stacked(pictures: Sequence[Any]) -> Tensor:
    """[N, 3, H, W] pictures [H, W, 3]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def tag(*words: Any) -> str:
    """The name of a sheet."""
    return "-".join(map(str, words)).replace(" ", "-").replace(",", "")


def compare(out: Path, number: int = 0) -> None:
    """DIR/methods.png: one subject's sheets of the kind alone and of each method, side by side."""
    names = [("the kind alone", 0.0), *((name, AT[-1]) for name in METHODS)]
    paths = [out / f"{tag(number, name, at)}.png" for name, at in names]
    if not all(path.is_file() for path in paths):
        return
    size = (64 * EACH, 64 * (len(ASKS) + 1))
    sheets = [stacked([read_picture(path, size)])[0] / 255 for path in paths]
    save_image(torch.cat([F.pad(sheet, (0, GAP)) for sheet in sheets], 2), out / "methods.png")


def key(line: Mapping[str, Any]) -> str:
    """What tells a result from others."""
    names = ("subject", "method", "at", "consistency", "guidance")
    return json.dumps([line.get(name) for name in names])


def means(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The means over subjects of each method at each place; drift: how far the kind's colours went.

    The colours are the judge's shares of ten; half the sum of their changes is the drift. What is
    obeyed is the mean over those prompts that the model obeys of the kind alone: no mug is read as
    seen from behind.
    """
    plain = {line["subject"]: line["colors"] for line in lines if not line["at"]}
    able = {line["subject"]: np.array(line["each"]) >= ABLE for line in lines if not line["at"]}
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        use = (line["method"], line["at"], line.get("consistency"), line.get("guidance"))
        groups.setdefault(use, []).append(line)
    for (method, at, consistency, guidance), group in groups.items():
        found = {name: float(np.mean([line[name] for line in group]))
                 for name in ("sameness", "spread", "reads")}  # fmt: skip
        obeys = [np.array(line["each"])[able[line["subject"]]].mean() for line in group]
        moved = [np.abs(np.subtract(line["colors"], plain[line["subject"]])).sum() / 2
                 for line in group]  # fmt: skip
        yield {"method": method, "at": at, "consistency": consistency, "guidance": guidance,
               "subjects": len(group), **found, "obeyed": float(np.mean(obeys)),
               "drift": float(np.mean(moved))}  # fmt: skip


def frontier(points: Iterable[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Those of a method's points that no other of it beats in sameness and in what is obeyed."""
    best: list[Mapping[str, float]] = []
    for one in sorted(points, key=lambda one: (-one["sameness"], -one["obeyed"])):
        if not best or one["obeyed"] > best[-1]["obeyed"]:
            best.append(one)
    return best[::-1]


def above(points: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> float:
    """How much more is obeyed on one frontier than on another at equal sameness, on average.

    nan where the two have no sameness in common.
    """
    lines = [np.array([(one["sameness"], one["obeyed"]) for one in frontier(some)])
             for some in (points, others)]  # fmt: skip
    low, high = max(line[0, 0] for line in lines), min(line[-1, 0] for line in lines)
    if low > high:
        return float("nan")
    at = np.linspace(low, high, 20)
    ours, theirs = (np.interp(at, line[:, 0], line[:, 1]) for line in lines)
    return float((ours - theirs).mean())


def label(one: Mapping[str, Any], *, short: bool = False) -> str:
    """How a method was used: its steps, if not all, and what its knobs say."""
    part = "half" if short else f"{one['at']:.0%} of the steps"
    words = [] if one["at"] in (0.0, AT[-1]) else [part]
    words += [f"{name[0] if short else name} {one[name]:g}"
              for name in ("guidance", "consistency") if one[name]]  # fmt: skip
    return ", ".join(words)


def table(results: Path) -> str:
    """The means, the frontiers, and what was merged."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    found = [*means([line for line in lines if "merged" not in line["method"]])]
    rows = [head("method", "used", "sameness", "obeyed", "the kind's spread",
                 "its colours moved", "subjects")]  # fmt: skip
    for one in found:
        same, obeys = f"{one['sameness']:.3f}", f"{one['obeyed']:.0%}"
        kind = f"{one['spread']:.3f}", f"{one['drift']:.0%}"
        rows.append(row(one["method"], label(one), same, obeys, *kind, one["subjects"]))
    for name in METHODS:
        path = results.parent / "subject00" / name.replace(" ", "-") / "numbers.json"
        if path.is_file():
            rows.append(f"{name} learns {int(path.read_text()):,} numbers")
    by = {name: [one for one in found if one["method"] == name] for name in METHODS}
    for name in ("lora", "lora, prior"):
        if by["dco"] and by[name]:
            more = above(by["dco"], by[name])
            said = (
                "has no sameness in common with" if np.isnan(more) else f"obeys {more:+.0%} beside"
            )
            rows.append(f"dco {said} {name}, at equal sameness")
    for system in MERGED:
        group = [line for line in lines if line["method"] == f"{system}, merged"]
        if group:
            both = np.array([(line["sameness"], line["look"]) for line in group])
            same, look = both.mean(0)
            rows.append(f"{system}, merged, {len(group)}: sameness {same:.3f}, style {look:.3f}, "
                        f"the worse of the two {both.min(1).mean():.3f}")  # fmt: skip
    drawn = {name: [(one["sameness"], one["obeyed"], label(one, short=True)) for one in
                    sorted(some, key=lambda one: one["sameness"])]
             for name, some in by.items() if some}  # fmt: skip
    compare(results.parent)
    if drawn:
        plot(results.parent / "frontiers.png", drawn, "sameness", "obeyed")
    return "\n".join(rows)


def main() -> None:
    """Run what is left, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        bench = Bench(options.out)
        for number in range(options.subjects):
            bench.merge(number) if options.merge else bench.run(number, options.methods)
    say(table(options.out / "results.jsonl"))


if __name__ == "__main__":
    main()
