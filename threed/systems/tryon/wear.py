"""What virtual try-on is told: a person, a garment, and where the one comes on the other."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threed.core.errors import InputError
from threed.core.pictures import Size, fit, is_clear, middle, open_picture, sides, to_rgb
from threed.systems.inputs import MASK, PICTURE, POSE, PROMPT, SHOWN, TEXT, Input

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from threed.diffusion.models.latent import LatentModel
    from threed.diffusion.parts.clip import Clip
    from threed.systems.system import Request

    Labels = NDArray[np.integer[Any]]
    Bits = NDArray[np.bool_]

WORDS = {  # which category a garment is of, by its name
    "upper": ("shirt", "sweater", "blouse", "top", "jacket", "hoodie", "coat", "cardigan", "tee"),
    "lower": ("trousers", "shorts", "skirt", "pants", "jeans", "leggings"),
    "dress": ("dress", "gown", "jumpsuit"),
}
SHOWN_AS = {  # what a CLIP may see in a picture
    "a person": ("a person", "a portrait of a person", "a person with short hair in a shirt"),
    "a garment": ("a shirt", "a sweater", "trousers", "shorts", "a skirt", "a dress"),
    "a thing": ("a mug", "a car", "a house", "a ball", "a tree", "a chair"),
}
NEEDED = {
    "garment": "a garment that is laid flat on white, worn by nobody,",
    "worn": "a garment as somebody wears it, without the rest,",
}
SLACK = 0.1  # of cosines; toy persons from near are 0.06 further from their words than from others
LEAST, MOST = 0.002, 0.98  # shares of a picture that a mask may cover
APART = 24  # levels of 256 from the ground, from which something stands before it
PERSON = Input("person", PICTURE, "a picture of the person", required=True)
GARMENT = Input("garment", SHOWN, "the garment, laid flat on white", required=True)
WHERE = (
    Input(
        "mask",
        MASK,
        "white where the garment is to be painted, as large as --person; "
        "made from --parse if not given",
    ),
    Input("category", TEXT, "what the garment is: upper, lower or dress; upper if not said"),
    Input(
        "garment_text",
        PROMPT,
        'what it is called, such as "a striped red sweater"; the prompt if not said',
    ),
    Input("pose", POSE, "the person's keypoints, drawn, as large as --person; found if not given"),
    Input("dense", POSE, "its dense pose (DensePose), as a picture as large as --person"),
    Input(
        "parse",
        POSE,
        "where its body and clothes are, in the colours of a parse map; found if it is needed",
    ),
)
INPUTS = (PERSON, GARMENT, *WHERE)


@dataclass(frozen=True)
class Wear:
    """A person, a garment, and where the one comes on the other; pictures in [0, 1]."""

    person: Tensor  # [1, 3, H, W]
    garment: Tensor  # [1, 3, H, W] whole, on white
    mask: Tensor  # [1, 1, H, W] 1 where it is painted, else 0
    category: str  # upper, lower or dress
    text: str  # what the garment is called
    pose: Tensor | None = None  # [1, 3, H, W] keypoints, drawn on black
    dense: Tensor | None = None  # [1, 3, H, W] dense pose, drawn on black
    parse: Tensor | None = None  # [1, 3, H, W] in the colours of bodies.REGIONS

    @property
    def agnostic(self) -> Tensor:
        """[1, 3, H, W] the person, grey where the garment is painted."""
        import torch

        from threed.diffusion.bodies import GREY

        return torch.where(self.mask > 0, GREY, self.person)

    def repainted(self, made: Tensor) -> Tensor:
        """[B, 3, H, W] what was made inside the mask; outside it the person's pixels, bitwise."""
        from threed.diffusion.parts.decoding import repaint

        return repaint(made, self.person.to(made), self.mask.to(made))


