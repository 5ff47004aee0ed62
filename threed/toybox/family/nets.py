"""What the toybox family is made of: the tokenizer and the untrained networks, and their folder.

The folder is an ordinary Stable Diffusion folder of diffusers, with three more networks beside it:
unet_multiview, clip (both halves) and judge. Beside them lies toybox-hd (see `sharp`).
"""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from threed.core.errors import InputError
from threed.toybox.world.captions import kinds, vocabulary

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTokenizer

WEIGHTS = Path(__file__).parent.parent / "weights"
HD = WEIGHTS / "hd"  # the family of larger pictures
SIZE = 64  # pixels a side of a picture
LENGTH = 32  # tokens of a prompt


def new_tokenizer() -> CLIPTokenizer:
    """Make a CLIP tokenizer to which every caption word is one token; others become letters."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return _with_words({name: index for index, name in enumerate(names)}, [])


def tokenizer_of(weights: Path) -> CLIPTokenizer:
    """Load the tokenizer of a weights folder and add the words that it lacks, or make one.

    All of its own tokens keep their numbers, which the networks were trained with.
    """
    from transformers import CLIPTokenizer

    if not (weights / "tokenizer" / "vocab.json").exists():
        return new_tokenizer()
    backend = CLIPTokenizer.from_pretrained(weights / "tokenizer").backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    return _with_words(model["vocab"], [(first, second) for first, second in model["merges"]])


def _with_words(vocab: dict[str, int], merges: list[tuple[str, str]]) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    for word in vocabulary():
        _learn(word, vocab, merges)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def _learn(word: str, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Append the merges that make a word one token, by way of the merges that there are."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(merges)))
        if best not in ranks:
            best = pairs[0]
            merges.append(best)
            vocab.setdefault("".join(best), len(vocab))
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == best:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer in the old and the new layout, and what it was trained on.

    words.txt holds all words, kinds.txt those that name what a picture can show.
    """
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    pairs = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    for name, words in (("words", vocabulary()), ("kinds", kinds())):
        (folder / f"{name}.txt").write_text("\n".join([*words, ""]))


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make a small CLIP: three text layers, three image layers over 8-pixel patches."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig.from_pretrained(WEIGHTS / "clip")
    config.text_config.vocab_size = len(tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    return CLIPModel(config)


def new_vae() -> AutoencoderKL:
    """Make a VAE from 64×64 pictures to 4×16×16 latents and back, of 0.65 M parameters."""
    from diffusers import AutoencoderKL

    return _untrained(AutoencoderKL, "vae")


def new_unet(*, multiview: bool) -> UNet2DConditionModel:
    """Make a UNet of 6 M parameters; with `multiview` it takes cameras as class labels."""
    from diffusers import UNet2DConditionModel

    return _untrained(UNet2DConditionModel, "unet_multiview" if multiview else "unet")


def _untrained(kind: Any, part: str) -> Any:
    """Make a network of diffusers with fresh weights, as the config.json of the package's says."""
    return kind.from_config(kind.load_config(WEIGHTS / part))


def config_of(net: Any) -> dict[str, Any]:
    """Say what a network of diffusers is made of, without where it was loaded from."""
    return {name: value for name, value in net.config.items() if not name.startswith("_")}


def single_view(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Make a plain UNet that equals, to rounding, the multi-view one without a camera.

    What the camera's embedding adds for "no camera" (zeros) is a constant beside the time
    embedding, so it moves into that layer's bias.
    """
    without = {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    plain = type(unet).from_config(config_of(unet) | without)
    state = {k: v for k, v in unet.state_dict().items() if not k.startswith("class_embedding")}
    with torch.no_grad():
        constant = cast(nn.Module, unet.class_embedding)(torch.zeros(1, 16))[0]
    bias = "time_embedding.linear_2.bias"
    state[bias] = state[bias] + constant
    plain.load_state_dict(state)
    return plain


def save_part(model: Any, folder: Path) -> None:
    """Write one network as fp16 safetensors in the layout of its library."""
    half = copy.deepcopy(model).half().to(memory_format=torch.contiguous_format)
    half.save_pretrained(folder, safe_serialization=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if "dtype" in config:
        # what transformers computes in; diffusers takes float32 whatever the file has
        path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")


def save_index(folder: Path) -> None:
    """Write what makes a folder Stable Diffusion's: its index, and its schedule for DDIM."""
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        text = (WEIGHTS / name).read_text()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def knows_scenes(folder: Path) -> bool:
    """Tell whether the tokenizer of a weights folder has the words of scenes, too."""
    path = folder / "tokenizer" / "words.txt"
    return path.exists() and set(vocabulary()) <= set(path.read_text().split())


def grown(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Add the rows [tokens, C] of a model's newer tokens to a state that has fewer."""
    own, bigger = model.state_dict(), dict(state)
    for name, value in state.items():
        if name.endswith("token_embedding.weight") and len(value) < len(own[name]):
            bigger[name] = torch.cat([value, own[name][len(value) :]])
    return bigger


def need(folder: Path, part: str, why: str, *, hd: bool = False) -> Path:
    """Find the folder of a trained part; InputError says how to get one, or toybox-hd's with hd."""
    if not (folder / part / "config.json").exists():
        raise InputError(f"{why} needs the trained part {part!r}, but there is none in {folder}; "
                         f"run `threed toybox train {part}{' --hd' * hd}` first")  # fmt: skip
    return folder / part
