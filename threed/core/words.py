"""Words for people: what they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: str, names: Iterable[object]) -> str:
    """Ask for the nearest of the names: "; did you mean 'steps'?", or "" if none is near."""
    near = difflib.get_close_matches(name, map(str, names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def did_you_mean(name: str, names: Iterable[object]) -> str:
    """End an error about an unknown name: suggest the nearest one, then list all that exist."""
    known = [str(item) for item in names]
    return f"{suggest(name, known)} (there are: {', '.join(sorted(known))})"
