"""What a system is to those who use it: a row of the table, and what it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.settings.base import Settings, read_words
from threed.settings.schema import describe
from threed.systems.inputs import LEARNED, MASK, PICTURE, PICTURED, POSE, Input, Values, View, turn

if TYPE_CHECKING:
    from torch import Tensor, nn

    from threed.core.pictures import Size
    from threed.diffusion.backbone import Backbone
    from threed.diffusion.facts import Facts
    from threed.diffusion.learned.names import Learned
    from threed.diffusion.paint import Ready
    from threed.learning.data import Examples
    from threed.learning.loop import Task
    from threed.learning.recipe import Recipe
    from threed.systems.tryon.sight import Sight


@dataclass(frozen=True)
class Request:
    """What a system is asked for: what all are told, and its own inputs and knobs."""

    prompt: str
    guide: Guide = Guide()
    steps: int = 30  # of the sampler
    size: Size = 64  # pixels
    inputs: Mapping[str, Values] = field(default_factory=dict)  # by name, as their kinds read them
    knobs: Any = None  # an instance of the system's own Knobs

    def one(self, name: str) -> Any:
        """The value of an input that is said once; None if it was not."""
        return next(iter(self.inputs.get(name, ())), None)

    def all(self, name: str) -> Any:
        """The values of an input that may be said several times."""
        return self.inputs.get(name, ())


class NoKnobs(Settings):
    """Knobs of a system that has none."""


@dataclass(frozen=True)
class Lesson:
    """What a system's training is told."""

    examples: Examples
    about: Mapping[str, Any]  # system, backbone, data, options: the same when resumed
    options: Any  # an instance of the training's own Options
    debias: bool = False  # count errors where noise is strong for more: see learning.losses
    seed: int = 0  # of the training
    out: Path = Path()  # where it writes; made by the training
    say: Callable[[str], None] = lambda text: None  # what a person should know
    start: Path | None = None  # what was learned before, that it goes on from


@dataclass(frozen=True)
class Training:
    """How a system learns weights of its own."""

    data: str | None  # of toybox.family.examples.SETS, what it is taught with there, if anything
    texts: tuple[str, ...]  # of an example: its prompts
    paper: Recipe  # for a backbone like Stable Diffusion
    small: Recipe  # for toybox on a CPU
    learn: Callable[[Backbone, Lesson], Task]
    load: Callable[[Backbone, Path, Any], nn.Module]  # a trained net to go on from, by its options
    pictures: Callable[[Any], tuple[str, ...]]  # the roles of an example's pictures, by the options
    options: type[Settings] = NoKnobs
    names: tuple[str, ...] = ()  # other texts of an example, that no model reads
    read: Callable[[Path, Size, Any], Examples] | None = None  # its own kind of folder, by options
    folder: Callable[[Any], str] = lambda options: "."  # where in --out it writes
    stages: tuple[str, ...] = ()  # what its task trains first, each in a folder of this name


