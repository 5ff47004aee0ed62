"""KOSMOS-G: its published formulas and names, what it reads, and its three stages of training."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from guidance.prompts import Prompts
from tests.systems import asked, prepared, sampled, telling
from tests.test_systems_ip_adapter import bar, noisy
from tests.test_systems_ms_diffusion import examples_folder
from tests.tiny import LENGTH, WIDTH, eye_folder, tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.learned.names import spoken
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.adapters import Lora
from threed.diffusion.parts.aligner import (
    Aligner,
    Rebuilding,
    Sizes,
    alignment_loss,
    read_aligner,
)
from threed.diffusion.parts.image_encoder import OFFICIAL, ImageEncoder
from threed.diffusion.parts.reader import (
    Connector,
    Reader,
    interleaved,
    load_reader,
    new_reader,
    save_reader,
)
from threed.diffusion.reading import Vocabulary
from threed.learning.data import write_examples
from threed.runs.steer import Steered
from threed.runs.train import train
from threed.settings.run import SystemSettings
from threed.systems.inputs import View
from threed.systems.reference import kosmos_school, shown
from threed.systems.reference.interleaved import read
from threed.systems.reference.kosmos_g import SYSTEM, Knobs, build
from threed.systems.reference.kosmos_school import Options, School, with_names
from threed.systems.system import Lesson

CPU = torch.device("cpu")
PROMPT = "<1> to the left of <2>"
STATES, SLOTS, PATCH = 64, 3, 16
SIZES = Sizes(STATES, WIDTH, LENGTH, 2, 256)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny") / "m")
    eye_folder(folder / "clip")
    loaded = load_backbone(str(folder), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


def stirred(net: Any) -> Any:
    """The net with something in its zeros and ones, too."""
    generator = torch.Generator().manual_seed(1)
    for value in net.parameters():
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    return net.eval().requires_grad_(False)


def reader_of(backbone: StableDiffusion, sizes: Sizes = SIZES) -> Reader:
    torch.manual_seed(0)
    reader: Reader = stirred(new_reader(backbone, PATCH, sizes, SLOTS, 2))
    return reader


def patches(count: int = 2, seed: int = 2) -> Tensor:
    return torch.randn(count, 5, PATCH, generator=torch.Generator().manual_seed(seed))


def expected_layer(part: Any, x: Tensor, context: Tensor | None) -> Tensor:
    """Magneto's layer, with torch's own attention before the inner norm."""

    def attend(way: Any, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = way.q_proj(x), way.k_proj(seen), way.v_proj(seen)
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)  # one head of 32
        out: Tensor = way.out_proj(way.inner_attn_ln(weights @ v))
        return out

    own = part.self_attn_layer_norm(x)
    x = x + attend(part.self_attn, own, own)
    if context is not None:
        x = x + attend(part.encoder_attn, part.encoder_attn_layer_norm(x), context)
    wide = F.gelu(part.ffn.fc1(part.final_layer_norm(x)))
    out: Tensor = x + part.ffn.fc2(part.ffn.ffn_layernorm(wide))
    return out


def test_the_aligner_is_the_published_one() -> None:
    aligner, back = stirred(Aligner(SIZES)), stirred(Rebuilding(SIZES))
    states = torch.randn(2, 7, STATES)
    x = aligner.encoder_proj.embed_tokens(states) + aligner.encoder_proj.embed_positions(
        torch.arange(2, 9)
    )
    for layer in aligner.encoder_proj.layers:
        x = expected_layer(layer, x, None)
    seen, y = aligner.encoder_proj.layer_norm(x), aligner.encoder_query.expand(2, -1, -1)
    for layer in aligner.encoder.layers:
        y = expected_layer(layer, y, seen)
    y = aligner.encoder.layer_norm(y)
    tokens = aligner(states, torch.ones(2, 7, dtype=torch.bool))
    torch.testing.assert_close(tokens, y, atol=1e-5, rtol=1e-4)
    z = back.decoder_query[:7].expand(2, -1, -1)
    for layer in back.decoder.layers:
        z = expected_layer(layer, z, y)
    z = back.decoder.layer_norm(z) + back.decoder_proj.embed_positions(torch.arange(2, 9))
    for layer in back.decoder_proj.layers:
        z = expected_layer(layer, z, None)
    z = back.decoder_proj.output_projection(back.decoder_proj.layer_norm(z))
    torch.testing.assert_close(back(tokens, 7), z, atol=1e-5, rtol=1e-4)
    text, all_there = torch.randn_like(tokens), torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(
        alignment_loss(tokens, text, z, states, all_there),
        F.mse_loss(tokens, text) + F.mse_loss(z, states) * (LENGTH / 7),
    )


def test_padding_changes_nothing() -> None:
    aligner, states = stirred(Aligner(SIZES)), torch.randn(2, 9, STATES)
    there = torch.arange(9) < torch.tensor([[9], [4]])
    tokens = aligner(states, there)
    other = torch.where(there[..., None], states, 1e3)
    assert torch.equal(aligner(other, there), tokens)
    alone = aligner(states[1:, :4], there[1:, :4])
    torch.testing.assert_close(tokens[1:], alone, atol=1e-5, rtol=1e-5)
    # nor is what it holds rebuilt
    ones = torch.ones_like(tokens)
    losses = [alignment_loss(tokens, ones, seen, other, there) for seen in (states, other)]
    assert torch.equal(*losses)


def test_the_connector_is_the_published_one() -> None:
    connector = stirred(Connector(PATCH, STATES, SLOTS))
    theirs = nn.MultiheadAttention(STATES, 1, batch_first=True)
    look = connector.x_attn
    names = ("q_proj", "k_proj", "v_proj")
    theirs.in_proj_weight.data = torch.cat([look[name].weight for name in names])
    theirs.in_proj_bias.data = torch.cat([look[name].bias for name in names])
    theirs.out_proj.load_state_dict(look["out_proj"].state_dict())
    query = connector.latent_query.expand(2, -1, -1)
    seen = torch.cat([connector.dense(patches()), query], 1)
    torch.testing.assert_close(connector(patches()), theirs(query, seen, seen)[0], atol=1e-5,
                               rtol=1e-4)  # fmt: skip


def published(aligner: Aligner) -> dict[str, Any]:
    """A checkpoint as fairseq writes it, with what else is in one."""
    state = {f"aligner.{name}": value for name, value in aligner.state_dict().items()}
    others = {"gpt_model.decoder.embed_tokens.weight": torch.ones(3, 2),
              "aligner.decoder.layer_norm.bias": torch.ones(2),
              "aligner.decoder_query": torch.ones(3, 2)}  # fmt: skip
    return {"model": {**state, **others}, "cfg": Path("x"), "extra_state": None}


def test_the_published_aligners_names_load(tmp_path: Path) -> None:
    aligner = stirred(Aligner(SIZES))
    torch.save(published(aligner), tmp_path / "checkpoint_final.pt")
    loaded = read_aligner(tmp_path / "checkpoint_final.pt")
    assert loaded.sizes == SIZES
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in aligner.state_dict().items())
    pairs = [f"{part}.{kind}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")
             for kind in ("weight", "bias")]  # fmt: skip
    norms, both = ("self_attn_layer_norm", "final_layer_norm"), ("weight", "bias")
    layer = {f"self_attn.{pair}" for pair in pairs}
    layer |= {f"{name}.{kind}" for kind in both
              for name in (*norms, "self_attn.inner_attn_ln", "ffn.fc1", "ffn.ffn_layernorm",
                           "ffn.fc2")}  # fmt: skip
    looking = layer | {f"encoder_attn.{pair}" for pair in pairs}
    looking |= {f"encoder_attn_layer_norm.{kind}" for kind in both}
    names = {"encoder_query", "encoder_proj.embed_tokens.weight", "encoder_proj.embed_tokens.bias",
             "encoder_proj.embed_positions.weight"}  # fmt: skip
    for part, inside in (("encoder_proj", layer), ("encoder", looking)):
        names |= {f"{part}.layers.{i}.{name}" for i in range(2) for name in inside}
        names |= {f"{part}.layer_norm.{kind}" for kind in both}
    assert set(state) == names
    for lost, message in (
        ("encoder_query", "holds no aligner of KOSMOS-G: .*aligner.encoder_quer"),
        ("encoder.layers.1.ffn.fc1.bias", "does not fit: encoder.layers.1.ffn"),
    ):
        saved = published(aligner)
        del saved["model"][f"aligner.{lost}"]
        torch.save(saved, tmp_path / "lost.pt")
        with pytest.raises(InputError, match=message):
            read_aligner(tmp_path / "lost.pt")
    torch.save(Path("x"), tmp_path / "lost.pt")  # a pickle
    with pytest.raises(InputError, match="holds no aligner of KOSMOS-G"):
        read_aligner(tmp_path / "lost.pt")


def test_text_and_pictures_are_read_in_their_order(backbone: StableDiffusion) -> None:
    reader = reader_of(backbone)
    tokenizer, (before, after) = backbone.tokenizers[0], reader.marks
    known = interleaved(backbone, ["a <2>, b <1>", ""], reader, ended=True)
    first, second, third = (tokenizer(text, add_special_tokens=False).input_ids
                            for text in ("a", ", b", ""))  # fmt: skip
    picture = [before] * (1 + SLOTS) + [after]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    whole = [start, *first, *picture, *second, *picture, *third, end]
    assert known.ids[0].tolist() == whole
    assert known.ids[1, :2].tolist() == [start, end]
    assert known.there.sum(1).tolist() == [len(whole), 2]
    assert known.pictures == ((1, 0), ())
    where = known.slots[0].nonzero().flatten().tolist()
    assert where == [*range(3, 3 + SLOTS), *range(7 + SLOTS, 7 + 2 * SLOTS)]
    assert not known.slots[1].any()


def test_states_know_what_came_before_and_no_more(backbone: StableDiffusion) -> None:
    reader = reader_of(backbone)
    known = interleaved(backbone, ["a <1> b <2>"], reader)
    states = reader.states(known, patches())
    other = reader.states(known, torch.cat([patches()[:1], patches(1, seed=7)]))
    begins = int(known.slots[0].nonzero()[SLOTS])
    assert torch.equal(states[:, :begins], other[:, :begins])
    assert float((states[:, begins:] - other[:, begins:]).abs().amax(-1).min()) > 1e-3


def test_what_comes_next_is_learned_but_not_of_pictures(backbone: StableDiffusion) -> None:
    reader = reader_of(backbone)
    known = interleaved(backbone, ["a <1> b", "c"], reader, ended=True)
    logits = reader.language_model.lm_head(reader.states(known, patches(1)))
    lost = []
    for row, length in enumerate(known.there.sum(1).tolist()):
        for i in range(length - 1):
            following = int(known.ids[row, i + 1])
            into_text = not known.slots[row, i + 1] and int(known.ids[row, i]) != reader.marks[0]
            if into_text:
                lost.append(-logits[row, i].log_softmax(-1)[following])
    assert len(lost) == 4 + 2  # a, mark; b, end; c, end
    torch.testing.assert_close(reader.language_loss(known, patches(1)), torch.stack(lost).mean())


def test_with_words_alone_it_is_bitwise_the_text_encoders(backbone: StableDiffusion) -> None:
    reader = reader_of(backbone)
    x, t = noisy(2)
    ours = build(backbone, "a <1> red mug", reader, [patches()], knobs=Knobs(words=1))
    assert torch.equal(ours(x, t), sampled(backbone, "a red mug", scale=7.5)(x, t))
    half = build(backbone, "a <1> red mug", reader, [patches()], guide=Guide(1.0),
                 knobs=Knobs(words=0.5))  # fmt: skip
    tokens = read(backbone, reader, ["a <1> red mug"], [patches()])
    words = backbone.encode_text(["a red mug"])
    condition = replace(words, tokens=(tokens + words.tokens) / 2)
    torch.testing.assert_close(
        half(x, t),
        backbone.predict_noise(x, t, condition.select(torch.tensor([0, 0]))),
        atol=1e-5,
        rtol=1e-4,
    )


def test_prompts_with_pictures_each_are_made_one_by_one(backbone: StableDiffusion) -> None:
    prompts, reader = ["a <2>", PROMPT, "no picture"], reader_of(backbone)
    seen = [patches(2), patches(2, seed=5), patches(0)]
    x, t = noisy(3)
    together = build(backbone, prompts, reader, seen)(x, t)
    for i, text in enumerate(prompts):
        alone = build(backbone, text, reader, [seen[i]])(x[i : i + 1], t[:1])
        torch.testing.assert_close(alone, together[i : i + 1], atol=2e-5, rtol=1e-4)


def test_order_and_pictures_count(backbone: StableDiffusion) -> None:
    reader = reader_of(backbone)
    left, right = (read(backbone, reader, [text], [patches()])
                   for text in (PROMPT, "<2> to the left of <1>"))  # fmt: skip
    swapped = read(backbone, reader, [PROMPT], [patches().flip(0)])
    torch.testing.assert_close(right, swapped)
    assert float((left - right).abs().max()) > 1e-3


def test_gradients_reach_the_pictures(backbone: StableDiffusion) -> None:
    pictures = torch.rand(2, 3, 16, 16).requires_grad_()
    seen = ImageEncoder(backbone.folder / "clip", CPU).last(pictures)
    x, t = noisy()
    noise = build(backbone, PROMPT, reader_of(backbone), [seen])(x, t)
    (gradient,) = torch.autograd.grad(noise.square().sum(), pictures)
    assert float(gradient.flatten(1).abs().amax(1).min()) > 0


def test_pictures_are_seen_by_the_last_layer(backbone: StableDiffusion) -> None:
    encoder, picture = ImageEncoder(backbone.folder / "clip", CPU), torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(OFFICIAL[name])[:, None, None] for name in OFFICIAL)
    out = encoder.model(pixel_values=(picture - mean) / std, output_hidden_states=True)
    normed = encoder.model.vision_model.post_layernorm(out.hidden_states[-1])
    torch.testing.assert_close(encoder.last(picture), normed / normed.norm(dim=-1, keepdim=True))


@torch.no_grad()
def test_a_lora_that_was_learned_counts_beside(tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_folder(tmp_path / "m")), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    for value in Lora(backbone.unet, "toy", rank=2, seed=0).parameters.values():
        value += 0.2 * torch.randn_like(value)
    learned = copy.copy(backbone)
    learned.adapters = {"toy": 0.7}
    x, t = noisy()
    without, both = (build(model, PROMPT, reader_of(backbone), [patches()])(x, t)
                     for model in (backbone, learned))  # fmt: skip
    assert float((both - without).abs().max()) > 1e-3


def test_readers_are_written_and_read(backbone: StableDiffusion, tmp_path: Path) -> None:
    reader = reader_of(backbone)
    save_reader(reader, tmp_path)
    again = load_reader(backbone, tmp_path)
    state = again.state_dict()
    assert state.keys() == reader.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in reader.state_dict().items())
    about = json.loads((tmp_path / "config.json").read_text())
    for changes, message in (
        ({"tokens": 77}, "another backbone .* it gives 77 tokens of 32 numbers, not 32 of 32"),
        ({"states": 128}, "has states of 64 numbers and .* words, and 128 and"),
        ({"layers": 1}, "does not fit: aligner.encoder"),
        ({"slots": "x"}, "does not say what the reader is made for"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(about | changes))
        with pytest.raises(InputError, match=message):
            load_reader(backbone, tmp_path)
    (tmp_path / "w").mkdir()
    torch.save(published(reader.aligner), tmp_path / "w" / "checkpoint_final.pt")
    with pytest.raises(InputError, match=r"holds no reader.safetensors, .* by aligner=FILE"):
        load_reader(backbone, tmp_path / "w")


def test_it_is_built_from_what_a_user_says(backbone: StableDiffusion, tmp_path: Path) -> None:
    reader, encoder = reader_of(backbone), ImageEncoder(backbone.folder / "clip", CPU, own=True)
    save_reader(reader, tmp_path / "w")
    one, two = (bar(tmp_path / f"{i}.png", 4 * i, 16) for i in range(2))
    said = asked(PROMPT, 32, Guide(3.0, "grey"), weights=tmp_path / "w", image=(one, two))
    x, t = noisy()
    seen = encoder.last(torch.cat([shown.read_shown(path, 16) for path in (one, two)]))
    expected = build(backbone, PROMPT, reader, [seen], guide=Guide(3.0, "grey"))
    torch.testing.assert_close(prepared(SYSTEM, backbone, said).score(x, t), expected(x, t))
    flat, vast = tmp_path / "flat.png", tmp_path / "vast.png"
    Image.new("RGB", (16, 16), (90, 20, 20)).save(flat)
    Image.new("1", (12_000, 12_000)).save(vast)
    xl = load_backbone(str(tiny_folder(tmp_path / "xl", "sdxl")), device="cpu")
    for request, message in (
        (replace(said, prompt="<1> on <3>"), "says <3>, and there are 2 pictures, each by an --im"),
        (replace(said, prompt="a <1>"), "does not say <2>, where the picture .*1.png belongs"),
        (replace(said, prompt="<1> <2> " * 30), "too long: with 3 for each picture it has 301 tok"),
        (telling(said, image=(one, flat)), "flat.png shows nothing: its middle is all of one col"),
        (telling(said, image=(one, vast)), "vast.png has too many pixels: as many as 8192 × 8192"),
        (telling(said, weights=None), "'kosmos_g' needs --weights: .* threed train kosmos_g"),
        (telling(said, encoder=backbone.folder / "vae"), "model_type must be one of clip, "),
    ):
        with pytest.raises(InputError, match=message):
            prepared(SYSTEM, backbone, request)
    with pytest.raises(InputError, match="needs a backbone with one text encoder, such as sd15"):
        prepared(SYSTEM, xl, said)
    toy = backbone.with_words({"<toy>": (torch.randn(1, WIDTH),)})
    with pytest.raises(InputError, match="reads no learned words, and the prompt says <toy>"):
        prepared(SYSTEM, toy, replace(said, prompt="<toy> <1> <2>"))


def test_a_backbone_of_few_words_reads_the_marks(backbone: StableDiffusion) -> None:
    few = copy.copy(backbone)
    few.vocabulary = Vocabulary(frozenset(("a", "on", "mug")), ("mug",))
    request = SYSTEM.request("<1> on a <2>", {"image": ("m.png", "n.png")})
    assert SYSTEM.equipped(few, request).reads("a <1> on a shiny <2>") == "a <1> on a <2>"
    assert "<1>" not in few.reads("a <1> on a mug")
    assert spoken("<1> on a <2>", SYSTEM.own_words(request)) == "toy on a toy"
    assert SYSTEM.equipped(backbone, request) is backbone
    seen = SYSTEM.of_view(request, View("back", ", back view"))
    assert seen is not None
    assert (seen.prompt, seen.inputs) == ("<1> on a <2>, back view", request.inputs)


def test_in_3d_pictures_count_from_every_side(backbone: StableDiffusion, tmp_path: Path) -> None:
    save_reader(reader_of(backbone), tmp_path / "w")
    images = tuple(str(bar(tmp_path / f"{i}.png", 4 * i, 16)) for i in range(2))
    said = SystemSettings(name="kosmos_g",
                          inputs={"image": images, "weights": (str(tmp_path / "w"),)})  # fmt: skip
    views = Steered(backbone, PROMPT, said, scale=5.0)
    plain_views, cameras = Prompts(backbone, PROMPT), orbit(4, 32)
    x, t = noisy(4)
    change = views.score(cameras, 5.0)(x, t) - plain_views.score(cameras, 5.0)(x, t)
    assert float(change.flatten(1).norm(dim=1).min()) > 0.1


def test_what_a_backbone_never_was_shown_is_not_read(backbone: StableDiffusion) -> None:
    few, reader = copy.copy(backbone), reader_of(backbone)
    few.vocabulary = Vocabulary(frozenset(("a", "on", "mug")), ("mug",))
    known = interleaved(few, ["a <1> on a shiny mug"], reader)
    assert torch.equal(known.ids, interleaved(backbone, ["a <1> on a mug"], reader).ids)


def test_names_come_before_their_pictures() -> None:
    text = with_names("<2> to the right of <1>", "0,0,0.5,1:mug; 0.5,0,1,1:hat")
    assert text == "hat <2> to the right of mug <1>"


def state_of(backbone: StableDiffusion, folder: Path) -> dict[str, Tensor]:
    return load_reader(backbone, folder).state_dict()


def test_three_stages_are_one_training(
    backbone: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trains its own part, goes on where it was cut, and what is done stays as it is."""
    monkeypatch.setattr(kosmos_school, "SHOWN_EXAMPLES", 1)
    data = examples_folder(tmp_path / "data")
    torch.save(published(stirred(Aligner(replace(SIZES, layers=1)))), tmp_path / "aligner.pt")
    told: dict[str, Any] = {
        "backbone": str(backbone.folder), "device": "cpu", "batch": 3, "accumulate": 1, "lr": 1e-2,
        "slots": SLOTS, "width": STATES, "layers": 2, "aligner": str(tmp_path / "aligner.pt"),
    }  # fmt: skip
    once = train("kosmos_g", data, tmp_path / "once", steps=2, **told)
    cut = tmp_path / "cut"
    train("kosmos_g", data, cut, steps=2, minutes=1e-6, **told)
    assert (cut / "language" / "checkpoint.pt").exists()
    assert not (cut / "alignment").exists()
    train("kosmos_g", data, cut, steps=2, resume=True, **told)
    whole, again = (state_of(backbone, folder) for folder in (once, cut))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    spoken, aligned = (state_of(backbone, once / stage) for stage in ("language", "alignment"))
    given = read_aligner(tmp_path / "aligner.pt").state_dict()
    for name, value in whole.items():
        part = name.partition(".")[0]
        begin = given.get(name.removeprefix("aligner."))
        assert (begin is not None) == (part == "aligner")
        assert begin is None or torch.equal(spoken[name], begin)
        assert torch.equal(spoken[name], aligned[name]) == (part != "aligner")
        assert not torch.equal(value, aligned[name])
    train("kosmos_g", data, cut, steps=3, resume=True, **told)
    steps = {stage: json.loads((cut / stage / "settings.json").read_text())["steps"]
             for stage in ("language", "alignment", ".")}  # fmt: skip
    assert steps == {"language": 1, "alignment": 10, ".": 3}  # shares of 2, and all of 3
    with pytest.raises(InputError, match="holds a training already"):
        train("kosmos_g", data, cut, steps=2, **told)
    with pytest.raises(InputError, match="holds no training to resume"):
        train("kosmos_g", data, tmp_path / "none", steps=2, resume=True, **told)
    # from what was learned before, it goes on through the UNet alone
    further = train("kosmos_g", data, tmp_path / "further", steps=1, weights=str(once), **told)
    assert not (further / "language").exists()
    with pytest.raises(InputError, match="reads states of 64 numbers: train with width=64"):
        train("kosmos_g", data, tmp_path / "wide", steps=1, **told | {"width": 128})


def test_words_alone_are_learned_of_captions_where_there_are_some(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    row = {"text": "a bar", "image": "0.png", "subject1": "0.png", "subjects": "0,0,1,1:bar",
           "pointed": "<1>"}  # fmt: skip
    folder = examples_folder(tmp_path / "data")
    said = {}
    for name, captions in (("own", {}), ("more", {"captions": "a red mug\na hat"})):
        write_examples(folder, [row | captions])
        lesson = Lesson(shown.read_pointed(folder, 32, Options()), {},
                        Options(slots=SLOTS, width=STATES, layers=2))  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        said[name] = set(School(backbone, lesson).captions(20, generator))
    assert said == {"own": {"a bar"}, "more": {"a red mug", "a hat"}}


def test_examples_point_at_their_own_subjects(tmp_path: Path) -> None:
    folder = examples_folder(tmp_path / "data")
    row = {"text": "a bar", "image": "0.png", "subject1": "0.png", "subjects": "0,0,1,1:bar"}
    write_examples(folder, [{**row, "pointed": "<2>"}])
    with pytest.raises(InputError, match="'<2>' points at more than the 1 subjects of"):
        shown.read_pointed(folder, 32, Options())
