"""MS-Diffusion: its published formulas and files, subjects with boxes and without, training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from guidance.prompts import Prompts
from tests.systems import asked, prepared, sampled, telling
from tests.test_systems_ip_adapter import bar, noisy
from tests.tiny import LENGTH, WIDTH, eye_folder, tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import Layer, Site, plain
from threed.diffusion.parts.image_encoder import ImageEncoder
from threed.diffusion.parts.subjects import (
    FILE,
    Grounding,
    SubjectAdapter,
    Subjects,
    found,
    inside,
    load_subject_adapter,
    save_subject_adapter,
    waves,
)
from threed.learning.data import write_examples
from threed.learning.loop import train
from threed.learning.recipe import Recipe
from threed.runs.steer import Steered
from threed.settings.run import SystemSettings
from threed.systems.inputs import PICTURED, View
from threed.systems.reference import ms_diffusion, shown
from threed.systems.reference.ms_diffusion import SYSTEM, Knobs, Loaded, Told, build
from threed.systems.system import Lesson

CPU = torch.device("cpu")
PROMPT = "a red mug and a hat"
INNER, TOKENS = 64, 3
LEFT, RIGHT = (0.0, 0.25, 0.4, 0.75), (0.5, 0.0, 1.0, 0.9)
BOXED: list[ms_diffusion.Subject] = [("red mug", LEFT), ("a hat", RIGHT)]
UNBOXED: list[ms_diffusion.Subject] = [("red mug", None), ("a hat", None)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny") / "m")
    eye_folder(folder / "clip")
    loaded = load_backbone(str(folder), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


def adapter(backbone: StableDiffusion, width: int = WIDTH, phrase: int = WIDTH) -> SubjectAdapter:
    """One that says something, always the same."""
    torch.manual_seed(1)
    grounding = Grounding(16, width, phrase, inner=INNER, heads=1, depth=2, tokens=TOKENS)
    net = SubjectAdapter(backbone, grounding)
    for value in net.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return net.eval().requires_grad_(False)


def features(count: int = 2, rows: int = 1) -> Tensor:
    return torch.randn(rows, count, 5, 16, generator=torch.Generator().manual_seed(2))


def test_queries_are_the_published_ones(backbone: StableDiffusion) -> None:
    net = adapter(backbone).image_proj
    seen, phrases = features()[0], torch.randn(2, WIDTH)
    boxes = torch.tensor([LEFT, RIGHT])
    for box, numbers in zip(boxes.tolist(), waves(boxes).tolist()):
        expected = [way(torch.tensor(100 ** (k / 8) * side)) for k in range(8)
                    for way in (torch.sin, torch.cos) for side in box]  # fmt: skip
        assert numbers == pytest.approx(list(map(float, expected)), abs=1e-4)
    told = torch.tensor([True, False])
    begin = net.latent_norm(net.latent_proj(torch.cat([phrases, waves(boxes)], 1))
                            .view(2, TOKENS, INNER))  # fmt: skip
    begin[1] = net.grounding_latents[0]
    for look, widen in ((layer[0], layer[1]) for layer in net.layers):  # type: ignore[index]
        both = torch.cat([look.norm1(net.proj_in(seen)), look.norm2(begin)], 1)
        k, v = look.to_kv(both).chunk(2, -1)
        weights = (look.to_q(look.norm2(begin)) @ k.transpose(1, 2) / 8).softmax(-1)
        begin = begin + look.to_out(weights @ v)
        begin = begin + widen(begin)
    expected_tokens = net.norm_out(net.proj_out(net.attention_norm(begin)))
    torch.testing.assert_close(net(seen, phrases, boxes, told), expected_tokens, atol=1e-5,
                               rtol=1e-5)  # fmt: skip
    # what is not told makes no difference
    other = net(seen, 0 * phrases, 0 * boxes, told)
    assert torch.equal(other[1], net(seen, phrases, boxes, told)[1])


def site_of(backbone: StableDiffusion, net: SubjectAdapter, side: int = 8) -> Site:
    name = next(iter(net.places))
    width = backbone.unet.get_submodule(name).inner_dim
    hidden = torch.zeros(1, side * side, width)
    return Site(Layer(name, True, 2), side, side, hidden, lambda c: (c, c))


@pytest.mark.parametrize("strengths", [(), (1.0, 0.25), (0.0, 1.0)])
def test_each_place_looks_at_the_subjects_whose_boxes_it_is_in(
    backbone: StableDiffusion, strengths: tuple[float, ...]
) -> None:
    net = adapter(backbone)
    site = site_of(backbone, net)
    boxes = torch.tensor([[(0.0, 0.3, 0.55, 0.8), (0.4, 0.0, 1.0, 0.7)]])
    edit = Subjects(torch.randn(1, 2, TOKENS, WIDTH), boxes, net, 0.5, strengths)
    q, words = torch.randn(1, 64, site.hidden.shape[-1]), torch.randn(1, 4, 32)
    added = (edit(site, plain(2))(q, words, words) - plain(2)(q, words, words)) / 0.5
    maps: Any = net.ms_adapter[net.places[site.layer.name]]
    keys, values = maps(edit.tokens)
    keys = keys[0]  # [2, TOKENS, C]
    values = values[0] * torch.tensor(strengths or (1.0, 1.0))[:, None, None]
    seen = set()
    for place, row in enumerate(added[0]):
        y, x = divmod(place, 8)
        here = [i for i, (left, top, right, bottom) in enumerate(boxes[0].tolist())
                if int(left * 8) <= x < -(-right * 8 // 1) and
                int(top * 8) <= y < -(-bottom * 8 // 1)]  # fmt: skip
        seen.add(tuple(here))
        if here:
            k, v = keys[here].flatten(0, 1)[None], values[here].flatten(0, 1)[None]
            torch.testing.assert_close(row, plain(2)(q[:, place, None], k, v)[0, 0],
                                       atol=1e-5, rtol=1e-4)  # fmt: skip
        else:
            assert not row.any()
    assert seen == {(), (0,), (1,), (0, 1)}


def test_boxes_hold_the_places_that_they_touch_in_wide_pictures_too() -> None:
    boxes = torch.tensor([[(0.1, 0.0, 0.5, 0.26), (0.0, 0.0, 0.0, 0.0)]])
    one, none = inside(boxes, 4, 8)[0].unflatten(1, (4, 8))
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:2, :4] = True
    assert torch.equal(one, expected)
    assert not none.any()


def test_a_subject_without_a_box_is_where_the_text_looks_at_its_phrase() -> None:
    weights = torch.rand(2, 16, 6)
    spots = torch.zeros(2, 2, 5)
    spots[0, 0, 1:3], spots[1, 1, 4] = 0.5, 1
    places = found(weights, spots, 0.5)
    for row, subject, look in ((0, 0, weights[0, :, 1:3].mean(-1)), (1, 1, weights[1, :, 4])):
        assert torch.equal(places[row, subject], look > (look.min() + look.max()) / 2 + 5e-6)
    assert not places[0, 1].any()
    assert not places[1, 0].any()


@pytest.mark.parametrize("knobs", [Knobs(scale=0), Knobs(strengths="0,0")])
@pytest.mark.parametrize("subjects", [BOXED, UNBOXED])
def test_at_zero_it_is_bitwise_the_words_alone(
    backbone: StableDiffusion, knobs: Knobs, subjects: list[ms_diffusion.Subject]
) -> None:
    ours = build(backbone, PROMPT, Loaded(adapter(backbone)), Told(features(), [subjects]),
                 knobs=knobs)  # fmt: skip
    x, t = noisy(2)
    assert torch.equal(ours(x, t), sampled(backbone, PROMPT, scale=7.5)(x, t))


def test_without_boxes_words_come_first_and_subjects_then(backbone: StableDiffusion) -> None:
    loaded, told = Loaded(adapter(backbone)), Told(features(), [UNBOXED])
    first, always = (build(backbone, PROMPT, loaded, told, knobs=Knobs(words_first=share))
                     for share in (0.5, 0))  # fmt: skip
    x, _ = noisy()
    early, late = torch.tensor([700]), torch.tensor([300])
    words = sampled(backbone, PROMPT, scale=7.5)
    assert torch.equal(first(x, early), words(x, early))
    torch.testing.assert_close(first(x, late), always(x, late))
    for t in (early, late):
        assert float((always(x, t) - words(x, t)).abs().max()) > 1e-2
    # a threshold that nothing reaches leaves the words
    none = build(backbone, PROMPT, loaded, told, knobs=Knobs(words_first=0, threshold=1))
    torch.testing.assert_close(none(x, late), words(x, late))


def test_alike_phrases_have_a_mention_each(backbone: StableDiffusion) -> None:
    cats = "a cat on a cat"
    first, second, boxed = ms_diffusion._spots(
        backbone, cats, [("cat", None), ("cat", None), ("cat", LEFT)], LENGTH
    )
    assert (first > 0).nonzero().flatten().tolist() == [2, 3, 4]
    assert (second > 0).nonzero().flatten().tolist() == [8, 9, 10]
    assert float(first.sum()) == pytest.approx(1)
    assert not boxed.any()


def test_prompts_with_subjects_each_are_made_one_by_one(backbone: StableDiffusion) -> None:
    words = [PROMPT, "a hat, and a mug", "two"]
    loaded, seen = Loaded(adapter(backbone)), features(rows=3)
    rows = [UNBOXED, [("a mug", RIGHT), ("hat", None)], BOXED]
    x, t = noisy(3)
    knobs = Knobs(words_first=0, strengths="1,0.5")
    together = build(backbone, words, loaded, Told(seen, rows), knobs=knobs)(x, t)
    for i, text in enumerate(words):
        alone = build(backbone, text, loaded, Told(seen[i : i + 1], rows[i : i + 1]), knobs=knobs)
        torch.testing.assert_close(alone(x[i : i + 1], t[:1]), together[i : i + 1],
                                   atol=2e-5, rtol=1e-4)  # fmt: skip


def test_gradients_reach_the_pictures(backbone: StableDiffusion) -> None:
    pictures = torch.rand(2, 3, 16, 16).requires_grad_()
    seen = ImageEncoder(backbone.folder / "clip", CPU).see(pictures, pooled=False)[None]
    x, t = noisy()
    noise = build(backbone, PROMPT, Loaded(adapter(backbone)), Told(seen, [BOXED]))(x, t)
    (gradient,) = torch.autograd.grad(noise.square().sum(), pictures)
    assert float(gradient.flatten(1).abs().amax(1).min()) > 0


@pytest.mark.parametrize("form", ["published", "own"])
def test_published_files_load(backbone: StableDiffusion, tmp_path: Path, form: str) -> None:
    net = adapter(backbone)
    state = net.state_dict()
    path = tmp_path / "ms_adapter.bin"
    if form == "own":
        save_subject_adapter(net, tmp_path)
        path = tmp_path / FILE
    else:
        parts = ("image_proj", "ms_adapter")
        saved: dict[str, Any] = {part: {name.removeprefix(f"{part}."): value
                                        for name, value in state.items() if name.startswith(part)}
                                 for part in parts}  # fmt: skip
        torch.save({**saved, "dummy_image_tokens": torch.nn.Parameter(net.dummy_image_tokens)},
                   path)  # fmt: skip
    loaded = load_subject_adapter(backbone, path)
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    numbers = {name.split(".")[1] for name in state if name.startswith("ms_adapter")}
    assert numbers == {"1", "3", "5", "7"}  # as diffusers counts attentions: the middle comes last


def test_files_that_do_not_fit(backbone: StableDiffusion, tmp_path: Path) -> None:
    for number, (net, change, message) in enumerate((
        (adapter(backbone, 2 * WIDTH), "", "for another backbone than .*its tokens have 64 numb"),
        (adapter(backbone, phrase=48), "", "for another backbone .*its phrases have 48 numbers, n"),
        (adapter(backbone), "dummy", "holds no MS-Diffusion adapter: .* begins with dummy_image_t"),
        (adapter(backbone), "image_proj.latent_proj", "of an unknown kind: known is the one with"),
        (adapter(backbone), "ms_adapter.1.", r"does not fit: ms_adapter.1.to_\w_ip.weight is None"),
    )):  # fmt: skip
        path = tmp_path / f"{number}.bin"
        torch.save({name: value for name, value in net.state_dict().items()
                    if not change or not name.startswith(change)}, path)  # fmt: skip
        with pytest.raises(InputError, match=message):
            load_subject_adapter(backbone, path)
    torch.save({"image_proj": Path("x")}, tmp_path / "a.bin")
    with pytest.raises(InputError, match="holds no MS-Diffusion adapter"):
        load_subject_adapter(backbone, tmp_path / "a.bin")


def test_it_is_built_from_what_a_user_says(backbone: StableDiffusion, tmp_path: Path) -> None:
    net, encoder = adapter(backbone), ImageEncoder(backbone.folder / "clip", CPU, own=True)
    save_subject_adapter(net, tmp_path / "w")
    one, two = (bar(tmp_path / f"{i}.png", 4 * i, 16) for i in range(2))
    said = asked(PROMPT, 32, Guide(3.0), Knobs(strengths="1,0.5"), weights=tmp_path / "w",
                 image=(one, two), subject=("0,0.25,0.4,0.75:red mug", "a hat"))  # fmt: skip
    x, t = noisy()
    seen = torch.cat([encoder.see(shown.read_shown(path, 16), pooled=False) for path in (one, two)])
    told = Told(seen[None], [[("red mug", LEFT), ("a hat", None)]])
    expected = build(backbone, PROMPT, Loaded(net, encoder), told, guide=Guide(3.0),
                     knobs=Knobs(strengths="1,0.5"))  # fmt: skip
    torch.testing.assert_close(prepared(SYSTEM, backbone, said).score(x, t), expected(x, t))
    flat, vast = tmp_path / "flat.png", tmp_path / "vast.png"
    Image.new("RGB", (16, 16), (90, 20, 20)).save(flat)
    Image.new("1", (12_000, 12_000)).save(vast)
    boxes = {"-0.1,0,1,1:mug": "is not in the picture", "0.5,0,0.5,1:mug": "is not in the picture",
             "0,0,1:mug": "write left,top,right,bottom:prompt", "0,0,1,1:": "has no prompt",
             " ": "needs a phrase"}  # fmt: skip
    for changes, message in (
        *(({"subject": ("a hat", box)}, text) for box, text in boxes.items()),
        ({"subject": "a hat"}, "once for each --image, in their order: there are 1 for 2"),
        ({"image": None, "subject": None}, "needs --image, the picture of a subject"),
        ({"image": (one, flat)}, "flat.png shows nothing: its middle is all of one colour"),
        ({"image": (one, vast)}, "vast.png has too many pixels: as many as 8192 × 8192"),
        ({"subject": ("a hat", "a dog")}, "no word 'a dog' in the prompt 'a red mug and a hat'"),
        ({"weights": None}, "'ms_diffusion' needs --weights: .* threed train ms_diffusion"),
        ({"weights": tmp_path}, r"hold one file ms_adapter.*there are: none; name one"),
        ({"encoder": backbone.folder / "vae"}, "model_type must be one of clip, "),
    ):
        if "none; name" in message:
            (tmp_path / "w" / FILE).rename(tmp_path / "other.safetensors")
        with pytest.raises(InputError, match=message):
            prepared(SYSTEM, backbone, telling(said, **changes))
        if "none; name" in message:
            (tmp_path / "other.safetensors").rename(tmp_path / "w" / FILE)
    with pytest.raises(InputError, match="strengths=1 are 1, and there are 2 subjects"):
        prepared(SYSTEM, backbone, replace(said, knobs=Knobs(strengths="1")))
    for wrong in ("much", "1,-1", ""):
        with pytest.raises(ValueError, match="must be numbers of at least 0, such as"):
            Knobs(strengths=wrong)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("front", "0,0.25,0.4,0.75:a mug"),
        (PICTURED, "0,0.25,0.4,0.75:a mug"),
        ("back", "0.6,0.25,1,0.75:a mug"),
        ("side", "0,0.25,1,0.75:a mug"),
        ("overhead", "0,0,1,1:a mug"),
    ],
)
def test_boxes_are_seen_from_elsewhere(view: str, expected: str) -> None:
    told = SYSTEM.request("a mug", {"image": ("m.png", "n.png"),
                                    "subject": ("0,0.25,0.4,0.75:a mug", "a hat")})  # fmt: skip
    seen = SYSTEM.of_view(told, View(view, f", {view} view"))
    assert seen is not None
    assert seen.all("subject") == (expected, "a hat")
    assert (seen.all("image"), seen.prompt) == (told.all("image"), f"a mug, {view} view")
    assert not SYSTEM.is_pictured(told)
    assert SYSTEM.prompts(told) == {"--subject": "a mug", "--subject (2)": "a hat"}


def test_in_3d_subjects_count_from_every_side(backbone: StableDiffusion, tmp_path: Path) -> None:
    save_subject_adapter(adapter(backbone), tmp_path / "w")
    inputs = {"image": tuple(str(bar(tmp_path / f"{i}.png", 4 * i, 16)) for i in range(2)),
              "subject": ("0,0,0.5,1:mug", "hat"), "weights": (str(tmp_path / "w"),)}  # fmt: skip
    said = SystemSettings(name="ms_diffusion", inputs=inputs)
    views = Steered(backbone, PROMPT, said, scale=5.0)
    plain_views, cameras = Prompts(backbone, PROMPT), orbit(4, 32)
    x, _ = noisy(4)
    t = torch.full((4,), 400)
    change = views.score(cameras, 5.0)(x, t) - plain_views.score(cameras, 5.0)(x, t)
    assert float(change.flatten(1).norm(dim=1).min()) > 0.1


def examples_folder(place: Path) -> Path:
    """Five pictures of a bar, the last of two."""
    place.mkdir()
    rows = [{"text": "a bar", "subjects": "0,0,0.5,1:bar", "pointed": "<1>",
             "image": bar(place / f"{i}.png", 4 * i).name, "subject1": "0.png"}
            for i in range(5)]  # fmt: skip
    rows[-1] |= {"text": "a bar and a pole", "subjects": "0,0,0.5,1:bar; 0.5,0,1,1:pole",
                 "pointed": "<1> and <2>", "subject2": "1.png"}  # fmt: skip
    write_examples(place, rows)
    return place


def test_training_moves_the_adapter_alone_and_resumes(
    backbone: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ms_diffusion, "SHOWN_EXAMPLES", 1)
    options = shown.Seeing()
    examples = shown.read_subjects(examples_folder(tmp_path / "data"), 32, options)
    lesson = Lesson(examples, {"system": "ms"}, options)
    torch.manual_seed(0)
    shown_too = ms_diffusion.learn(backbone, lesson)
    task = replace(shown_too, sheet=None)
    net: Any = task.net
    begin = {name: value.clone() for name, value in net.state_dict().items()}
    frozen = {name: value.clone() for name, value in backbone.unet.state_dict().items()}

    def lost() -> float:
        with torch.no_grad():
            return float(task.loss(net, 32, torch.Generator().manual_seed(5)))

    first, out = lost(), tmp_path / "out"
    recipe = Recipe(steps=8, batch=6, lr=3e-3, warmup=1, ema=0.5)
    train(task, replace(recipe, steps=4), out, device=CPU)
    train(task, recipe, out, device=CPU, resume=True)
    assert lost() < 0.995 * first
    whole = {name: value.clone() for name, value in net.state_dict().items()}
    still = {name for name, value in whole.items() if torch.equal(value, begin[name])}
    assert still == {"dummy_image_tokens"}
    assert all(
        torch.equal(value, frozen[name]) for name, value in backbone.unet.state_dict().items()
    )
    saved = load_file(out / FILE)
    assert all(torch.equal(value, whole[name]) for name, value in saved.items())
    again = ms_diffusion.load_trained(backbone, out, options)
    assert all(torch.equal(value, whole[name]) for name, value in again.state_dict().items())
    net.load_state_dict(begin)  # in one go it would have been the same
    train(shown_too, recipe, tmp_path / "once", device=CPU)
    with Image.open(tmp_path / "once" / "sheet.png") as sheet:
        assert sheet.size == (32, 64)
    assert all(torch.equal(value, whole[name]) for name, value in net.state_dict().items())


def test_examples_need_boxes_and_pictures(tmp_path: Path) -> None:
    folder, options = examples_folder(tmp_path / "data"), shown.Seeing()
    row = {"text": "a bar", "image": "0.png", "subject1": "0.png"}
    for subjects, message in (
        ("0,0,1,1:a; 0,0,1,1:b", "each needs its picture, and there is no subject2"),
        ("a bar", "write left,top,right,bottom:prompt"),
        ("; ".join(["0,0,1,1:a"] * 5), "1 to 4, each needs its picture, and there is no subject2"),
    ):
        write_examples(folder, [{**row, "subjects": subjects}])
        with pytest.raises(InputError, match=message):
            shown.read_subjects(folder, 32, options)
