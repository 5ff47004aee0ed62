"""How unlike two pictures look: the distance of what VGG-19 sees in them (arXiv:1603.08155)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.diffusion.models.convert import read_state
from threed.diffusion.weights import below, filled

DEPTHS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1))  # channels and convolutions a level
WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of what is seen first at each level
SIDE = 256  # pixels of the shorter side of what it looks at
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Perceptual(nn.Module):
    """The L1 distance of features at five levels, weighted as pix2pixHD's (arXiv:1711.11585)."""

    def __init__(self, path: Path) -> None:
        """path: torchvision's VGG-19 (vgg19-dcbb9e9d.pth); InputError if it is none."""
        super().__init__()
        layers: list[nn.Module] = []
        inputs, self.seen = 3, list[int]()
        for channels, count in DEPTHS:
            self.seen.append(len(layers) + 1)
            for _ in range(count):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers[:-1])
        names = self.layers.state_dict().keys()
        state = {name: value for name, value in below(read_state(path), "features.").items()
                 if name in names}  # fmt: skip
        filled(self.layers, state, str(path)).requires_grad_(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """[] of pictures [B, 3, H, W] in [-1, 1]; gradients reach those that are made."""
        total = made.new_zeros(())
        with torch.no_grad():
            wanted = self.features(real)
        for weight, one, two in zip(WEIGHTS, self.features(made), wanted):
            total = total + weight * F.l1_loss(one, two)
        return total

    def features(self, pictures: Tensor) -> list[Tensor]:
        """[B, C, h, w] what is seen first at each level of pictures [B, 3, H, W] in [-1, 1]."""
        scale = SIDE / min(pictures.shape[-2:])
        size = [round(side * scale) for side in pictures.shape[-2:]]
        # in single precision: a CPU has no gradient of it in half
        x = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True) / 2 + 0.5
        mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        x, found = (x - mean) / std, list[Tensor]()
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.seen:
                found.append(x)
        return found
