"""How each system that trains is taught: what an example holds, for how long, with what options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.detect import DETECTORS
from threed.diffusion.parts import uni_adapters
from threed.learning.data import Examples, Find
from threed.learning.loop import Task
from threed.learning.recipe import Recipe
from threed.systems import find_system
from threed.systems.control import controlnet, uni_controlnet
from threed.systems.editing import instruct_pix2pix
from threed.systems.system import Knob, parsed

Options = Mapping[str, Knob]


@dataclass(frozen=True)
class Lesson:
    """One system's training."""

    data: str  # of toybox.examples.SETS, what it is taught with there
    pictures: Callable[[Options], tuple[str, ...]]  # the roles of an example's pictures
    texts: tuple[str, ...]
    paper: Recipe  # for a backbone like Stable Diffusion
    small: Recipe  # for toybox on a CPU
    learn: Callable[[Backbone, Examples, Mapping[str, str], bool, Options], Task]
    load: Callable[[Backbone, Path, Options], nn.Module]  # a trained net, to go on from
    options: Options = field(default_factory=dict)  # with their defaults


def _instructions(backbone: Backbone, examples: Examples, about: Mapping[str, str], debias: bool,
                  options: Options) -> Task:  # fmt: skip
    return instruct_pix2pix.learn(backbone, examples, about, debias)


def _control(backbone: Backbone, examples: Examples, about: Mapping[str, str], debias: bool,
             options: Options) -> Task:  # fmt: skip
    return controlnet.learn(backbone, examples, about, debias, kind=str(options["kind"]))


def _uni(backbone: Backbone, examples: Examples, about: Mapping[str, str], debias: bool,
         options: Options) -> Task:  # fmt: skip
    return uni_controlnet.learn(
        backbone, examples, about, debias, part=str(options["part"]), kinds=kinds_of(options),
        dropout=bool(options["dropout"]),
    )  # fmt: skip


def _loaded_instructions(backbone: Backbone, weights: Path, options: Options) -> nn.Module:
    net: nn.Module = instruct_pix2pix.load(backbone, weights)
    return net


def _loaded_control(backbone: Backbone, weights: Path, options: Options) -> nn.Module:
    net: nn.Module = controlnet.load(
        backbone, controlnet.of_kind(weights, str(options["kind"]), several=1)
    )
    return net


def _loaded_uni(backbone: Backbone, weights: Path, options: Options) -> nn.Module:
    adapters, part = uni_adapters.load(backbone, weights), str(options["part"])
    net = adapters.local if part == "local" else adapters.world
    if net is None:
        raise InputError(f"{weights} holds no {part} adapter to go on from")
    if part == "local" and adapters.kinds != kinds_of(options):
        raise InputError(f"{weights} was taught the maps {','.join(adapters.kinds)}, in this "
                         f"order; go on with kinds={','.join(adapters.kinds)}")  # fmt: skip
    return net


def kinds_of(options: Options) -> tuple[str, ...]:
    """The maps that a local adapter is taught; none for the global one."""
    part = options["part"]
    if part not in uni_adapters.PARTS:
        raise InputError(f"part must be {' or '.join(uni_adapters.PARTS)}, got {part!r}")
    if part == "global":
        return ()
    kinds = tuple(kind.strip() for kind in str(options["kinds"]).split(","))
    if not all(kinds) or len(set(kinds)) < len(kinds):
        raise InputError(f"kinds must name each map once, as in edges,depth; got "
                         f"{options['kinds']!r}")  # fmt: skip
    return kinds


LESSONS: dict[str, Lesson] = {
    instruct_pix2pix.NAME: Lesson(
        data="edits",
        pictures=lambda options: instruct_pix2pix.ROLES,
        texts=instruct_pix2pix.TEXTS,
        paper=Recipe(steps=10_000, batch=32, lr=1e-4, accumulate=8),
        small=Recipe(steps=3000, batch=64, lr=1e-3, cooldown=0.4, muon=True),
        learn=_instructions,
        load=_loaded_instructions,
    ),
    controlnet.NAME: Lesson(
        data="scenes",
        pictures=lambda options: ("image", str(options["kind"])),
        texts=("text",),
        paper=Recipe(steps=20_000, batch=4, lr=1e-5, accumulate=8),
        small=Recipe(steps=700, batch=64, lr=1e-3, cooldown=0.4, muon=True),
        learn=_control,
        load=_loaded_control,
        options={"kind": "edges"},
    ),
    uni_controlnet.NAME: Lesson(
        data="scenes",
        pictures=lambda options: ("image", *kinds_of(options)),
        texts=("text",),
        paper=Recipe(steps=100_000, batch=4, lr=1e-5),
        small=Recipe(steps=800, batch=64, lr=1e-3, cooldown=0.4, muon=True),
        learn=_uni,
        load=_loaded_uni,
        options={"part": "local", "kinds": "edges,depth,segmentation,keypoints", "dropout": True},
    ),
}


def found_for(roles: tuple[str, ...]) -> dict[str, Find]:
    """What is found in a picture where a training folder has no file for it: the edges only.

    A depth or a pose would take a model's time for every picture: make these maps once, beside it.
    """
    return {role: DETECTORS[role] for role in roles if role == "edges"}


def read_options(system: str, words: Sequence[str]) -> dict[str, Knob]:
    """NAME=VALUE as options of a system's training, with the defaults of the others."""
    known = LESSONS[system].options
    options = dict(known)
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in known:
            there = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise InputError(f"{word}: training {system!r} has no such option; it has {there}")
        options[name] = parsed(name, text, known[name])
    return options


def find_lesson(system: str) -> Lesson:
    """How a system is taught. InputError for one that does not train, or is not there."""
    if find_system(system).name not in LESSONS:
        raise InputError(f"system {system!r} has nothing to train; {', '.join(LESSONS)} have")
    return LESSONS[system]
