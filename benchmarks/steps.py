"""Seconds and memory of the steps of the presets for large models, with models at random weights.

    python benchmarks/steps.py [--device cuda] [--steps N] [--limit-seconds S] [--only PRESET,...]
                               [--json FILE]
    python benchmarks/steps.py --device cpu --tiny    # narrow models, small pictures

What a step costs does not depend on what a model has learned: the models are built from their
published configurations (benchmarks/presets.py), in float16 on a GPU, and every stage takes its
first steps through `threed.optimise`. A stage whose pictures grow has a row for each size. A stage
that would follow another begins with a ball instead.

Seconds are the median step's, the first three left out, the device waited for at each. The last
column is the share of that time outside the denoiser, forwards, and in its critic's lessons
backwards too: rendering, the VAE, and what learns.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import head, keep, row
from benchmarks.presets import MODELS, VAE, facts_of, full_size, text_config
from guidance import Guidance
from threed.apps.cli.show import say
from threed.core.devices import pick_device
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.catalog import TOYBOX
from threed.diffusion.models.multiview import MultiViewDiffusion
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.runs.backbones import Backbones
from threed.runs.folder import RunFolder
from threed.runs.given import GivenMesh
from threed.runs.guide import make_guide
from threed.runs.memory import Chunk
from threed.runs.optimise import StageRun, optimise
from threed.runs.plan import GIB, plan_stage
from threed.runs.stages import Scene, first
from threed.scenes.placement import Placement
from threed.scenes.surface import Surface
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import Run
from threed.settings.scenes import SurfaceSettings
from threed.settings.stage import WITH_CRITIC, Stage

PROMPT = "a red mug"
LEFT_OUT = 3  # steps, which compile and fill caches
TINY = ("field.log2_table=12", "field.samples=64", "field.max_resolution=64",
        "surface.grid=16", "paint.log2_table=12", "paint.max_resolution=64")  # fmt: skip
NARROW = {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": 4, "sample_size": 8,
          "cross_attention_dim": 64}  # fmt: skip


class Enough(Exception):
    """The time for a row is over."""


def blank_net(self: Any, kind: Any, part: str, dtype: torch.dtype | None = None) -> Any:
    """One of a backbone's nets at random, made where it will be, of the config in its folder."""
    config = json.loads((self.folder / part / "config.json").read_text())
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or self.dtype)
    try:
        with torch.device(self.device):
            if kind.__module__.startswith("transformers"):
                net = kind(kind.config_class(**config))
            else:
                net = kind.from_config(config)
    finally:
        torch.set_default_dtype(before)
    return net.to(self.device).eval().requires_grad_(False)


class Single(StableDiffusion):
    """A Stable Diffusion that has learned nothing."""

    net = blank_net


class Several(MultiViewDiffusion):
    """An MVDream that has learned nothing."""

    net = blank_net


def write_folder(folder: Path, name: str, *, tiny: bool) -> None:
    """A model's folder in diffusers' layout, without weights; toybox's tokenizer, 77 tokens."""
    unet, width = next(value for key, value in MODELS.items() if key in name)
    vae, text = dict(VAE), text_config(width).to_dict()
    if tiny:
        unet, vae = unet | NARROW, vae | {"block_out_channels": (32, 32, 32, 32)}
        unet.pop("transformer_layers_per_block", None)
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                 "num_attention_heads": 4}  # fmt: skip
    xl = "xl" in name
    number = "_2" if xl else ""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}  # fmt: skip
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    if xl:
        index |= {"text_encoder": [None, None], "requires_aesthetics_score": True}
    index[f"text_encoder{number}"] = ["transformers", "CLIPTextModel"]
    for path, value in (
        ("model_index.json", index),
        ("unet/config.json", unet),
        ("vae/config.json", vae),
        (f"text_encoder{number}/config.json", text),
        ("scheduler/scheduler_config.json", schedule),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(value))
    words = folder / f"tokenizer{number}"
    shutil.copytree(TOYBOX / "tokenizer", words)
    settings = json.loads((words / "tokenizer_config.json").read_text())
    (words / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 77}))


