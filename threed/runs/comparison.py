"""Assets of a list of prompts, each looked at as a benchmark does and judged by CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from threed.core import files
from threed.core.devices import pick_device
from threed.core.errors import InputError
from threed.diffusion.parts.clip import Clip
from threed.runs.pictures import Gallery, encode, read_object, sum_of, sum_of_texts
from threed.runs.precision import Asked, Likeness, look
from threed.runs.progress import Listener, Progress


@dataclass(frozen=True)
class Judge:
    """A CLIP, and the prompts that it chooses from."""

    clip: Clip
    texts: Tensor  # [P, D] of all prompts of the list
    of: Mapping[str, str]  # SHA-256 of the weights and of the list

    @classmethod
    def load(cls, folder: Path, asked: Sequence[Asked]) -> Judge:
        """Load the CLIP of a folder; InputError where there is none."""
        weights = folder / "model.safetensors"
        if not (folder / "config.json").is_file() or not weights.is_file():
            raise InputError(f"--clip {folder}: a folder of a transformers CLIP is needed, with "
                             "config.json and model.safetensors")  # fmt: skip
        clip = Clip(folder, torch.device(pick_device()))
        prompts = [one.prompt for one in asked]
        return cls(clip, clip.texts(prompts),
                   {"clip": sum_of(weights), "prompts": sum_of_texts(prompts)})  # fmt: skip

    def unknown(self, asked: Sequence[Asked]) -> list[str]:
        """The prompts with words that this CLIP was never shown, and leaves out."""
        known = self.clip.vocabulary
        return [one.prompt for one in asked if known is not None and known.unknown(one.prompt)]


@dataclass(frozen=True)
class Compared:
    """What CLIP says of the asset of one prompt."""

    prompt: str
    asset: Path
    likeness: Likeness


def compare(
    assets: Sequence[tuple[Asked, Path]], protocol: str, judge: Judge, out: Path,
    progress: Listener | None = None,
) -> list[Compared]:  # fmt: skip
    """Draw every asset into a folder in `out`, and compare its pictures with all prompts.

    What is there already is kept: pictures as in `Gallery.fill`, and what CLIP said of them.
    """
    tell, rows = progress or (lambda _: None), list[Compared]()
    for done, (one, asset) in enumerate(assets):
        gallery = Gallery(out / one.name / protocol, protocol)
        steps = gallery.count

        def say(how: Progress, done: int = done, steps: int = steps) -> None:
            tell(replace(how, step=done * steps + how.step, steps=len(assets) * steps))

        manifest = gallery.fill(asset, say)
        of = {**judge.of, "pictures": sum_of_texts(manifest["pictures"].values())}
        saved = gallery.folder / "likeness.json"
        found = read_object(saved)
        if found.get("of") != of:
            likeness = look(judge.clip, judge.texts, one.number, gallery.judged)
            found = {"of": of, "likeness": asdict(likeness)}
            files.write(saved, encode(found))
        rows.append(Compared(one.prompt, asset, Likeness(**found["likeness"])))
    return rows
