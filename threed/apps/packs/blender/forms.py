"""What a server offers, as fields of a panel; and what was filled in, as a job. Knows no bpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from threed.apps.packs.client import Client, Refused, Sent

NONE = "-"  # what is chosen where nothing is
SLOTS = 8  # of an input that may be said several times
FILES = ("picture", "mask", "pose", "garment")
NAMED = ("map", "word with a look", "word with a place")  # WORD:FILE
CHOSEN = ("weights", "what was learned", "file", "keypoints")  # of what the server offers
Form = Literal["text", "file", "choice", "flag", "whole", "number"]
Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """One thing to fill in."""

    name: str  # of the property
    label: str
    about: str
    form: Form = "text"
    default: Any = ""
    low: float = -1e9
    high: float = 1e9
    choices: tuple[tuple[str, str], ...] = ()  # each with what it is


@dataclass(frozen=True)
class Slot:
    """One value of a system's input: a field, or two, for a word and its file."""

    input: str
    number: int  # among the input's values
    needed: bool
    fields: tuple[Field, ...]

    def value(self, said: Callable[[str], Any]) -> str | Sent | None:
        """What was filled in; None if it was not."""
        values = [str(said(field.name)).strip() for field in self.fields]
        if not all(values) or values == [NONE]:
            return None
        if self.fields[-1].form != "file":
            return values[0]
        return Sent(Path(values[-1]), "".join(f"{word}:" for word in values[:-1]))


