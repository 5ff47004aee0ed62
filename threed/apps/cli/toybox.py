"""The commands under `threed toybox`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Literal

import click
from pydantic import Field

from threed.apps.cli.command import Command
from threed.apps.cli.show import complain, say
from threed.runs.job import FIRST
from threed.settings.base import Device, Seed, Settings

WORK = Path("~/.cache/threed/toybox")


class World(Settings):
    """Draw the small world with its truth: a toy from four sides, or pairs, persons, edits.

    Rows of a toy: colour, alpha, depth, normals, parts. Of pairs and persons: colour, edges, depth,
    normals, segmentation, keypoints, and which toy is where, or the upper garment on the person and
    laid flat. Of edits: before, after, where they may differ.
    """

    kind: str | None = Field(
        None, description="a kind of toy; any if not given", json_schema_extra=FIRST
    )
    scene: str = Field("toy", description="toy, pair, figure, edit, subject, portrait or style")
    seed: Seed = Field(0, description="decides every random number")
    out: Path = Field(Path("outputs/world.png"), description="the picture's file")
    size: int = Field(128, ge=16, le=1024, description="pixels a side")


class Subject(Settings):
    """Draw pictures of a toy that no words describe, with masks: to teach a model a new word."""

    kind: str | None = Field(
        None, description="a kind of toy; any if not given", json_schema_extra=FIRST
    )
    out: Path = Field(description="a new folder")
    pictures: int = Field(5, ge=1, le=1000, description="of it, each from another side")
    seed: Seed = Field(0, description="decides which toy it is")


class Worn(Settings):
    """Draw a person and a garment that it does not wear, with all that try-on is told of them."""

    out: Path = Field(description="a new folder")
    category: Literal["upper", "lower", "dress"] | None = Field(
        None, description="of the garment; any if not given"
    )
    seed: Seed = Field(0, description="decides who it is, and what it tries on")


class Family(Settings):
    """What is asked of the family's nets."""

    weights: Path | None = Field(
        None, description="the family's folder; the one in the package if not given"
    )
    hd: bool = Field(False, description="toybox-hd, whose pictures have 128 pixels a side")

    @property
    def folder(self) -> Path:
        """Where the family lies."""
        from threed.toybox.family.nets import HD, WEIGHTS

        return self.weights or (HD if self.hd else WEIGHTS)


class Sample(Family):
    """Write a sheet: rows of single pictures, then four views of one toy."""

    prompt: str = Field(description='such as "a striped blue teapot"', json_schema_extra=FIRST)
    out: Path = Field(Path("outputs/sample.png"), description="the picture's file")
    seed: Seed = Field(0, description="decides every random number")
    rows: int = Field(2, ge=1, le=16, description="of four single pictures")
    steps: int = Field(30, ge=1, le=1000, description="of the sampler")
    guidance: float = Field(5.0, ge=0, description="towards the prompt; 1 is none")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N")


class Train(Family):
    """Train a part of the family, or go on training it; unet is both UNets.

    toybox-hd has a vae and a unet of its own, which begin from toybox's.

    clip teaches an older family the words of scenes; the other parts then see scenes too. faces is
    what finds faces and tells persons apart.
    """

    part: str = Field(
        description="clip, vae, unet, judge, in this order; faces, sameness, identity or style",
        json_schema_extra=FIRST,
    )
    work: Path = Field(WORK, description="keeps drawn pictures and checkpoints")
    steps: int | None = Field(None, ge=1, description="in all; by device if not given")
    minutes: float | None = Field(None, ge=0, description="stop and write after so many")
    sets: int | None = Field(
        None, ge=1, description="of four pictures to train on; of faces and the like instances"
    )
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N")


class Evaluate(Family):
    """Measure every part on toys that none was trained on; keeps the scores beside the weights."""

    sets: int = Field(128, ge=1, description="held-out sets of four pictures")
    as_json: bool = Field(False, description="answer as JSON")


def draw(job: World) -> None:
    """Write a sheet of the world."""
    from threed.core.errors import InputError
    from threed.core.files import check_out
    from threed.core.pictures import FORMATS
    from threed.diffusion.images import save_image
    from threed.toybox.world.sheets import SHEETS, toy_sheet
    from threed.toybox.world.toys import KINDS

    if job.scene not in SHEETS:
        raise InputError(f"toybox has no scene {job.scene!r}; it has {', '.join(SHEETS)}")
    if job.kind is not None and job.scene != "toy":
        raise InputError(
            f"a kind ({job.kind!r}) is for one toy; leave it out with --scene {job.scene}"
        )
    if job.kind is not None and job.kind not in KINDS:
        raise InputError(f"toybox has no kind {job.kind!r}; it has {', '.join(KINDS)}")
    check_out(job.out, FORMATS)
    sheet = SHEETS[job.scene] if job.kind is None else partial(toy_sheet, kind=job.kind)
    picture, said = sheet(job.seed, job.size)
    save_image(picture, job.out)
    say("\n".join([str(job.out), *said]))


