"""How strongly a prompt guides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guide:
    """How strongly the prompt pulls, and away from what."""

    scale: float = 5.0  # of classifier-free guidance; 1 is none
    negative: str = ""
