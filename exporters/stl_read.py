"""STL as all tools write it: binary, whatever its header begins with, and text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters import axes
from exporters.join import join
from exporters.parse import check_count
from exporters.surfaces import Part
from exporters.text import name_file, read_numbers, say, to_lines
from threed.core.errors import InputError
from threed.core.mesh import Mesh

ROW = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
WORDS = re.compile(rb"(?:end)?(?:facet|loop)|normal\s+\S+\s+\S+\s+\S+|outer|vertex")


def find_problem(content: bytes) -> str | None:
    """Say why this is not the content of a whole STL file, binary or text; None if it is one."""
    if _is_text(content):
        text = to_lines(content).lower()
        return None if text.rfind(b"endsolid") > text.rfind(b"endfacet") else "its end is missing"
    if len(content) < 84:
        return f"it has only {len(content)} bytes"
    count = _count(content)
    expected = 84 + 50 * count
    if expected > len(content):
        return f"{count:,} triangles need {expected:,} bytes, and it has {len(content):,}"
    return None


def read(content: bytes, path: Path) -> Mesh:
    """Read the mesh in the content of an STL file; InputError, naming `path`, where that fails."""
    with name_file(path):
        corners = _read_text(content) if _is_text(content) else _read_binary(content)
        check_count(len(corners), path)
    place = axes.from_z_up(torch.from_numpy(corners.reshape(-1, 3)))
    return join([Part(place, torch.arange(len(place)).view(-1, 3))], path)


def _count(content: bytes) -> int:
    return int.from_bytes(content[80:84], "little")


def _is_text(content: bytes) -> bool:
    """Whether a file is text: one with as many bytes as its count asks for is binary."""
    if len(content) >= 84 and len(content) == 84 + 50 * _count(content):
        return False
    begin = to_lines(content[:4000]).lower()
    return b"facet" in begin and b"\0" not in begin


def _read_binary(content: bytes) -> Any:
    """The corners [F, 3, 3] of a binary file."""
    count = _count(content)
    rest = len(content) - 84 - 50 * count
    if rest:
        say(f"{rest:,} bytes too many at its end are left out")
    rows = np.frombuffer(content, ROW, count, 84)
    if rows["attribute"].any():
        say("the attributes of its triangles, which may be colours, are left out")
    return rows["corners"].astype(np.float64)


def _read_text(content: bytes) -> Any:
    """The corners [F, 3, 3] of a text, whatever the names of its solids."""
    text = re.sub(rb"^[ \t]*(end)?solid\b[^\n]*", b"", to_lines(content).lower(), flags=re.M)
    facets, ends = len(re.findall(rb"\bfacet\b", text)), text.count(b"endfacet")
    values = read_numbers(WORDS.sub(b" ", text))
    if facets != ends or len(values) != 9 * facets:
        raise InputError(f"it begins {facets:,} triangles and ends {ends:,}, with "
                         f"{len(values) / 3:,.5g} corners")  # fmt: skip
    return values.reshape(-1, 3, 3)
