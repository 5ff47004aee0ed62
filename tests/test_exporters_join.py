"""Parts of several materials as one mesh: every face shows what its own material says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from exporters import atlas
from exporters.join import join
from exporters.surfaces import Layer, Part, Surface, Wrap, multiply
from exporters.transfer import Skin
from renderers.kernels.raster import texture
from renderers.shading import to_linear, to_srgb
from tests.shapes import sphere
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Mesh, flip_v

HERE = Path("toy.glb")
RED, GREEN, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.5, 0.5)
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=torch.float64)
FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def wavy(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """A soft picture [H, W, 3] that is the same again after its border."""
    phase = torch.rand(3, generator=torch.Generator().manual_seed(seed)) * 6
    y = torch.arange(height)[:, None, None] / height * math.tau
    x = torch.arange(width)[None, :, None] / width * math.tau
    return 0.5 + 0.2 * (x + phase).sin() + 0.2 * (y + 2 * phase).cos()


def square(
    surface: Surface, uv: Tensor | None = None, at: float = 0.0, colors: Tensor | None = None
) -> Part:
    """A square whose texture coordinates are those of its corners, x and y."""
    places = CORNERS + torch.tensor([at, 0, 0])
    uv = CORNERS[:, :2] if uv is None else uv
    corners = None if colors is None else colors[FACES]
    return Part(places, FACES, surface, {0: uv.double()[FACES]}, corners)


def meant(part: Part, share: Tensor) -> Tensor:
    """The colours [F, N, 3] at shares [N, 3] of the corners by the book, one texel at a time."""
    uv = torch.einsum("nk,fkc->fnc", share.double(), part.uv[0])
    color = torch.tensor(part.surface.color).expand(*uv.shape[:2], 3)
    layer = part.surface.albedo
    if layer is not None:
        height, width = layer.image.shape[:2]
        texel = uv * torch.tensor([width, height]) - 0.5
        low = texel.floor()
        total = torch.zeros(*uv.shape[:2], 3)
        for dx in (0, 1):
            for dy in (0, 1):
                index = low.long() + torch.tensor([dx, dy])
                part_x, part_y = (1 - (texel - index).abs()).unbind(-1)
                column = wrapped(index[..., 0], width, layer.wrap[0])
                row = wrapped(index[..., 1], height, layer.wrap[1])
                total += (part_x * part_y)[..., None].float() * layer.image[row, column]
        color = multiply(color, total)
    if part.colors is not None:
        light = torch.einsum("nk,fkc->fnc", share, to_linear(part.colors))
        color = multiply(color, to_srgb(light))
    return color


def wrapped(index: Tensor, count: int, way: Wrap) -> Tensor:
    if way == "clamp":
        return index.clamp(0, count - 1)
    turn = index.div(count, rounding_mode="floor")
    place = index - turn * count
    return place if way == "repeat" else torch.where(turn % 2 == 0, place, count - 1 - place)


def shown(mesh: Mesh, share: Tensor) -> Tensor:
    """The colours [F, N, 3] of a mesh at shares [N, 3] of the corners of its faces."""
    if mesh.material.albedo is None:
        assert mesh.colors is not None
        return torch.einsum("nk,fkc->fnc", share, mesh.colors[mesh.faces])
    uv, faces = mesh.opengl_map()
    return texture(mesh.material.albedo, torch.einsum("nk,fkc->fnc", share, uv[faces])[None])[0]


def shares(count: int = 40) -> Tensor:
    """Places all over a triangle."""
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(count, 3, generator=generator).log()
    return share / share.sum(1, keepdim=True)


def layered(
    way: Wrap = "repeat", seed: int = 0, color: tuple[float, float, float] = (1, 1, 1)
) -> Surface:
    return Surface(color, albedo=Layer(wavy(seed=seed), wrap=(way, way)))


WIDE = CORNERS[:, :2] * torch.tensor([3.3, 2.1]) - 0.4
SHADED = torch.tensor([[1.0, 0.5, 0.5], [0.2, 1, 1], [1, 1, 0.1], [0.5, 0.5, 1]])
TABLE: dict[str, tuple[list[Part], float]] = {
    "two pictures": ([square(layered()), square(layered(seed=1), at=2)], 0.002),
    "a colour and a picture": ([square(layered()), square(Surface(RED), at=2)], 0.002),
    "a picture times a colour": ([square(layered(color=(1, 0.5, 0)))], 0.01),
    "pictures of several sizes": (
        [square(layered()), square(Surface(albedo=Layer(wavy(32, 128, 2))), at=2)], 0.002),
    "several tiles": ([square(layered(), WIDE)], 0.002),
    "several tiles of two": ([square(layered(), WIDE), square(layered(seed=1), at=2)], 0.002),
    "mirrored": ([square(layered("mirror"), WIDE)], 0.002),
    "clamped": ([square(layered("clamp"), WIDE)], 0.002),
    "far away tiles": ([square(layered(), WIDE / 5 + 70)], 0.002),
    "a picture times colours": ([square(layered(), colors=SHADED)], 0.04),
    "tiles times colours": ([square(layered(), WIDE, colors=SHADED)], 0.06),
    "colours beside a picture": (
        [square(layered()), square(Surface(), at=2, colors=SHADED)], 0.04),
    "two colours on shared corners": ([square(Surface(RED)), square(Surface(GREEN), at=1)], 0.002),
    "two colours apart": ([square(Surface(RED)), square(Surface(GREEN), at=2)], 0.002),
    "colours that meet in gradients": (
        [square(Surface(), colors=SHADED), square(Surface(RED), at=1)], 0.002),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_faces_show_what_their_materials_say(name: str) -> None:
    parts, most = TABLE[name]
    mesh = join(parts, HERE)
    # between vertices our colours are mixed as sRGB, glTF's as light
    share = shares() if mesh.uv is not None else torch.eye(3)
    wanted = torch.cat([meant(part, share) for part in parts])
    assert (shown(mesh, share) - wanted).abs().max() < most
    assert len(mesh.faces) == 2 * len(parts)
    places = mesh.vertices[mesh.faces].double()
    assert torch.equal(places, torch.cat([part.vertices[part.faces] for part in parts]))
    if mesh.uv is not None:
        assert 0 <= float(mesh.uv.min()) <= float(mesh.uv.max()) <= 1


def test_one_material_stays_bit_by_bit() -> None:
    surface = Surface(
        metallic=0.25, roughness=0.5, albedo=Layer(wavy()), normal=Layer(wavy(seed=1))
    )
    part = square(surface)
    mesh = join([part], HERE)
    pictures = {name: layer.image for name, layer in surface.layers().items()}
    assert mesh.material.maps().keys() == pictures.keys()
    assert all(torch.equal(image, pictures[name]) for name, image in mesh.material.maps().items())
    assert (mesh.material.metallic, mesh.material.roughness) == (0.25, 0.5)
    assert mesh.uv is not None
    assert torch.equal(mesh.uv[mesh.uv_faces], part.uv[0])


def test_each_material_keeps_its_gloss() -> None:
    """As numbers where they are the same, as a picture where they are not, times its own."""
    same = [Surface(RED, metallic=0.75, roughness=0.3), layered()]
    alike = join(
        [square(same[0]), square(replace(same[1], metallic=0.75, roughness=0.3), at=2)], HERE
    )
    assert (alike.material.metallic, alike.material.roughness) == (0.75, 0.3)
    assert alike.material.metallic_roughness is None
    both = Surface(metallic=0.5, roughness=1.0, metallic_roughness=Layer(wavy()))
    mesh = join([square(same[0]), square(both, at=2)], HERE)
    material, share = mesh.material, shares()
    assert (material.metallic, material.roughness) == (1, 1)
    assert material.metallic_roughness is not None
    found = shown(
        replace(mesh, material=replace(material, albedo=material.metallic_roughness)), share
    )
    torch.testing.assert_close(found[:2, :, 1:], torch.tensor([0.3, 0.75]).expand(2, 40, 2))
    wanted = meant(square(Surface(albedo=both.metallic_roughness)), share) * torch.tensor(
        [1, 1, 0.5]
    )
    torch.testing.assert_close(found[2:], wanted, atol=0.002, rtol=0)


def test_normal_maps_keep_their_direction_in_an_atlas_and_on_a_new_map() -> None:
    """A map that leans along u, on a square whose u grows along -y, leans along -y."""
    lean = torch.tensor([0.8, 0.5, 0.9]).expand(64, 64, 3)  # (0.6, 0, 0.8)
    uv = torch.stack([1 - CORNERS[:, 1], 1 - CORNERS[:, 0]], 1)
    leaning = square(Surface(normal=Layer(lean), albedo=Layer(wavy())), uv)
    beside = square(Surface(RED), at=2)
    for colors in (None, SHADED[FACES]):
        mesh = join([replace(leaning, colors=colors), beside], HERE)
        points = torch.einsum("nk,fkc->fnc", shares(), mesh.vertices[mesh.faces]).flatten(0, 1)
        found = Skin(mesh).normal(points, torch.tensor([0.0, 0, 1]).expand(len(points), 3))
        wanted = torch.tensor([[0, -0.6, 0.8], [0, 0, 1]]).repeat_interleave(len(points) // 2, 0)
        torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


def test_large_pictures_shrink_to_what_an_atlas_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "ALL", 80 * 80)
    parts = [square(layered()), square(layered(seed=1), at=2)]
    share = shares()
    with pytest.warns(MeshWarning, match=r"toy.glb has so many textures .* shrunk to 79%"):
        mesh = join(parts, HERE)
    assert mesh.material.albedo is not None
    assert mesh.material.albedo.shape[:2].numel() <= 1.1 * 80 * 80
    wanted = torch.cat([meant(part, share) for part in parts])
    assert (shown(mesh, share) - wanted).abs().max() < 0.05


def test_tiles_smaller_than_texels_become_their_mean() -> None:
    mesh = join([square(layered(), WIDE * 1e6)], HERE)
    mean = wavy().mean((0, 1))
    assert (shown(mesh, shares()) - mean).abs().max() < 0.02


def test_a_shape_far_away_keeps_its_shape() -> None:
    ball = sphere(0.6)
    far = Part(ball.vertices.double() + 1e7, ball.faces)
    with pytest.warns(MeshWarning, match="lies so far from the origin"):
        mesh = join([far], HERE)
    middle = ball.bounds().mean(0)
    torch.testing.assert_close(mesh.vertices[mesh.faces], (ball.vertices - middle)[ball.faces])
    near = Part(ball.vertices.double() + 20, ball.faces)
    assert torch.equal(join([near], HERE).vertices, ball.vertices + 20)


def test_texture_coordinates_without_a_picture_are_kept_and_make_no_picture() -> None:
    mesh = join([square(Surface())], HERE)
    assert mesh.material.maps() == {}
    assert mesh.colors is None
    assert mesh.uv is not None
    colored = join([square(Surface(), colors=SHADED)], HERE)
    assert colored.colors is not None
    assert torch.equal(colored.colors[colored.faces], SHADED[FACES])
    assert torch.equal(flip_v(flip_v(mesh.uv)), mesh.uv)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(CORNERS, FACES[:0]), "holds no triangle"),
        (Part(CORNERS, FACES + 2), "names vertices that it does not have"),
        (Part(CORNERS * math.nan, FACES), "holds coordinates that are not numbers"),
        (Part(CORNERS * 1e60, FACES), "holds coordinates beyond 3e38"),
    ],
)
def test_what_is_no_mesh_is_refused(part: Part, message: str) -> None:
    with pytest.raises(InputError, match=f"toy.glb {message}"):
        join([part], HERE)


@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e300, 1e12])
@pytest.mark.parametrize("colors", [None, SHADED[FACES]])
def test_coordinates_of_any_size_give_a_picture(scale: float, colors: Tensor | None) -> None:
    parts = [replace(square(layered(), WIDE * scale), colors=colors), square(layered(), at=2)]
    mesh = join(parts, HERE)
    assert mesh.material.albedo is not None
    assert bool(((mesh.material.albedo >= 0) & (mesh.material.albedo <= 1)).all())
    assert mesh.uv is not None
    assert 0 <= float(mesh.uv.min()) <= float(mesh.uv.max()) <= 1


def test_faces_without_an_area_are_kept_beside_others() -> None:
    flat = replace(square(Surface(), colors=SHADED), vertices=CORNERS * torch.tensor([1.0, 0, 0]))
    mesh = join([square(layered(), at=2), flat], HERE)
    assert len(mesh.faces) == 4
    share = shares()
    wanted = meant(square(layered()), share)
    assert (shown(mesh, share)[:2] - wanted).abs().max() < 0.002
