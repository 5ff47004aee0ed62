"""`threed train`: teach a system that has weights. `threed edit-pairs`: what to teach."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from threed.apps.cli.show import complain, say

if TYPE_CHECKING:
    from threed.diffusion.backbone import Backbone
    from threed.learning.recipe import Recipe
    from threed.systems.lessons import Lesson

TOYBOX = "toybox"
DRAWN = 10_000  # examples of toybox's own data
SMALL = 128  # pixels a side of a backbone's pictures, up to which it is trained as toybox is
DATA_SEED = 1  # of the world that toybox's family is trained on; others are for measuring


def train(
    system: Annotated[str, typer.Argument(help="One of `threed list systems` that trains.")],
    data: Annotated[
        str, typer.Option(help="A training folder (docs/training.md), or toybox: drawn as needed.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder; the one of a run with --resume.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="The system's own, such as kind=depth."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run stopped.")] = False,
    backbone: Annotated[str, typer.Option(help="A name of `threed list backbones`, a hub id, or a "
                                          "folder.")] = TOYBOX,
    weights: Annotated[Path | None, typer.Option(help="Go on from what was learned before: a "
                                               "training's folder, an official file, or "
                                               "owner/name of the hub.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="In all; the system's own if not given.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Examples at once.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random number.")] = None,
    precision: Annotated[str | None, typer.Option(help="no, bf16 or fp16. If not given: bf16 "
                                                "where it makes toybox's learning faster.")] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="Pixels a side; the backbone's own if not given.")
    ] = None,
    drawn: Annotated[
        int, typer.Option(min=1, help="Examples to draw, of toybox's own.")
    ] = DRAWN,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop and write after so many.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:  # fmt: skip
    """Train a system's own weights on examples; the backbone's stay as they are."""
    import torch

    from threed.diffusion.catalog import load_backbone
    from threed.diffusion.models.half import norms_in_float32
    from threed.diffusion.weights import filled, find_trained
    from threed.learning.data import read_examples
    from threed.learning.loop import train as run
    from threed.systems.lessons import find_lesson, found_for, read_options

    lesson = find_lesson(system)
    chosen = read_options(system, options or ())
    roles = lesson.pictures(chosen)
    given = {"steps": steps, "batch": batch, "accumulate": accumulate, "lr": lr, "seed": seed,
             "precision": precision}  # fmt: skip
    model: Any = load_backbone(backbone, device=device, dtype=torch.float32)
    norms_in_float32(model.unet)
    start = None if weights is None else find_trained(weights, model.folder, system)
    recipe, small = _recipe(lesson, model, given)
    examples = read_examples(
        _folder(lesson, data, drawn), model.image_size if size is None else size,
        pictures=roles, texts=lesson.texts, found=found_for(roles),
    )  # fmt: skip
    about = {"system": system, "backbone": model.name, "data": data, "size": str(examples.size),
             **({} if weights is None else {"weights": str(weights)}),
             **{name: str(value) for name, value in chosen.items()}}  # fmt: skip
    place = out / str(chosen["part"]) if "part" in chosen else out
    torch.manual_seed(recipe.seed)  # what a new net begins with
    task = lesson.learn(model, examples, about, small, chosen)
    if start is not None:
        filled(task.net, lesson.load(model, start, chosen).state_dict(), str(start))
    count = sum(p.numel() for p in task.net.parameters() if p.requires_grad)
    complain(f"{system}: {count / 1e6:.1f} M parameters, {len(examples)} examples, "
             f"{recipe.steps} steps of {recipe.batch * recipe.accumulate} on {model.device}",
             "training")  # fmt: skip
    try:
        run(task, recipe, place, device=model.device, resume=resume, minutes=minutes)
    except KeyboardInterrupt:
        complain("go on with the same command and --resume", "interrupted")
        raise typer.Exit(130) from None
    say(str(out))


def _recipe(lesson: Lesson, model: Backbone, given: dict[str, Any]) -> tuple[Recipe, bool]:
    """The recipe of a backbone's size with what the user says, and whether it is the small one."""
    from threed.diffusion.models.half import bfloat16_pays

    small = model.image_size <= SMALL
    recipe = lesson.small if small else lesson.paper
    changes = {name: value for name, value in given.items() if value is not None}
    if small and bfloat16_pays(model.device):
        changes = {"precision": "bf16"} | changes
    if changes.get("precision", "no") not in ("no", "bf16", "fp16"):
        raise typer.BadParameter(
            f"--precision must be no, bf16 or fp16, got {changes['precision']}"
        )
    if changes.get("precision") == "fp16" and model.device.type == "cpu":
        raise typer.BadParameter("--precision fp16 needs a GPU; on a CPU take no or bf16")
    return replace(recipe, **(asdict(recipe) | changes)), small


