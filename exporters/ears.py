"""Ear clipping in numba: a part of `polygons`, loaded where a polygon turns inwards."""

from __future__ import annotations

from typing import Any

from renderers.kernels.jit import inlined_exact, serial

Array = Any  # a numpy array; numba's functions are untyped


@inlined_exact
def _area(flat: Array, a: int, b: int, c: int) -> Any:
    """Twice the area of a triangle, negative where it runs clockwise."""
    ux, uy = flat[b, 0] - flat[a, 0], flat[b, 1] - flat[a, 1]
    return ux * (flat[c, 1] - flat[a, 1]) - uy * (flat[c, 0] - flat[a, 0])


@inlined_exact
def _same(flat: Array, a: int, b: int) -> Any:
    return flat[a, 0] == flat[b, 0] and flat[a, 1] == flat[b, 1]


@inlined_exact
def _find_looks(flat: Array, after: Array, a: int, b: int, c: int, patience: int) -> Any:
    """Look whether the corner b, between a and c, can be cut off: nothing else lies in it.

    With patience 1 what only touches is let in, with 2 everything. Returns how many corners were
    looked at, with a minus where it cannot.
    """
    area, looks, p = _area(flat, a, b, c), 1, c
    if patience > 1:
        return looks
    if area < 0 or (area == 0 and patience == 0):
        return -looks
    while p != a:
        looks += 1
        q = after[p]
        side = _area(flat, c, a, p)
        if p != c and not (_same(flat, p, a) or _same(flat, p, b) or _same(flat, p, c)):
            least = min(_area(flat, a, b, p), _area(flat, b, c, p), side)
            if least > 0 or (least == 0 and patience == 0):
                return -looks
        # processors may round so that an edge crosses the end of another one
        if p != c and q != a and side * _area(flat, c, a, q) < 0:
            if _area(flat, p, q, a) * _area(flat, p, q, c) < 0:
                return -looks
        p = q
    return looks


@serial
def clip_ears(
    flat: Array, triangles: Array, first: Array, sizes: Array, start: Array, links: Array, work: int
) -> Any:
    """Cut polygons [P] into triangles by cutting off their ears; False if that takes too long.

    flat: corners [C, 2], counter-clockwise. triangles [T, 3] is written: `start` says where a
    polygon's begin, `first` [P] where its corners do. links: [2, C], for what comes before and
    after each corner. work: corners that may be looked at.
    """
    before, after = links
    for k in range(len(first)):
        left, row, at, tries = sizes[k], start[k], first[k], 0
        for c in range(at, at + left):
            before[c], after[c] = c - 1, c + 1
        before[at], after[at + left - 1] = at + left - 1, at
        while left > 2:
            a, c = before[at], after[at]
            looks = _find_looks(flat, after, a, at, c, 2 if left == 3 else tries // left)
            work -= abs(looks)
            if work < 0:
                return False
            if looks > 0:
                triangles[row, 0], triangles[row, 1], triangles[row, 2] = a, at, c
                after[a], before[c] = c, a
                left, row, tries, at = left - 1, row + 1, 0, after[c]
            else:
                at, tries = c, tries + 1
    return True
