"""Makes docs/systems.md and its pictures: `python benchmarks/systems_page.py`.

The page is the table of systems and, for each, one command of EXAMPLES; the command is what makes
the picture. --text leaves the pictures alone. `tests/test_systems_page.py` fails where the page is
not what this makes. Of systems whose weights do not come with the backbone no picture is made: the
page says how to train them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import head, row
from threed.diffusion.images import save_image
from threed.systems.system import System, Training
from threed.systems.table import SYSTEMS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "systems.md"
FOLDER = "docs/pictures/systems"
DRAWN, HAT = f"{FOLDER}/drawn.png", f"{FOLDER}/drawn-hat.png"  # a mug and a hat that no model made
FACES = f"{FOLDER}/drawn-face1.png", f"{FOLDER}/drawn-face2.png"  # somebody, twice
FITTING = f"{FOLDER}/fitting"  # somebody, another shirt, and all that is told of both

EXAMPLES = {
    "prompt_to_prompt": 'threed image "a blue chair" --system prompt_to_prompt --source "a pink '
    'chair" --blend chair --seed 6 -n 4 --steps 20',
    "instruct_pix2pix": f'threed image "make it blue" --system instruct_pix2pix --image {DRAWN} '
    "-n 4",
    "style_aligned": 'threed image "a car" --system style_aligned --reference "a checkered green '
    'hat on a pink background" --also "a house" --also "a duck" -n 2 --steps 20',
    "controlnet": f'threed image "a green mug" --system controlnet --control edges:{DRAWN} -n 4',
    "uni_controlnet": f'threed image "a green mug" --system uni_controlnet --control '
    f"edges:{DRAWN} -n 4",
    "rpg": 'threed image "four toys" --system rpg --split "1,1,1;1,1,1" --region "a red mug" '
    '--region "a green rocket" --region "a pink cactus" --region "a blue boat" base_ratio=0 '
    "--size 128 -n 2 --steps 20",
    "self_guidance": 'threed image "a red mug" --system self_guidance --move mug:0.15,0 --seed 1 '
    "-n 4",
}
EXAMPLES |= {
    name: f'threed image "a <toy> on a red cube" --system {name} --weights my-toy -n 4'
    for name in ("textual_inversion", "dreambooth", "lora", "dco")
}
EXAMPLES["ip_adapter"] = (
    f'threed image "a mug on a pink background" --system ip_adapter --image {DRAWN} -n 4'
)
EXAMPLES["ms_diffusion"] = (
    f'threed image "a mug and a hat" --system ms_diffusion --image {DRAWN} --subject '
    f'"0,0.2,0.5,0.9:a mug" --image {HAT} --subject "0.5,0.2,1,0.9:a hat" -n 4'
)
EXAMPLES["kosmos_g"] = (
    f'threed image "<1> to the left of <2>" --system kosmos_g --image {DRAWN} --image {HAT} -n 4'
)
EXAMPLES["photo_maker"] = (
    'threed image "a portrait of a person img in a red cap" --system photo_maker '
    f"--image {FACES[0]} --image {FACES[1]} -n 4"
)
EXAMPLES["instant_id"] = (
    'threed image "a portrait of a person in a red cap" --system instant_id '
    f"--image {FACES[0]} -n 4"
)
EXAMPLES |= {
    name: f'threed image "a striped red shirt" --system {name} --person {FITTING}/person.png '
    f"--garment {FITTING}/garment.png --mask {FITTING}/mask.png {more} -n 4"
    for name, more in (("ladi_vton", f"--pose {FITTING}/pose.png"),
                       ("stable_viton", f"--dense {FITTING}/dense.png"),
                       ("idm_vton", f"--dense {FITTING}/dense.png"))
}  # fmt: skip
EXAMPLES["bootcomp"] = (
    'threed image "a person on a green background" --system bootcomp '
    f"--garment shirt:{FITTING}/garment.png -n 4"
)
REAL = (f'threed image "a blue mug" --system prompt_to_prompt --source "a red mug" --image {DRAWN} '
        "--blend mug --steps 8")  # fmt: skip
HEAT = 'threed image "a green mushroom" --seed 3'

HEAD = """\
# Image systems

