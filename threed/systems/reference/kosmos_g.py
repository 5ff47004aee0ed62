"""KOSMOS-G (arXiv:2310.02992): a prompt has pictures among its words, "<1> to the left of <2>".

A language model reads both, and an aligner brings its states to where the text encoder's would be.
So whatever else a condition is told (LoRAs, a ControlNet, 3D) goes on as if it were text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.diffusion.reading import POINTER
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, SHOWN, WEIGHTS, Input
from threed.systems.reference.shown import (
    Seeing,
    placed,
    read_pointed,
    read_shown,
    subject_pictures,
)
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.image_encoder import ImageEncoder
    from threed.diffusion.parts.reader import Interleaved, Reader
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "kosmos_g"
LANGUAGE, ALIGNMENT = STAGES = ("language", "alignment")  # before it learns through the UNet
SHARES = {LANGUAGE: 0.5, ALIGNMENT: 5.0}  # of the steps on toybox: they take less time there
CAPTIONS = "captions"  # of an example: further texts without pictures, a line each
UNTOLD = 0.1  # so often nothing is said
NAMED = 0.5  # so often a picture comes behind the name of what it shows, else in its place
SHOWN_EXAMPLES = 6  # of a sheet


class Knobs(Settings):
    """Whose reading of the words counts."""

    words: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the text encoder's own reading of the words, without the pictures",
    )


class Options(Seeing):
    """What is taught; the published sizes are slots=64 width=2048 layers=24."""

    slots: int = Field(16, ge=1, le=257, description="what the language model sees of a picture")
    width: int = Field(128, ge=64, le=8192, description="numbers of its states")
    layers: int = Field(4, ge=2, le=96, description="of it; the aligner's stacks have half of them")
    aligner: str | None = Field(
        None, description="the published checkpoint_final.pt, whose aligner it begins with"
    )


@dataclass(frozen=True, eq=False)
class Loaded:
    """What reads, and the image encoder that it was taught with."""

    reader: Reader
    encoder: ImageEncoder | None = None


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    reader: Reader,
    pictures: Sequence[Tensor],
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance from nothing said towards a prompt with pictures.

    One prompt, or B of them, each with the patches [N, S, C] of its own pictures. With words=1 it
    is the text encoder's sample, to the bit.
    """
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.score import guided

    base = require_one_text(backbone, NAME)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)

    def half(texts: Sequence[str], seen: Sequence[Tensor]) -> Condition:
        words = base.encode_text([" ".join(POINTER.sub(" ", text).split()) for text in texts])
        if knobs.words == 1:
            return words
        tokens = read(base, reader, texts, seen)
        return replace(words, tokens=tokens.lerp(words.tokens.to(tokens), knobs.words))

    text = half(prompts, pictures)
    return guided(base, text, half([guide.negative] * len(prompts), ()), guide.scale)


def read(
    base: StableDiffusion, reader: Reader, texts: Sequence[str], pictures: Sequence[Tensor]
) -> Tensor:
    """[B, L, C] what texts say, with the patches [N, S, C] of the pictures that they point at.

    InputError for one that is not there, and for a learned word, which only a text encoder knows.
    """
    from threed.diffusion.parts.reader import interleaved

    for text in texts:
        if said := [word for word in base.words if word in text]:
            raise InputError(f"system {NAME!r} reads no learned words, and the prompt says "
                             f"{said[0]}: LoRAs can be used beside it")  # fmt: skip
    known = interleaved(base, texts, reader)
    tokens: Tensor = reader(known, gathered(known, pictures))
    return tokens


def gathered(known: Interleaved, pictures: Sequence[Tensor]) -> Tensor | None:
    """[K, S, C] of the pictures that texts point at, in their order; None if they do at none.

    pictures: [N, S, C] of each text; none at all for texts without. InputError for one not there.
    """
    import torch

    for row, numbers in enumerate(known.pictures):
        check_pointed(numbers, len(pictures[row]) if pictures else 0)
    seen = [pictures[row][number] for row, numbers in enumerate(known.pictures)
            for number in numbers]  # fmt: skip
    return torch.stack(seen) if seen else None


def check_pointed(numbers: Sequence[int], count: int) -> None:
    """InputError for a picture, counted from 0, that is not among so many."""
    for number in numbers:
        if not 0 <= number < count:
            raise InputError(f"the prompt says <{number + 1}>, and there are {count} pictures, "
                             "each by an --image, <1> the first")  # fmt: skip


