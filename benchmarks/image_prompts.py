"""What pictures say as prompts, on toybox: how like it is, where it is, what words still say.

    python benchmarks/image_prompts.py --out DIR [PART...]    what is left of these parts, or of all
    python benchmarks/image_prompts.py --out DIR --table      what was found, and curves

Subjects and persons are of seeds that nothing was trained on. What a prompt asks for is read by the
family's judge, what is alike by those of likeness. Results are in DIR/results.jsonl; cut, it goes
on. --base: an IP-Adapter of the kind base, to compare with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.alike import EACH, SEED, Bench, Told, cut, front_of, views_of
from benchmarks.image_prompts_faces import instant_id, photo_maker
from benchmarks.personalization import ASKS, obeyed
from benchmarks.plots import Point, plot
from benchmarks.trained import follows_edges
from exporters import load
from renderers.raster import render_mesh
from renderers.shading import Look
from threed.apps.cli.show import say
from threed.core.cameras import orbit
from threed.diffusion.detect import edges
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.control import Around, Control
from threed.diffusion.parts.image_adapter import ImageTokens, block_scales
from threed.diffusion.score import guided
from threed.runs.generate import generate
from threed.settings.base import replace as changed
from threed.settings.presets import load_run
from threed.settings.run import SystemSettings
from threed.systems.control import controlnet
from threed.systems.reference import ip_adapter as adapter
from threed.systems.system import Request
from threed.toybox.family.prompts import shown
from threed.toybox.world.captions import a
from threed.toybox.world.pairs import ABOVE, BESIDE, Pair
from threed.toybox.world.scenes import View, draw_scene, random_camera, staged
from threed.toybox.world.subjects import Keepsake, random_subject, random_subject_pair
from threed.toybox.world.toys import COLORS, KINDS

SUBJECTS, PAIRS, TOYS, ASSETS = 10, 60, 100, 12
LOOKS: tuple[Look, ...] = ("albedo", "textureless")  # of an asset
SCALES = (0.3, 0.5, 0.7, 1.0)  # of IP-Adapter
HALVES = {BESIDE: ((0.0, 0.2, 0.5, 0.8), (0.5, 0.2, 1.0, 0.8)),
          ABOVE: ((0.2, 0.0, 0.8, 0.5), (0.2, 0.5, 0.8, 1.0))}  # fmt: skip
Boxes = Sequence[Sequence[float]]
SAID = {BESIDE: "to the left of", ABOVE: "on top of"}


@dataclass(frozen=True)
class Shown:
    """A held-out subject: its picture that is a prompt, and views to measure by."""

    number: int
    subject: Keepsake
    image: Path
    held: Tensor  # from all around
    fronts: Tensor
    twins: Tensor  # fronts of the same thing with another emblem

    @classmethod
    def of(cls, bench: Bench, number: int) -> Shown:
        """The subject of a number, with its emblem on its front."""
        rng = np.random.default_rng([SEED + number])
        first = random_subject(rng, KINDS[5 * number % len(KINDS)])
        subject = replace(first, emblem=replace(first.emblem, azimuth_deg=0.0))
        twin = replace(first, emblem=replace(random_subject(rng).emblem, azimuth_deg=0.0))
        image = bench.picture(f"subject{number}", front_of(rng, subject))
        return cls(number, subject, image, views_of(rng, subject),
                   views_of(rng, subject, reach=30), views_of(rng, twin, reach=30))  # fmt: skip


def ip_adapter(bench: Bench, base: Path | None) -> None:
    """A subject in one picture: sameness, emblem and what words say, by scale; beside a map."""
    for number in range(SUBJECTS):
        one, rows = Shown.of(bench, number), list[Tensor]()
        kind, about = one.subject.kind, {"part": "ip_adapter", "number": number}
        for method, name in (("kind", kind), ("best words", best_words(bench, one))):
            bench.measure({**about, "method": method}, partial(prompted, bench, one, rows, name))
        kinds: dict[str, Told] = {"plus": {}} | ({"base": {"weights": (base,)}} if base else {})
        for method, more in kinds.items():
            inputs = {"image": (one.image,), **more}
            for scale in SCALES:
                find = partial(prompted, bench, one, rows, kind, inputs, scale)
                bench.measure({**about, "method": method, "at": scale}, find)
        about = {"part": "ip_adapter, edges", "number": number, "method": "both"}
        bench.measure(about, partial(mapped, bench, one))
        rows = [one.held[: len(ASKS)], *rows] if rows else []
        bench.sheet(f"ip_adapter{number}", rows, len(ASKS))


def best_words(bench: Bench, one: Shown) -> str:
    """The kind with the colour's name that gives what is most like the subject."""
    named = [f"{color} {one.subject.kind}" for color in COLORS]
    alike = [float(bench.same.likeness(bench.draw(None, a(name), {}, n=2), one.held).mean())
             for name in named]  # fmt: skip
    return named[int(np.argmax(alike))]


