"""How KOSMOS-G (arXiv:2310.02992) is taught: what its three stages share, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.diffusion.reading import POINTER
from threed.systems.reference.interleaved import NAME, gathered, read
from threed.systems.reference.shown import Seeing, placed, subject_pictures

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.parts.image_encoder import ImageEncoder
    from threed.diffusion.parts.reader import Reader
    from threed.systems.system import Lesson

CAPTIONS = "captions"  # of an example: further texts without pictures, a line each
UNTOLD = 0.1  # so often nothing is said
NAMED = 0.5  # so often a picture comes behind the name of what it shows, else in its place
SHOWN_EXAMPLES = 6  # of a sheet


class Options(Seeing):
    """What is taught; the published sizes are slots=64 width=2048 layers=24."""

    slots: int = Field(16, ge=1, le=257, description="what the language model sees of a picture")
    width: int = Field(128, ge=64, le=8192, description="numbers of its states")
    layers: int = Field(4, ge=2, le=96, description="of it; the aligner's stacks have half of them")
    aligner: str | None = Field(
        None, description="the published checkpoint_final.pt, whose aligner it begins with"
    )


class School:
    """What the three stages share: the nets, the examples, and what is seen of their pictures."""

    def __init__(self, backbone: Backbone, lesson: Lesson) -> None:
        from torch import nn

        from threed.diffusion.models.stable_diffusion import require_one_text
        from threed.diffusion.parts.aligner import Rebuilding
        from threed.learning.data import Latents
        from threed.systems.reference.ip_adapter import find_encoder

        self.base, self.examples = require_one_text(backbone, NAME), lesson.examples
        self.lesson = lesson
        self.encoder = find_encoder(self.base, lesson.options.encoder, None, NAME)
        self.reader = new_reader_of(self.base, lesson.options, self.encoder)
        self.rebuilding = Rebuilding(self.reader.aligner.sizes)
        reader = self.reader
        self.speaking = nn.ModuleList([reader.language_model, reader.img_connector])
        self.aligning = nn.ModuleList([reader.aligner, self.rebuilding])
        self.latents = Latents(self.base, self.examples, "image")

    def save(self, net: nn.Module, out: Path) -> None:
        """Write the reader as it is by now."""
        from threed.diffusion.parts.reader import save_reader

        save_reader(self.reader, out)

    def prompts(self, indices: Sequence[int], generator: torch.Generator) -> list[str]:
        """Interleaved prompts, half of them with the names of what the pictures show."""
        from threed.learning.losses import chosen

        texts = self.examples.texts("pointed", indices)
        named = chosen(len(texts), NAMED, generator).tolist()
        subjects = self.examples.texts("subjects", indices)
        return [with_names(text, names) if name else text
                for text, names, name in zip(texts, subjects, named)]  # fmt: skip

    def seen(self, indices: Sequence[int]) -> Tensor:
        """[B, N, S, C] patches of the subjects of examples."""
        import torch

        with torch.no_grad():
            pictures = subject_pictures(self.examples, indices)
            patches = self.encoder.last(pictures.flatten(0, 1))
        each: Tensor = patches.unflatten(0, pictures.shape[:2])
        return each

    def language_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] read on: the next word of interleaved captions."""
        from threed.diffusion.parts.reader import interleaved

        indices = self.examples.draw(n, generator)
        prompts = self.prompts(indices, generator)
        known = interleaved(self.base, prompts, self.reader, ended=True)
        seen = gathered(known, self.seen(indices).unbind())
        return self.reader.language_loss(known, seen)

    def captions(self, n: int, generator: torch.Generator) -> list[str]:
        """Texts without pictures: the examples' own captions, or those that come with them."""
        import torch

        rows = [self.examples.rows[i] for i in self.examples.draw(n, generator)]
        each = [row.get(CAPTIONS, row["text"]).splitlines() or [""] for row in rows]
        places = torch.rand(n, generator=generator).tolist()
        return [texts[int(place * len(texts))] for texts, place in zip(each, places)]

    def alignment_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] be where the text encoder is, of captions alone, and lose nothing on the way."""
        import torch

        from threed.diffusion.parts.aligner import alignment_loss
        from threed.diffusion.parts.reader import interleaved

        texts = self.captions(n, generator)
        known = interleaved(self.base, texts, self.reader)
        with torch.no_grad():
            states = self.reader.states(known, None)
        aligned = self.reader.aligner(states, known.there)
        rebuilt = self.rebuilding(aligned, states.shape[1])
        text = self.base.encode_text(texts).tokens
        return alignment_loss(aligned, text, rebuilt, states, known.there)

    def loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] through the UNet: what interleaved prompts say is what the picture shows.

        And words alone stay where the text encoder has them.
        """
        from torch.nn import functional as F

        from threed.learning.losses import chosen, denoising_loss

        indices = self.examples.draw(n, generator)
        untold = chosen(n, UNTOLD, generator).tolist()
        prompts = self.prompts(indices, generator)
        texts = ["" if none else text for text, none in zip(prompts, untold)]
        tokens = read(self.base, self.reader, texts, self.seen(indices).unbind())
        condition = replace(self.base.encode_text([""] * n), tokens=tokens)
        error = denoising_loss(self.base, self.latents(indices), condition, generator,
                               debias=self.lesson.debias)  # fmt: skip
        words = self.captions(n, generator)
        said = self.base.encode_text(words).tokens
        return error + F.mse_loss(read(self.base, self.reader, words, ()).float(), said.float())

    def sheet(self, net: nn.Module) -> Tensor:
        """[3, H, W] the first examples, and what is made of their prompts."""
        import torch

        from threed.diffusion.images import grid
        from threed.diffusion.paint import Ready, paint
        from threed.diffusion.score import guided

        few = list(range(min(SHOWN_EXAMPLES, len(self.examples))))
        texts = self.examples.texts("pointed", few)
        said, nothing = (
            replace(self.base.encode_text([""] * len(few)), tokens=tokens)
            for tokens in (read(self.base, self.reader, texts, self.seen(few).unbind()),
                           read(self.base, self.reader, [""] * len(few), ()))
        )  # fmt: skip
        score = guided(self.base, said, nothing, Guide().scale)
        made = paint(self.base, Ready(score), n=len(few), steps=15, size=self.examples.size)
        real = self.examples.pictures("image", few).to(self.base.device)
        return grid(torch.cat([real, made]), columns=len(few))


