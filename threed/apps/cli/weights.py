"""Commands on weights and what they learn from: convert, pack, weights, edit-pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from pydantic import Field

from threed.apps.cli.command import Command
from threed.apps.cli.show import complain, say
from threed.runs.job import FIRST, SINGLE
from threed.settings.base import Device, Seed, Settings

TOYBOX = "toybox"  # triples that are made up


class Convert(Settings):
    """Make a backbone of a multi-view checkpoint; nothing in the file is executed."""

    source: Path = Field(
        description="MVDream's file (.pt, .safetensors), or the folder of a conversion",
        json_schema_extra=FIRST,
    )
    out: Path = Field(description="a new folder, to be named by --backbone")
    like: str = Field(
        "sd21-base", description="the backbone that it was fine-tuned from, such as sd15"
    )


class Pack(Settings):
    """Copy a training's weights alone, in half precision or smaller: to keep, to pass on."""

    folder: Path = Field(description="what `threed train` made", json_schema_extra=FIRST)
    out: Path = Field(description="a new folder, to be named by --weights")
    small: bool = Field(
        False,
        description="in 8 bits, half the size: differences from the UNet of the backbone in whose "
        "folder --out lies; they can be read only there",
    )


class Loras(Settings):
    """Merge LoRAs into one, or write one in another layout; nothing in the files is executed.

    Each may be followed by a weight, as in my-toy:0.8; without one it counts once.
    """

    loras: tuple[str, ...] = Field(
        min_length=1, description="LoRAs' files, or folders with them", json_schema_extra=FIRST
    )
    to: Path = Field(description="the file to write: .safetensors")
    layout: Literal["diffusers", "kohya", "comfyui"] = Field(
        "diffusers", description="how the layers are named; kohya's is AUTOMATIC1111's too"
    )
    backbone: str = Field(SINGLE, description="the model that they were made for")


class Words(Settings):
    """Write learned words in another layout; nothing in the file is executed."""

    file: Path = Field(
        description="learned words (.safetensors, .pt, .bin), or a folder with them",
        json_schema_extra=FIRST,
    )
    to: Path = Field(description="the file to write: .safetensors or .pt")
    layout: Literal["diffusers", "automatic1111", "official"] = Field(
        "diffusers", description="whose: official is the code of Textual Inversion's paper"
    )


class EditPairs(Settings):
    """Make examples for InstructPix2Pix: pairs of pictures that CLIP says changed as told.

    The likenesses are cosines; their defaults are the paper's, for CLIP ViT-L/14.
    """

    triples: str = Field(
        description="a file of JSON lines with input, edit, output; or toybox: made up",
        json_schema_extra=FIRST,
    )
    out: Path = Field(description="the training folder; one that was cut is continued")
    backbone: str = Field(
        SINGLE, description="a name of `threed list backbones`, a hub id, or a folder"
    )
    tries: int = Field(100, ge=1, description="pairs made for each triple")
    most: int = Field(4, ge=1, description="of these, as many are kept at most")
    steps: int = Field(100, ge=1, le=1000, description="of the sampler")
    image: float = Field(0.7, ge=-1, le=1, description="least likeness of the two pictures")
    direction: float = Field(
        0.2, ge=-1, le=1, description="least likeness of their change and the captions'"
    )
    text: float = Field(0.2, ge=-1, le=1, description="least likeness of picture and caption")
    count: int = Field(100, ge=1, description="triples to make up")
    seed: Seed = Field(0, description="decides every random number")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N")


def convert(job: Convert) -> None:
    """Make a backbone's folder."""
    from threed.diffusion.catalog import find
    from threed.diffusion.models.convert import convert_mvdream

    convert_mvdream(job.source, find(job.like).folder, job.out)
    say(str(job.out))


def pack(job: Pack) -> None:
    """Copy weights."""
    from threed.diffusion.weights import pack as copy

    say(str(copy(job.folder, job.out, 8 if job.small else 16)))


def merge(job: Loras) -> None:
    """Write LoRAs as one."""
    from threed.core.files import check_out
    from threed.diffusion.learned.layers import layers_in
    from threed.diffusion.learned.lora import lora_in, write_lora
    from threed.diffusion.learned.merge import merged
    from threed.systems.inputs import LEARNED, Input

    check_out(job.to, [".safetensors"])
    given = Input("loras", LEARNED, "what is merged", many=True).read(job.loras)
    layers = layers_in(job.backbone)
    loras = [(lora_in(path.expanduser(), layers), weight) for path, weight in given]
    write_lora(merged(loras), job.to, job.layout)
    say(str(job.to))


def convert_words(job: Words) -> None:
    """Write words in a layout."""
    from threed.core.files import check_out
    from threed.diffusion.learned.words import words_in, write_words

    check_out(job.to, [".safetensors", ".pt"])
    words = words_in(job.file)
    write_words(words, job.to, job.layout)
    complain(", ".join(words), "words")
    say(str(job.to))


def make_pairs(job: EditPairs) -> None:
    """Write a training folder of pairs."""
    from threed.core.files import check_out
    from threed.diffusion.catalog import load_backbone
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.clip import clip_of
    from threed.diffusion.reading import note_of_many
    from threed.systems.editing.edit_pairs import Filter, Search, Triple, read_triples, write_pairs

    check_out(job.out, folder=True)
    if job.triples == TOYBOX:
        from threed.toybox.family.examples import edit_triples

        told = [Triple(*words) for words in edit_triples(job.count, job.seed)]
    else:
        told = read_triples(Path(job.triples).expanduser())
    model = require_unet(load_backbone(job.backbone, device=job.device), "edit-pairs")
    texts = [text for one in told for text in (one.source, one.target)]
    for note in note_of_many(model.name, model.vocabulary, texts):
        complain(note, "warning")
    search = Search(
        Filter(job.image, job.direction, job.text), job.tries, job.most, job.steps, job.seed
    )

    def show(done: int, pairs: int) -> None:
        complain(f"{done} of {len(told)} triples, {pairs} pairs kept", "edit-pairs")

    kept = write_pairs(model, clip_of(model), told, job.out, search, progress=show)
    complain(f"{kept} pairs of {len(told) * job.tries} kept", "edit-pairs")
    say(str(job.out))


CONVERT = Command("convert", Convert, convert)
PACK = Command("pack", Pack, pack)
WEIGHTS = click.Group(
    "weights",
    help="What was learned on top of a model: LoRAs merged, words and LoRAs in other layouts.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[Command("lora", Loras, merge), Command("words", Words, convert_words)],
)
EDIT_PAIRS = Command("edit-pairs", EditPairs, make_pairs)
