"""LoRAs in files: every layout to and fro, beside diffusers; what does not fit; merged, baked."""

from __future__ import annotations

import copy
import os
import pickle
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import Answer
from tests.tiny import Kind, tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.learned.layers import Layers, Layout, layers_in, layers_of, nets_of, stems
from threed.diffusion.learned.lora import (
    FILE,
    LoraWeights,
    lora_in,
    lora_of,
    put_in,
    read_lora,
    scaled,
    write_lora,
)
from threed.diffusion.learned.merge import bake, merged
from threed.diffusion.models.convert import diffusers_name, latent_diffusion_names
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.adapters import Pair, adapted

KINDS: tuple[Kind, ...] = ("sd15", "sdxl")
LAYOUTS: tuple[Layout, ...] = ("diffusers", "kohya", "comfyui")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("tiny")
    return {kind: tiny_folder(path / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def every(folders: dict[str, Path]) -> dict[str, Layers]:
    """The layers of each kind of model."""
    return {kind: layers_in(str(folder)) for kind, folder in folders.items()}


def load(folder: Path) -> StableDiffusion:
    backbone = load_backbone(str(folder), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    return backbone


def pipeline(folder: Path, kind: Kind) -> Any:
    kinds = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
    pipe = kinds[kind].from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


MIXED = ((1, 0.5), (2, 2.0), (4, 1.0))


def random_lora(
    layers: Layers, seed: int = 0, only: str = "", kinds: tuple[tuple[int, float], ...] = MIXED
) -> LoraWeights:
    """Pairs for the layers whose paths match, of these ranks and alphas in turn."""
    generator = torch.Generator().manual_seed(seed)
    nets: dict[str, dict[str, Pair]] = {}
    for net, shapes in layers.shapes.items():
        for i, (path, shape) in enumerate(shapes.items()):
            if re.search(only, path):
                rank, alpha = kinds[i % len(kinds)]
                down = torch.randn(rank, *shape[1:], generator=generator) / len(shape)
                up = torch.randn(shape[0], rank, *[1] * len(shape[2:]), generator=generator)
                nets.setdefault(net, {})[path] = Pair(down, 0.2 * up, alpha)
    return LoraWeights(layers, nets)


def same(a: LoraWeights, b: LoraWeights, *, alphas: bool = True) -> None:
    """Bitwise the same additions, and without `alphas` whatever the alphas are."""
    full = [{net: pairs for net, pairs in lora.nets.items() if pairs} for lora in (a, b)]
    assert {net: {*pairs} for net, pairs in full[0].items()} == {
        net: {*pairs} for net, pairs in full[1].items()
    }
    for net, pairs in full[0].items():
        for path, pair in pairs.items():
            other = full[1][net][path]
            assert torch.equal(pair.down, other.down), path
            assert torch.equal(scaled(pair, 1.0), scaled(other, 1.0)), path
            assert not alphas or pair.alpha == other.alpha, path


def noise(backbone: StableDiffusion, lora: LoraWeights | None = None) -> Tensor:
    """What a backbone predicts for a prompt, with a LoRA in force in all nets that it changes."""
    generator = torch.Generator().manual_seed(5)
    x, t = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([200, 700])
    put = put_in(lora, backbone, "toy") if lora else {}
    with torch.no_grad(), ExitStack() as stack:
        for net, module in nets_of(backbone).items():
            if net in put and net != "unet":
                stack.enter_context(adapted(module, {"toy": 1.0}))
        told = {"toy": 1.0} if "unet" in put else {}
        condition = replace(backbone.encode_text(["a red mug", "a hat"]), adapters=told)
        return backbone.predict_noise(x, t, condition)


def theirs(backbone: StableDiffusion, pipe: Any) -> StableDiffusion:
    """The backbone with the nets of a pipeline, and whatever is in force there."""
    other = copy.copy(backbone)
    other.unet = pipe.unet
    names = [name for name in nets_of(backbone) if name != "unet"]
    other.encoders = [getattr(pipe, name) for name in names]
    return other


# names


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_latent_diffusion_are_those_that_are_converted(
    folders: dict[str, Path], every: dict[str, Layers], kind: Kind
) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    backbone, layers = load(folders[kind]), every[kind]
    assert layers == layers_of(backbone), "of configs alone, and of a loaded model"
    names = [name.rpartition(".") for name in backbone.unet.state_dict()]
    older = latent_diffusion_names({path for path, _, _ in names}, layers.resnets)
    assert older.keys() == {path for path, _, _ in names} > layers.shapes["unet"].keys()
    checkpoint = {f"{older[path]}.{end}": f"{path}.{end}" for path, _, end in names}
    assert all(diffusers_name(old, layers.resnets) == new for old, new in checkpoint.items())
    prefixed = {f"model.diffusion_model.{old}": new for old, new in checkpoint.items()}
    converted = convert_ldm_unet_checkpoint(prefixed, dict(backbone.unet.config))
    assert converted == {new: new for new in checkpoint.values()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_as_it_was_written(
    every: dict[str, Layers], tmp_path: Path, kind: Kind, layout: Layout
) -> None:
    layers = every[kind]
    lora, path = random_lora(layers), tmp_path / FILE
    write_lora(lora, path, layout)
    same(lora_in(path, layers), lora, alphas=layout != "diffusers")
    same(lora_in(tmp_path, layers), lora_in(path, layers))
    again = tmp_path / "again.safetensors"
    write_lora(lora_in(path, layers), again, layout)
    assert again.read_bytes() == path.read_bytes()
    assert all(len(names) == len({*names}) for names in [list(stems(layers, layout).values())])


@pytest.mark.parametrize(("kind", "layout", "name"), [
    ("sd15", "diffusers", "unet.up_blocks.0.attentions.1.proj_in.lora_A.weight"),
    ("sd15", "diffusers", "text_encoder.text_model.encoder.layers.1.mlp.fc2.lora_B.weight"),
    ("sdxl", "diffusers", "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"),
    ("sd15", "kohya", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.alpha"),
    ("sd15", "kohya", "lora_te_text_model_encoder_layers_1_mlp_fc2.lora_up.weight"),
    ("sdxl", "kohya", "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.lora_up.weight"),
    ("sdxl", "kohya", "lora_te1_text_model_encoder_layers_0_self_attn_v_proj.lora_down.weight"),
    ("sdxl", "kohya", "lora_te2_text_model_encoder_layers_0_self_attn_v_proj.alpha"),
    ("sdxl", "comfyui", "diffusion_model.output_blocks.1.2.conv.lora_up.weight"),
    ("sd15", "comfyui", "diffusion_model.middle_block.2.in_layers.2.lora_down.weight"),
    ("sd15", "comfyui",
     "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_up.weight"),
    ("sdxl", "comfyui",
     "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.alpha"),
])  # fmt: skip
def test_names_are_as_published(
    every: dict[str, Layers], tmp_path: Path, kind: Kind, layout: Layout, name: str
) -> None:
    path = tmp_path / FILE
    write_lora(random_lora(every[kind]), path, layout)
    assert name in load_file(path)


ATTENTION = r"attn\d\.to_\w+(\.0)?$|_proj$"


def older(name: str) -> str:
    """What diffusers called a tensor when attention processors had the weights."""
    name = re.sub(r"\.(to_\w+?)(\.0)?\.lora_A", r".processor.\1_lora.down", name)
    name = re.sub(r"\.(to_\w+?)(\.0)?\.lora_B", r".processor.\1_lora.up", name)
    name = re.sub(r"\.(q|k|v|out)_proj\.lora_A", r".to_\1_lora.down", name)
    return re.sub(r"\.(q|k|v|out)_proj\.lora_B", r".to_\1_lora.up", name)


def old(name: str, linear: str) -> str:
    """What diffusers called a tensor between then and now."""
    middle = linear if name.startswith("text") else "lora"
    return name.replace("lora_A", f"{middle}.down").replace("lora_B", f"{middle}.up")


NAMES: dict[str, tuple[Layout, Callable[[str], str]]] = {
    "bare text": ("diffusers", lambda name: name.replace("text_model.", "")),
    "old": ("diffusers", lambda name: old(name, "lora_linear_layer")),
    "older": ("diffusers", older),
    "oldest": ("diffusers", lambda name: older(name).removeprefix("unet.")),
    "te1": ("kohya", lambda name: name.replace("lora_te_", "lora_te1_")),
    "comfyui peft": ("comfyui", lambda name: name.replace("lora_up", "lora_B").replace("lora_down",
                                                                                       "lora_A")),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", NAMES)
def test_names_that_files_had_are_read(
    every: dict[str, Layers], tmp_path: Path, kind: Kind, case: str
) -> None:
    layers = every[kind]
    lora, path = random_lora(layers, only=ATTENTION), tmp_path / FILE
    layout, renamed = NAMES[case]
    write_lora(lora, path, layout)
    expected = lora_in(path, layers)
    state = {renamed(name): value for name, value in load_file(path).items()}
    assert len(state) == len(load_file(path))
    assert case == "te1" or state.keys() != load_file(path).keys()
    save_file(state, path)
    same(lora_in(path, layers), expected)


def test_sdxl_of_kohyas_may_have_the_names_of_diffusers(
    every: dict[str, Layers], tmp_path: Path
) -> None:
    layers = every["sdxl"]
    lora, path = random_lora(layers, only="unet|blocks"), tmp_path / FILE
    write_lora(lora, path, "kohya")
    named = stems(layers, "kohya")
    back = {name: f"lora_unet_{layer.replace('.', '_')}" for (net, layer), name in named.items()
            if net == "unet"}  # fmt: skip
    state = {f"{back.get(stem, stem)}.{end}": value for name, value in load_file(path).items()
             for stem, _, end in [name.partition(".")]}  # fmt: skip
    assert not any("input_blocks" in name for name in state)
    save_file(state, path)
    same(lora_in(path, layers), lora)


def test_halves_and_convolutions_as_linear_maps_are_read(
    every: dict[str, Layers], tmp_path: Path
) -> None:
    layers = every["sd15"]
    lora, path = random_lora(layers, only="proj_(in|out)|to_k"), tmp_path / FILE
    write_lora(lora, path, "kohya")
    state = {name: value.half()[(...,) + (None,) * 2] if "to_k.lora" in name else
             value.half().flatten(1) if "proj_" in name and value.ndim == 4 else value
             for name, value in load_file(path).items()}  # fmt: skip
    save_file(state, path)
    read = lora_in(path, layers)
    for net, pairs in lora.nets.items():
        for layer, pair in pairs.items():
            assert torch.equal(read.nets[net][layer].down, pair.down.half().float())
            assert read.nets[net][layer].up.shape == pair.up.shape


# beside diffusers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_diffusers_predicts_the_same_with_a_file_of_ours(
    folders: dict[str, Path], tmp_path: Path, kind: Kind, layout: Layout
) -> None:
    backbone = load(folders[kind])
    plain = noise(backbone)
    only = r"attn|ff|proj_in|proj_out|conv[12]$|_proj$|fc"
    # of kohya's files, diffusers takes one alpha for all attentions
    kinds = MIXED if layout == "diffusers" else ((4, 1.0),)
    lora = random_lora(layers_of(backbone), only=only, kinds=kinds)
    write_lora(lora, tmp_path / FILE, layout)
    pipe = pipeline(folders[kind], kind)
    pipe.load_lora_weights(tmp_path, weight_name=FILE)
    expected = noise(theirs(backbone, pipe))
    torch.testing.assert_close(noise(backbone, lora), expected, atol=3e-6, rtol=1e-5)
    assert float((expected - plain).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_diffusers_predicts_the_same_here(
    folders: dict[str, Path], tmp_path: Path, kind: Kind
) -> None:
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict

    backbone, pipe = load(folders[kind]), pipeline(folders[kind], kind)
    given: dict[str, Any] = {}
    for net in nets_of(backbone):
        module = getattr(pipe, net)
        targets = ["to_q", "to_out.0", "conv1"] if net == "unet" else ["k_proj", "out_proj"]
        config = LoraConfig(r=4, lora_alpha=2 if net == "unet" else 8, target_modules=targets,
                            alpha_pattern={targets[1]: 5}, init_lora_weights=False)  # fmt: skip
        inject_adapter_in_model(config, module)
        given[f"{net}_lora_layers"] = get_peft_model_state_dict(module)
    metadata = _collate_lora_metadata({net: getattr(pipe, net) for net in nets_of(backbone)})
    pipe.save_lora_weights(tmp_path, **given, **metadata)
    lora = read_lora(tmp_path, backbone)
    alphas = {pair.alpha for pairs in lora.nets.values() for pair in pairs.values()}
    assert alphas == {2.0, 8.0, 5.0}
    expected = noise(theirs(backbone, pipe))
    torch.testing.assert_close(noise(backbone, lora), expected, atol=3e-6, rtol=1e-5)


# what does not fit


TO_K = "transformer_blocks_0_attn2_to_k"
DOWN = f"lora_unet_down_blocks_0_attentions_0_{TO_K}"
GOOD = "unet.mid_block.attentions.0.proj_in"
MISFITS: dict[str, tuple[Kind, dict[str, Tensor | tuple[int, ...]], str]] = {
    "of SDXL": ("sd15", {f"lora_unet_input_blocks_4_1_{TO_K}.lora_down.weight": (2, 2048),
                         f"lora_unet_input_blocks_4_1_{TO_K}.lora_up.weight": (640, 2)},
                r"is a LoRA of Stable Diffusion XL, and does not fit backbone '.*' "
                r"\(Stable Diffusion 1.5\)$"),
    "of SDXL's text": ("sd15", {"lora_te2_text_model_a.lora_down.weight": (2, 9)},
                       "is a LoRA of Stable Diffusion XL, and does not fit"),
    "of SD 1.5": ("sdxl", {f"{DOWN}.lora_down.weight": (1, 768),
                           f"{DOWN}.lora_up.weight": (320, 1)},
                  r"is a LoRA of Stable Diffusion 1.5, and does not fit backbone '.*' "
                  r"\(Stable Diffusion XL\)$"),
    "unknown": ("sd15", {"unet.no.lora_A.weight": (1, 8), "unet.no.lora_B.weight": (8, 1)},
                r"another model than backbone '.*' \(Stable Diffusion 1.5\): it changes unet.no, "
                "which is no layer there$"),
    "shape": ("sd15", {f"{GOOD}.lora_A.weight": (1, 33, 1, 1), f"{GOOD}.lora_B.weight": (32, 1)},
              r"proj_in is \[1, 33, 1, 1\] and \[32, 1\], where the layer's weight is "
              r"\[32, 32, 1, 1\]$"),
    "3 x 3": ("sd15", {f"{GOOD}.lora_A.weight": (1, 32, 3, 3), f"{GOOD}.lora_B.weight": (32, 1)},
              r"proj_in is \[1, 32, 3, 3\]"),
    "ranks": ("sd15", {f"{GOOD}.lora_A.weight": (1, 32), f"{GOOD}.lora_B.weight": (32, 2)},
              r"is damaged: the two factors of .* are \[1, 32\] and \[32, 2\], which have no rank"),
    "rank 0": ("sd15", {f"{GOOD}.lora_A.weight": (0, 32), f"{GOOD}.lora_B.weight": (32, 0)},
               "have no rank in common"),
    "half": ("sd15", {f"{GOOD}.lora_B.weight": (32, 2)}, r"are \[0\] and \[32, 2\]"),
    "numbers": ("sd15", {f"{GOOD}.lora_A.weight": torch.full((1, 32), torch.nan),
                         f"{GOOD}.lora_B.weight": (32, 1)}, "not all numbers of unet.* are finite"),
    "alpha": ("sd15", {f"{GOOD}.lora_A.weight": (1, 32), f"{GOOD}.lora_B.weight": (32, 1),
                       f"{GOOD}.alpha": (2,)}, "the alpha of unet.* is no number"),
    "twice": ("sd15", {f"{name}.{end}": torch.ones(shape)
                       for name in (GOOD, GOOD.removeprefix("unet."))
                       for end, shape in (("lora_A.weight", (1, 32)), ("lora_B.weight", (32, 1)))},
              "it changes mid_block.attentions.0.proj_in twice"),
    "LoHa": ("sd15", {"lora_unet_a.hada_w1_a": (2, 2)}, "is no LoRA but LoHa"),
    "LoKr": ("sd15", {"lora_unet_a.lokr_w1": (2, 2)}, "is no LoRA but LoKr"),
    "DoRA": ("sd15", {"lora_unet_a.dora_scale": (2, 2)}, "is no LoRA but DoRA"),
    "peft's DoRA": ("sd15", {"unet.a.lora_magnitude_vector": (2,)}, "is no LoRA but DoRA"),
    "a model": ("sd15", {"conv_in.weight": (2, 2)},
                "is no LoRA: conv_in.weight is not what a layer of one is called"),
    "nothing": ("sd15", {}, "is no LoRA: there is nothing in it"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named(every: dict[str, Layers], tmp_path: Path, case: str) -> None:
    kind, tensors, said = MISFITS[case]
    model = {"sd15": "Stable Diffusion 1.5", "sdxl": "Stable Diffusion XL"}[kind]
    layers = replace(every[kind], model=model)
    path = tmp_path / "a.safetensors"
    save_file({name: value if isinstance(value, Tensor) else torch.zeros(value)
               for name, value in tensors.items()}, path)  # fmt: skip
    with pytest.raises(InputError, match=said) as raised:
        lora_in(path, layers)
    assert str(raised.value).startswith(str(path))


HEADERS = ["{", "[1]", '"unet"', '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": 3}',
           '{"unet.alpha_pattern": {"proj_in": []}}', "[" * 9000, "3"]  # fmt: skip


def test_damaged_files_are_refused_and_nothing_is_executed(
    every: dict[str, Layers], tmp_path: Path
) -> None:
    layers = every["sd15"]
    path, ran = tmp_path / FILE, tmp_path / "ran"
    with pytest.raises(InputError, match=f"holds no {FILE}"):
        lora_in(tmp_path, layers)
    with pytest.raises(InputError, match="is missing"):
        lora_in(path, layers)
    write_lora(random_lora(layers, only="proj_in"), path)
    tensors, whole = load_file(path), path.read_bytes()
    for content in (whole[:-1], whole[:30], b"", b"a text\n" * 9, whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{FILE} is "):
            lora_in(path, layers)
    for header in HEADERS:
        save_file(tensors, path, {"lora_adapter_metadata": header})
        with pytest.raises(InputError, match="is damaged"):
            lora_in(path, layers)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(ran),)

    path.unlink()
    older = tmp_path / "pytorch_lora_weights.bin"
    torch.save(tensors, older)
    assert lora_in(tmp_path, layers).nets["unet"]
    for write in (torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))):
        write({**tensors, "trap": Trap()}, older)
        with pytest.raises(InputError, match="nothing in it was executed"):
            lora_in(tmp_path, layers)
    assert not ran.exists()


def test_only_safetensors_are_written(every: dict[str, Layers], tmp_path: Path) -> None:
    lora = random_lora(every["sd15"], only="proj_in")
    with pytest.raises(InputError, match=r"must end in one of \.safetensors"):
        write_lora(lora, tmp_path / "a.bin")


# merged, baked


def added(lora: LoraWeights) -> dict[tuple[str, str], Tensor]:
    """What is added to each weight, in float64."""
    return {(net, path): pair.alpha / pair.rank * pair.up.double().flatten(1)
            @ pair.down.double().flatten(1)
            for net, pairs in lora.nets.items() for path, pair in pairs.items()}  # fmt: skip


def test_merged_loras_add_what_each_adds(every: dict[str, Layers]) -> None:
    layers = every["sdxl"]
    given = [(random_lora(layers, seed, only), weight) for seed, only, weight in
             [(1, "attn", 1.0), (2, "attn1|conv", -0.3), (3, "to_q", 2.0)]]  # fmt: skip
    expected: dict[tuple[str, str], Tensor] = {}
    for lora, weight in given:
        for place, value in added(lora).items():
            expected[place] = expected.get(place, torch.zeros(())) + weight * value
    found = added(merged(given))
    assert found.keys() == expected.keys()
    for place, value in found.items():
        torch.testing.assert_close(value, expected[place], atol=1e-6, rtol=1e-6)
    same(merged(given[:1]), given[0][0])
    with pytest.raises(ValueError, match="different backbones"):
        merged([*given, (random_lora(replace(layers, name="other"), only="to_q"), 1.0)])


@pytest.mark.parametrize("kind", KINDS)
def test_baked_is_loaded(folders: dict[str, Path], kind: Kind) -> None:
    backbone, other = load(folders[kind]), load(folders[kind])
    lora = random_lora(layers_of(backbone), only="attn1|conv1|q_proj")
    loaded = noise(backbone, lora)
    same(lora_of(backbone, "toy"), lora)
    for net, module in nets_of(other).items():
        bake(module, lora.nets[net], 0.25)
    put_in(lora, other, "hanging")  # does not matter
    for net, module in nets_of(other).items():
        bake(module, lora.nets[net], 0.75)
    torch.testing.assert_close(noise(other), loaded, atol=5e-6, rtol=1e-5)
    assert not torch.allclose(loaded, noise(backbone), atol=1e-2)


def test_baking_keeps_the_precision_of_a_net() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(6, 4)).bfloat16()
    pair = Pair(torch.randn(2, 6), torch.randn(4, 2), 3.0)
    expected = net[0].weight.float() + 0.5 * 3.0 / 2 * pair.up @ pair.down
    bake(net, {"0": pair}, 0.5)
    assert torch.equal(net[0].weight, expected.bfloat16())


def test_the_command_merges_and_converts(
    folders: dict[str, Path],
    every: dict[str, Layers],
    tmp_path: Path,
    threed: Callable[..., Answer],
) -> None:
    layers = every["sdxl"]
    one, two = random_lora(layers, 1, "attn"), random_lora(layers, 2, "attn1")
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "two:2", "new")]
    write_lora(one, files[0], "kohya")
    write_lora(two, files[1], "comfyui")
    words = "weights", "lora", f"{files[0]}:-0.5", files[1], "--to", files[2]
    for layout in LAYOUTS:
        answer = threed(*words, "--layout", layout, "--backbone", folders["sdxl"])
        assert answer.out == f"{files[2]}\n"
        expected = merged([(one, -0.5), (two, 1.0)])
        same(lora_in(files[2], layers), expected, alphas=layout != "diffusers")
    answer = threed("weights", "lora", f"{files[0]}:nan", "--to", files[2])
    assert answer.status == 2
    assert "a finite weight must follow the colon" in answer.err
    answer = threed(*words, "--backbone", folders["sd15"])
    assert answer.status == 2
    assert "is a LoRA of Stable Diffusion XL, and does not fit backbone" in answer.err
