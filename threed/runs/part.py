"""The part of a given mesh that is to change: found by a word, a picture or a box, on its map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Generator, Tensor
from torch.nn import functional as F

from exporters.bake import Size, find_texels
from exporters.mapping import find_doubles
from exporters.normals import bake_normals
from exporters.pictures import encode_png, fit_ball
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from guidance.distill import draw_noise
from guidance.prompts import Prompts
from renderers.film import film
from renderers.kernels.raster import interpolate, rasterize
from renderers.raster import PLAIN, render_mesh
from threed.core.budget import SIZES
from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh
from threed.core.pictures import open_picture, to_rgb
from threed.diffusion.backbone import Backbone
from threed.diffusion.noise import diffuse
from threed.diffusion.parts.attention import Record
from threed.diffusion.parts.heat import largest_maps, tinted
from threed.diffusion.parts.words import word_tokens
from threed.runs.given import GivenMesh
from threed.scenes.paint import Spots, colors_of, look_up
from threed.settings.run import Run

PICTURES = "part.png", "part_mask.png"  # the part on the mesh from 8 sides; on its map
RINGS = {-10.0: 0.0, 15.0: 0.0, 40.0: 45.0}  # of cameras: elevation and first azimuth, degrees
LEVELS = (0.2, 0.4, 0.6)  # noise that pictures are looked at with, of the 1000 levels
PLACES = 1024  # at most, of a map of heat
SIDE = 256  # pixels of a picture in which faces are told apart
HOTTEST = 0.98  # of the surface is at most as hot as what counts as the hottest place
LEAST, MOST = 0.0005, 0.99  # of what a map shows: less is no part, more is all
FEW = 64  # texels that a part must have at least on a mesh's own map
SHARED = 0.02  # of a part's texels may show another place, too, on a mesh's own map
Chosen = Callable[[Tensor], Tensor]  # entries [1, N, 1, 4] of a rasterize buffer -> bool [N]


def find_part(given: GivenMesh, run: Run) -> tuple[GivenMesh, list[str]]:
    """Find the part that a picture or a box says; what the user should know of it.

    The mesh is as it was if a word says it, or nothing does. InputError for a part that is nothing
    or all, and for a picture that does not fit the mesh.
    """
    said = run.part
    if said.mask is not None:
        return _masked(given, Path(said.mask)), []
    if said.box is None:
        return given, []
    own, (low, high) = given.placement.out(given.mesh), torch.tensor(said.box).view(2, 3)

    def choose(hits: Tensor) -> Tensor:
        places = interpolate(own.vertices, hits, own.faces)[0, :, 0]
        inside: Tensor = ((places >= low) & (places <= high)).all(-1)
        return inside

    ends = " to ".join(", ".join(f"{x:.4g}" for x in end.tolist()) for end in own.bounds())
    return _laid(given, choose, run, f"the box of part.box (the mesh reaches from {ends})")


def find_word(
    given: GivenMesh, run: Run, prompt: str, backbone: Backbone
) -> tuple[GivenMesh, list[str]]:
    """Find the part that a word of the prompt says, as a backbone sees the mesh.

    What the user should know of it comes beside. InputError as from `find_part`, and where the
    backbone reads no such word.
    """
    word = run.part.word
    assert word is not None  # the caller looks
    heat = heat_of(given.mesh, backbone, prompt, word)
    hottest = heat[Spots.on(given.mesh).faces].quantile(HOTTEST)
    hot = heat >= run.part.heat * hottest
    what = (
        f"what looks like {word!r} to {backbone.name!r} (heat={run.part.heat:g}; more takes less)"
    )
    return _laid(given, lambda hits: hot[hits[0, :, 0, 3].long() - 1], run, what)


@torch.no_grad()
def heat_of(mesh: Mesh, backbone: Backbone, prompt: str, word: str) -> Tensor:
    """How much [F], of 1, each face of a mesh in the unit ball looks at a word of a prompt.

    The cross-attention of pictures from all around, with a little noise, as far as each face is
    seen squarely; one that is seen nowhere has that of the nearest. InputError as from
    `word_tokens`.
    """
    tokens = word_tokens(backbone, prompt, word)
    prompts = Prompts(backbone, prompt, view_words=False)
    middle, across = mesh.vertices[mesh.faces].mean(1), F.normalize(mesh.face_normals(), dim=-1)
    total, seen = torch.zeros(2, len(mesh.faces))
    generator = Generator().manual_seed(0)
    for elevation, start in RINGS.items():
        count = max(4, backbone.views)
        views = orbit(count, backbone.image_size, elevation_deg=elevation, start_deg=start)
        maps = _attention(mesh, views, prompts, generator)[..., tokens].sum(-1)
        clip = F.pad(mesh.vertices, (0, 1), value=1.0) @ views.mvp().mT
        faces = rasterize(clip, mesh.faces, (SIDE, SIDE))[..., 3].long()
        heat = F.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
        view, row, column = torch.nonzero(faces, as_tuple=True)
        hit = faces[view, row, column] - 1
        towards = F.normalize(views.position[:, None] - middle, dim=-1)
        counts = (towards * across).sum(-1).square()[view, hit]
        total.index_add_(0, hit, counts * heat[view, row, column])
        seen.index_add_(0, hit, counts)
    there = (seen > 0).numpy()
    nearest = np.flatnonzero(there)[cKDTree(middle[there]).query(middle)[1]]
    mean: Tensor = total / seen.clamp(min=1e-9)
    return mean[torch.from_numpy(nearest)]


def _attention(mesh: Mesh, views: Cameras, prompts: Prompts, generator: Generator) -> Tensor:
    """[B, h, w, S] how much places of a mesh's pictures look at each token; on the CPU."""
    backbone, record = prompts.backbone, Record(lambda site: site.layer.cross)
    pictures = render_mesh(mesh, views).rgb.movedim(-1, 1).to(backbone.device)
    clean = backbone.encode_image(pictures)
    condition = replace(prompts.bare(views), attention=(record,))
    found = []
    for level in LEVELS:
        t = torch.full((len(views),), 1000 * level, device=clean.device)
        noised = diffuse(clean, t, draw_noise(clean, generator), backbone.alphas_cumprod)
        backbone.predict_noise(noised.x, noised.t, condition)
        found.append(largest_maps(record.kept, PLACES).float().cpu())
    return torch.stack(found).mean(0)