def check(request: Request) -> None:
    """InputError for a category that there is not, or that is not the garment's by its name."""
    category = request.one("category") or "upper"
    if category not in WORDS:
        raise InputError(f"--category must be one of {', '.join(WORDS)}, got {category!r}")
    given = request.one("garment_text")
    said = categories_named(given or request.prompt)
    if said and category not in said:
        text = f"the prompt {request.prompt!r}" if given is None else f"--garment_text {given!r}"
        raise InputError(f"{text} is of category {' or '.join(sorted(said))}, and does not fit "
                         f"--category {category}")  # fmt: skip


def categories_named(text: str) -> set[str]:
    """The categories of the garments that a text names."""
    return {name for name, words in WORDS.items() for word in (name, *words)
            if re.search(rf"\b{word}s?\b", text.lower())}  # fmt: skip


def category_named(text: str) -> str:
    """The category of the garment that a text names. InputError unless it names one."""
    found = categories_named(text)
    if len(found) != 1:
        known = "; ".join(f"{name}: {', '.join(words)}" for name, words in WORDS.items())
        raise InputError(f"{text!r} does not say where it is worn: name the garment, as in "
                         f"--garment shirt:FILE ({known})")  # fmt: skip
    return found.pop()


def worn(request: Request, base: LatentModel, needs: Sequence[str] = ()) -> Wear:
    """Read what a request says of a person and a garment, at the request's size.

    Person, mask and maps are cut to their middle alike. needs: which of pose, dense and parse must
    be there; pose and parse are found if they are not given. InputError for what does not fit
    together, and as from the checks below.
    """
    from threed.diffusion.bodies import to_colors
    from threed.diffusion.images import load_image

    check(request)
    size, path = request.size, request.one("person")
    picture = to_rgb(open_picture(path), str(path))
    person, garment = load_image(path, size), read_flat(request.one("garment"), size)
    given = {name: _same_size(request.one(name), name, picture)
             for name in ("mask", "pose", "dense", "parse") if request.one(name)}  # fmt: skip
    regions = None
    if "parse" in given or "parse" in needs or "mask" not in given:
        regions = _regions(given.get("parse"), picture, request)
    check_people(picture, str(path), regions)
    mask = _painted(request, given.get("mask"), regions)
    maps = _maps(given, picture, size, needs)
    if regions is not None:
        maps["parse"] = _tensor(to_colors(_shrunk(regions, size)))
    check_shown(base, person, garment)
    category = request.one("category") or "upper"
    return Wear(person, garment, mask, category, request.one("garment_text") or request.prompt,
                **maps)  # fmt: skip


def read_flat(path: Path, size: Size, said: str = "garment") -> Tensor:
    """[1, 3, H, W] in [0, 1] a garment that lies flat, whole, on white, in the middle.

    What is transparent lies on white, and a PictureWarning says so. said: by which of NEEDED.
    InputError for a picture that shows nothing, and for another ground than white: a dark one, or
    what stands behind somebody.
    """
    import numpy as np
    from PIL import ImageOps
    from PIL.Image import Resampling

    from threed.diffusion.images import PictureWarning

    opened = open_picture(path)
    picture = to_rgb(opened, str(path))
    if is_clear(opened):
        warnings.warn(f"{path} is transparent in parts, which lie on white", PictureWarning,
                      stacklevel=3)  # fmt: skip
    pixels = np.asarray(picture)
    if int(pixels.min()) > 255 - APART:
        raise InputError(f"--{said} {path} shows nothing: it is white")
    edge = _edge(pixels)
    if float((edge.min(-1) > 255 - APART).mean()) < 0.5:
        ground = "a dark ground" if float(edge.mean()) < 100 else "a ground that is not white"
        raise InputError(f"--{said} {path} lies on {ground}: {NEEDED[said]} is needed; cut it out, "
                         "and save it with transparency")  # fmt: skip
    return _tensor(ImageOps.pad(picture, sides(size), Resampling.LANCZOS, "white"))


