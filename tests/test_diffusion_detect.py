"""Maps to follow: edges against geometry, and files that are maps, pictures, or neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from threed.core.errors import InputError
from threed.diffusion.detect import canny, draw_pose, edges, read_map
from threed.diffusion.images import PictureWarning


def disc(size: int = 64, radius: float = 20.0, level: float = 1.0) -> np.ndarray:
    """A bright disc in the middle, 4 × 4 samples a pixel."""
    y, x = np.mgrid[: 4 * size, : 4 * size] / 4 + 0.125
    inside = np.hypot(x - size / 2, y - size / 2) < radius
    return level * inside.reshape(size, 4, size, 4).mean((1, 3))


@pytest.mark.parametrize("radius", [8.0, 20.0, 27.5])
def test_the_edge_of_a_disc_is_its_circle(radius: float) -> None:
    found = canny(disc(radius=radius))
    rows, columns = np.nonzero(found)
    away = np.hypot(columns + 0.5 - 32, rows + 0.5 - 32) - radius
    assert np.abs(away).max() < 1.1
    # all around, without a gap of more than a pixel
    angle = np.sort(np.arctan2(rows + 0.5 - 32, columns + 0.5 - 32))
    gaps = np.diff(angle, append=angle[:1] + 2 * np.pi)
    assert gaps.max() < 2.3 / radius
    # and a ridge is at most two pixels wide
    assert len(rows) < 2 * np.pi * radius * 1.5


def test_weak_edges_need_a_strong_one() -> None:
    picture = disc(radius=10, level=0.02)
    assert not canny(picture).any()  # the gradient is 0.05 at most
    # a bar that fades out is followed as long as it is above `low`
    fading = np.zeros((32, 64))
    fading[16:] = np.linspace(0.2, 0.0, 64)
    followed = np.nonzero(canny(fading).any(0))[0]
    # Sobel's answer half a pixel beside a step that is blurred: 4 (Phi(1.5) - Phi(-0.5))
    gradient = 4 * 0.6247 * np.linspace(0.2, 0.0, 64)
    assert gradient[followed.max()] == pytest.approx(0.1, abs=0.01)
    assert not canny(fading[:, 40:]).any()  # its faint end alone
    assert not canny(np.full((16, 16), 0.7)).any()


def test_edges_turn_with_the_picture() -> None:
    picture = disc(radius=13)
    picture[40:50, 5:20] += 0.5
    assert np.array_equal(canny(np.rot90(picture)), np.rot90(canny(picture)))


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray((array * 255).astype(np.uint8)).save(path)
    return path


def test_a_map_is_found_or_taken_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "disc.png", disc())
    found, taken = read_map("edges", path, 64), read_map("edges-map", path, 64)
    assert found.shape == taken.shape == (1, 3, 64, 64)
    pixels = np.repeat((disc() * 255).astype(np.uint8)[..., None], 3, 2)
    expected = torch.from_numpy(edges(pixels)).permute(2, 0, 1) / 255
    assert torch.equal(found[0], expected)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert float((taken[0, 0] - torch.from_numpy(disc()).float()).abs().max()) < 1 / 255 + 1e-6
    assert torch.equal(read_map("whatever-map", path, 64), taken)


def test_maps_of_another_size_or_mode_are_changed_with_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "disc.png", disc(48, 10))
    with pytest.warns(PictureWarning, match=r"disc.png is 48×48: resized to 64×64"):
        assert read_map("edges-map", path, 64).shape == (1, 3, 64, 64)
    clear = Image.open(path).resize((64, 64)).convert("RGBA")
    clear.putalpha(clear.getchannel("R").point(lambda value: 255 * (value > 0)))
    clear.save(tmp_path / "clear.png")
    with pytest.warns(PictureWarning, match=r"clear.png is transparent in parts, which lie on wh"):
        assert bool((read_map("edges-map", tmp_path / "clear.png", 64)[0, :, 0, 0] == 1).all())


def test_what_gives_no_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no picture .*/no.png"):
        read_map("edges", tmp_path / "no.png", 64)
    (tmp_path / "text.png").write_text("no picture")
    for kind in ("edges", "edges-map"):
        with pytest.raises(InputError, match=r"text.png is no picture of a known kind: PNG, JPEG"):
            read_map(kind, tmp_path / "text.png", 64)
    path = save(tmp_path / "disc.png", disc())
    message = (
        r"finds 'normal' in a picture \(edges, depth, pose, openpose are found\); give the map"
    )
    with pytest.raises(InputError, match=message + " itself: normal-map:"):
        read_map("normal", path, 64)


@pytest.mark.parametrize(("kind", "model"), [("depth", "Intel/dpt"), ("pose", "usyd-community/")])
def test_a_model_that_is_not_here_is_named(tmp_path: Path, kind: str, model: str) -> None:
    path = save(tmp_path / "disc.png", disc())
    with pytest.raises(InputError, match=rf"finding {kind} in a picture needs the model {model}.*"
                       rf"cannot be loaded .*; give the map itself: {kind}-map:FILE"):  # fmt: skip
        read_map(kind, path, 64)


def test_a_pose_is_drawn_where_its_joints_are_sure() -> None:
    places = np.zeros((17, 3))
    places[5], places[7], places[9] = (16, 16, 1.0), (48, 16, 1.0), (48, 60, 0.1)
    shown = draw_pose(places, 64, 64)
    assert shown[16, 32].max() > 100, "the limb between two sure joints"
    assert shown[20:].max() == 0, "and none to the third"


# the annotator of ControlNet 1.1: limbs between OpenPose's joints, counted from 1, and the colours
PUBLISHED = ((2, 3), (2, 6), (3, 4), (4, 5), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11), (2, 12),
             (12, 13), (13, 14), (2, 1), (1, 15), (15, 17), (1, 16), (16, 18))  # fmt: skip
COLOURS = ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
           (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
           (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170),
           (255, 0, 85))  # fmt: skip


def test_a_pose_is_openposes_skeleton_of_18_joints_in_its_colours() -> None:
    names = "nose eye eye ear ear shoulder shoulder elbow elbow wrist wrist hip hip knee knee ankle"
    left_right = [f"{'lr'[i % 2 == 0]} {name}" for i, name in enumerate([*names.split(), "ankle"])]
    coco = ["nose", *left_right[1:]]
    openpose = ["nose", "neck", *(f"{side} {part}" for side in "rl"
                                  for part in ("shoulder", "elbow", "wrist"))]  # fmt: skip
    openpose += [f"{side} {part}" for side in "rl" for part in ("hip", "knee", "ankle")]
    openpose += ["r eye", "l eye", "r ear", "l ear"]
    angle = np.arange(17) * 2.4  # a sunflower: no limb passes another's middle
    radius = 215 * np.sqrt((np.arange(17) + 0.5) / 17)
    places = np.stack([256 + radius * np.cos(angle), 256 + radius * np.sin(angle),
                       np.ones(17)], 1)  # fmt: skip
    at = {name: places[i, :2] for i, name in enumerate(coco)}
    at["neck"] = (at["l shoulder"] + at["r shoulder"]) / 2
    shown = draw_pose(places, 512, 512)
    for name, colour in zip(openpose, COLOURS):
        x, y = at[name].astype(int)
        assert tuple(shown[y, x]) == colour, name
    drawn = 0
    for (one, two), colour in zip(PUBLISHED, COLOURS):
        ends = np.linspace(at[openpose[one - 1]], at[openpose[two - 1]], 41)[5:-5].astype(int)
        seen = [tuple(shown[y, x]) == tuple(int(0.6 * part) for part in colour) for x, y in ends]
        drawn += sum(seen) > 5  # the rest lies under other limbs and joints
    assert drawn == len(PUBLISHED)
    places[5, 2] = 0.1  # without a shoulder there is no neck
    x, y = at["neck"].astype(int)
    assert not draw_pose(places, 512, 512)[y, x].any()