def draw_thing(job: Subject) -> None:
    """Draw a subject's pictures into a folder."""
    from threed.core.errors import InputError
    from threed.core.files import check_out
    from threed.core.words import did_you_mean
    from threed.toybox.family.examples import draw_subject
    from threed.toybox.world.toys import KINDS

    if job.kind is not None and job.kind not in KINDS:
        raise InputError(f"toybox has no kind {job.kind!r}{did_you_mean(job.kind, KINDS)}")
    check_out(job.out, folder=True)
    drawn = draw_subject(job.out, job.pictures, job.seed, job.kind)
    say(str(job.out))
    complain(f"{job.pictures} pictures of a {drawn.kind}; teach it: threed train lora "
             f'--data {job.out} --out taught name="<toy>" kind={drawn.kind}', "toybox")  # fmt: skip


def draw_worn(job: Worn) -> None:
    """Draw who tries something on, and say how it goes on."""
    from threed.core.files import check_out
    from threed.toybox.family.examples import draw_fitting
    from threed.toybox.world.dressed import said

    check_out(job.out, folder=True)
    made = draw_fitting(job.out, job.seed, job.category)
    say(str(job.out))
    told = " ".join(f"--{role} {job.out / role}.png"
                    for role in ("person", "garment", "mask", "dense"))  # fmt: skip
    complain(f'put it on: threed image "{said(made.other)}" --system idm_vton {told} '
             f"--category {made.category} --out dressed.png; truth.png is how it looks", "toybox"
             )  # fmt: skip


def sample(job: Sample) -> None:
    """Write a sheet of what both UNets make of a prompt."""
    import torch
    from torch.nn import functional as F

    from guidance.prompts import prompt_warnings
    from threed.core.cameras import orbit
    from threed.core.files import check_out
    from threed.core.pictures import FORMATS
    from threed.core.words import check_prompt
    from threed.diffusion.catalog import facts, load_backbone
    from threed.diffusion.guide import Guide
    from threed.diffusion.images import grid, make_images, save_image
    from threed.diffusion.reading import PROMPT, check_known

    text, folder = check_prompt(job.prompt), job.folder
    check_out(job.out, FORMATS)
    check_known("toybox", facts(str(folder / "unet")).vocabulary, {PROMPT: text})
    images = []
    for part, count in (("unet", 4 * job.rows), ("unet_multiview", 4)):
        backbone = load_backbone(str(folder / part), device=job.device)
        if part == "unet":
            for warning in prompt_warnings(backbone, text):
                complain(warning, "warning")
        cameras = orbit(4, backbone.image_size).to(backbone.device) if backbone.views > 1 else None
        images.append(make_images(backbone, text, n=count, steps=job.steps, seed=job.seed,
                                  cameras=cameras, guide=Guide(job.guidance)))  # fmt: skip
    picture = grid(torch.cat(images), columns=4)
    save_image(F.interpolate(picture[None], scale_factor=2.0)[0], job.out)
    say(str(job.out))


def train(job: Train) -> None:
    """Train a part of the family."""
    from threed.toybox.family.sharp import PREFIX
    from threed.toybox.family.train import train as run

    run(
        (PREFIX if job.hd else "") + job.part, job.work.expanduser(), job.folder,
        device=job.device, steps=job.steps, minutes=job.minutes, sets=job.sets,
        say=lambda text: complain(text, "toybox"),
    )  # fmt: skip


def measure(job: Evaluate) -> None:
    """Measure the family, and write its card."""
    from threed.toybox.family.card import SCORES, write_card
    from threed.toybox.judge.measure import measure as run

    folder = job.folder
    scores = run(folder, sets=job.sets, hd=job.hd, say=lambda text: complain(text, "toybox"))
    (folder / SCORES).write_text(json.dumps(scores, indent=2) + "\n")
    write_card(folder)
    if job.as_json:
        say(json.dumps(scores, indent=2))
        return
    for name, value in scores.items():
        say(f"{name:18} {value:.4g}")


TOYBOX = click.Group(
    "toybox",
    help="The small world and its diffusion family: draw, sample, train, measure.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[
        Command("world", World, draw),
        Command("subject", Subject, draw_thing),
        Command("fitting", Worn, draw_worn),
        Command("sample", Sample, sample),
        Command("train", Train, train),
        Command("evaluate", Evaluate, measure),
    ],
)
