"""The commands under `threed toybox`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from threed.apps.cli.show import complain, say

app = typer.Typer(
    help="The small world and its diffusion family: draw, sample, train, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
WORK = Path("~/.cache/threed/toybox")
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Weights = Annotated[
    Path | None, typer.Option(help="The family's folder; the one in the package if not given.")
]


@app.command()
def world(
    kind: Annotated[str | None, typer.Argument(help="A kind of toy; any if not given.")] = None,
    scene: Annotated[str, typer.Option(help="toy, pair, figure or edit.")] = "toy",
    seed: Annotated[int, typer.Option(min=0, help="Decides every random number.")] = 0,
    out: Annotated[Path, typer.Option(help="The picture's file.")] = Path("outputs/world.png"),
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels a side.")] = 128,
) -> None:
    """Draw the small world with its truth: a toy from four sides, or pairs, persons, edits.

    Rows of a toy: colour, alpha, depth, normals, parts. Of pairs and persons: colour, edges, depth,
    normals, segmentation, keypoints, and which toy is where, or the upper garment on the person and
    laid flat. Of edits: before, after, where they may differ.
    """
    from threed.core.errors import InputError
    from threed.diffusion.images import save_image
    from threed.toybox.world.sheets import SHEETS, toy_sheet
    from threed.toybox.world.toys import KINDS

    if scene not in SHEETS:
        raise InputError(f"toybox has no scene {scene!r}; it has {', '.join(SHEETS)}")
    if kind is not None and scene != "toy":
        raise InputError(f"a kind ({kind!r}) is for one toy; leave it out with --scene {scene}")
    if kind is not None and kind not in KINDS:
        raise InputError(f"toybox has no kind {kind!r}; it has {', '.join(KINDS)}")
    sheet = SHEETS[scene] if kind is None else partial(toy_sheet, kind=kind)
    picture, said = sheet(seed, size)
    save_image(picture, out)
    say("\n".join([str(out), *said]))


@app.command()
def sample(
    prompt: Annotated[str, typer.Argument(help='Such as "a striped blue teapot".')],
    out: Annotated[Path, typer.Option(help="The picture's file.")] = Path("outputs/sample.png"),
    seed: Annotated[int, typer.Option(min=0, help="Decides every random number.")] = 0,
    rows: Annotated[int, typer.Option(min=1, max=16, help="Of four single pictures.")] = 2,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of the sampler.")] = 30,
    guidance: Annotated[float, typer.Option(min=0, help="Towards the prompt; 1 is none.")] = 5.0,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Write a sheet: rows of single pictures, then four views of one toy."""
    import torch
    from torch.nn import functional as F

    from guidance.prompts import prompt_warnings
    from threed.core.cameras import orbit
    from threed.core.words import check_prompt
    from threed.diffusion.catalog import load_backbone
    from threed.diffusion.guide import Guide
    from threed.diffusion.images import grid, make_images, save_image
    from threed.toybox.family.nets import WEIGHTS

    text, folder = check_prompt(prompt), weights or WEIGHTS
    images = []
    for part, count in (("unet", 4 * rows), ("unet_multiview", 4)):
        backbone = load_backbone(str(folder / part), device=device)
        if part == "unet":
            for warning in prompt_warnings(backbone, text):
                complain(warning, "warning")
        cameras = orbit(4, backbone.image_size).to(backbone.device) if backbone.views > 1 else None
        images.append(
            make_images(
                backbone,
                text,
                n=count,
                steps=steps,
                seed=seed,
                cameras=cameras,
                guide=Guide(guidance),
            )
        )
    picture = grid(torch.cat(images), columns=4)
    save_image(F.interpolate(picture[None], scale_factor=2.0)[0], out)
    say(str(out))


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="clip, vae, unet or judge, in this order.")],
    work: Annotated[Path, typer.Option(help="Keeps drawn pictures and checkpoints.")] = WORK,
    weights: Weights = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="In all; by device if not given.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop and write after so many.")
    ] = None,
    sets: Annotated[int | None, typer.Option(min=1, help="Of four pictures to train on.")] = None,
    device: Device = "auto",
) -> None:
    """Train a part of the family, or go on training it; unet is both UNets.

    clip teaches an older family the words of scenes; the other parts then see scenes too.
    """
    from threed.toybox.family.nets import WEIGHTS
    from threed.toybox.family.train import train as run

    run(
        part, work.expanduser(), weights or WEIGHTS, device=device, steps=steps, minutes=minutes,
        sets=sets, say=lambda text: complain(text, "toybox"),
    )  # fmt: skip


@app.command()
def evaluate(
    weights: Weights = None,
    sets: Annotated[int, typer.Option(min=1, help="Held-out sets of four pictures.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Measure every part on toys that none was trained on; keeps the scores beside the weights."""
    from threed.toybox.family.card import SCORES, write_card
    from threed.toybox.family.nets import WEIGHTS
    from threed.toybox.judge.measure import measure

    folder = weights or WEIGHTS
    scores = measure(folder, sets=sets, say=lambda text: complain(text, "toybox"))
    (folder / SCORES).write_text(json.dumps(scores, indent=2) + "\n")
    write_card(folder)
    if as_json:
        say(json.dumps(scores, indent=2))
    else:
        for name, value in scores.items():
            say(f"{name:18} {value:.4g}")