def check_mask(mask: Bits, name: str, regions: Labels | None, category: str) -> None:
    """InputError for a mask [H, W] that is empty, full, or white where it should be black.

    regions: of the person, where they are known; else a mask that surrounds the picture is taken
    for one with black and white exchanged.
    """
    import numpy as np

    from threed.diffusion.bodies import PAINTED, is_of

    share = float(mask.mean())
    if not LEAST < share < MOST:
        raise InputError(f"{name} is {'empty' if share <= LEAST else 'full'}: {share:.1%} of it is "
                         "white, and white is where the garment is painted")  # fmt: skip
    border = float(_edge(mask).mean())
    clothes = is_of(regions, *PAINTED[category]) if regions is not None else np.zeros(0, bool)
    over = float(mask[clothes].mean()) if clothes.any() else None
    if (over is not None and over < 0.5 and border > 0.5) or (over is None and border > 0.75):
        seen = f"covers {over:.0%} of what is worn there" if over is not None else (
            f"surrounds the person: {border:.0%} of its border is white")  # fmt: skip
        raise InputError(f"{name} {seen}: black and white seem to be exchanged; white is where the "
                         "garment is painted")  # fmt: skip


def check_people(picture: Image, name: str, regions: Labels | None) -> None:
    """InputError unless a picture shows one person, as far as that is seen.

    By the person's regions where they are known, else by what stands before a ground of one colour.
    """
    import numpy as np
    from scipy import ndimage

    pixels = np.asarray(picture, np.int16)
    if regions is not None:
        stands = regions > 0
    else:
        edge = _edge(pixels)
        ground = np.median(edge, axis=0)
        if float((np.abs(edge - ground).max(-1) > APART).mean()) > 0.4:
            return  # no one colour
        stands = np.abs(pixels - ground).max(-1) > APART
    groups, count = ndimage.label(stands, np.ones((3, 3)))
    areas = np.bincount(groups.ravel(), minlength=2)[1:]
    least = max(0.4 * areas.max(), 0.01 * stands.size) if count else 0
    large = np.isin(groups, 1 + np.flatnonzero(areas > least))
    _, beside = ndimage.label(large.any(0))  # a white shirt may part head and legs
    if beside != 1:
        seen = f"{beside} persons" if beside else "nobody"
        raise InputError(f"--person {name} shows {seen}: a picture of one person is needed")


def check_shown(base: LatentModel, person: Tensor, garment: Tensor) -> None:
    """InputError if the CLIP beside a backbone sees no person, or somebody in the garment.

    Pictures are [1, 3, H, W] in [0, 1]. Of a backbone that has none nothing is asked.
    """
    if (clip := _clip_of(base)) is None:
        return
    seen = _sees(clip, person)
    if max(seen.values()) > seen["a person"] + SLACK:
        raise InputError(f"--person shows no person, but {max(seen, key=seen.__getitem__)}")
    check_flat(base, garment)


def check_flat(base: LatentModel, garment: Tensor) -> None:
    """InputError if the CLIP beside a backbone sees somebody in a garment [1, 3, H, W]."""
    if (clip := _clip_of(base)) is None:
        return
    laid = _sees(clip, garment)
    if laid["a person"] == max(laid.values()):
        raise InputError("--garment shows somebody who wears it: a garment that is laid flat on "
                         "white is needed (system bootcomp takes one cut out of a picture, too, by "
                         "--worn)")  # fmt: skip


def _clip_of(base: LatentModel) -> Clip | None:
    """The CLIP beside a backbone, if there is one that knows texts, too."""
    from threed.diffusion.files import read_json
    from threed.diffusion.parts.clip import Clip

    folder = base.folder / "clip"
    if not folder.is_dir() or "text_config" not in read_json(folder / "config.json"):
        return None
    return Clip(folder, base.device)