def _folder(lesson: Lesson, data: str, drawn: int) -> Path:
    """The training folder; toybox's own is drawn where it is missing."""
    if data != TOYBOX:
        return Path(data).expanduser()
    from threed.apps.cli.toybox import WORK
    from threed.toybox.family.examples import draw_examples

    return draw_examples(
        lesson.data, WORK.expanduser() / "examples" / lesson.data, drawn, DATA_SEED,
        progress=lambda done: complain(f"drawn {done} of {drawn} examples", "toybox"),
    )  # fmt: skip


def pack(
    folder: Annotated[Path, typer.Argument(help="What `threed train` made.")],
    out: Annotated[Path, typer.Option(help="A new folder, to be named by --weights.")],
) -> None:
    """Copy a training's weights alone, in half precision: to keep, to pass on."""
    from threed.diffusion.weights import pack as copy

    say(str(copy(folder, out)))


def edit_pairs(
    triples: Annotated[
        str,
        typer.Argument(help="A file of JSON lines with input, edit, output; or toybox: made up."),
    ],
    out: Annotated[Path, typer.Option(help="The training folder; one that was cut is continued.")],
    backbone: Annotated[
        str, typer.Option(help="A name of `threed list backbones`, a hub id, or a folder.")
    ] = TOYBOX,
    tries: Annotated[int, typer.Option(min=1, help="Pairs made for each triple.")] = 100,
    most: Annotated[int, typer.Option(min=1, help="Of these, as many are kept at most.")] = 4,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of the sampler.")] = 100,
    image: Annotated[float, typer.Option(help="Least likeness of the two pictures.")] = 0.7,
    direction: Annotated[
        float, typer.Option(help="Least likeness of their change and the captions'.")
    ] = 0.2,
    text: Annotated[float, typer.Option(help="Least likeness of picture and caption.")] = 0.2,
    count: Annotated[int, typer.Option(min=1, help="Triples to make up.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Decides every random number.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Make examples for InstructPix2Pix: pairs of pictures that CLIP says changed as told.

    The likenesses are cosines; their defaults are the paper's, for CLIP ViT-L/14.
    """
    from threed.diffusion.catalog import load_backbone
    from threed.diffusion.parts.channels import opened
    from threed.diffusion.parts.clip import clip_of
    from threed.systems.editing.edit_pairs import Filter, Triple, read_triples, write_pairs

    if triples == TOYBOX:
        from threed.toybox.family.examples import edit_triples

        told = [Triple(*words) for words in edit_triples(count, seed)]
    else:
        told = read_triples(Path(triples).expanduser())
    model = opened(load_backbone(backbone, device=device), "edit-pairs")
    kept = write_pairs(
        model, clip_of(model), told, out, keep=Filter(image, direction, text), tries=tries,
        most=most, steps=steps, seed=seed,
        progress=lambda done, pairs: complain(
            f"{done} of {len(told)} triples, {pairs} pairs kept", "edit-pairs"
        ),
    )  # fmt: skip
    complain(f"{kept} pairs of {len(told) * tries} kept", "edit-pairs")
    say(str(out))
