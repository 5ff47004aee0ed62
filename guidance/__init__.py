"""Guidance: losses that pull a rendered picture towards a prompt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from threed.core import Cameras


class Guidance(Protocol):
    """What a training step asks for its gradient."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What the guidance itself trains; empty if it is frozen."""
        ...

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """Scalar losses by name for image [B, H, W, 3] in [0, 1], seen by B cameras.

        Only their gradients mean something. All chance comes from the generator.
        """
        ...
