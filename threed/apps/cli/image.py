"""`threed image`: pictures of a prompt, by the backbone alone or by one of the systems.

What a user may tell a system are options of one name everywhere: a command takes the annotated ones
below, under the names of Request's fields, and hands options(context) to read_request.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from threed.apps.cli.show import complain, say

if TYPE_CHECKING:
    from threed.diffusion.backbone import Backbone
    from threed.diffusion.images import Size
    from threed.systems import Request, System

Words = list[str] | None

BackboneName = Annotated[
    str | None, typer.Option(help="A name of `threed list backbones`, a hub id, or a folder.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
SystemName = Annotated[str | None, typer.Option("--system", help="See `threed list systems`.")]
Knobs = Annotated[
    Words, typer.Argument(metavar="[NAME=VALUE]...", help="Knobs of the system, such as cross=0.6.")
]
Source = Annotated[str | None, typer.Option(help="The prompt of the picture to start from.")]
Picture = Annotated[Path | None, typer.Option("--image", help="A picture to start from.")]
Weights = Annotated[Path | None, typer.Option(help="What a trained system learned.")]
Control = Annotated[
    Words, typer.Option(metavar="KIND:FILE", help="A map to follow, such as edges:e.png; repeat.")
]
Weigh = Annotated[
    Words, typer.Option(metavar="WORD:FACTOR", help="More or less of a word; repeat.")
]
Hold = Annotated[
    Words,
    typer.Option(
        metavar="WORD:UNTIL",
        help="Share of the sampling for which a word stays as in "
        "the source; or WORD:FROM,UNTIL; repeat.",
    ),
]
Blend = Annotated[
    Words, typer.Option(metavar="WORD", help="Change the picture only around it; repeat.")
]
Move = Annotated[
    Words, typer.Option(metavar="WORD:DX,DY", help="By fractions of the picture, right and down.")
]
Resize = Annotated[Words, typer.Option(metavar="WORD:FACTOR", help="Of its area; repeat.")]
Keep = Annotated[Words, typer.Option(metavar="WORD", help="Leave it as it is; repeat.")]
Appearance = Annotated[
    Words, typer.Option(metavar="WORD:FILE", help="Let it look like the one in a picture.")
]
Layout = Annotated[
    Words, typer.Option(metavar="WORD:FILE", help="Put it where and as it is in a picture.")
]
Planner = Annotated[
    str | None, typer.Option(help="rules, http://HOST/v1#MODEL, or a language model's name.")
]
Split = Annotated[str | None, typer.Option(help="Regions in columns and rows: 1,1 or 1;2,1,1.")]
Region = Annotated[
    Words, typer.Option(metavar="PROMPT", help="Of each region of a split; or BOX:PROMPT; repeat.")
]


def image(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help='What to make, such as "a red mug".')],
    out: Annotated[Path, typer.Option(help="The picture's file: .png, .jpg or .webp.")],
    knobs: Knobs = None,
    system: SystemName = None,
    source: Source = None,
    image: Picture = None,
    control: Control = None,
    weights: Weights = None,
    weigh: Weigh = None,
    hold: Hold = None,
    blend: Blend = None,
    move: Move = None,
    resize: Resize = None,
    keep: Keep = None,
    appearance: Appearance = None,
    layout: Layout = None,
    planner: Planner = None,
    split: Split = None,
    region: Region = None,
    backbone: BackboneName = None,
    views: Annotated[
        int | None,
        typer.Option(min=1, help="4: sides of one thing, by toybox-multiview if not said."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every random number.")] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of the sampler.")] = 30,
    guidance: Annotated[float, typer.Option(min=0, help="Towards the prompt; 1 is none.")] = 5.0,
    negative: Annotated[str, typer.Option(help="What to keep away from.")] = "",
    n: Annotated[int, typer.Option("-n", min=1, max=64, help="Pictures, side by side.")] = 1,
    size: Annotated[
        str | None,
        typer.Option(metavar="SIDE|WxH", help="In pixels; the backbone's own if not given."),
    ] = None,
    device: Device = None,
    heat: Annotated[
        Path | None, typer.Option(help="A second picture: where the first looked at each word.")
    ] = None,
) -> None:
    """Make pictures of a prompt. A multi-view backbone shows four sides of one thing.

    With --system, one of `threed list systems` guides; one that edits shows its source first.
    """
    from guidance.prompts import check_prompt
    from threed.diffusion.images import FORMATS, grid, read_size, save_image
    from threed.systems.reading import read_request

    text = check_prompt(prompt)
    if out.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"--out must end in one of {', '.join(FORMATS)}, got {out}")
    if heat is not None and (system is not None or (views or 1) > 1):
        raise typer.BadParameter("--heat is of a single picture without a system")
    found, request = read_request(system, text, options(context), knobs)
    common: dict[str, Any] = {"steps": steps, "scale": guidance, "negative": negative}
    pixels = None if size is None else read_size(size)
    if found is None:
        model = _model(text, backbone, views, device)
        pictures = _plain(model, text, n=n, seed=seed, size=pixels, **common)
    else:
        if views not in (None, 1):
            raise typer.BadParameter(f"--views {views}: a system makes single pictures")
        model = _model(text, backbone, 1, device)
        pictures = _by_system(model, found, request, n=n, seed=seed, size=pixels, **common)
    save_image(grid(pictures, columns=4), out)
    say(str(out))
    if heat is not None:
        from threed.diffusion.parts.heat import drawn, heat_maps

        save_image(drawn(*heat_maps(model, text, seed=seed, size=pixels, **common)), heat)
        say(str(heat))


def options(context: typer.Context) -> dict[str, Any]:
    """What a command's line gives of the inputs of systems, by name."""
    from threed.systems.system import INPUTS

    return {name: context.params[name] for name in INPUTS if name in context.params}


def _model(text: str, name: str | None, views: int | None, device: str | None) -> Backbone:
    """The backbone, with warnings about what the prompt asks of it."""
    from guidance.prompts import prompt_warnings
    from threed.diffusion.catalog import load_backbone

    several = "toybox-multiview" if (views or 1) > 1 else "toybox"
    model = load_backbone(name or several, device=device or "auto")
    if views not in (None, model.views):
        raise typer.BadParameter(f"--views {views}: backbone {model.name!r} sees {model.views} at "
                                 "once")  # fmt: skip
    for warning in prompt_warnings(model, text):
        complain(warning, "warning")
    return model


def _plain(
    model: Backbone, text: str, *, n: int, seed: int, size: Size | None, steps: int, scale: float,
    negative: str,
) -> Any:  # fmt: skip
    """Pictures by the backbone alone."""
    from threed.core.cameras import orbit
    from threed.diffusion.images import make_images

    cameras = None
    if model.views > 1:
        if isinstance(size, tuple):
            raise typer.BadParameter(f"--size: backbone {model.name!r} makes square views")
        n = model.views
        cameras = orbit(n, size or model.image_size).to(model.device)
    return make_images(
        model, text, n=n, steps=steps, guidance_scale=scale, negative=negative, seed=seed,
        size=size, cameras=cameras,
    )  # fmt: skip


def _by_system(
    model: Backbone, system: System, request: Request, *, n: int, seed: int, size: Size | None,
    **common: Any,
) -> Any:  # fmt: skip
    """Pictures by a system: of each group all rows, source first."""
    from dataclasses import replace

    from threed.diffusion.paint import paint

    request = replace(request, size=size or model.image_size, **common)
    ready = system.prepare(model, request)
    return paint(model, ready, n=n, steps=request.steps, seed=seed, size=request.size)