def prompted(bench: Bench, one: Shown, rows: list[Tensor], name: str, inputs: Told | None = None,
             scale: float = 0.0) -> dict[str, Any]:  # fmt: skip
    """Pictures of all prompts with a subject, by its picture or by a name alone."""
    draw = partial(bench.draw, "ip_adapter" if inputs else None, inputs=inputs or {},
                   knobs={"scale": scale} if inputs else None)  # fmt: skip
    pictures = [draw(ask.text.format(name)) for ask in ASKS]
    front = draw(f"a {name}, front view", n=2 * EACH)
    nearer = bench.same.likeness(front, one.fronts) - bench.same.likeness(front, one.twins)
    each = [obeyed(bench.judge, ask, some) for ask, some in zip(ASKS, pictures)]
    rows.append(torch.cat([some[:1] for some in pictures]))
    return {"sameness": float(bench.same.likeness(torch.cat(pictures), one.held).mean()),
            "obeyed": float(np.mean(each)), "each": each,
            "emblem": float((nearer.mean(1) > 0).float().mean())}  # fmt: skip


def mapped(bench: Bench, one: Shown) -> dict[str, float]:
    """A subject's picture and another toy's outlines, neither trained with the other."""
    base, rng = bench.base, np.random.default_rng([SEED + one.number, 9])
    other = replace(one.subject, seed=one.subject.seed + 1)
    goal = shown(draw_scene(staged(rng, other, random_camera(rng, (-40, 40), (0, 30)))))[None]
    pixels = (goal[0].permute(1, 2, 0) * 255).byte().numpy()
    hint = torch.from_numpy(edges(pixels)).permute(2, 0, 1)[None] / 255
    request = Request("", inputs={"image": (one.image,)})
    loaded = adapter.load(base, request)
    net = controlnet.load_net(base, base.folder / "controlnet" / "edges")
    with torch.no_grad():
        seen, nothing = adapter.look(base, request, loaded)

        def half(words: str, features: Tensor) -> Any:
            tokens = loaded.net(features)
            edit = ImageTokens(tokens, loaded.net, block_scales([*loaded.net.places], "all", 0.7))
            return replace(base.encode_text([words]), attention=(edit,),
                           residuals=(Control(base, Around(net), hint, 1.0),))  # fmt: skip

        score = guided(base, half(f"a {one.subject.kind}", seen), half("", nothing[None]), 5.0)
        made = paint(base, Ready(score), n=EACH, steps=12, seed=1)
    found = [follows_edges(some[None], hint) for some in made]
    return {"edges": float(np.mean(found)),
            "sameness": float(bench.same.likeness(made, one.held).mean())}  # fmt: skip


