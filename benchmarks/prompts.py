"""What unusual prompts do to toybox, before and after unknown words are left out.

    python benchmarks/prompts.py [--work outputs/prompts] [--sheet docs/pictures/prompts.jpg]
    python benchmarks/prompts.py --assets 12    assets of as many of them, in a minute each

Four views of each prompt, 15 steps, guidance 5, seed 3: as toybox was given it once, and as it
reads it now. The judge says on how many views kind and colour are those that were asked for. It
can be cut and continued: views and assets are kept in --work. The sheet shows the first 20
prompts, each before (the four views on the left) and after.
"""

from __future__ import annotations

import argparse
import re
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.common import head, row
from threed.apps.cli.evaluate import evaluate_one, table
from threed.apps.cli.show import say
from threed.core.cameras import orbit
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import grid, load_image, make_images, save_image
from threed.settings.presets import DEFAULT_PRESET
from threed.toybox.family.nets import SIZE, WEIGHTS
from threed.toybox.judge.net import load_judge

VIEWS, SHOWN = 4, 20
PROMPTS = (  # each with the kind and the colour that it asks for
    ("a red teapot on the moon", "teapot", "red"),
    ("a red teapot, highly detailed", "teapot", "red"),
    ("my grandmother's red teapot", "teapot", "red"),
    ("a red teapot with flowers", "teapot", "red"),
    ("a green duck, 4k, trending", "duck", "green"),
    ("two blue mugs", "mug", "blue"),
    ("a pile of red apples", "apple", "red"),
    ("A Cute Little Yellow Duck!", "duck", "yellow"),
    ("an old wooden brown chair", "chair", "brown"),
    ("a shiny, blue car, octane render", "car", "blue"),
    ("cinematic shot of a white snowman", "snowman", "white"),
    ("a purple robot riding a bicycle", "robot", "purple"),
    ("a green cactus in the desert at night", "cactus", "green"),
    ("a pink house that looks like a mushroom", "house", "pink"),
    ("a fire-red rocket launching into space", "rocket", "red"),
    ("a teapot-shaped orange lamp", "lamp", "orange"),
    ("a yellow airplane without wheels", "airplane", "yellow"),
    ("a delicious pink donut with sprinkles", "donut", "pink"),
    ("a black bear holding balloons", "bear", "black"),
    ("Low poly green fish, game-ready, PBR", "fish", "green"),
    ("a blue boat on the ocean", "boat", "blue"),
    ("a brown table made of oak", "table", "brown"),
    ("a tiny red mushroom in a forest", "mushroom", "red"),
    ("the king's yellow clock", "clock", "yellow"),
    ("a blue sword, intricate, fantasy art", "sword", "blue"),
    ("a green bottle of wine", "bottle", "green"),
    ("a pink cupcake with a cherry on top", "cupcake", "pink"),
    ("an ancient black television", "television", "black"),
    ("a tall green tree covered in snow", "tree", "green"),
    ("a purple ball bouncing", "ball", "purple"),
    ("a glossy orange cube floating in the air", "cube", "orange"),
    ("a white hat for a wizard", "hat", "white"),
    ("a photorealistic red apple", "apple", "red"),
    ("a cozy red chair by the fireplace", "chair", "red"),
    ("a rusty orange car in the garage", "car", "orange"),
    ("a friendly blue robot, 3d render", "robot", "blue"),
    ("a yellow rubber duck wearing sunglasses", "duck", "yellow"),
    ("a mug, blue, ceramic", "mug", "blue"),
    ("a sad white bear", "bear", "white"),
    ("a vintage pink lamp, studio lighting, masterpiece", "lamp", "pink"),
    ("a miniature orange house (best quality:1.2)", "house", "orange"),
    ("a big black boat in a storm", "boat", "black"),
    # other orders of words, plurals, commas, views in other words
    ("mug with a handle, red", "mug", "red"),
    ("a car that is blue", "car", "blue"),
    ("the chair, in green, standing still", "chair", "green"),
    ("duck yellow cute", "duck", "yellow"),
    ("three purple mushrooms", "mushroom", "purple"),
    ("some white cupcakes", "cupcake", "white"),
    ("red. apple.", "apple", "red"),
    ("ROBOT, BLUE", "robot", "blue"),
    ("a snowman (white)", "snowman", "white"),
    ("an orange house seen from the back", "house", "orange"),
    ("a pink teapot from behind", "teapot", "pink"),
    ("a green boat viewed from above", "boat", "green"),
    ("give me a 3D asset of a brown table please", "table", "brown"),
    ("I would love to have a black hat", "hat", "black"),
    ("yellow airplane toy for kids", "airplane", "yellow"),
    ("a donut whose colour is pink", "donut", "pink"),
    ("what a green tree!", "tree", "green"),
    ("a rocket; red", "rocket", "red"),
)