def blank_backbone(name: str, device: torch.device, *, tiny: bool) -> StableDiffusion:
    """The model of a preset at random weights; float16 on a GPU."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_folder(folder, name, tiny=tiny)
        kind = Several if "mvdream" in name else Single
        return kind(name, folder, "unet", device=device, dtype=dtype)


@dataclass
class Clock:
    """When each step asked its guide, and how long the denoiser worked in it, in seconds."""

    device: torch.device
    limit: float  # seconds of the steps that count
    asked: list[float] = field(default_factory=list)
    inside: list[list[tuple[Any, Any]]] = field(default_factory=list)  # by step: starts and ends
    depth: int = 0

    def step(self) -> None:
        """Note that a step asks; raises Enough where the time is over."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.asked.append(time.perf_counter())
        self.inside.append([])
        if sum(self.seconds()) > self.limit:
            raise Enough

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()  # type: ignore[no-untyped-call]
        return event

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The work, timed; work within work counts once."""

        def timed(*args: Any, **options: Any) -> Any:
            start, self.depth = self._now(), self.depth + 1
            try:
                return work(*args, **options)
            finally:
                self.depth -= 1
                if self.depth == 0 and self.inside:
                    self.inside[-1].append((start, self._now()))

        return timed

    def seconds(self) -> list[float]:
        """Of each whole step that counts."""
        return [b - a for a, b in zip(self.asked, self.asked[1:])][LEFT_OUT:]

    def outside(self) -> float:
        """The share of those that is not the denoiser's."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        pairs = [pair for step in self.inside[LEFT_OUT:-1] for pair in step]
        inside = sum(a.elapsed_time(b) / 1000 if self.device.type == "cuda" else b - a
                     for a, b in pairs)  # fmt: skip
        return 1 - inside / max(sum(self.seconds()), 1e-9)


class Clocked:
    """A guidance whose calls a clock sees."""

    def __init__(self, guide: Guidance, clock: Clock) -> None:
        self.guide, self.clock = guide, clock

    def __call__(self, *args: Any) -> Any:
        """The guidance's losses."""
        self.clock.step()
        return self.guide(*args)

    def state_dict(self) -> dict[str, Any]:
        """The guidance's."""
        return self.guide.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The guidance's."""
        self.guide.load_state_dict(state)


@contextmanager
def watched(backbone: StableDiffusion, guide: Any, clock: Clock) -> Iterator[None]:
    """Within, the clock sees the denoiser's calls and its critic's lessons."""
    backbone.unet.forward = clock.around(backbone.unet.forward)
    critic = getattr(guide, "critic", None)
    if critic is not None:
        critic.learn = clock.around(critic.learn)
    try:
        yield
    finally:
        del backbone.unet.forward


def ball(cells: int) -> GivenMesh:
    """A ball in triangles of the size that a surface of so many cells has."""
    return GivenMesh(Surface(SurfaceSettings(grid=cells)).solid(), Placement())


def begun(run: Run, device: torch.device) -> Scene:
    """The scene of a run's first stage, whatever kind it is of."""
    given = ball(run.surface.grid) if run.stages[0].scene == "textured" else None
    return first(run, given, device)


def sizes(stage: Stage) -> list[float]:
    """The pixels a side that a stage has, without those that it only passes through."""
    values = [value for _, value in stage.resolution.points]
    return sorted({value for value in values if values.count(value) > 1} | {values[0], values[-1]})


@dataclass(frozen=True)
class Measured:
    """The numbers of a stage."""

    steps: int  # that count
    seconds: float  # of the median step
    taken: float | None  # GiB on the GPU
    planned: float  # GiB
    outside: float  # the share of the time that is not the denoiser's
    note: str  # why it ended before its steps were made, if it did

    def cells(self) -> list[object]:
        """As the table shows them."""
        taken = "-" if self.taken is None else f"{self.taken:.2f}"
        return [f"{self.steps}{self.note}", f"{self.seconds:.4f}", taken, f"{self.planned:.2f}",
                f"{self.outside:.0%}"]  # fmt: skip


