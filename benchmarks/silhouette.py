"""The outline of what stands before a plain or graded background, read from a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

BORDER = 3  # pixels at each side that show the background
APART = 0.13  # RGB distance, of 1.73, at which a pixel is not background


def silhouettes(images: Tensor) -> Tensor:
    """[B, H, W] bool: the largest connected thing in pictures [B, 3, H, W] in [0, 1].

    Holes stay holes. Nothing at all gives no pixels.
    """
    masks = foreground(images).cpu().numpy()
    return torch.from_numpy(np.stack([_largest(mask) for mask in masks]))


def foreground(images: Tensor) -> Tensor:
    """[B, H, W] bool: what is unlike the background in pictures [B, 3, H, W] in [0, 1].

    The background's colour is read from the left and right edge, row by row, so it may change from
    top to bottom but not from side to side.
    """
    edges = torch.cat([images[..., :BORDER], images[..., -BORDER:]], -1)
    rows = edges.median(-1).values  # [B, 3, H]
    smooth = F.avg_pool1d(rows, 9, stride=1, padding=4, count_include_pad=False)
    unlike: Tensor = (images - smooth[..., None]).norm(dim=1) > APART
    return unlike


def coloured(images: Tensor, colors: Sequence[Sequence[float]]) -> Tensor:
    """[B, n, H, W] bool: the largest thing in front that is nearest to each of n RGB colours.

    Brightness does not count, as toys are shaded.
    """
    wanted = torch.tensor(colors, dtype=images.dtype, device=images.device)
    shares = [v / v.sum(1, keepdim=True).clamp_min(0.05) for v in (images, wanted)]
    apart = (shares[0][:, None] - shares[1][None, :, :, None, None]).norm(dim=2)  # [B, n, H, W]
    nearest = apart.argmin(1)
    front = foreground(images)
    masks = torch.stack([front & (nearest == i) for i in range(len(wanted))], 1).cpu().numpy()
    parts = [np.stack([_largest(mask) for mask in picture]) for picture in masks]
    return torch.from_numpy(np.stack(parts))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the largest connected part of a mask."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: NDArray[np.bool_] = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return largest


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """[B] intersection over union of masks [B, H, W]; 1 where both are empty."""
    union = (a | b).sum((1, 2))
    return torch.where(union > 0, (a & b).sum((1, 2)) / union.clamp_min(1), 1.0)


def centroids(masks: Tensor) -> Tensor:
    """[B, 2] the centre (x, y) of masks [B, H, W] in fractions of the picture, right and down."""
    height, width = masks.shape[1:]
    weights = masks.double() / masks.sum((1, 2), keepdim=True).clamp_min(1)
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    return torch.stack([(weights.sum(1) * x).sum(1), (weights.sum(2) * y).sum(1)], 1).float()
