"""What reads text and pictures interleaved (KOSMOS-G, arXiv:2310.02992), and gives text's tokens.

A decoder of transformers reads the text encoder's own words, and for each picture a mark, so many
slots, and another mark. What an image encoder sees fills the slots.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.files import read_json
from threed.diffusion.learned.equip import marked
from threed.diffusion.models.convert import read_safetensors
from threed.diffusion.models.latent import load_net
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.aligner import FIRST, Aligner, Sizes
from threed.diffusion.parts.attention import plain
from threed.diffusion.reading import POINTER
from threed.diffusion.weights import filled

FILE, LANGUAGE, CONFIG = "reader.safetensors", "language_model", "config.json"
HEAD = 64  # channels of a head of the language model, and of the connector


class Connector(nn.Module):
    """Queries that look at a picture's patches, and at each other: what fills its slots.

    Its tensors have the published names, under "img_connector.".
    """

    def __init__(self, inputs: int, width: int, slots: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.latent_query = nn.Parameter(torch.randn(slots, width))
        names = ("k_proj", "v_proj", "q_proj", "out_proj")
        self.x_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.attend = plain(max(width // HEAD, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """[N, S, inputs] -> [N, slots, width]."""
        query = self.latent_query.expand(len(patches), -1, -1)
        seen, look = torch.cat([self.dense(patches), query], 1), self.x_attn
        found = self.attend(look["q_proj"](query), look["k_proj"](seen), look["v_proj"](seen))
        out: Tensor = look["out_proj"](found)
        return out


@dataclass(frozen=True, eq=False)
class Interleaved:
    """Texts with pictures in them, as the language model reads them."""

    ids: Tensor  # [B, S] int64
    there: Tensor  # [B, S] bool: no padding
    slots: Tensor  # [B, S] bool: what a picture fills
    pictures: tuple[tuple[int, ...], ...]  # of each text, which picture comes when, from 0


class Reader(nn.Module):
    """A language model that sees, and an aligner."""

    def __init__(self, language_model: Any, img_connector: Connector, aligner: Aligner) -> None:
        super().__init__()
        self.language_model, self.img_connector = language_model, img_connector
        self.aligner = aligner

    @property
    def slots(self) -> int:
        """Of a picture."""
        return len(self.img_connector.latent_query)

    def states(self, read: Interleaved, seen: Tensor | None) -> Tensor:
        """[B, S, D] the language model's last states; seen [N, P, C] of the pictures in order."""
        words = self.language_model.get_input_embeddings()(read.ids)
        if seen is not None and len(seen):
            words = words.clone()
            filling = self.img_connector(seen.to(words))
            words[read.slots] = filling.flatten(0, 1).to(words)
        out = self.language_model.model(inputs_embeds=words, attention_mask=read.there.long(),
                                        use_cache=False)  # fmt: skip
        states: Tensor = out.last_hidden_state
        return states

    def forward(self, read: Interleaved, seen: Tensor | None) -> Tensor:
        """[B, L, C] what stands in the text encoder's place."""
        tokens: Tensor = self.aligner(self.states(read, seen), read.there)
        return tokens

    def language_loss(self, read: Interleaved, seen: Tensor | None) -> Tensor:
        """[] the mean cross-entropy of what comes next, where a word or a picture's mark does."""
        logits = self.language_model.lm_head(self.states(read, seen))
        counts = read.there[:, 1:] & ~read.slots[:, 1:] & (read.ids[:, :-1] != self.marks[0])
        return F.cross_entropy(logits[:, :-1][counts].float(), read.ids[:, 1:][counts])

    @property
    def marks(self) -> tuple[int, int]:
        """What stands before a picture and behind it: the last two words of the model."""
        words = int(self.language_model.config.vocab_size)
        return words - 2, words - 1


