"""What a scene looks like before it is an asset: its fronts, and which of several seeds is best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.cameras import orbit
from threed.core.files import write
from threed.diffusion.backbone import Backbone
from threed.diffusion.fronts import VIEWS, Fronts, chart, find_fronts
from threed.diffusion.images import save_image
from threed.diffusion.models.latent import LatentModel
from threed.diffusion.parts.clip import Clip, clip_of
from threed.runs.stages import Single

PICTURE = "fronts.png"
CANDIDATES = "candidates.png"  # the fronts of all seeds, beside each other, in their order
SMALL = 128  # pixels a side
REPORT = "report.json"
SHARE = 0.25  # of the first stage's steps that each seed gets before the best is chosen


@dataclass(frozen=True)
class Candidate:
    """How a seed did in its first steps."""

    seed: int
    clip: float  # mean cosine of its pictures to the prompt
    fronts: int | None


def load_clip(backbone: Backbone) -> Clip:
    """The CLIP that judges seeds: the backbone's own, or the official one; InputError without."""
    assert isinstance(backbone, LatentModel)  # all are
    return clip_of(backbone)


@torch.no_grad()
def around(scene: Single, size: int) -> Tensor:
    """[VIEWS, 3, size, size] a scene from all around, the front first."""
    cameras = orbit(VIEWS, size)
    pictures = [scene.render(cameras[i : i + 1]).rgb for i in range(VIEWS)]
    return torch.cat(pictures).clamp(0, 1).permute(0, 3, 1, 2)


def check_fronts(scene: Single, backbone: Backbone, prompt: str, folder: Path) -> Fronts:
    """How many fronts a scene has; a picture of it in the folder if it is more than one."""
    pictures = around(scene, backbone.image_size)
    found = find_fronts(backbone, prompt, pictures)
    if (found.count or 0) > 1:
        save_image(chart(shrink(pictures), found), folder / PICTURE)
    return found


def rate(
    scene: Single, backbone: Backbone, clip: Clip, prompt: str, seed: int
) -> tuple[Candidate, Tensor]:
    """How well the scene of a seed fits the prompt, and how many fronts it has.

    Returns a small picture of its front, too: [1, 3, SMALL, SMALL].
    """
    pictures = around(scene, backbone.image_size)
    seen = F.normalize(clip.images(pictures), dim=-1)
    said = F.normalize(clip.texts([prompt]), dim=-1)
    fronts = find_fronts(backbone, prompt, pictures).count
    one = Candidate(seed, round(float((seen @ said.T).mean()), 4), fronts)
    return one, shrink(pictures[:1])


def shrink(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] as people look at many of them: [B, 3, SMALL, SMALL], on the CPU."""
    return F.interpolate(pictures.cpu(), (SMALL, SMALL), mode="bilinear", antialias=True)


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The one nearest to the prompt by CLIP, of those without several fronts if there are any."""
    single = [one for one in candidates if (one.fronts or 0) < 2]
    return max(single or candidates, key=lambda one: one.clip)


def note(folder: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to the report of an asset in a folder."""
    path = folder / REPORT
    report = json.loads(path.read_text(encoding="utf-8"))
    write(path, (json.dumps(report | dict(facts), indent=2, allow_nan=False) + "\n").encode())


def to_json(candidates: Sequence[Candidate]) -> str:
    """The candidates as a list, to be kept."""
    return json.dumps([asdict(one) for one in candidates])
