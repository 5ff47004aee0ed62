"""What of a condition goes with its batch, and how conditions share a call of the UNet.

A part that holds something for each item (image tokens, a hint, another net's features) is a
Part: it is selected and repeated with its batch, and joined where conditions share a call. What
holds nothing for the items, such as a change of weights, simply stays. Parts that cannot be
joined, and conditions that lack one, still share the call: each then has its own rows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from threed.diffusion.parts.attention import Attend, Bias, Site, Via, edits_at
from threed.diffusion.parts.hooks import edited
from threed.diffusion.parts.norms import Norm, Normalise, NormEdit
from threed.diffusion.parts.skips import Joint, SkipEdit

P = TypeVar("P")


@runtime_checkable
class Part(Protocol):
    """Something of a condition that holds a row for each of its items."""

    def select(self, index: Tensor) -> Any:
        """The rows of index ([N] int64), which may repeat: the same kind of part."""
        ...

    def join(self, others: Sequence[Any]) -> Any:
        """One part for the rows of this one and then the others'; None if there cannot be one."""
        ...


def select_parts(parts: Iterable[P], index: Tensor) -> tuple[P, ...]:
    """The parts for the items of index ([N] int64)."""
    return tuple(part.select(index) if isinstance(part, Part) else part for part in parts)


def join_parts(
    each: Sequence[tuple[P, ...]], apart: Callable[[tuple[tuple[P, ...], ...]], P]
) -> tuple[P, ...]:
    """The parts of several conditions for a call that they share.

    Joined one by one, or, where that cannot be, the one that `apart` makes of them all.
    """
    together = [_joined(column) for column in zip(*each)]
    if len({len(parts) for parts in each}) > 1 or any(part is None for part in together):
        return (apart(tuple(each)),)
    return tuple(part for part in together if part is not None)


def _joined(column: Sequence[P]) -> P | None:
    """One part for all, if there can be one."""
    first, *others = column
    if isinstance(first, Part):
        joined: P | None = first.join(others)
        return joined
    return first if all(other == first for other in others) else None


@dataclass(frozen=True, eq=False)
class Apart(Generic[P]):
    """The parts of conditions that share a call: each acts on its own rows, in their order."""

    counts: tuple[int, ...]  # rows of each condition
    each: tuple[tuple[P, ...], ...]

    def select(self, index: Tensor) -> Any:
        """The rows of index ([N] int64), each on its own."""
        where = [(part, row) for part, n in enumerate(self.counts) for row in range(n)]
        chosen = [where[place] for place in index.tolist()]
        each = [select_parts(self.each[part], index.new_tensor([row])) for part, row in chosen]
        return type(self)((1,) * len(chosen), tuple(each))

    def join(self, others: Sequence[Any]) -> None:
        """Nothing: it stays apart."""


class AttentionApart(Apart[Any]):
    """Edits of attention, each for its own rows."""

    def at(self, t: Tensor) -> AttentionApart:
        """The edits as they are for all rows at t [B]."""
        rows = zip(self.each, t.split(self.counts))
        return AttentionApart(self.counts, tuple(edits_at(edits, times) for edits, times in rows))

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """The attention of all rows. It is the outermost edit: no other may change its weights."""
        sites = [site.of(hidden) for hidden in site.hidden.split(self.counts)]
        each = [edited(edits, here, attend) for edits, here in zip(self.each, sites)]
        if all(one is attend for one in each):
            return attend

        def apart(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            if bias is not None or change is not None:
                raise ValueError("edits around those of several conditions are not supported")
            rows = zip(each, *(x.split(self.counts) for x in (q, k, v)))
            return torch.cat([one(q, k, v) for one, q, k, v in rows])

        return apart


class SkipsApart(Apart[SkipEdit]):
    """Edits of skips, each for its own rows."""

    def __call__(self, joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Both of all rows."""
        outs = []
        for edits, h_rows, skip_rows in zip(self.each, *(x.split(self.counts) for x in (h, skip))):
            for edit in edits:
                h_rows, skip_rows = edit(joint, h_rows, skip_rows)
            outs.append((h_rows, skip_rows))
        h, skip = (torch.cat(rows) for rows in zip(*outs))
        return h, skip


class NormsApart(Apart[NormEdit]):
    """Edits of norms, each for its own rows."""

    def __call__(self, norm: Norm, normalise: Normalise) -> Normalise:
        """The norm of all rows."""
        each = [edited(edits, norm, normalise) for edits in self.each]
        if all(one is normalise for one in each):
            return normalise
        return lambda x: torch.cat([one(rows) for one, rows in zip(each, x.split(self.counts))])
