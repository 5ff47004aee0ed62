"""A drawn pose as one map for each of OpenPose's joints, as LaDI-VTON was taught it."""

from __future__ import annotations

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.detect import PALETTE

SPREAD = 9 / 512  # of a joint, a share of the picture's height
NEAR = 24 / 255  # of a joint's colour


def pose_channels(pose: Tensor, count: int) -> Tensor:
    """[B, count, H, W] what tells a net of `count` channels the pose [B, 3, H, W], as it is drawn.

    3: the drawing itself. 18: the maps of its joints. InputError for any other number.
    """
    if count == 3:
        return pose
    if count != len(PALETTE):
        raise InputError(f"a pose is told by 3 channels or by {len(PALETTE)}, not by {count}")
    return joint_maps(pose)


def joint_maps(pose: Tensor) -> Tensor:
    """[B, 18, H, W] a spot around each joint of a drawn pose [B, 3, H, W]; zeros where none is.

    A joint is where its colour of `detect.PALETTE` is; spots are exp(-(distance / spread)²).
    """
    height, width = pose.shape[-2:]
    colours = torch.tensor(PALETTE, device=pose.device) / 255
    apart = (pose[:, None] - colours[:, :, None, None]).abs().amax(2)
    here = (apart < NEAR).float()
    y, x = torch.meshgrid(torch.arange(height, device=pose.device),
                          torch.arange(width, device=pose.device), indexing="ij")  # fmt: skip
    count = here.sum((2, 3))
    middle = [((here * axis).sum((2, 3)) / count.clamp_min(1))[..., None, None] for axis in (x, y)]
    square = (x - middle[0]).square() + (y - middle[1]).square()
    spots = torch.exp(-square / (SPREAD * height) ** 2)
    return spots * (count > 0)[..., None, None]
