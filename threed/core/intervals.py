"""How sure a figure is: intervals of shares and of medians."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

Z95 = 1.959963984540054  # standard deviations to either side that hold 95 % of a normal law


def wilson(hits: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Give the interval of a share of which `hits` in `count` were seen (Wilson, 1927, eq. 4).

    It is inside 0..1, and not of no width where all or none were hits. (0, 1) for a count of 0.
    ValueError for hits that are not in 0..count.
    """
    if not 0 <= hits <= count:
        raise ValueError(f"hits must be in 0..{count}, got {hits}")
    if count == 0:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def bootstrap(
    groups: Sequence[Sequence[float]],
    figure: Callable[[Sequence[float]], float],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Give the interval of a figure of all values: percentiles over groups drawn again (Efron).

    What belongs together, such as the seeds of one prompt, is a group and is drawn together.
    ValueError for no groups, and for an empty one.
    """
    if not groups or not all(groups):
        raise ValueError("there must be groups, and values in each")
    random, found = Random(seed), []
    for _ in range(draws):
        chosen = random.choices(groups, k=len(groups))
        found.append(figure([value for group in chosen for value in group]))
    found.sort()
    cut = (1 - level) / 2
    return found[round(cut * (draws - 1))], found[round((1 - cut) * (draws - 1))]
