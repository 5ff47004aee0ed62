"""How much memory a run needs, before it runs, and in what chunks it works so that it fits.

The numbers of bytes are counted from what each part keeps for its gradient; what counting does not
see is a share on top. `benchmarks/memory.py` sets them beside what runs really took. Nothing is
loaded for it: what the files of a model say is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from threed.core.errors import InputError
from threed.core.pictures import Size, sides
from threed.core.schedule import Schedule
from threed.diffusion.facts import Facts
from threed.runs.backbones import Backbones
from threed.runs.memory import LARGEST, SMALLEST
from threed.settings.run import Run
from threed.settings.stage import NEED_NORMALS, WITH_CRITIC, Stage

GIB = 2**30
FLOAT = 4  # bytes
ADAM = 4  # copies of what is learned: itself, its gradient, and two moments
PROCESS = 640 * 2**20  # bytes of Python, torch and numba on the CPU, before any work
LOOSE = 1.15  # of what was counted: fragments, buffers of the libraries
HIT = 0.25  # samples in occupied cells, of those along the diameter of every ray's ball
SEEN = 0.15  # samples whose normal is looked up, at four further places
COVERED = 0.5  # pixels that show the surface, at most as a rule
RESNET = 7  # tensors that a block of a VAE keeps for its gradient
LEARNED = 45  # tensors that a UNet keeps for its gradient, a block: 33 in SD 1.5, 45 in SDXL's
WIDE = 16  # widths that a transformer's block holds of a token: streams, q, k, v, the 4-fold MLP
CUBE = 21  # numbers that FlexiCubes learns of a cube: `threed.scenes.flexicubes.WEIGHTS`
TEXTS = 2  # the prompt, and the negative one
TEXT = 333  # tokens of text beside the picture's, in Stable Diffusion 3
CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class StageMemory:
    """What one stage takes."""

    name: str  # such as "0: field"
    resolution: int  # pixels a side, at most
    views: int
    chunk: int  # samples or pixels held at once
    peak: int  # bytes, predicted, the chunk's part included


@dataclass(frozen=True)
class MemoryPlan:
    """What a run takes on a device."""

    device: str
    limit: int  # bytes that it may use
    stages: tuple[StageMemory, ...]

    @property
    def peak(self) -> int:
        """Bytes at most, predicted."""
        return max(stage.peak for stage in self.stages)

    def check(self) -> None:
        """InputError if it cannot fit, even in the smallest chunks."""
        for stage in self.stages:
            if stage.peak > self.limit:
                needs = f"about {stage.peak / GIB:.1f} GiB on {self.device}"
                raise InputError(f"stage {stage.name} needs {needs}, even in chunks of "
                                 f"{stage.chunk}, and {self.limit / GIB:.1f} may be used: lower "
                                 "its batch or resolution, or raise memory")  # fmt: skip


def plan_run(run: Run, models: Backbones | None = None) -> MemoryPlan:
    """Predict what a run takes; the limit is run.memory, or what the device has free.

    models: those of the run, where they are read already. InputError if one of them is missing.
    """
    models = models or Backbones(run)
    stages = (plan_stage(index, models) for index in range(len(run.stages)))
    return MemoryPlan(models.device, _limit(models), tuple(stages))


def plan_stage(index: int, models: Backbones) -> StageMemory:
    """Predict what one stage of a run takes, with its models and those that wait for later stages.

    Chunks are the usual ones, halved until the prediction fits what may be used.
    """
    run = models.run
    stage = run.stages[index]
    base = PROCESS if models.device == "cpu" else 0
    weights = sum(known.bytes for known in models.together(index))
    rays = FLOAT * 12 * _pixels(stage) if stage.scene == "field" else 0
    shown = stage.particles * _scene(run, stage) + rays
    fixed = base + weights + LOOSE * (shown + _guide(stage, models.known(stage)[0]))
    each, most = _rendered(run, stage)

    def peak(chunk: int) -> int:
        return int(fixed + LOOSE * each * min(chunk, most))

    chunk = _fitting(peak, _limit(models))
    name = f"{index}: {stage.scene}"
    size, views = round(_most(stage.resolution)), round(_most(stage.batch))
    return StageMemory(name, size, views, chunk, peak(chunk))


def check_pictures(
    known: Facts, size: Size, count: int, device: str, *, learn: bool = False
) -> None:
    """InputError unless there is memory for so many pictures at once, of a size in pixels.

    They are sampled, and decoded by the VAE; with `learn` a UNet learns from them, of which only
    what it keeps of them for its gradient is counted, in half precision.
    """
    width, height = sides(size)
    side = math.sqrt(width * height)
    latent, net, vae = side / known.factor, known.net, known.vae
    if learn:
        each = 2 * _kept_by_unet(net.config, latent)
    elif known.denoiser == "unet":
        each = TEXTS * _held_by_unet(net.config, latent) * net.width
    else:
        each = TEXTS * _held_by_transformer(net.config, latent) * net.width
    decoded = vae.width * side**2 * (2 * vae.config["block_out_channels"][:2][-1]
                                     + vae.config["block_out_channels"][0])  # fmt: skip
    base = PROCESS if device == "cpu" else 0
    need = base + known.bytes + LOOSE * count * (each + decoded * (not learn))
    free = free_memory(device)
    if need > free:
        raise InputError(f"{count} of {width} × {height} pixels at once need about "
                         f"{need / GIB:.1f} GiB on {device}, and {free / GIB:.1f} may be used: ask "
                         "for a smaller size, or for fewer")  # fmt: skip


def _limit(models: Backbones) -> int:
    """Bytes that a run may use."""
    return int(models.run.memory * GIB) if models.run.memory else free_memory(models.device)


def free_memory(device: str) -> int:
    """Count the bytes that this process may still use on a device, those that it has included."""
    if device != "cpu":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    process = psutil.Process().memory_info().rss
    free = psutil.virtual_memory().available + process
    try:
        return min(free, int(CGROUP.read_text()))
    except (OSError, ValueError):  # no cgroup, or "max": no limit of its own
        return free


def _fitting(peak: Callable[[int], int], limit: int) -> int:
    chunk = LARGEST
    while peak(chunk) > limit and chunk > SMALLEST:
        chunk //= 2
    return chunk


def _most(schedule: Schedule) -> float:
    return max(value for _, value in schedule.points)


def _pixels(stage: Stage) -> float:
    """Pixels of all pictures of a step, at most."""
    steps = {step for step, _ in stage.batch.points + stage.resolution.points}
    return max(stage.batch(step) * stage.resolution(step) ** 2 for step in steps)


def _rendered(run: Run, stage: Stage) -> tuple[float, float]:
    """Bytes of a sample or pixel with its gradient, and how many there are at most in a step."""
    pixels = _pixels(stage)
    if stage.scene == "field":
        f = run.field
        looked = _looked_up(f.levels * f.features, f.hidden)
        normals = f.shading > 0 or any(name in stage.losses for name in NEED_NORMALS)
        return looked * (1 + 4 * SEEN * normals), pixels * f.samples * HIT
    p = run.paint
    drawn = FLOAT * 90  # buffer, picture, its blended twin, and their gradients
    return drawn + COVERED * _looked_up(p.levels * p.features, p.hidden), pixels


def _looked_up(features: int, hidden: int) -> float:
    """Bytes of one point in a hash grid and its network: values, and their gradients."""
    return FLOAT * (2 * features + 3 * hidden + 40)


def _scene(run: Run, stage: Stage) -> float:
    """Bytes of what learns in one scene."""
    p = run.field if stage.scene == "field" else run.paint
    table: float = ADAM * FLOAT * p.levels * 2**p.log2_table * p.features
    if stage.scene == "surface":
        points = (run.surface.grid + 1) ** 3
        if run.surface.mesher == "flexicubes":
            table += ADAM * FLOAT * CUBE * run.surface.grid**3
        # distances and moves; and along the surface the tetrahedra that it crosses
        return table + ADAM * FLOAT * 4 * points + 16_000 * 2 * run.surface.grid**2
    return table


def _guide(stage: Stage, known: Facts) -> float:
    """Bytes that looking at a step's pictures takes: a VAE with gradient, a denoiser without."""
    size, batch = known.image_size, _most(stage.batch)
    vae, net = known.vae, known.net
    kept = sum(vae.config["layers_per_block"] * c * (size / 2**k) ** 2
               for k, c in enumerate(vae.config["block_out_channels"]))  # fmt: skip
    encoded = batch * RESNET * kept * vae.width
    latent = size / known.factor
    held = _held_by_unet if known.denoiser == "unet" else _held_by_transformer
    seen = TEXTS * batch * held(net.config, latent) * net.width
    if stage.guidance in WITH_CRITIC:  # a critic learns: the UNet once with gradient
        seen += batch * _kept_by_unet(net.config, latent) * net.width
    return float(encoded + seen)


def _held_by_unet(config: Mapping[str, Any], latent: float) -> float:
    """Numbers that a UNet holds at once for one picture: its skips, and a block's own."""
    depth, widths = _depth(config), config["block_out_channels"]
    return float(sum((depth + 8) * c * (latent / 2**k) ** 2 for k, c in enumerate(widths)))


def _kept_by_unet(config: Mapping[str, Any], latent: float) -> float:
    """Numbers that a UNet keeps of one picture for its gradient."""
    depth, widths = _depth(config), config["block_out_channels"]
    outputs = sum((2 * depth + 1) * c * (latent / 2**k) ** 2 for k, c in enumerate(widths))
    return float(LEARNED * outputs)


def _depth(config: Mapping[str, Any]) -> int:
    """Layers of a UNet's block, at most."""
    layers: int | list[int] = config["layers_per_block"]
    return layers if isinstance(layers, int) else max(layers)


def _held_by_transformer(config: Mapping[str, Any], latent: float) -> float:
    """Numbers that a block of a transformer holds at once for one picture."""
    width: int = config["num_attention_heads"] * config["attention_head_dim"]
    return float(WIDE * width * ((latent / config["patch_size"]) ** 2 + TEXT))