@dataclass(frozen=True)
class System:
    """A system's form."""

    about: str
    slots: tuple[Slot, ...]
    knobs: tuple[Field, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        """All that can be filled in."""
        return tuple(field for slot in self.slots for field in slot.fields) + self.knobs


@dataclass(frozen=True)
class Offers:
    """What a server has to choose from."""

    systems: Mapping[str, System]
    fields: tuple[Field, ...]  # of all jobs

    @classmethod
    def of(cls, client: Client) -> Offers:
        """Ask a server. Refused."""
        systems, presets, backbones, models = (
            client.ask("GET", f"/v1/{name}")
            for name in ("systems", "presets", "backbones", "models")
        )
        try:
            made = {name: read_system(schema, models) for name, schema in systems.items()}
            chosen = {
                "system": [(name, system.about) for name, system in made.items()],
                "preset": [(name, said["about"]) for name, said in presets.items()],
                "backbone": [(name, "") for name in backbones],
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise Refused(500, f"what answers at {client.url} is of another version") from error
        picked = (pick(name, name.capitalize(), choices) for name, choices in chosen.items())
        return cls(made, (*COMMON, *picked))


COMMON = (
    Field("prompt", "Prompt", 'what to make, what the mesh is, or what to do: "make it blue"'),
    Field("seed", "Seed", "decides every random number; -1 is the preset's", "whole", -1, -1,
          2**31 - 1),
    Field("candidates", "Candidates", "so many assets, a seed each", "whole", 1, 1, 16),
    Field("best_of", "Best of", "begin so many seeds; the best of them goes on", "whole", 1, 1, 64),
    Field("height", "Height", "how high it stands on the cursor, as in 12cm; as it comes if empty"),
    Field("settings", "Settings", "NAME=VALUE of the run, such as steps=600"),
    Field("keep_uv", "Keep UVs", "paint into the mesh's own texture coordinates", "flag", True),
    Field("shape", "Shape, too", "an edit may change the shape, not the colours alone", "flag",
          False),
)  # fmt: skip


def pick(
    name: str, label: str, choices: Iterable[tuple[str, str]], about: str = "what suits"
) -> Field:
    """A field to choose a name, or none."""
    return Field(name, label, about, "choice", NONE, choices=((NONE, about), *choices))


def read_system(schema: Schema, offered: Iterable[str]) -> System:
    """The form of a system's schema; `offered` are names of weights."""
    inputs, names = schema["properties"]["inputs"], tuple((name, "") for name in offered)
    slots = [slot for name, about in inputs["properties"].items()
             for slot in read_input(name, about, name in inputs["required"], names)]  # fmt: skip
    knobs = schema["properties"]["knobs"].get("properties", {})
    return System(schema["description"], tuple(slots),
                  tuple(read_knob(name, about) for name, about in knobs.items()))  # fmt: skip


def read_input(
    name: str, schema: Schema, needed: bool, names: tuple[tuple[str, str], ...]
) -> Iterator[Slot]:
    """The slots of an input."""
    kind = schema.get("items", schema)
    for number in range(SLOTS if schema["type"] == "array" else 1):
        own, label = f"input_{name}_{number}", name.replace("_", " ").capitalize()
        about = f"{schema['description']} ({kind['placeholder']})"
        if kind["kind"] in CHOSEN:
            fields: tuple[Field, ...] = (pick(own, label, names, about),)
        elif kind["kind"] == "planner":
            fields = (pick(own, label, [("rules", "")], about),)
        elif kind["kind"] in FILES:
            fields = (Field(own, label, about, "file"),)
        elif kind["kind"] in NAMED:
            fields = (Field(f"{own}_word", label, about), Field(own, "", about, "file"))
        else:
            fields = (Field(own, label, about),)
        yield Slot(name, number, needed, fields)


def read_knob(name: str, schema: Schema) -> Field:
    """The field of a knob."""
    forms: dict[Any, Form] = {"boolean": "flag", "integer": "whole", "number": "number"}
    form = "choice" if "enum" in schema else forms.get(schema.get("type"), "text")
    default = schema.get("default")
    return Field(
        f"knob_{name}", name.replace("_", " ").capitalize(), schema.get("description", name), form,
        "" if default is None else default, schema.get("minimum", -1e9), schema.get("maximum", 1e9),
        tuple((choice, "") for choice in schema.get("enum", ())),
    )  # fmt: skip


def shown(slots: Iterable[Slot], said: Callable[[str], Any]) -> Iterator[Slot]:
    """The slots to be drawn: of an input that may be said again one more than is filled in."""
    empty = set()
    for slot in slots:
        if slot.input not in empty:
            yield slot
        if slot.value(said) is None:
            empty.add(slot.input)


Kind = Literal["generate", "texture", "edit3d"]
MESHES = {"generate": "init", "texture": "mesh", "edit3d": "asset"}  # what a job calls its mesh


def jobs(
    kind: Kind, said: Callable[[str], Any], offers: Offers, mesh: Path | None = None
) -> list[dict[str, Any]]:
    """What was filled in, as jobs: so many as there are candidates, a seed each.

    said: a field's value by its name, `SYSTEM.FIELD` where it is a system's.
    """
    prompt = str(said("prompt")).strip()
    job: dict[str, Any] = {"job": kind, "instruction" if kind == "edit3d" else "prompt": prompt}
    for name in ("preset", "backbone"):
        if said(name) not in ("", NONE):
            job[name] = said(name)
    if str(said("settings")).split():
        job["settings"] = str(said("settings")).split()
    if mesh is not None:
        job[MESHES[kind]] = Sent(mesh)
    if kind == "texture":
        job["keep_uv"] = bool(said("keep_uv"))
    if kind == "edit3d":
        job["shape"] = bool(said("shape"))
    if kind == "generate":
        job |= made(said, offers, mesh is None)
    seed = int(said("seed"))
    if mesh is not None or said("candidates") <= 1:
        return [job if seed < 0 else {**job, "seed": seed}]
    return [{**job, "seed": max(0, seed) + number} for number in range(said("candidates"))]


def made(said: Callable[[str], Any], offers: Offers, is_new: bool) -> dict[str, Any]:
    """What is of jobs that make assets alone."""
    job: dict[str, Any] = {"best_of": said("best_of")} if said("best_of") > 1 else {}
    if is_new and str(said("height")).strip():
        job["height"] = str(said("height")).strip()
    name = said("system")
    if name not in offers.systems:
        return job
    system, inputs = offers.systems[name], dict[str, list[str | Sent]]()
    for slot in system.slots:
        value = slot.value(lambda field: said(f"{name}.{field}"))
        if value is not None:
            inputs.setdefault(slot.input, []).append(value)
    knobs = [f"{knob.name.removeprefix('knob_')}={typed(value)}" for knob in system.knobs
             if typed(value := said(f"{name}.{knob.name}")) != typed(knob.default)]  # fmt: skip
    return {**job, "system": name, "inputs": inputs, **({"knob": knobs} if knobs else {})}


def typed(value: Any) -> str:
    """A value as it is typed in NAME=VALUE; numbers to six digits, as a panel keeps them."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, (int, float)) else str(value).strip()
