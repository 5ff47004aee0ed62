"""What shows a mesh: the turntable, the contact sheet, the report."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from rich.console import Console

from exporters import pictures, preview, video
from exporters.bake import bake
from exporters.mapping import measure_map, measure_use
from exporters.normals import bake_normals
from exporters.report import Known, Report, measure_mesh, read_known
from exporters.simplify import simplify
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from tests.shapes import cube, sphere
from tests.toys import bumpy
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh, flip_v


def square() -> Mesh:
    """Two triangles that cover the left half of a 64² texture, their world twice as wide."""
    vertices = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uv = torch.tensor([[0.0, 0], [0.5, 0], [0.5, 1], [0, 1]])
    return Mesh(vertices, faces, uv=uv, uv_faces=faces, material=Material(torch.ones(64, 64, 3)))


def test_a_turntable_is_what_players_expect(tmp_path: Path) -> None:
    path = tmp_path / "turn.mp4"
    mesh = replace(cube(), colors=torch.rand(8, 3))
    video.save_turntable(mesh, path, frames=24, size=64)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 30
        assert (stream.width, stream.height) == (64, 64)
        frames = [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert len(frames) == 24
    flat = torch.stack(frames).float().view(24, -1)
    distance = torch.cdist(flat, flat) / math.sqrt(flat.shape[1])
    distance.fill_diagonal_(torch.inf)
    assert distance.min() > 1  # every frame is another one, the last is not the first
    # and the turn is even: from the last frame to the first no farther than between others
    steps = [float(distance[i, (i + 1) % 24]) for i in range(24)]
    assert steps[-1] < 1.5 * max(steps[:-1])
    corner = frames[0][0, 0].float() / 255
    torch.testing.assert_close(corner, torch.full((3,), video.BACKGROUND), atol=0.02, rtol=0)
    assert not list(tmp_path.glob(".*"))


def test_any_size_of_mesh_fills_the_picture() -> None:
    tiny, huge = replace(sphere(0.001), colors=None), replace(sphere(500.0), colors=None)
    moved = replace(huge, vertices=huge.vertices + 1000)
    one, two = (pictures.fit_ball(mesh) for mesh in (tiny, moved))
    torch.testing.assert_close(one.vertices, two.vertices, atol=1e-4, rtol=0)
    assert one.vertices.norm(dim=-1).max().item() == pytest.approx(1)


def test_the_contact_sheet(tmp_path: Path) -> None:
    mesh = sphere()
    preview.save_contact_sheet(mesh, tmp_path / "sheet.png", size=32)
    with Image.open(tmp_path / "sheet.png") as image:
        assert (image.format, image.size) == ("PNG", (8 * 32, 2 * 32))
    sheet = preview.draw_sheet(mesh, 32)
    front, back = sheet[32:, 0:32], sheet[32:, 4 * 32 : 5 * 32]
    # the middle of the front shows +x, that of the back -x, as (n + 1) / 2
    assert front[16, 16, 0] > 0.95
    assert back[16, 16, 0] < 0.05
    # the colours follow the height
    assert sheet[8, 16, 2] > sheet[24, 16, 2] + 0.3
    assert torch.equal(sheet[0, 0], torch.ones(3))


@pytest.mark.parametrize(
    ("frames", "size", "message"),
    [(1, 64, "at least 2 frames, got 1"), (4, 63, r"even and in 16\.\.4096, got 63"),
     (4, 5000, r"even and in 16\.\.4096, got 5000")],
)  # fmt: skip
def test_turntables_that_cannot_be(tmp_path: Path, frames: int, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        video.save_turntable(cube(), tmp_path / "t.mp4", frames=frames, size=size)
    assert list(tmp_path.iterdir()) == []


def test_a_turntable_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*t\.mp4"):
        video.save_turntable(cube(), tmp_path / "file" / "t.mp4", frames=2, size=32)


def test_the_report_of_a_cube() -> None:
    found = measure_mesh(cube())
    assert found == Report(
        faces=12, vertices=8, components=1, holes=0, non_manifold_edges=0, watertight=True,
        volume=pytest.approx(6), area=pytest.approx(22), low=(0, 0, 0), high=(1, 2, 3),
        uv_coverage=None, uv_overlap=None, texture=None, texel_density=None, slivers=0,
        roughness=0.6,
    )  # fmt: skip


def test_the_report_of_a_mapped_square() -> None:
    found = measure_mesh(square(), Known(30.0, 0.97, 12.0, {"holes": 2, "faces": 0}))
    assert (found.watertight, found.holes, found.volume) == (False, 1, None)
    assert found.uv_coverage == pytest.approx(0.5, abs=0.01)
    assert found.uv_overlap == 0
    assert found.texture == 64
    # 64 * 32 texels on 4 square units
    assert found.texel_density == pytest.approx(math.sqrt(64 * 32 / 4))
    assert (found.psnr, found.iou, found.threshold) == (30.0, 0.97, 12.0)
    assert found.repairs == {"holes": 2, "faces": 0}
    # 2 wide in half the square, 2 high in all of it: twice as many texels upwards as across
    assert (found.charts, found.stretched, found.seam_length) == (1, 0, 0)
    assert found.texel_spread == pytest.approx(1)
    assert found.maps == ("albedo",)


def test_seams_charts_stretch_and_uneven_texels_are_found() -> None:
    mesh = square()
    # the second triangle by itself, at a tenth of the first one's scale and eight times too narrow
    uv = torch.tensor([[0.0, 0], [0.5, 0], [0.5, 0.5], [0.9, 0], [0.95, 0.00625], [0.9, 0.00625]])
    apart = replace(mesh, uv=flip_v(uv), uv_faces=torch.tensor([[0, 1, 2], [3, 4, 5]]))
    found = measure_map(apart)
    assert found.charts == 2
    assert found.seam_length == pytest.approx(math.sqrt(8))  # the diagonal
    assert found.stretched == pytest.approx(0.5)
    assert found.texel_spread == pytest.approx(0.25 / math.sqrt(0.025 * 0.003125))
    with pytest.raises(ValueError, match="no texture coordinates: unwrap it first"):
        measure_map(cube())


def test_slivers_are_counted() -> None:
    flat = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 0.04, 0], [0.5, -0.06, 0]])
    assert measure_mesh(Mesh(flat, torch.tensor([[0, 1, 2], [1, 0, 3]]))).slivers == 1


def test_overlap_is_found_where_it_is() -> None:
    mesh = square()
    assert mesh.uv_faces is not None
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0], [0.5, 1]])
    whole = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 4, 5], [0, 5, 3]])
    coverage, overlap = measure_use(uv, whole, 128)
    assert coverage == pytest.approx(1, abs=0.02)
    assert overlap == pytest.approx(0.5, abs=0.02)
    # a face that is mirrored onto another one overlaps it as well
    assert measure_use(uv, torch.tensor([[0, 1, 2], [2, 1, 0]]), 128)[1] == 1


def test_crowded_edges_are_counted() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]])
    found = measure_mesh(Mesh(vertices, faces))
    assert found.non_manifold_edges == 1
    assert not found.watertight


def test_what_is_known_comes_back_from_a_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    known = Known(30.0, None, 12.0, {"holes": 2})
    path.write_text(measure_mesh(square(), known).to_json())
    assert read_known(path) == known
    path.write_text("[1]")
    assert read_known(path) == Known()
    assert read_known(tmp_path / "none.json") == Known()


def test_json_and_table() -> None:
    found = measure_mesh(square(), Known(iou=0.97, repairs={"holes": 2, "faces": 0}))
    values = json.loads(found.to_json())
    assert values["faces"] == 2
    assert values["low"] == [0, 0, 0]
    assert values["volume"] is None
    assert values["iou"] == 0.97
    assert values["repairs"] == {"holes": 2, "faces": 0}
    assert set(values) == set(Report.__dataclass_fields__)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(found.table("square.glb"))
    text = console.export_text()
    assert "square.glb" in text
    assert "watertight" in text
    assert "50.0%" in text
    assert "holes 2\n" in re.sub(" +\n", "\n", text)
    assert "albedo; metallic 0, roughness 0.6" in text
    assert "PSNR" not in text  # what is not known is not shown


def test_the_preview_shows_the_normal_map() -> None:
    dense = bumpy()
    low = bake(unwrap(simplify(dense, 1500), 256), lambda p, n: torch.full_like(p, 0.5), 256)
    mapped = bake_normals(low, Skin(dense), 256)
    assert mapped.material.normal is not None
    wanted = preview.draw_sheet(dense, 64)[64:]
    off = [(preview.draw_sheet(mesh, 64)[64:] - wanted).abs().mean() for mesh in (low, mapped)]
    assert off[1] < 0.6 * off[0]


def test_a_picture_is_encoded_once_while_it_stays_the_same() -> None:
    image = torch.rand(8, 8, 3)
    once = pictures.encode_png(image)
    assert pictures.encode_png(image) is once
    assert pictures.encode_png(image.clone()) == once
    image[0, 0] = 1 - image[0, 0]
    again = pictures.encode_png(image)
    assert again != once
    with Image.open(io.BytesIO(again)) as picture:
        assert picture.getpixel((0, 0)) == tuple(pictures.to_bytes(image)[0, 0].tolist())
    count = len(pictures._written)
    del image
    assert len(pictures._written) == count - 1
