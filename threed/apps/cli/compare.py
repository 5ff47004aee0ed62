"""What the judged tables share, and the one of `threed evaluate --protocol`.

A list of prompts, pictures as a benchmark takes them, CLIP R-precision, and what outside judges say
of the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from threed.apps.cli.show import Display, complain, say
from threed.core import files
from threed.core.errors import InputError
from threed.core.intervals import bootstrap

if TYPE_CHECKING:
    from exporters.judges import Finding
    from threed.runs.comparison import Compared
    from threed.runs.precision import Asked

Item = TypeVar("Item")
Findings = Mapping[Path, Mapping[str, "Finding"]]


def share_of(items: Sequence[Item], part: tuple[int, int]) -> Sequence[Item]:
    """Every n-th of the items from the k-th; InputError where that is none."""
    k, n = part
    if not items[k - 1 :: n]:
        raise InputError(f"--part {k}/{n} is empty: there are only {len(items)} prompts")
    return items[k - 1 :: n]


def check_same(folder: Path, preset: str, words: Sequence[str]) -> None:
    """InputError for a folder whose run has other settings: it would be counted as one of these."""
    from threed.runs.folder import RunFolder
    from threed.settings.presets import load_run

    if not (folder / "config.yaml").exists():
        return
    there, wanted = RunFolder.open(folder).run, load_run(preset, words)
    own = ["device", "system"]  # machines may differ; of a system a run keeps what was found out
    own += ["seed", "best_of"] if wanted.best_of > 1 else []  # it goes on as the best of them
    other = [name for name, value in wanted if name not in own and getattr(there, name) != value]
    if other:
        raise InputError(f"{folder} holds a run with other settings ({', '.join(other)}): choose "
                         "another --out")  # fmt: skip


def make_asset(folder: Path, prompt: str, preset: str, words: Sequence[str]) -> Path:
    """Run a prompt in its folder, or go on with it, unless it has ended there; the asset's file."""
    from threed.runs.folder import RunFolder
    from threed.runs.generate import generate, resume
    from threed.settings.presets import load_run

    check_same(folder, preset, words)
    begun = (folder / "config.yaml").exists()
    if not begun or not RunFolder.open(folder).finished:
        with Display() as display:
            if begun:
                resume(folder, progress=display)
            else:
                generate(prompt, load_run(preset, words), out=folder, progress=display)
    return folder / "asset.glb"


def ask_outside(places: Sequence[Path]) -> Findings:
    """What the outside judges that are installed say of each GLB file."""
    from exporters.judges import ask_judges

    return {place: ask_judges(place) for place in places if place.suffix == ".glb"}


def about_files(found: Findings) -> list[str]:
    """A line for each outside judge: how many files fail, with what it says of the first ones."""
    lines = []
    for judge in dict.fromkeys(name for said in found.values() for name in said):
        said = {place: by_judge[judge] for place, by_judge in found.items()}
        failed = [place for place, one in said.items() if one.errors]
        clean = sum(one.clean for one in said.values())
        line = f"{judge}: {len(failed)} of {len(said)} files fail, {clean} without a warning"
        for place in failed[:3]:
            line += f"; {place}: {said[place].first}"
        lines.append(line)
    return lines


@dataclass(frozen=True)
class Comparison:
    """What is asked of `threed evaluate --protocol`."""

    protocol: str
    prompts: Path
    clip: Path | None  # toybox's if not given
    assets: Path | None  # a folder; generated if not given
    preset: str  # of what is generated, and its settings
    words: tuple[str, ...]

    def run(self, out: Path, limit: int | None, part: tuple[int, int], *, as_json: bool) -> None:
        """Judge the first prompts, those of the k-th of n parts, and say how they did.

        Without other parts, comparison.json and table.md are written in `out`.
        """
        from threed.runs.comparison import Judge, compare
        from threed.runs.precision import find_assets, read_prompts
        from threed.toybox.family.nets import WEIGHTS

        asked = read_prompts(self.prompts)
        chosen = share_of(asked[:limit], part)
        folder = self.assets
        if folder is None and any(one.asset for one in asked):
            folder = self.prompts.parent
        places = {} if folder is None else find_assets(chosen, folder)
        judge = Judge.load(self.clip or WEIGHTS / "clip", asked)
        if lost := judge.unknown(asked):
            complain(f"this CLIP was never shown words of {len(lost)} of {len(asked)} prompts, "
                     f"such as {lost[0]!r}, and leaves them out; --clip names another",
                     "warning")  # fmt: skip
        assets = [(one, places.get(one.number) or self.make(out, one)) for one in chosen]
        with Display() as display:
            rows = compare(assets, self.protocol, judge, out, display)
        found = ask_outside([row.asset for row in rows])
        text = "\n\n".join([table(rows, self.protocol, len(asked)), *about_files(found)])
        answer = to_json(rows, self.protocol, judge.of, found)
        if part[1] == 1:
            files.write(out / "comparison.json", answer.encode())
            files.write(out / "table.md", f"{text}\n".encode())
        say(answer if as_json else text)

    def make(self, out: Path, one: Asked) -> Path:
        """Generate the asset of a prompt."""
        return make_asset(out / one.name, one.prompt, self.preset, self.words)


def table(rows: Sequence[Compared], protocol: str, candidates: int) -> str:
    """The rows as Markdown, and their means with 95 % intervals over the prompts."""
    lines = ["| prompt | pictures | R-precision | CLIP score |", "|---|---|---|---|"]
    for row in rows:
        said = row.likeness
        lines.append(f"| {row.prompt} | {said.pictures} | {100 * said.precision:.1f} % | "
                     f"{said.score:.2f} |")  # fmt: skip
    figures = {"CLIP R-precision": ([100 * row.likeness.precision for row in rows], 1, " %"),
               "CLIP score": ([row.likeness.score for row in rows], 2, "")}  # fmt: skip
    means = []
    for name, (values, digits, unit) in figures.items():
        low, high = bootstrap([[value] for value in values], fmean)
        means.append(f"{name} {fmean(values):.{digits}f}{unit} "
                     f"(95 %: {low:.{digits}f}–{high:.{digits}f})")  # fmt: skip
    count = f"{len(rows)} assets as {protocol} looks at them, {candidates} prompts to choose from"
    return "\n".join([*lines, "", f"{count}: {', '.join(means)}"])


def to_json(rows: Sequence[Compared], protocol: str, of: Mapping[str, str], found: Findings) -> str:
    """The same for programs; `of` has the sums of CLIP's weights and of the prompts."""
    assets = [
        {"prompt": row.prompt, "asset": str(row.asset), **asdict(row.likeness),
         "judges": {judge: asdict(one) for judge, one in found.get(row.asset, {}).items()}}
        for row in rows
    ]  # fmt: skip
    return json.dumps({"protocol": protocol, "sha256": dict(of), "assets": assets}, indent=2)