@dataclass(frozen=True)
class Two:
    """A held-out pair of subjects: their pictures, their places, and views of each."""

    names: tuple[str, str]
    images: tuple[Path, Path]
    views: tuple[Tensor, Tensor]
    view: View

    @classmethod
    def of(cls, bench: Bench, number: int, relation: str = BESIDE) -> Two:
        """The pair of a number."""
        rng = np.random.default_rng([SEED + number, 2])
        pair: Pair = replace(random_subject_pair(rng), relation=relation)
        each: Any = pair.toys
        view = draw_scene(staged(rng, pair, random_camera(rng, (-15, 15), (0, 30), (0.95, 1.05))))
        alone = [replace(one, scale=1.0, turn_deg=0.0) for one in each]
        first, second = (bench.picture(f"pair{number}-{i}", front_of(rng, one))
                         for i, one in enumerate(alone))  # fmt: skip
        return cls((each[0].kind, each[1].kind), (first, second),
                   (views_of(rng, alone[0]), views_of(rng, alone[1])), view)  # fmt: skip

    def drawn(
        self, bench: Bench, rows: list[Tensor], boxes: Boxes, relation: str, system: str | None,
        prompt: str, inputs: Told,
    ) -> dict[str, float]:  # fmt: skip
        """What is told of pictures of a prompt; the first is added to rows."""
        pictures = bench.draw(system, prompt, inputs, n=2)
        rows.append(pictures[:1])
        return self.told(bench, pictures, boxes, relation)

    def told(self, bench: Bench, pictures: Tensor, boxes: Boxes, relation: str) -> dict[str, float]:
        """The shares of pictures whose boxes show their own subjects, and of those read right."""
        alike = [bench.same.likeness(cut(pictures, box), views).mean(1) > bench.subject_bound
                 for box, views in zip(boxes, self.views)]  # fmt: skip
        verdict = bench.judge.read(pictures)
        found = zip(*(verdict.names(head) for head in ("scene", "first_kind", "second_kind")))
        return {"kept": float(torch.stack(alike).all(0).float().mean()),
                "read": float(np.mean([one == (f"pair {relation}", *self.names) for one in found])),
                }  # fmt: skip


def ms_diffusion(bench: Bench, _: Path | None) -> None:
    """Two subjects: how often both are themselves in their boxes."""
    rows: list[Tensor] = []
    for number in range(PAIRS):
        two = Two.of(bench, number)
        boxes, true = two.view.boxes.tolist(), shown(two.view)[None]
        placed = [f"{','.join(f'{side:.3f}' for side in box)}:{name}"
                  for box, name in zip(boxes, two.names)]  # fmt: skip
        ways: dict[str, tuple[str | None, dict[str, Any]]] = {
            "boxes": ("ms_diffusion", {"image": two.images, "subject": placed}),
            "no boxes": ("ms_diffusion", {"image": two.images, "subject": two.names}),
            "ip_adapter": ("ip_adapter", {"image": two.images}),
            "words": (None, {}),
        }
        about, prompt = {"part": "ms_diffusion", "number": number}, " and ".join(map(a, two.names))
        bench.measure({**about, "method": "drawn"}, partial(two.told, bench, true, boxes, BESIDE))
        drawn = [true]
        for method, (system, inputs) in ways.items():
            find = partial(two.drawn, bench, drawn, boxes, BESIDE, system, prompt, inputs)
            bench.measure({**about, "method": method}, find)
        rows += drawn if number < 8 and len(drawn) == 1 + len(ways) else []
        bench.sheet("ms_diffusion", rows, 1 + len(ways))


def kosmos_g(bench: Bench, _: Path | None) -> None:
    """Relations and subjects of interleaved prompts, and words alone beside the text encoder."""
    rows: list[Tensor] = []
    for number in range(PAIRS):
        relation = (BESIDE, ABOVE)[number % 2]
        two = Two.of(bench, 1000 + number, relation)
        first, second = map(a, two.names)
        words = f"{first} {SAID[relation]} {second}"
        ways: dict[str, tuple[str | None, str, Told]] = {
            "kosmos_g": ("kosmos_g", f"<1> {SAID[relation]} <2>", {"image": two.images}),
            "ip_adapter": ("ip_adapter", words, {"image": two.images}),
            "words": (None, words, {}),
        }
        drawn, boxes = [shown(two.view)[None]], HALVES[relation]
        for method, way in ways.items():
            about = {"part": "kosmos_g", "number": number, "method": method}
            bench.measure(about, partial(two.drawn, bench, drawn, boxes, relation, *way))
        rows += drawn if number < 8 and len(drawn) == 1 + len(ways) else []
        bench.sheet("kosmos_g", rows, 1 + len(ways))
    for number in range(TOYS):
        color, kind = [*COLORS][number % len(COLORS)], KINDS[number % len(KINDS)]
        for method, system in (("kosmos_g", "kosmos_g"), ("words", None)):
            about = {"part": "kosmos_g, words alone", "number": number, "method": method}
            bench.measure(about, partial(named, bench, system, color, kind))