def _masked(given: GivenMesh, path: Path) -> GivenMesh:
    """The mesh with what is white in a picture as its part."""
    mesh, name = given.mesh, f"the mask {path}"
    grey = np.asarray(to_rgb(open_picture(path), str(path), "black").convert("L"))
    part = torch.from_numpy(grey.astype(np.float32) / 255)
    if mesh.uv is None:
        raise InputError(f"{name} lies as a texture does, and the mesh has no texture coordinates: "
                         "say the part by a word or a box")  # fmt: skip
    albedo, (height, width) = mesh.material.albedo, part.shape
    if albedo is not None and albedo.shape[:2] != part.shape:
        own = f"{albedo.shape[1]} × {albedo.shape[0]}"
        raise InputError(f"{name} has {width} × {height} pixels, and the mesh's texture {own}: "
                         "they must be as many")  # fmt: skip
    if not SIZES[0] <= min(part.shape) <= max(part.shape) <= SIZES[1]:
        raise InputError(f"{name} has {width} × {height} pixels; {SIZES[0]} to {SIZES[1]} a side "
                         "can be painted")  # fmt: skip
    known = find_texels(mesh, (height, width)).known
    _check_some(part[known], f"what is white of {name}")
    return replace(given, mesh=_colored(mesh, mesh, (height, width)), part=part)


