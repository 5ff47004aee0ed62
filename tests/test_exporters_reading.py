"""Files of other tools: each cell of the reader's matrix in docs/assets.md holds what happens."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

from exporters import load
from renderers.kernels.raster import texture
from tests.reading import CASES, Case
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Mesh

PAGE = Path(__file__).parents[1] / "docs" / "assets.md"


def read_matrix() -> dict[tuple[str, str], str]:
    """The cells of the table: (feature, format) -> read, said or refused."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text("utf-8").splitlines()
            if line.startswith("|")]  # fmt: skip
    rows = [[cell.strip() for cell in row] for row in rows]
    first = next(index for index, row in enumerate(rows) if row[0] == "in a file")
    found = {}
    for feature, *cells in rows[first + 2 :]:
        if len(cells) != len(rows[first]) - 1:
            break
        found |= {(feature, form): cell for form, cell in zip(rows[first][1:], cells)}
    return found


MATRIX = read_matrix()


def find_colors(mesh: Mesh) -> list[tuple[int, ...]]:
    """sRGB in the middle of the faces, 0 to 255."""
    if mesh.material.albedo is not None:
        uv, uv_faces = mesh.opengl_map()
        found = texture(mesh.material.albedo, uv[uv_faces].mean(1)[None, None])[0, 0]
    else:
        assert mesh.colors is not None
        found = mesh.colors[mesh.faces].mean(1)
    return [tuple(row) for row in (found * 255).round().int().tolist()]


def area(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2


def test_the_matrix_and_the_cases_are_of_the_same_cells() -> None:
    shown = {cell for cell, verdict in MATRIX.items() if verdict != "–"}
    assert shown == {(feature, form) for form, rows in CASES.items() for feature in rows}
    assert set(MATRIX.values()) == {"read", "said", "refused", "–"}


@pytest.mark.parametrize(
    ("verdict", "form", "case"),
    [
        pytest.param(MATRIX.get((feature, form), "–"), form, case, id=f"{form} {feature} {number}")
        for form, rows in CASES.items()
        for feature, cases in rows.items()
        for number, case in enumerate(cases)
    ],
)
def test_a_cell(tmp_path: Path, verdict: str, form: str, case: Case) -> None:
    path = tmp_path / f"mesh.{form.lower()}"
    for name, content in {path.name: case.content, **case.beside}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if verdict == "refused":
        with pytest.raises(InputError, match=case.says) as caught:
            load(path)
        assert str(caught.value).count(path.name) == 1
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mesh = load(path)
    assert [one.category for one in said] == [MeshWarning] * (verdict == "said"), [
        str(x.message) for x in said
    ]
    for one in said:
        assert re.search(case.says, str(one.message))
        assert str(one.message).count(path.name) == 1
    assert len(mesh.faces) == case.faces
    if case.area is not None:
        assert area(mesh) == pytest.approx(case.area)
    if case.colors is not None:
        assert find_colors(mesh) == case.colors
