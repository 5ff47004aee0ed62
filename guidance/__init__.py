"""Guidance: losses that pull a rendered picture towards a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from threed.core.cameras import Cameras


class Guidance(Protocol):
    """What a training step asks for its gradient."""

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """Scalar losses by name for image [B, H, W, 3] in [0, 1], seen by B cameras.

        Only their gradients mean something. All chance comes from the generator. A guidance that
        trains a net of its own does so here.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned, optimizer included; empty if it is frozen."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state_dict, exactly."""
        ...


@runtime_checkable
class Posed(Protocol):
    """A guidance that knows what it wants to see from certain cameras."""

    def cameras(self, step: int, drawn: Cameras) -> Cameras:
        """Where to look from in a step, given where chance would."""
        ...


class Frozen:
    """The part of a Guidance that learns nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""