def check(request: Request) -> None:
    """InputError unless the prompt points at every picture, and at no other."""
    numbers, images = POINTER.findall(request.prompt), request.all("image")
    check_pointed([int(number) - 1 for number in numbers], len(images))
    unsaid = [(mark, image) for mark, image in zip(marks(request), images)
              if mark not in request.prompt]  # fmt: skip
    if unsaid and request.prompt:  # what a system is may be asked before there is a prompt
        mark, image = unsaid[0]
        raise InputError(f"the prompt does not say {mark}, where the picture {image} belongs, as "
                         f'in "a toy like {mark}"')  # fmt: skip


def marks(request: Request) -> tuple[str, ...]:
    """What stands for the pictures of a request in its prompt."""
    return tuple(f"<{number}>" for number, _ in enumerate(request.all("image"), 1))


def load(backbone: Backbone, request: Request) -> Loaded:
    """Load the reader of a request's weights, and its image encoder."""
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.reader import load_reader
    from threed.diffusion.weights import find_trained
    from threed.systems.reference.ip_adapter import check_encoder, find_encoder

    base = require_one_text(backbone, NAME)
    place = find_trained(request.one("weights"), base.folder, NAME)
    reader = load_reader(base, place)
    encoder = find_encoder(base, request.one("encoder"), place / "reader", NAME)
    check_encoder(encoder, reader.img_connector.dense.in_features, place, pooled=False)
    return Loaded(reader, encoder)


def prepare(backbone: Backbone, request: Request, weights: Loaded) -> Ready:
    """Make the Score of a request's prompt and pictures."""
    import torch

    from threed.diffusion.paint import Ready

    images, encoder = request.all("image"), weights.encoder
    seen: tuple[Tensor, ...] = ()
    with torch.no_grad():
        if images and encoder is not None:
            shown = torch.cat([read_shown(path, encoder.size) for path in images])
            seen = (encoder.last(shown),)
        return Ready(build(backbone, request.prompt, weights.reader, seen, guide=request.guide,
                           knobs=request.knobs or Knobs()))  # fmt: skip


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train in three stages: the language model, the aligner, and both through the frozen UNet.

    The first reads interleaved captions, the second captions alone, beside the text encoder, and
    the third pictures of what interleaved prompts say. The image encoder and the UNet stay as they
    are (published: the encoder's last layer learns, too). As in the official code one of 10
    prompts says nothing, and half of the pictures come behind the name of what they show.
    """
    from threed.learning.loop import Task

    school, first = School(backbone, lesson), list[Task]()
    for stage, net, loss in ((LANGUAGE, school.speaking, school.language_loss),
                             (ALIGNMENT, school.aligning, school.alignment_loss)):  # fmt: skip
        share = SHARES[stage] if lesson.debias else 1.0
        first.append(Task(net, loss, school.save, {**lesson.about, "stage": stage}, share=share))
    return Task(
        school.reader, school.loss, school.save, lesson.about, school.sheet, first=tuple(first)
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

        few = list(range(min(SHOWN_EXAMPLES, len(self.examples))))
        texts = self.examples.texts("pointed", few)
        score = build(self.base, texts, self.reader, self.seen(few).unbind())
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


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load a trained reader to go on from, through the UNet."""
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.reader import load_reader

    return load_reader(require_one_text(backbone, NAME), path)


TRAINING = Training(
    data="subjects",
    pictures=lambda options: ("image",),
    texts=("text",),
    paper=Recipe(  # of the last stage, on 64 GPUs
        steps=200_000, batch=48, lr=1e-3, accumulate=64, warmup=375, cooldown=1.0, beta2=0.98
    ),
    small=Recipe(steps=900, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
    read=read_pointed,
    stages=STAGES,
)
SYSTEM = System(
    name=NAME,
    paper="Kosmos-G: Generating Images in Context with Multimodal Large Language Models",
    arxiv="2310.02992",
    claim="reads a prompt with pictures among its words",
    inputs=(
        Input("image", SHOWN, "a picture, <1> in the prompt; repeat for <2>, ...", many=True),
        Input("weights", WEIGHTS, "a training's folder, or owner/name"),
        Input("encoder", WEIGHTS, "the image encoder's folder, if it is not beside the weights"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="a language model that sees, and an aligner to the text encoder's tokens",
    training=TRAINING,
    shows=True,
    seams=("tokens",),
    load=load,
    prepare=prepare,
    check=check,
    marks=marks,
)