@dataclass(frozen=True)
class System:
    """One published system. Its file holds the functions named here, and nothing else knows it."""

    name: str  # as in `threed image --system NAME`
    paper: str  # its title
    arxiv: str  # "2208.01626"
    claim: str  # what it does, in one line
    seams: tuple[str, ...]  # where it touches a diffusion step; docs/architecture.md
    prepare: Callable[[Backbone, Request, Any], Ready]  # with what `load` gave
    change: Callable[[Backbone, Request, Any, Tensor], Ready] | None = None
    """How one picture of an asset [1, 3, H, W] is changed, if that is all that it needs."""
    dress: Callable[[Backbone, Request, Any, Sight], Ready] | None = None
    """How one view of a person's asset is dressed, if it dresses persons."""
    load: Callable[[Backbone, Request], Any] = lambda backbone, request: None  # its weights
    inputs: tuple[Input, ...] = ()
    knobs: type[Settings] = NoKnobs
    trains: str = "nothing"  # which nets have to be trained
    training: Training | None = None
    needs: Literal["unet", "anything"] = "unet"  # of the backbone
    several: bool = True
    """Whether a multi-view model can guide a scene under it (`threed.diffusion.several`): its Score
    asks for noises of one picture alone, of that model's UNet, and for no gradients of them."""
    shows: bool = False  # its pictures say what is to be seen, so that words need not
    check: Callable[[Request], None] = lambda request: None  # InputError for what does not fit
    marks: Callable[[Request], tuple[str, ...]] = lambda request: ()
    """Words of its prompts that are for it alone, such as <1>: no model reads them."""
    settle: Callable[[Request], Request] = lambda request: request
    """The request with what is found out once and holds for all views of a scene."""

    def request(
        self, prompt: str, inputs: Mapping[str, Sequence[str]], knobs: Sequence[str] = ()
    ) -> Request:
        """What the system is asked for, from texts as people type them.

        inputs: texts by the input's name; knobs: NAME=VALUE each. InputError for inputs that the
        system does not take or lacks, and for what cannot be read.
        """
        known = {item.name: item for item in self.inputs}
        for name in inputs:
            if name not in known:
                takes = ", ".join(f"--{item}" for item in known) or "none"
                raise InputError(f"system {self.name!r} takes no --{name}; its inputs: {takes}")
        given = {name: known[name].read(words) for name, words in inputs.items() if words}
        for item in self.inputs:
            if item.required and item.name not in given:
                raise InputError(f"system {self.name!r} needs --{item.name}: {item.about}")
        turned = read_words(self.knobs, knobs, f"knobs of system {self.name!r}")
        request = Request(prompt, inputs=given, knobs=turned)
        self.check(request)
        return request

    def of_asset(
        self, prompt: str, inputs: Mapping[str, Sequence[str]], knobs: Sequence[str] = ()
    ) -> Request:
        """What the system is asked for where it changes an asset, whose views are its pictures.

        InputError if it changes none, for what is about a single picture, and as of `request`.
        """
        from dataclasses import replace

        own = [item.name for item in self.inputs if item.kind is PICTURE]
        if not self.edits:
            raise InputError(f"system {self.name!r} changes no assets: take one that edits a "
                             "picture, or one of try-on")  # fmt: skip
        for item in self.inputs:
            if item.name in inputs and item.kind in (PICTURE, MASK, POSE):
                raise InputError(f"--{item.name} is about one picture, and an asset has many, in "
                                 "which it is found")  # fmt: skip
        rest = tuple(item for item in self.inputs if item.name not in own)
        return replace(self, inputs=rest).request(prompt, inputs, knobs)

    def of_view(self, request: Request, view: View) -> Request | None:
        """The request as it is of a view of a scene; None if it says nothing about it."""
        from dataclasses import replace

        told = turn(self.inputs, request.inputs, view)
        if told is None:
            return None
        return replace(request, prompt=request.prompt + view.tail, inputs=told)

    def check_backbone(self, known: Facts, *, scene: bool = False) -> None:
        """InputError if a backbone lacks what the system needs, or sees several views at once.

        scene: for a scene, which many systems can guide by several views at once.
        """
        if self.needs == "unet":
            known.require_unet(f"system {self.name!r}")
        if known.views > 1 and not (scene and self.several):
            one = "sees one view" if scene else "makes one picture"
            raise InputError(
                f"system {self.name!r} {one} at a time, and {known.name!r} sees {known.views}: use "
                "--backbone toybox, or another single-view one"
            )

    def learned(self, request: Request) -> tuple[Learned, ...]:
        """What was learned before and counts now: each place, and how strongly."""
        return tuple(one for item in self.inputs if item.kind is LEARNED
                     for one in request.all(item.name))  # fmt: skip

    def own_words(self, request: Request) -> dict[str, str]:
        """The words that were learned, by name, and what each began as: {"<toy>": "mug"}.

        With the system's marks, which begin as nothing.
        """
        from threed.diffusion.learned.names import own_words

        return dict.fromkeys(self.marks(request), "") | own_words(
            place for place, _ in self.learned(request)
        )

    def equipped(self, backbone: Backbone, request: Request) -> Backbone:
        """The backbone with what was learned: words, LoRAs, another UNet.

        It leaves the system's marks in prompts.
        """
        given, marks = self.learned(request), self.marks(request)
        if given:
            from threed.diffusion.learned.equip import equipped

            backbone = equipped(backbone, given, self.name)
        if marks and backbone.vocabulary is not None:
            from threed.diffusion.learned.equip import marked

            backbone = marked(backbone, marks)
        return backbone

    def prompts(self, request: Request) -> dict[str, str]:
        """The prompts among the inputs of a request, by what they are called: "--source"."""
        return {
            f"--{item.name}" if number == 1 else f"--{item.name} ({number})": item.kind.prompt(one)
            for item in self.inputs if item.kind.prompt is not None
            for number, one in enumerate(request.all(item.name), 1)
        }  # fmt: skip

    @property
    def edits(self) -> bool:
        """Whether it changes assets, picture by picture."""
        return self.change is not None or self.dress is not None

    @property
    def instructs(self) -> bool:
        """Whether its prompt is about what pictures show, and need not name a thing."""
        return self.shows or any(item.kind is PICTURE and item.required for item in self.inputs)

    def is_pictured(self, request: Request) -> bool:
        """Whether something that it is told holds for the camera of the given pictures only."""
        return any(
            item.kind.seen(request.all(item.name), View(PICTURED)) is not None
            and not item.kind.seen(request.all(item.name), View("front"))
            for item in self.inputs
            if item.name in request.inputs
        )

    def row(self) -> dict[str, Any]:
        """A line of `threed list systems`."""
        return {
            "system": self.name,
            "claim": self.claim,
            "inputs": [f"--{i.name}{' (needed)' if i.required else ''}" for i in self.inputs],
            "knobs": self.said_knobs(),
            "trains": self.trains,
            "touches": list(self.seams),
            "paper": f"{self.paper} (arXiv:{self.arxiv})",
        }

    def said_knobs(self) -> list[str]:
        """The knobs as they are by default; of one that is not set, what then counts."""
        return [
            f"{k.name} ({k.meaning})" if k.default is None else f"{k.name}={k.default}"
            for k in describe(self.knobs)
        ]

    def schema(self) -> dict[str, Any]:
        """The JSON schema of its inputs and knobs, for faces that show a form."""
        return {
            "title": self.name,
            "description": self.claim,
            "type": "object",
            "properties": {
                "inputs": {
                    "type": "object",
                    "properties": {item.name: item.schema() for item in self.inputs},
                    "required": [item.name for item in self.inputs if item.required],
                    "additionalProperties": False,
                },
                "knobs": self.knobs.model_json_schema(),
            },
        }
