"""A multi-view backbone: one UNet call sees four cameras' pictures of one object (MVDream).

The UNet is diffusers' own, with the camera added to its time embedding (a projection of 16
numbers) and self-attention over all views of a group (arXiv:2308.16512).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from threed.core.cameras import Cameras
from threed.diffusion.condition import Condition
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import Views


def camera_vector(cameras: Cameras) -> Tensor:
    """[B, 16] what the UNet is told of each camera: its c2w, row by row, at distance 1."""
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] = F.normalize(c2w[:, :3, 3], dim=-1)
    return c2w.flatten(1)


class MultiViewDiffusion(StableDiffusion):
    """Predicts groups of four neighbours in the batch together, when the condition has cameras.

    Without cameras each picture is on its own, with a camera of zeros: a text-to-image model.
    """

    views = 4

    def extras(self, x: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        """Add cameras and attention across views to the arguments of x [B, C, h, w] and t [B]."""
        cameras = condition.cameras
        if cameras is None:
            labels = x.new_zeros(len(x), 16)
        elif len(cameras) != len(x) or len(x) % self.views:
            needed = f"a batch of {len(x)} needs as many cameras, in groups of {self.views}"
            raise ValueError(f"{needed}, got {len(cameras)}")
        else:
            labels = camera_vector(cameras).to(x)
            # innermost, so that edits still see views one by one, and of all rows
            edits = (*condition.attention, Views(self.views))
            condition = replace(condition, attention=edits)
        return super().extras(x, t, condition) | {"class_labels": labels.to(self.unet.dtype)}