def _sees(clip: Clip, picture: Tensor) -> dict[str, float]:
    """How near a picture [1, 3, H, W] is to each of SHOWN_AS: cosines with its nearest text."""
    from torch.nn.functional import cosine_similarity

    vector = clip.images(picture)
    return {name: float(cosine_similarity(clip.texts(texts), vector).max())
            for name, texts in SHOWN_AS.items()}  # fmt: skip


def _painted(request: Request, given: Image | None, regions: Labels | None) -> Tensor:
    """[1, 1, H, W] the mask that is given, or made of a person's regions, at a request's size."""
    import torch

    from threed.diffusion.bodies import paint_mask

    category, path = request.one("category") or "upper", request.one("person")
    if given is not None:
        whole = _bits(given)
        check_mask(whole, f"--mask {request.one('mask')}", regions, category)
    else:
        assert regions is not None
        whole = paint_mask(regions, category)
        if not whole.any():
            raise InputError(f"{path} shows nothing where a garment of --category {category} goes")
    mask = torch.from_numpy(_shrunk(whole, request.size))[None, None].float()
    if not bool(mask.any()):
        raise InputError(f"{path}: what is to be painted lies outside of its middle, which is all "
                         "that is used: choose another --size, or cut it")  # fmt: skip
    return mask


def _maps(
    given: dict[str, Image], picture: Image, size: Size, needs: Sequence[str]
) -> dict[str, Tensor]:
    """The pose and the dense pose of a person that are given or, if they are needed, found."""
    maps: dict[str, Tensor] = {
        name: _tensor(fit(given[name], size)) for name in ("pose", "dense") if name in given
    }
    if "pose" in needs and "pose" not in maps:
        maps["pose"] = _tensor(fit(_posed(picture), size))
    if "dense" in needs and "dense" not in maps:
        raise InputError("--dense is needed, and nothing here finds a dense pose: give the picture "
                         "that DensePose draws of --person")  # fmt: skip
    return maps


def _regions(given: Image | None, picture: Image, request: Request) -> Labels:
    """[H, W] the regions of a person: of the map that is given, or found in its picture."""
    import numpy as np

    from threed.diffusion.bodies import ATR, from_colors, regions_of
    from threed.diffusion.detect import find_labels

    pixels = np.asarray(given or picture, np.uint8)
    if given is not None:
        return from_colors(pixels, f"--parse {request.one('parse')}")
    return regions_of(
        find_labels(pixels, "--mask FILE or --parse FILE"), ATR, str(request.one("person"))
    )


def _posed(picture: Image) -> Image:
    """The keypoints of a person, found and drawn."""
    import numpy as np
    from PIL import Image as Pillow

    from threed.diffusion.detect import pose

    return Pillow.fromarray(pose(np.asarray(picture, np.uint8), "--pose FILE"))


def _same_size(path: Path, name: str, person: Image) -> Image:
    """A picture that belongs to the person's. InputError if it is of another size."""
    picture = to_rgb(open_picture(path), str(path))
    if picture.size != person.size:
        (w, h), (width, height) = picture.size, person.size
        raise InputError(f"--{name} {path} is {w}×{h}, and --person is {width}×{height}: they must "
                         "be of one size")  # fmt: skip
    return picture


def _bits(picture: Image) -> Bits:
    import numpy as np

    return np.asarray(picture.convert("L")) >= 128


def _shrunk(values: NDArray[Any], size: Size) -> NDArray[Any]:
    """[H, W] the middle of a map [H, W] at a size; each value is one that was there."""
    import numpy as np
    from PIL import Image as Pillow
    from PIL.Image import Resampling

    picture = Pillow.fromarray(values.astype(np.uint8)).crop(middle(values.shape[::-1], size))
    return np.array(picture.resize(sides(size), Resampling.NEAREST))


def _edge(pixels: NDArray[Any]) -> NDArray[Any]:
    """[N, ...] the pixels along the border of a picture [H, W, ...]."""
    import numpy as np

    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _tensor(picture: Image | NDArray[np.uint8]) -> Tensor:
    """[1, 3, H, W] in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
