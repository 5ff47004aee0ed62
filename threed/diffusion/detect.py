"""Maps that a picture is to follow: found in another picture, or read as they are."""

from __future__ import annotations

from collections.abc import Callable
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from threed.core.errors import InputError
from threed.core.pictures import Size
from threed.diffusion.images import load_image

MAP = "-map"  # after a kind: the file is the map, not a picture to find it in
DEPTH_MODEL = "Intel/dpt-hybrid-midas"
POSE_MODEL = "usyd-community/vitpose-base-simple"
LABEL_MODEL = "mattmdjaga/segformer_b2_clothes"
SURE = 0.3  # of a joint, from which it is drawn
Floats = NDArray[np.floating[Any]]
# OpenPose's joints among COCO's: nose, neck (between the shoulders), right shoulder, elbow, wrist,
# left ones, right hip, knee, ankle, left ones, right and left eye, right and left ear
SHOULDERS = (5, 6)
JOINTS = (0, SHOULDERS, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11),
         (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
PALETTE = tuple(  # of the joints, round the hues; a limb has 0.6 of the joint's of its number
    tuple(round(255 * part) for part in hsv_to_rgb(i / 18, 1, 1)) for i in range(18)
)


class MapWarning(UserWarning):
    """A map that a net was not taught to follow."""


def read_map(kind: str, path: Path, size: Size) -> Tensor:
    """[1, 3, H, W] in [0, 1]: the map of a kind of DETECTORS, found in the picture at path.

    With "-map" after the kind, which may then be any, the file is the map itself. InputError if
    there is no such file, or nothing that finds such a map.
    """
    picture = load_image(path, size)
    if kind.endswith(MAP):
        return picture
    if kind not in DETECTORS:
        raise InputError(f"no detector finds {kind!r} in a picture ({', '.join(DETECTORS)} are "
                         f"found); give the map itself: {kind}{MAP}:{path}")  # fmt: skip
    found = DETECTORS[kind]((picture[0].permute(1, 2, 0) * 255).round().byte().numpy())
    return torch.from_numpy(found.copy()).permute(2, 0, 1)[None].float() / 255


def edges(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] white edges of a picture [H, W, 3] (Canny)."""
    found = canny(picture.astype(np.float64).mean(2) / 255)
    return np.repeat(found[..., None] * np.uint8(255), 3, axis=2)


def canny(
    grey: Floats, sigma: float = 1.0, low: float = 0.1, high: float = 0.2
) -> NDArray[np.bool_]:
    """[H, W] edges of a picture [H, W] in [0, 1] (Canny 1986, A Computational Approach).

    Pixel for pixel scikit-image's (0.26, mode "nearest"), but where two equal ridges touch.
    sigma: pixels of the blur. An edge is a ridge of the gradient (of Sobel, 4 for a step from
    black to white) that is above `low` and connected to a place above `high`.
    """
    smooth = ndimage.gaussian_filter(grey, sigma, mode="nearest")
    gy, gx = ndimage.sobel(smooth, 0, mode="nearest"), ndimage.sobel(smooth, 1, mode="nearest")
    size = np.hypot(gy, gx)
    # the neighbours across the edge, between two pixels of the ring around each
    reach = np.maximum(np.abs(gy), np.abs(gx))
    reach[reach == 0] = 1
    step, at = np.stack([gy, gx]) / reach, np.indices(grey.shape)
    ridge = size > 0
    for side in (step, -step):
        ridge &= size >= ndimage.map_coordinates(size, at + side, order=1, mode="nearest") - 1e-12
    ridge[[0, -1]] = False
    ridge[:, [0, -1]] = False
    weak = ridge & (size >= low)
    groups, _ = ndimage.label(weak, np.ones((3, 3)))
    strong = np.unique(groups[weak & (size >= high)])
    found: NDArray[np.bool_] = weak & np.isin(groups, strong)
    return found


def depth(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] bright where near, by MiDaS (Intel/dpt-hybrid-midas)."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    processor, net = _models(DEPTH_MODEL, "depth", AutoImageProcessor, AutoModelForDepthEstimation,
                             f"depth{MAP}:FILE")  # fmt: skip
    with torch.no_grad():
        found = net(**processor(Image.fromarray(picture), return_tensors="pt")).predicted_depth
    found = torch.nn.functional.interpolate(found[None], picture.shape[:2], mode="bicubic")[0, 0]
    scaled = (found - found.min()) / (found.max() - found.min()).clamp_min(1e-6) * 255
    return np.repeat(scaled.byte().numpy()[..., None], 3, axis=2)


def pose(picture: NDArray[np.uint8], instead: str = f"pose{MAP}:FILE") -> NDArray[np.uint8]:
    """[H, W, 3] the skeleton of the person that fills the picture, by ViTPose.

    instead: what InputError says may be given where there is no such model.
    """
    from transformers import AutoProcessor, VitPoseForPoseEstimation

    processor, net = _models(POSE_MODEL, "pose", AutoProcessor, VitPoseForPoseEstimation, instead)
    height, width = picture.shape[:2]
    boxes = [[[0.0, 0.0, float(width), float(height)]]]
    with torch.no_grad():
        out = net(**processor(Image.fromarray(picture), boxes=boxes, return_tensors="pt"))
    person = processor.post_process_pose_estimation(out, boxes=boxes)[0][0]
    places = torch.cat([person["keypoints"], person["scores"][:, None]], 1).numpy()
    return draw_pose(places, height, width)


def draw_pose(places: Floats, height: int, width: int) -> NDArray[np.uint8]:
    """[H, W, 3] limbs and joints of a person: places [17, 3] in COCO's order, x, y, how sure.

    As OpenPose's joints are.
    """
    neck = places[SHOULDERS, :].mean(0)
    neck[2] = places[SHOULDERS, 2].min()
    joints = [neck if joint == SHOULDERS else places[joint] for joint in JOINTS]
    return draw_joints(np.stack(joints), height, width)


def draw_joints(joints: Floats, height: int, width: int) -> NDArray[np.uint8]:
    """[H, W, 3] OpenPose's 18 joints [18, 3], x, y, how sure, and the limbs between them.

    Drawn as the published pose nets were taught (the annotator of ControlNet 1.1): in OpenPose's
    colours, ellipses of 4 pixels at 512.
    """
    canvas = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(canvas)
    thick = max(1.0, 4 * min(height, width) / 512)
    for (one, two), colour in zip(LIMBS, PALETTE):
        if min(joints[one][2], joints[two][2]) > SURE:
            dim = tuple(int(0.6 * part) for part in colour)
            pen.polygon(_ellipse(joints[one][:2], joints[two][:2], thick), fill=dim)
    for (x, y, sure), colour in zip(joints, PALETTE):
        if sure > SURE:
            pen.ellipse((x - thick, y - thick, x + thick, y + thick), fill=colour)
    return np.asarray(canvas, dtype=np.uint8)


def _ellipse(one: Floats, two: Floats, thick: float) -> list[tuple[float, float]]:
    """Points around a limb from one joint to the other."""
    angle = np.linspace(0, 2 * np.pi, 60)[:, None]
    along, middle = (two - one) / 2, (one + two) / 2
    across = np.array([-along[1], along[0]]) * thick / max(float(np.hypot(*along)), 1e-9)
    return [(x, y) for x, y in middle + np.cos(angle) * along + np.sin(angle) * across]


DETECTORS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "edges": edges, "depth": depth, "pose": pose,
    "openpose": pose,  # as Uni-ControlNet's file calls it
}  # fmt: skip


def find_labels(picture: NDArray[np.uint8], instead: str) -> NDArray[np.uint8]:
    """[H, W] ATR's labels of a person's body and clothes, by a SegFormer.

    InputError as of `pose`.
    """
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    processor, net = _models(LABEL_MODEL, "clothes", AutoImageProcessor,
                             AutoModelForSemanticSegmentation, instead)  # fmt: skip
    with torch.no_grad():
        seen = net(**processor(Image.fromarray(picture), return_tensors="pt")).logits
    whole = torch.nn.functional.interpolate(seen, picture.shape[:2], mode="bilinear")
    return whole[0].argmax(0).byte().numpy()


def _models(name: str, kind: str, processor: Any, model: Any, instead: str) -> tuple[Any, Any]:
    """A model of the hub with its processor. InputError says what else would do."""
    try:
        return (processor.from_pretrained(name),
                model.from_pretrained(name, use_safetensors=True).eval())  # fmt: skip
    except Exception as error:  # not there, no network, no torchvision: the hub has many
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"finding {kind} in a picture needs the model {name}, which cannot be "
                         f"loaded ({reason}); give the map itself: {instead}"
                         ) from error  # fmt: skip
