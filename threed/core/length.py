"""Lengths as people write them."""

from __future__ import annotations

import re

from threed.core.errors import InputError

METERS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254, "ft": 0.3048}
RANGE = (1e-4, 1e4)  # of what an asset can measure, in metres


def read_length(text: str) -> float:
    """Read metres from words such as 0.12m, 12cm, 120 mm, 5in; without a unit it is metres.

    InputError for anything else, and for less than a tenth of a millimetre or over ten kilometres.
    """
    match = re.fullmatch(r"(\d{0,9}\.?\d{1,9})\s*([a-z]*)", text.strip().lower())
    if match is None or (match[2] or "m") not in METERS:
        raise InputError(f"a height is a number with one of {', '.join(METERS)}, such as 12cm, "
                         f"got {text[:40]!r}")  # fmt: skip
    length = float(match[1]) * METERS[match[2] or "m"]
    if not RANGE[0] <= length <= RANGE[1]:
        raise InputError(f"a height must be from 0.1mm to 10000m, got {text[:40]!r}")
    return length
