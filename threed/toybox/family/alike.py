"""How the judges of likeness learn: instances are drawn from several sides, and told apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.learning.data import Batch
from threed.learning.loop import Task
from threed.toybox.family.nets import SIZE
from threed.toybox.family.shelf import Entry, fill, images_of
from threed.toybox.family.tasks import new_task, numpy_chance, spoil
from threed.toybox.judge.alike import VIEWS, Likeness, batches, contrast, draw_instance


def open_instances(
    kind: str, folder: Path, count: int, seed: int, progress: Callable[[int], None]
) -> NDArray[np.uint8]:
    """[count, VIEWS, 64, 64, 3] pictures of instances; drawn where a folder lacks them."""
    draw, shape = partial(_draw, kind, seed), (VIEWS, SIZE)
    pixels: NDArray[np.uint8] = fill(folder, count, draw, seed, shape, None, progress)[0]
    return pixels


def _draw(kind: str, seed: int, number: int) -> Entry:
    return draw_instance(kind, seed, number), {"number": number}


def alike_task(kind: str, pixels: NDArray[np.uint8]) -> Task:
    """Let pictures of one instance find each other among those of its family and of others."""

    def batch(n: int, chance: torch.Generator) -> Batch:
        members, views = batches(len(pixels), n, numpy_chance(chance))
        images = spoil(images_of(pixels[members, views]), chance)
        return {"images": images, "instances": torch.tensor(members)}

    def loss(judge: Any, batch: Batch, chance: torch.Generator) -> Tensor:
        return contrast(judge(batch["images"]), batch["instances"])

    return new_task(kind, Likeness(), loss, batch)