def views(backbone: Any, text: str, folder: Path) -> Tensor:
    """[4, 3, 64, 64] what a backbone draws of a text, from the folder if it was drawn before."""
    named = "read" if backbone.vocabulary else "given"
    files = [
        folder / (re.sub(r"\W+", "-", f"{text} {named} {view}") + ".png") for view in range(VIEWS)
    ]
    if not files[-1].is_file():
        pictures = make_images(backbone, text, n=VIEWS, steps=15, seed=3, guide=Guide(5.0),
                               cameras=orbit(VIEWS, SIZE))  # fmt: skip
        for picture, file in zip(pictures, files):
            save_image(picture, file)
    return torch.cat([load_image(file, SIZE) for file in files])


def labelled(pictures: Tensor, prompt: str) -> Tensor:
    """[1, 3, h, w] pictures beside each other, under the prompt that they are of."""
    beside = grid(pictures, columns=len(pictures))
    strip = Image.new("L", (beside.shape[-1], 14), 255)
    ImageDraw.Draw(strip).text((2, 1), prompt, fill=0)
    above = torch.from_numpy(np.array(strip)).expand(3, -1, -1) / 255
    return torch.cat([above, beside], 1)[None]


def judge_assets(work: Path, count: int) -> None:
    """The table of `threed evaluate` over `count` of the prompts, evenly chosen."""
    rows = []
    for index in range(count):
        prompt, kind, color = PROMPTS[index * len(PROMPTS) // count]
        folder = work / re.sub(r"\W+", "-", prompt).strip("-")
        rows.append(evaluate_one(folder, (prompt, kind, color, "plain"), DEFAULT_PRESET, ()))
    say(table(rows))


@torch.no_grad()
def judge_views(work: Path, sheet: Path) -> None:
    """The table, a line for each prompt, the sums, and the sheet."""
    work.mkdir(parents=True, exist_ok=True)
    now: Any = load_backbone("toybox-multiview", device="cpu")
    once, judge = copy(now), load_judge(WEIGHTS / "judge")
    once.vocabulary = None
    say(head("prompt", "reads", "kind, colour before", "after"))
    right, shown = torch.zeros(2, 2, dtype=torch.int), []
    for prompt, kind, color in PROMPTS:
        both = views(once, prompt, work), views(now, now.reads(prompt), work)
        shown.append(labelled(torch.cat(both), prompt))
        verdicts = [judge.read(pictures) for pictures in both]
        here = torch.tensor([[one.names("kind").count(kind), one.names("color").count(color)]
                             for one in verdicts])  # fmt: skip
        right += here
        say(row(prompt, now.reads(prompt), *(f"{k}, {c}" for k, c in here.tolist())))
    of = VIEWS * len(PROMPTS)
    say(row(f"of {of} views", "", *(f"{k}, {c}" for k, c in right.tolist())))
    save_image(grid(torch.cat(shown[:SHOWN]), columns=2), sheet)


def main() -> None:
    """Read the options, and judge views or assets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("outputs/prompts"))
    parser.add_argument("--sheet", type=Path, default=Path("outputs/prompts/sheet.jpg"))
    parser.add_argument("--assets", type=int, choices=range(1, len(PROMPTS) + 1), metavar="N")
    options = parser.parse_args()
    if options.assets:
        judge_assets(options.work, options.assets)
    else:
        judge_views(options.work, options.sheet)


if __name__ == "__main__":
    main()