<!-- made by benchmarks/systems_page.py: change the table or that script, not this page -->

Every system builds a Score, a guided noise estimate, so each makes pictures through the sampler
(`threed image --system NAME`) and 3D assets through the guidance (`threed generate --system NAME`).
`threed list systems` prints this table, `threed image --system NAME --help` a system's inputs and
knobs with their ranges; knobs follow the prompt as `NAME=VALUE`.

"""

EDITING = """\
## More about editing

Systems that edit show pairs: the source, then the result from the same noise. A real picture is
inverted first, and null-text optimisation makes guided sampling come back to it:

```
{real}
```
{real_picture}
`--weigh WORD:FACTOR` gives more or less of a word. `cross_replace` and `self_replace` are the
shares of the sampling in which the words' attention and the picture's own are the source's, and
`--hold WORD:UNTIL` is one word's. Shares are whole steps of the sampler: 0.8 of 30 are 24. With
equally many words each stands for the one in its place; otherwise, or with `mode=refine`, what both
prompts share is kept and the rest is new.

Self-guidance moves (`--move WORD:DX,DY`, fractions of the picture, to the right and down), resizes
(`--resize WORD:FACTOR`, of the area), replaces (`--source` with another word in the place of one),
and copies from pictures (`--appearance WORD:FILE`, `--layout WORD:FILE`). What nothing is asked of
is kept, or what `--keep WORD` says.

What it adds to the noise has at most `limit` times the noise's size. The paper knows no such
limit, but here the gradient is 0.8 to 5.5 times the noise in four of five steps, and the limit
acts in 94 % of them. With `strength=0.5`, a sixth, it acts in 11 %, and things go less far: a red
mug that is sent to four sides in 12 steps ends at 0.46 of the way from its goal, and at 0.26 by
default (of the weights of toybox's second cut; of those of today two mugs sent right and down
end at 0.29 and 0.27 by default, `tests/test_systems_self_guidance.py`). So the limit stays. Some
toys hardly move either way: the errors below stand beside those of doing nothing.

Where a picture looks at each word of its prompt, the mean over the sampling:

```
{heat}
```
{heat_picture}
## What they do on toybox

Each line is measured, by `python benchmarks/systems.py NAME` with the weights of the package, and
of trained systems by `python benchmarks/trained.py NAME` ([control.md](control.md)).

{scores}
"""


def out(name: str) -> str:
    """Where an example's picture lies."""
    return f"{FOLDER}/{name}.png"


def commands() -> dict[str, str]:
    """Every command of the page, whole, by the name of its picture."""
    every = {name: f"{line} --out {out(name)}" for name, line in EXAMPLES.items()}
    every["real"] = f"{REAL} --out {out('real')}"
    every["heat"] = f"{HEAT} --out {out('mushroom')} --heat {out('heat')}"
    return every


def page() -> str:
    """The page as it should be, with the pictures that there are."""
    parts = [HEAD, table()]
    parts += [section(system) for system in SYSTEMS.values()]
    every = commands()
    more = {"real": every["real"], "real_picture": shown("real"), "heat": every["heat"],
            "heat_picture": shown("heat"), "scores": scores()}  # fmt: skip
    parts.append(EDITING.format(**more))
    return "".join(parts)


def table() -> str:
    """A line for each system."""
    rows = [head("system", "what it does", "takes", "trains")]
    for system in SYSTEMS.values():
        takes = ", ".join(f"`--{item.name}`" for item in system.inputs)
        name = f"[`{system.name}`](#{system.name})"
        rows.append(row(name, system.claim, takes, system.trains))
    return "\n".join(rows) + "\n\n"