def named(bench: Bench, system: str | None, color: str, kind: str) -> dict[str, float]:
    """How often a toy of a colour is read as what it is called."""
    found = bench.judge.read(bench.draw(system, f"a {color} {kind}", {}, n=2))
    pairs = zip(found.names("color"), found.names("kind"))
    return {"read": float(np.mean([one == (color, kind) for one in pairs]))}


def assets(bench: Bench, _: Path | None) -> None:
    """Image to 3D: subjects that were shown once, as assets."""
    for method in ("kind", "no kind"):
        for number in range(ASSETS):
            one = Shown.of(bench, 100 + number)
            said = a(one.subject.kind) if method == "kind" else "a toy"
            about = {"part": "assets", "number": number, "method": method}
            place = bench.out / f"asset{number}-{method.replace(' ', '-')}"
            bench.measure(about, partial(asset, bench, one, said, place))


def asset(bench: Bench, one: Shown, prompt: str, place: Path) -> dict[str, float]:
    """Make an asset of a subject's picture; whether it is the same, and its kind from its shape."""
    told = SystemSettings(name="ip_adapter", inputs={"image": (str(one.image),)})
    if not (place / "asset.glb").is_file():
        model = str(bench.base.folder / "unet_multiview")
        generate(prompt, changed(load_run(), backbone=model, system=told), out=place)
    mesh = load(place / "asset.glb")
    seen, clay = (render_mesh(mesh, orbit(8, 64), look=look, antialias_factor=3).rgb.movedim(-1, 1)
                  for look in LOOKS)  # fmt: skip
    bench.sheet(place.name, [one.held[:2], seen[::2], clay[:2]], 8)
    alike = float(bench.same.likeness(seen[:1], one.held).mean())
    return {"same": float(alike > bench.subject_bound), "sameness": alike,
            "kind": float(bench.judge.read(clay).together("kind") == one.subject.kind)}  # fmt: skip


PARTS: dict[str, Callable[[Bench, Path | None], None]] = {
    "ip_adapter": ip_adapter, "ms_diffusion": ms_diffusion, "kosmos_g": kosmos_g,
    "instant_id": lambda bench, _: instant_id(bench),
    "photo_maker": lambda bench, _: photo_maker(bench), "assets": assets,
}  # fmt: skip


def means(results: Path) -> Iterator[tuple[tuple[Any, ...], dict[str, float], int]]:
    """The means of each part, method and place, and of how many they are."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in map(json.loads, results.read_text().splitlines()):
        groups.setdefault((line["part"], line["method"], line.get("at")), []).append(line)
    for group, lines in groups.items():
        names = dict.fromkeys(name for line in lines for name in line if name != "at")
        told = {name: [line[name] for line in lines if isinstance(line.get(name), float)]
                for name in names}  # fmt: skip
        yield group, {name: float(np.mean(each)) for name, each in told.items() if each}, len(lines)


def table(out: Path) -> str:
    """The means; and the curves of what is obeyed over what is like the picture."""
    rows, curves = [], dict[str, list[Point]]()
    for (part, method, at), found, count in means(out / "results.jsonl"):
        values = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        rows.append(f"{part}: {method}{'' if at is None else f' {at:g}'}: {values} ({count})")
        like = found.get("sameness", found.get("likeness"))
        if at is not None and like is not None and "obeyed" in found:
            points = curves.setdefault(f"{part} {method}", [])
            points.append((like, found["obeyed"], f"{at:g}"))
    for name, points in curves.items():
        plot(out / f"{name.replace(' ', '-')}.png", {"": points}, "like the picture", "obeyed")
    return "\n".join(rows)


def main() -> None:
    """Run what is left, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", default="toybox")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        bench = Bench(options.out, options.backbone)
        for part in options.parts or PARTS:
            PARTS[part](bench, options.base)
    say(table(options.out))


if __name__ == "__main__":
    main()
