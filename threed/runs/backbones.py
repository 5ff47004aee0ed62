"""Which models a run needs, when, and holding each of them no longer than that."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from threed.core.devices import pick_device
from threed.core.kept import let_go
from threed.diffusion.catalog import facts, load_backbone
from threed.diffusion.facts import Facts
from threed.settings.run import Run
from threed.settings.stage import WITH_CRITIC, Stage

if TYPE_CHECKING:
    from threed.diffusion.backbone import Backbone

COMPARED = 775  # the noisiest level of `threed.diffusion.fronts.LEVELS`


class Backbones:
    """The models of a run: what their files say at once, the nets themselves when asked for.

    Each is loaded once, when a stage that needs it begins, and let go when no later stage does, nor
    the look for fronts in the end. Names of one folder are one model.
    """

    def __init__(
        self,
        run: Run,
        say: Callable[[str], None] = lambda _: None,
        read: Callable[[str], Facts] | None = None,
    ) -> None:
        """`say` is told what is being loaded; `read` tells what is known of a name."""
        self.run, self._say = run, say
        self.device = pick_device(run.device)
        self._read = read or (lambda name: facts(name, half=self.device != "cpu"))
        self._facts: dict[str, Facts] = {}
        self._held: dict[Path, Backbone] = {}

    def facts(self, name: str) -> Facts:
        """What is known of a model. InputError if there is none, or it is damaged."""
        if name not in self._facts:
            self._facts[name] = self._read(name)
        return self._facts[name]

    def known(self, stage: Stage) -> tuple[Facts, ...]:
        """What is known of the models of a stage: what guides it, then its critic's own, if any."""
        return tuple(map(self.facts, model_names(self.run, stage)))

    def together(self, index: int) -> list[Facts]:
        """What is known of all models that are held during a stage, each once."""
        later = self._needed(index + 1)
        held = {place: known for place, known in self._places(0, index).items() if place in later}
        return list((held | self._places(index, index + 1)).values())

    def of(self, index: int) -> tuple[Backbone, ...]:
        """Load the models of a stage, as `known` has them; let go of those of no use any more."""
        needed = self._needed(index)
        self._hold(needed)
        return tuple(map(self._load, model_names(self.run, self.run.stages[index])))

    def witness(self) -> Backbone:
        """What counts the fronts in the end, loaded; all others are let go."""
        name = witness_name(self.run)
        place = self.facts(name).place
        self._hold([place])
        return self._load(name)

    def _hold(self, places: Collection[Path]) -> None:
        """Let go of all models but those of some places."""
        self._held = {place: model for place, model in self._held.items() if place in places}
        if self._held:  # else none was loaded yet, and one of the job before may serve
            let_go(self._held.values())

    def _load(self, name: str) -> Backbone:
        place = self.facts(name).place
        if place not in self._held:
            self._say(f"loading {name}")
            self._held[place] = load_backbone(name, device=self.run.device)
        return self._held[place]

    def _places(self, first: int, last: int) -> dict[Path, Facts]:
        """The models of the stages from `first` to before `last`, by where they lie."""
        stages = self.run.stages[first:last]
        return {known.place: known for stage in stages for known in self.known(stage)}

    def _needed(self, index: int) -> dict[Path, Facts]:
        """The models of a stage and of all that comes after it."""
        needed = self._places(index, len(self.run.stages))
        if looks_for_fronts(self.run):
            known = self.facts(witness_name(self.run))
            needed[known.place] = known
        return needed


def model_names(run: Run, stage: Stage) -> list[str]:
    """What guides a stage, and its critic's model if that is another."""
    critic = stage.critic.model if stage.guidance in WITH_CRITIC else None
    return [run.backbone_of(stage), *([] if critic is None else [critic])]


def looks_for_fronts(run: Run) -> bool:
    """Whether a run looks in the end how many fronts its asset has."""
    return run.check_fronts and all(stage.guidance != "edit" for stage in run.stages)


def witness_name(run: Run) -> str:
    """What counts the fronts in the end: what guides the last stage.

    Not if that never comes to the noise at which they are compared (an SDXL refiner knows only
    less): then what guides the first.
    """
    last = run.stages[-1]
    knows = 1000 * max(value for _, value in last.t_max.points) >= COMPARED
    return run.backbone_of(last if knows else run.stages[0])