def _laid(given: GivenMesh, choose: Chosen, run: Run, what: str) -> tuple[GivenMesh, list[str]]:
    """The mesh with a part of its surface, on its own map if that can hold it, else on a new one.

    InputError for a part, called `what`, that is nothing or all.
    """
    mesh, texture = given.mesh, run.asset.texture
    if mesh.uv is not None:
        albedo = mesh.material.albedo
        size = (texture, texture) if albedo is None else (albedo.shape[0], albedo.shape[1])
        part, fits = _on_map(mesh, choose, size)
        if fits:
            _check_some(part[find_texels(mesh, size).known], what)
            return replace(given, mesh=_colored(mesh, mesh, size), part=part), []
        if run.textured.keep_uv:
            raise InputError(f"the mesh's map cannot hold {what}: it has hardly a texel there, or "
                             "shows other places by the same; leave --keep-uv out")  # fmt: skip
    mesh = _remapped(mesh, texture)
    part, _ = _on_map(mesh, choose, (texture, texture))
    _check_some(part[find_texels(mesh, texture).known], what)
    note = "the mesh gets a new map, which can hold the part; what it showed is carried over"
    return replace(given, mesh=mesh, part=part), [note]


def _on_map(mesh: Mesh, choose: Chosen, size: tuple[int, int]) -> tuple[Tensor, bool]:
    """A part [H, W] of 0 and 1 on a mesh's map, and whether the map has room for it.

    Only texels that show one place are in it.
    """
    texels = find_texels(mesh, size)
    first, last = find_doubles(*mesh.opengl_map(), size)
    chosen = choose(texels.hits)
    own = chosen & (first == last)[texels.known]
    fits = int(own.sum()) >= max(FEW, (1 - SHARED) * int(chosen.sum()))
    fits &= SIZES[0] <= min(size) <= max(size) <= SIZES[1]
    return texels.fill(own[:, None].float())[..., 0], fits


def _check_some(part: Tensor, what: str) -> None:
    """InputError unless a part [N] of the texels that show a mesh is some of them."""
    share = float((part > 0).float().mean()) if len(part) else 0.0
    if share < LEAST:
        raise InputError(f"the part is empty: {what} holds nothing of the mesh")
    if float(part.mean()) > MOST:
        raise InputError(f"the part is the whole mesh: {what} leaves nothing out; to change all of "
                         "it, say no part")  # fmt: skip


def _colored(made: Mesh, mesh: Mesh, size: Size) -> Mesh:
    """A mapped mesh with the colours of another of the same faces; as it is if it has an albedo."""
    if made.material.albedo is not None:
        return made
    texels = find_texels(made, size)
    spots = Spots.at(mesh, texels.hits)
    colors = colors_of(mesh, spots)
    if colors is None:
        colors = torch.full_like(spots.points, PLAIN)
    albedo = texels.fill(colors)
    return replace(made, colors=None, material=replace(made.material, albedo=albedo))


def _remapped(mesh: Mesh, texture: int) -> Mesh:
    """A mesh of the same faces on a new map, with all that it showed."""
    own = mesh.material
    material = Material(metallic=own.metallic, roughness=own.roughness)
    made = _colored(unwrap(Mesh(mesh.vertices, mesh.faces, material=material), texture), mesh,
                    texture)  # fmt: skip
    if own.metallic_roughness is not None:
        texels = find_texels(made, texture)
        image = texels.fill(look_up(mesh, own.metallic_roughness, Spots.at(mesh, texels.hits)))
        made = replace(made, material=replace(made.material, metallic_roughness=image))
    return made if own.normal is None else bake_normals(made, Skin(mesh), texture, worth_deg=0.0)


def draw_part(given: GivenMesh) -> dict[str, bytes]:
    """Draw PICTURES of a mesh's part: in orange from 8 sides, white on its map; none of all."""
    mesh, part = given.mesh, given.part
    if part is None or mesh.material.albedo is None:
        return {}
    tint = tinted(mesh.material.albedo.movedim(-1, 0), part).movedim(0, -1)
    mesh = replace(fit_ball(mesh), material=Material(tint))
    views = list(film(mesh, orbit(8, SIDE), background=torch.ones(3)))
    pictures = torch.cat(views, 1), part[..., None].expand(-1, -1, 3)
    return {name: encode_png(picture) for name, picture in zip(PICTURES, pictures)}