def measured(run: Run, backbone: StableDiffusion, asked: argparse.Namespace) -> Measured:
    """The numbers of a run's only stage. RuntimeError if no step was made that counts."""
    cuda = backbone.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    known = Backbones(run, read=lambda name: facts_of(name, backbone))
    planned = plan_stage(0, known)
    clock = Clock(backbone.device, asked.limit_seconds)
    guide = make_guide(run.stages[0], backbone, run, PROMPT)
    scene = begun(run, backbone.device)
    note = ""
    with tempfile.TemporaryDirectory() as place, watched(backbone, guide, clock):
        folder = RunFolder.create(Path(place) / "run", PROMPT, run)
        job = StageRun(folder, 0, scene, Clocked(guide, clock), backbone.views,
                       Chunk(planned.chunk), asked.steps + 1)  # fmt: skip
        try:
            optimise(job)
        except Enough:
            pass
        except InputError as error:  # the watchdog's: random guidance may lose a scene
            note = f" ({error})"
    taken = torch.cuda.max_memory_allocated() / GIB if cuda else None
    steps = clock.seconds()
    if not steps:
        raise RuntimeError(f"only {len(clock.asked)} steps were made{note}")
    seconds = statistics.median(steps)
    return Measured(len(steps), seconds, taken, planned.peak / GIB, clock.outside(), note)


def single(run: Run, stage: Stage, size: float, *, tiny: bool) -> Run:
    """The run with one stage alone, at one size of its pictures."""
    pixels = min(size, 32) if tiny else size
    return replace(run, stages=(replace(stage, resolution=constant(pixels)),))


def print_row(name: str, index: int, run: Run, backbone: StableDiffusion, asked: Any) -> None:
    """Measure a stage and say what was found; an error is a row too."""
    stage = run.stages[0]
    start = {"preset": name, "stage": f"{index}: {stage.scene}, {stage.guidance}",
             "pixels": f"{stage.resolution(0):g}²", "views": stage.batch(0)}  # fmt: skip
    try:
        found = measured(run, backbone, asked)
        say(row(*start.values(), *found.cells()))
        keep(asked.json, {**start, **asdict(found)})
    except Exception as error:  # the others go on
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        say(row(*start.values(), problem))
        keep(asked.json, {**start, "problem": problem})
    gc.collect()
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()


def runs(asked: argparse.Namespace) -> dict[str, Run]:
    """The presets that are asked for, by name."""
    found = full_size()
    names = [name for name in found if asked.only is None or name in asked.only.split(",")]
    if asked.tiny:
        found = {name: load_run(name, TINY) for name in names}
    return {name: replace(found[name], device=asked.device) for name in names}


def main() -> None:
    """The table, by model: the most used first, each built once and let go before the next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--limit-seconds", type=float, default=60.0, help="of a row's steps")
    parser.add_argument("--only", help="presets, with commas between")
    parser.add_argument("--tiny", action="store_true", help="narrow models and small pictures")
    parser.add_argument("--json", type=Path, help="a file to which each row is added at once")
    asked = parser.parse_args()
    device = torch.device(pick_device(asked.device))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    say(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    say(head("preset", "stage", "pixels", "views", "steps", "s a step", "GiB taken",
             "GiB planned", "not the denoiser"))  # fmt: skip
    asked_for = runs(asked)
    used = Counter(run.backbone_of(stage) for run in asked_for.values() for stage in run.stages)
    for model, _ in used.most_common():
        backbone = blank_backbone(model, device, tiny=asked.tiny)
        stages = [(name, index, stage) for name, run in asked_for.items()
                  for index, stage in enumerate(run.stages)
                  if run.backbone_of(stage) == model]  # fmt: skip
        # critics last: what they put into the denoiser stays in it
        for name, index, stage in sorted(stages, key=lambda row: row[2].guidance in WITH_CRITIC):
            for size in sizes(stage):
                alone = single(asked_for[name], stage, size, tiny=asked.tiny)
                print_row(name, index, alone, backbone, asked)
        del backbone


if __name__ == "__main__":
    main()