def interleaved(
    base: StableDiffusion, prompts: Sequence[str], reader: Reader, *, ended: bool = False
) -> Interleaved:
    """Read prompts in which <1>, <2> stand for pictures; "" is the start alone.

    ended: with the end of the text behind each. InputError for a prompt that is too long.
    """
    tokenizer, (before, after) = base.tokenizers[0], reader.marks
    said = {found[0] for prompt in prompts for found in POINTER.finditer(prompt)}
    prompts = [*map(marked(base, sorted(said)).reads, prompts)]
    rows: list[list[int]] = []
    for prompt in prompts:
        row = [int(tokenizer.bos_token_id)]
        for number, piece in enumerate(POINTER.split(prompt)):
            if number % 2:  # a picture
                row += [before] * (1 + reader.slots) + [after]
            elif piece.strip():
                row += tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
        rows.append([*row, int(tokenizer.eos_token_id)] if ended else row)
    longest = max(map(len, rows))
    most = min(reader.aligner.sizes.positions - FIRST,
               int(reader.language_model.config.max_position_embeddings))  # fmt: skip
    if longest > most:
        raise InputError(f"the prompt is too long: with {reader.slots} for each picture it has "
                         f"{longest} tokens, and {most} are read")  # fmt: skip
    padding = int(tokenizer.pad_token_id)
    ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows])
    there = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    first = ids == before
    slots = first & first.roll(1, 1)  # all but the first of each run
    device = base.device
    return Interleaved(ids.to(device), there.to(device), slots.to(device),
                       tuple(tuple(pointed(prompt)) for prompt in prompts))  # fmt: skip


def pointed(prompt: str) -> list[int]:
    """Which pictures a prompt points at, in their order, from 0."""
    return [int(number) - 1 for number in POINTER.findall(prompt)]


def new_reader(base: StableDiffusion, inputs: int, sizes: Sizes, slots: int, layers: int) -> Reader:
    """Make an untrained reader of what an image encoder says in `inputs` numbers a patch."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = base.tokenizers[0]
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 2,
        hidden_size=sizes.states,
        intermediate_size=4 * sizes.states,
        num_hidden_layers=layers,
        num_attention_heads=max(sizes.states // HEAD, 1),
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=True,
    )
    connector = Connector(inputs, sizes.states, slots)
    return Reader(LlamaForCausalLM(config), connector, Aligner(sizes)).float()


def save_reader(net: nn.Module, out: Path) -> None:
    """Write a reader: its language model in transformers' layout, the rest by published names."""
    reader: Any = net
    reader.language_model.save_pretrained(out / LANGUAGE)
    state = {name: value.contiguous() for name, value in net.state_dict().items()
             if not name.startswith(LANGUAGE)}  # fmt: skip
    save_file(state, out / FILE, {"format": "pt"})
    about = asdict(reader.aligner.sizes) | {
        "inputs": reader.img_connector.dense.in_features, "slots": reader.slots
    }  # fmt: skip
    (out / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_reader(base: StableDiffusion, place: Path) -> Reader:
    """Load a reader from a training's folder. InputError if it is none, or of another backbone."""
    from transformers import LlamaForCausalLM

    if not (place / FILE).is_file():
        raise InputError(f"{place} holds no {FILE}, which threed train kosmos_g writes. Of the "
                         "published checkpoint_final.pt the aligner is read, and no more: give it "
                         "to a training by aligner=FILE")  # fmt: skip
    about = read_json(place / CONFIG)
    try:
        inputs, slots = int(about.pop("inputs")), int(about.pop("slots"))
        sizes = Sizes(**about)
        connector = Connector(inputs, sizes.states, slots)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place / CONFIG} does not say what the reader is made for") from error
    check_sizes(base, sizes, str(place))
    language = load_net(LlamaForCausalLM, place / LANGUAGE, device=base.device, dtype=torch.float32)
    found = language.config.hidden_size, language.config.vocab_size
    needed = sizes.states, len(base.tokenizers[0]) + 2
    if found != needed:
        raise InputError(f"{place / LANGUAGE} has states of {found[0]} numbers and {found[1]} "
                         f"words, and {needed[0]} and {needed[1]} are needed")  # fmt: skip
    aligner = Aligner(sizes)
    rest = nn.ModuleDict({"img_connector": connector, "aligner": aligner})
    filled(rest, read_safetensors(place / FILE), str(place / FILE))
    reader = Reader(language, connector, aligner)
    return reader.to(base.device).eval().requires_grad_(False)


def check_sizes(base: StableDiffusion, sizes: Sizes, source: str) -> None:
    """InputError unless what an aligner gives can stand in the place of a backbone's text."""
    width = int(base.unet.config.cross_attention_dim)
    length = int(base.tokenizers[0].model_max_length)
    if (sizes.width, sizes.tokens) != (width, length):
        raise InputError(f"{source} was made for another backbone than {base.name!r}: it gives "
                         f"{sizes.tokens} tokens of {sizes.width} numbers, not {length} of {width}"
                         )  # fmt: skip
