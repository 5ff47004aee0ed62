"""Pictures of a prompt: by a backbone alone, or by one of the systems."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from guidance.prompts import prompt_warnings
from threed.core.cameras import orbit
from threed.core.devices import pick_device
from threed.core.errors import InputError
from threed.core.files import check_out
from threed.core.pictures import FORMATS, read_size, sides
from threed.core.words import check_prompt
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import facts, load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import grid, make_images, save_image
from threed.diffusion.learned.names import spoken, unsaid
from threed.diffusion.paint import latent_shape, paint
from threed.diffusion.reading import NEGATIVE, PROMPT, check_known
from threed.runs.folder import RunWarning
from threed.runs.job import SINGLE, Image, typed
from threed.runs.plan import check_pictures
from threed.runs.progress import Listener, sayer
from threed.systems.system import Request, System
from threed.systems.table import find_system

SEVERAL = "toybox-multiview"  # the backbone of several views at once, if none is said


def make_pictures(job: Image, folder: Path, report: Listener | None = None) -> tuple[Path, ...]:
    """Do an image job: write its picture, and its heat if asked, into the folder."""
    files = [folder / name for name in (job.file, job.heat) if name is not None]
    for file in files:
        check_out(file, FORMATS)
    pictures, model = _make(job, report)
    save_image(grid(pictures, columns=4), files[0])
    if job.heat is not None:
        from threed.diffusion.parts.heat import drawn, heat_maps

        shown = heat_maps(model, check_prompt(job.prompt), steps=job.steps, scale=job.guidance,
                          negative=job.negative, seed=job.seed, size=_size(job))  # fmt: skip
        save_image(drawn(*shown), files[1])
    return tuple(files)


def image(prompt: str, out: Path | str | None = None, **options: Any) -> Tensor:
    """Make pictures of a prompt: [N, 3, H, W] sRGB in [0, 1], written to `out` if it is given.

    The options are the fields of `threed.runs.job.Image` (backbone, n, seed, steps, guidance,
    negative, size, views, device, system), and of a system its inputs and knobs by their names:
    `image("a blue mug", system="prompt_to_prompt", source="a red mug", cross_replace=0.5)`. What is
    None is not said; size is pixels a side, or (width, height). A system that edits shows each
    source before its result. InputError for what cannot be meant.
    """
    job = job_of(prompt, options)
    job.check()
    if out is not None:
        check_out(Path(out), FORMATS)
    pictures, _ = _make(job, None)
    if out is not None:
        save_image(grid(pictures, columns=4), Path(out))
    return pictures


def job_of(prompt: str, options: dict[str, Any]) -> Image:
    """Make the job of a call: options that are no field are inputs or knobs of the system."""
    given = {name: value for name, value in options.items() if value is not None}
    own = {name: value for name, value in given.items() if name in Image.model_fields}
    told = {name: value for name, value in given.items() if name not in own}
    system = find_system(own["system"]) if own.get("system") else None
    names = {item.name for item in system.inputs} if system else set()
    inputs = {name: _texts(value) for name, value in told.items() if name in names}
    knobs = tuple(f"{name}={typed(value)}" for name, value in told.items() if name not in names)
    if isinstance(own.get("size"), int | tuple):
        own["size"] = "x".join(map(str, sides(own["size"])))
    return Image(prompt=prompt, **own, inputs=inputs, knobs=knobs)


def _texts(value: Any) -> tuple[str, ...]:
    """What would be typed for an input: one text, or several."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(map(str, value)) if several else (str(value),)


def _make(job: Image, report: Listener | None) -> tuple[Tensor, Backbone]:
    """The pictures of a job, and what made them."""
    text = check_prompt(job.prompt)
    system, request = job.request()
    name = job.backbone or (SEVERAL if (job.views or 1) > 1 else SINGLE)
    device = pick_device(job.device)
    known = facts(name, half=device != "cpu")
    if system is not None:
        system.check_backbone(known)
    if job.views not in (None, known.views):
        raise InputError(f"--views {job.views}: backbone {name!r} sees {known.views} at once")
    latent_shape(known, _size(job))
    count = known.views if known.views > 1 else job.n
    check_pictures(known, _size(job) or known.image_size, count, device)
    others = {} if system is None else system.prompts(request)
    own = {} if system is None else system.own_words(request)
    plain = {what: spoken(said, own) for what, said in {PROMPT: text, **others}.items()}
    check_known(name, known.vocabulary, plain)
    say = sayer(report)
    say(f"loading {name}")
    model: Backbone = load_backbone(name, device=job.device)
    if system is not None:
        model = system.equipped(model, request)
    others[NEGATIVE] = job.negative
    instructs = system is not None and system.instructs
    for warning in [*unsaid(own, text), *prompt_warnings(model, text, others, instructs=instructs)]:
        warnings.warn(warning, RunWarning, stacklevel=3)
    say("sampling")
    if system is None:
        return _by_backbone(job, model, text), model
    return _by_system(job, model, system, replace(request, prompt=text)), model


def _by_backbone(job: Image, model: Backbone, text: str) -> Tensor:
    size, n, cameras = _size(job), job.n, None
    if model.views > 1:
        if isinstance(size, tuple):
            raise InputError(f"--size: backbone {model.name!r} makes square views")
        n = model.views
        cameras = orbit(n, size or model.image_size).to(model.device)
    guide = Guide(job.guidance, job.negative)
    return make_images(model, text, n=n, steps=job.steps, guide=guide, seed=job.seed, size=size,
                       cameras=cameras)  # fmt: skip


def _by_system(job: Image, model: Backbone, system: System, request: Request) -> Tensor:
    """Pictures by a system: of each group all rows, source first."""
    request = replace(request, size=_size(job) or model.image_size)
    ready = system.prepare(model, request, system.load(model, request))
    return paint(model, ready, n=job.n, steps=job.steps, seed=job.seed, size=request.size)


def _size(job: Image) -> Any:
    return None if job.size is None else read_size(job.size)