def with_names(text: str, subjects: str) -> str:
    """The prompt with the name of each subject before its picture: "a mug <1> and a hat <2>"."""
    names = [phrase for phrase, _ in placed(subjects)]
    return POINTER.sub(lambda found: f"{names[int(found[1]) - 1]} {found[0]}", text)


def new_reader_of(base: StableDiffusion, options: Options, encoder: ImageEncoder) -> Reader:
    """Make an untrained reader, with the aligner of a published checkpoint if one is given."""
    from threed.diffusion.parts.aligner import Sizes, read_aligner
    from threed.diffusion.parts.reader import check_sizes, new_reader

    width = int(base.unet.config.cross_attention_dim)
    length, layers = int(base.tokenizers[0].model_max_length), options.layers
    aligner = None if options.aligner is None else read_aligner(Path(options.aligner))
    sizes = Sizes(options.width, width, length, layers // 2, 1024)
    if aligner is not None:
        check_sizes(base, aligner.sizes, str(options.aligner))
        if aligner.sizes.states != options.width:
            raise InputError(f"{options.aligner} reads states of {aligner.sizes.states} numbers: "
                             f"train with width={aligner.sizes.states}")  # fmt: skip
        sizes = aligner.sizes
    inputs = encoder.width(pooled=False)
    reader = new_reader(base, inputs, sizes, options.slots, layers)
    if aligner is not None:
        reader.aligner.load_state_dict(aligner.state_dict())
    return reader.to(base.device)
