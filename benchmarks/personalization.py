"""What is learned of things with no name, on toybox: python benchmarks/personalization.py --out DIR

Subjects and prompts of seeds that nothing was trained on. Each method learns each subject from five
pictures. At several steps, pictures of eight prompts are measured: how like the subject they are
(the judge of sameness, against pictures that were not learned), how often the prompt is obeyed (the
judge's reading), and what became of plain pictures of the kind. What is done is in
DIR/results.jsonl; cut, it goes on. --table prints the means, --plot draws the curves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import head, keep, row
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import grid, save_image
from threed.diffusion.paint import paint
from threed.learning import loop
from threed.systems.system import Lesson, Request
from threed.systems.table import SYSTEMS
from threed.toybox.family.examples import draw_subject
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.alike import load_likeness
from threed.toybox.judge.net import load_judge
from threed.toybox.world.grounds import shade
from threed.toybox.world.scenes import draw_scene
from threed.toybox.world.subjects import random_subject_scene
from threed.toybox.world.toys import KINDS

SEED = 7000  # of the first subject
PICTURES, HELD = 5, 12  # of a subject: learned, and kept for measuring
STEPS, AT = 400, (100, 200, 400)  # of a training, and where it is measured
EACH, SAMPLING = 4, 20  # pictures of a prompt, steps of each
WORD = "<toy>"


@dataclass(frozen=True)
class Method:
    """A way to learn, and the ways in which what it learned is used."""

    system: str
    options: Mapping[str, Any] = field(default_factory=dict)
    knobs: Sequence[Mapping[str, float]] = ({},)
    scale: float = 5.0


METHODS = {
    "textual inversion": Method("textual_inversion"),
    "textual inversion, 3 vectors": Method("textual_inversion", {"vectors": 3}),
    "dreambooth": Method("dreambooth"),
    "dreambooth, no prior": Method("dreambooth", {"prior": 0}),
    "lora": Method("lora"),
    "lora, prior": Method("lora", {"prior": 1}),
    "dco": Method("dco", knobs=tuple({"consistency": c} for c in (1.0, 3.0, 5.0, 8.0))),
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

    def __init__(self, out: Path, methods: Sequence[str]) -> None:
        self.out, self.methods = out, methods
        self.base: Any = load_backbone("toybox")
        self.same = load_likeness(WEIGHTS / "likeness" / "sameness")
        self.judge = load_judge(WEIGHTS / "judge")
        self.results = out / "results.jsonl"
        lines = self.results.read_text().splitlines() if self.results.is_file() else []
        self.done = {_key(json.loads(line)) for line in lines}

    def run(self, number: int) -> None:
        """Learn one subject in every way, and measure it."""
        kind = KINDS[number % len(KINDS)]
        folder = self.out / f"subject{number:02d}"
        subject = draw_subject(folder / "pictures", PICTURES, SEED + number, kind)
        rng = np.random.default_rng([SEED + number, 99])
        views = [draw_scene(random_subject_scene(rng, subject)).picture.rgb for _ in range(HELD)]
        held = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
        self._keep(number, "the kind alone", 0, {}, None, kind, held)
        for name in self.methods:
            method, place = METHODS[name], folder / name.replace(" ", "-").replace(",", "")
            if not (place / f"at{STEPS}").is_dir():
                self._learn(method, folder / "pictures", place, kind)
            for at in AT:
                for knobs in method.knobs:
                    self._keep(number, name, at, knobs, place / f"at{at}", kind, held)

    def _learn(self, method: Method, pictures: Path, place: Path, kind: str) -> None:
        training = SYSTEMS[method.system].training
        assert training is not None
        assert training.read is not None
        options: Any = training.options(name=WORD, kind=kind, **method.options)
        about = {"system": method.system, "backbone": "toybox"}
        lesson = Lesson(training.read(pictures, 64, options), about, options, True, out=place)
        task = training.learn(load_backbone("toybox"), lesson)
        made = iter(range(AT[0], STEPS + 1, AT[0]))

        def save(net: Any, out: Path) -> None:
            there = out / f"at{next(made)}"
            task.save(net, there)
            (there / "settings.json").write_text(json.dumps(dict(task.about)))

        loop.train(replace(task, save=save, sheet=None), replace(training.small, steps=STEPS),
                   place, device=self.base.device, sheet_every=AT[0])  # fmt: skip

    def _keep(self, number: int, name: str, at: int, knobs: Mapping[str, float],
              place: Path | None, kind: str, held: Tensor) -> None:  # fmt: skip
        about = {"subject": number, "method": name, "steps": at, "knobs": dict(knobs)}
        if _key(about) in self.done:
            return
        word = kind if place is None else WORD
        pictures = torch.cat([self._pictures(name, place, knobs, ask.text.format(word))
                              for ask in ASKS])  # fmt: skip
        plain = self._pictures(name, place, knobs, f"a {kind}", 16)
        folder = self.out / f"subject{number:02d}"
        tag = "-".join(
            [name.replace(" ", "-").replace(",", ""), str(at), *map(str, knobs.values())]
        )
        save_image(grid(torch.cat([held[:EACH], pictures]), columns=EACH), folder / f"{tag}.png")
        obeyed = [self._obeyed(ask, some) for ask, some in zip(ASKS, pictures.split(EACH))]
        alike = self.same.likeness(pictures, held).mean(1)
        spread = self.same.likeness(plain, plain)
        colors = self.judge.read(plain).logits["color"].exp().mean(0).tolist()
        scores = {"sameness": float(alike.mean()), "obeyed": float(np.mean(obeyed)),
                  "each": obeyed, "kind_spread": 1 - float(spread.mean()), "kind_colors": colors,
                  "kind_read": float(np.mean([k == kind for k in self.judge.read(plain).names("kind")]))}  # fmt: skip
        keep(self.results, about | scores)

    def _pictures(self, name: str, place: Path | None, knobs: Mapping[str, float], prompt: str,
                  n: int = EACH) -> Tensor:  # fmt: skip
        method = METHODS.get(name, Method("textual_inversion"))
        system = SYSTEMS[method.system]
        given = () if place is None else ((place, 1.0),)
        told = system.knobs(**knobs) if knobs else None
        request = Request(prompt, Guide(method.scale), SAMPLING, 64, {"weights": given}, told)
        model = system.equipped(self.base, request)
        ready = system.prepare(model, request, None)
        with torch.no_grad():
            return paint(model, ready, n=n, steps=SAMPLING, seed=1)

    def _obeyed(self, ask: Ask, pictures: Tensor) -> float:
        """The share of pictures that show what a prompt asks for beside the subject."""
        verdict = self.judge.read(pictures)
        hits = np.ones(len(pictures), bool)
        for name, wanted in ask.reads.items():
            hits &= np.array([read == wanted for read in verdict.names(name)])
        if ask.ground is not None:
            corners = pictures[..., :4, :4].mean((2, 3)), pictures[..., :4, -4:].mean((2, 3))
            goal = torch.tensor(shade(ask.ground, np.random.default_rng(0)))
            near = [(corner - goal).norm(dim=1) < 0.2 for corner in corners]
            hits &= (near[0] & near[1]).numpy()
        return float(hits.mean())


def _key(line: Mapping[str, Any]) -> str:
    return json.dumps([line["subject"], line["method"], line["steps"], line["knobs"]])


def means(results: Path) -> Iterator[dict[str, Any]]:
    """The means over subjects of each method at each step."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, results.read_text().splitlines()):
        groups.setdefault(json.dumps([line["method"], line["steps"], line["knobs"]]), []).append(
            line
        )
    plain = {line["subject"]: line for line in next(iter(groups.values()))}
    for key, lines in groups.items():
        method, steps, knobs = json.loads(key)
        drift = [0.5 * np.abs(np.subtract(line["kind_colors"], plain[line["subject"]]["kind_colors"])).sum()
                 for line in lines]  # fmt: skip
        yield {"method": method, "steps": steps, "knobs": knobs, "subjects": len(lines),
               **{name: float(np.mean([line[name] for line in lines]))
                  for name in ("sameness", "obeyed", "kind_spread", "kind_read")},
               "kind_drift": float(np.mean(drift))}  # fmt: skip


def table(results: Path) -> str:
    """The means as a table."""
    rows = [head("method", "steps", "sameness", "prompts obeyed", "the kind's spread",
                 "the kind's colours moved")]  # fmt: skip
    for line in means(results):
        knobs = ", ".join(f"{name}={value:g}" for name, value in line["knobs"].items())
        name = f"{line['method']}{f' ({knobs})' if knobs else ''}"
        rows.append(row(name, line["steps"], f"{line['sameness']:.3f}", f"{line['obeyed']:.0%}",
                        f"{line['kind_spread']:.3f}", f"{line['kind_drift']:.0%}"))  # fmt: skip
    return "\n".join(rows)


def main() -> None:
    """Run what is left, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.out / "results.jsonl"))
        return
    bench = Bench(arguments.out, arguments.methods)
    for number in range(arguments.subjects):
        bench.run(number)


if __name__ == "__main__":
    main()
