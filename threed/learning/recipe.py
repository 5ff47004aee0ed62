"""How a net is trained, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from threed.core.errors import InputError
from threed.core.seeds import check_seed


@dataclass(frozen=True)
class Recipe:
    """How a net is trained. A training is resumed with the same numbers; steps may grow."""

    steps: int
    batch: int  # examples at once
    lr: float
    seed: int = 0
    accumulate: int = 1  # batches a step
    warmup: int = 100  # steps in which lr rises to itself
    cooldown: float = 0.0  # last share of the steps, in which lr falls to 0.02 of itself
    weight_decay: float = 0.01
    ema: float = 0.999  # how much of the averaged weights a step keeps
    precision: str = "no"  # accelerate's: no, bf16, fp16
    muon: bool = False  # in place of AdamW: for small nets, see threed.learning.optimisers
    beta2: float = 0.999  # how much of its second moment AdamW keeps

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_seed(self.seed)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise InputError(f"lr must be above 0, got {self.lr}")

    def rate(self, step: int) -> float:
        """Give the learning rate of a step."""
        left = (self.steps - step) / max(self.cooldown * self.steps, 1e-9)
        return self.lr * min(1.0, (step + 1) / max(self.warmup, 1), max(left, 0.02))