def section(system: System) -> str:
    """Paper, command, picture, inputs and knobs of one system."""
    picture = shown(system.name)
    if not picture and system.training is not None:
        picture = f"\n{taught(system.name, system.training)}\n\n"
    inputs = "".join(
        f"- `--{item.name}`{' (needed)' if item.required else ''}: {item.about}\n"
        for item in system.inputs
    )
    knobs = ", ".join(f"`{knob}`" for knob in system.said_knobs()) or "none"
    picture = picture or "\n"
    return (
        f"## {system.name}\n\n{system.claim[0].upper()}{system.claim[1:]}. {system.paper}, "
        f"[arXiv:{system.arxiv}](https://arxiv.org/abs/{system.arxiv}).\n\n"
        f"```\n{commands()[system.name]}\n```\n{picture}{inputs}\nKnobs: {knobs}.\n\n"
    )


def taught(name: str, training: Training) -> str:
    """How somebody gets weights that do not come with toybox."""
    if training.data is not None or training.read is None:
        train = f"threed train {name} --data DIR --out DIR"
        return f"Its weights do not come with toybox: `{train}`, then `--weights DIR`."
    words = 'name="<toy>" kind=mug'
    return (f"What it is to know is taught first, by a few pictures in a folder: `threed train "
            f"{name} --data DIR --out my-toy {words}`; see "
            "[things with no name](personalization.md).")  # fmt: skip


def shown(name: str) -> str:
    """The line of a picture, or nothing where it was not made."""
    if not (ROOT / out(name)).is_file():
        return ""
    return f"\n![what the command makes]({out(name).removeprefix('docs/')})\n\n"


def scores() -> str:
    """What benchmarks/systems.py wrote beside the pictures, as a table."""
    rows = [head("measure", "score", "reached")]
    for path in sorted((ROOT / FOLDER).glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, value = line.split("\t")
            rows.append(row(f"`{path.stem}`", name, value))
    return "\n".join(rows)


def draw_input() -> None:
    """The pictures that examples start from, drawn by toybox."""
    from threed.core.cameras import orbit
    from threed.toybox.family.examples import draw_fitting
    from threed.toybox.judge.alike import draw_face
    from threed.toybox.world.draw import Light
    from threed.toybox.world.faces import random_face
    from threed.toybox.world.toys import draw_set, random_toy

    drawn = {}
    for place, look in ((DRAWN, ("mug", "red", "plain")), (HAT, ("hat", "green", "striped"))):
        toy = random_toy(np.random.default_rng(3), *look)
        seen = draw_set(toy, orbit(1, 64, start_deg=40), Light(), np.ones((2, 3), np.float32))
        drawn[place] = seen.pictures[0].rgb
    rng = np.random.default_rng([9002, 8])  # nobody that anything was taught with
    face = random_face(rng)
    drawn |= {place: draw_face(rng, face) for place in FACES}
    for place, rgb in drawn.items():
        save_image(torch.from_numpy(np.asarray(rgb)).permute(2, 0, 1), ROOT / place)
    draw_fitting(ROOT / FITTING, 4, "upper")


def run(name: str, line: str) -> None:
    """Make one picture. A system without weights is left out; its old picture goes."""
    words = [sys.executable, "-m", "threed.apps.cli.main", *shlex.split(line)[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    sys.stdout.write(f"{name}: {done.stdout.strip() or done.stderr.strip()}\n")
    lacking = "needs --weights" in done.stderr or "there are no weights at" in done.stderr
    if done.returncode and lacking:
        (ROOT / out(name)).unlink(missing_ok=True)
    elif done.returncode:
        raise SystemExit(done.returncode)


def main() -> None:
    """Make the pictures, all or those that are named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *commands()], default=[])
    parser.add_argument("--text", action="store_true", help="leave the pictures alone")
    arguments = parser.parse_args()
    if not arguments.text:
        draw_input()
        for name, line in commands().items():
            if name in (arguments.names or commands()):
                run(name, line)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
