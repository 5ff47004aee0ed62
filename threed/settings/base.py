"""Settings as pydantic models, read from what people write: YAML, JSON, and name=value.

What a setting means, what it may be and what it is by default stand in its field. From there
come errors, `threed list settings` and the JSON schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import inf, isfinite
from os import PathLike, fspath
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError, core_schema

from threed.core import devices, schedule
from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.core.seeds import SEEDS
from threed.core.words import did_you_mean, suggest
from threed.settings.schema import JsonSchema, allowed, describe, follow, inside, limits

MAX_YAML = 256 * 1024  # characters
MAX_DEPTH = 20  # of nested lists and mappings
Place = tuple[str, ...]  # ("stages", "0", "steps")


class _SchemaWriter(GenerateJsonSchema):
    """Pydantic's own, with defaults as people would write them."""

    def encode_default(self, dft: Any) -> Any:
        return super().encode_default(plain(dft))


class Settings(BaseModel):
    """What decides something, as named values with types, limits, defaults and meanings.

    Values cannot be changed, unknown names are refused, and all numbers are finite. A check of
    several fields is a `model_validator(mode="after")` that raises InputError.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    # names of settings that older runs do not have: their digests are those of the defaults
    ADDED: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, /, **data: Any) -> None:
        """InputError in one sentence for an unknown name or a value that is not allowed."""
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InputError(_sentence(type(self), error)) from error

    # without this mark, pydantic would make settings inside of settings by their __init__, and
    # then an error would not know its place in the whole
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the JSON schema, with what each setting means, takes, and is by default."""
        return super().model_json_schema(*args, **{"schema_generator": _SchemaWriter, **options})

    @field_validator("*", mode="before")
    @classmethod
    def _read_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false as numbers and the reverse; read 1e3, text to YAML 1.1."""
        hint = cls.model_fields[str(info.field_name)].annotation
        kinds = {hint, *get_args(hint)}
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(item, bool) for item in values) and not kinds & {bool, Any, object}:
            raise PydanticCustomError("bool", "no truth value")
        if hint is bool and not isinstance(value, bool):
            raise PydanticCustomError("bool", "a truth value")
        if isinstance(value, str) and "e" in value and int in kinds:
            with suppress(ValueError):
                return float(value)
        return value


S = TypeVar("S", bound=Settings)


def _check_device(value: str) -> str:
    if re.fullmatch(devices.DEVICES, value) is None:
        words = f"{devices.TAKES}, got {value!r}"
        raise PydanticCustomError("limits", "{words}", {"words": words})
    return value


# types for fields
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=SEEDS)]
Device = Annotated[
    str,
    AfterValidator(_check_device),
    WithJsonSchema({"type": "string", "pattern": f"^({devices.DEVICES})$"}),
]


@dataclass(frozen=True)
class Within:
    """Limits of all values of a Schedule: `t_max: Annotated[Schedule, Within(0, 1)]`."""

    low: float = -inf
    high: float = inf
    above: float = -inf  # a bound that may not be reached

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Tell pydantic to check the limits of what it read."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> JsonSchema:
        """Tell pydantic the JSON schema of a schedule within the limits."""
        return schedule.json_schema(self._limits(), handler(schema)["anyOf"][0]["type"])

    def _limits(self) -> dict[str, float]:
        named = {"minimum": self.low, "maximum": self.high, "exclusiveMinimum": self.above}
        return {name: limit for name, limit in named.items() if isfinite(limit)}

    def _check(self, value: Schedule) -> Schedule:
        for _, number in value.points:
            if not (self.low <= number <= self.high and number > self.above):
                words = f"must be {limits(self._limits())}, got {number:g}"
                raise PydanticCustomError("limits", "{words}", {"words": words})
        return value


def replace(instance: S, **changes: Any) -> S:
    """Return the same settings but for the changes; InputError if they do not fit."""
    return type(instance)(**{**dict(instance), **changes})


def read(kind: type[S], data: Any, where: str = "") -> S:
    """Make settings of plain data that says only what differs from their defaults.

    InputError begins with `where`, and says which setting is unknown or wrong and what it takes.
    """
    try:
        if not isinstance(data, Mapping):
            raise InputError(f"settings must be a mapping of names to values, got {_show(data)}")
        return kind(**{str(name): value for name, value in data.items()})
    except InputError as error:
        raise InputError(_after(where, error)) from error


def read_words(kind: type[S], words: Sequence[str], where: str = "") -> S:
    """Make settings that hold no others of NAME=VALUE words; InputError as `read`."""
    data, root = {}, _schema(kind)
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not equals or name not in kind.model_fields:
            known = ", ".join(f"{each.name}={each.default}" for each in describe(kind))
            near = suggest(name, kind.model_fields)
            wrong = f"{name}: no such setting{near}" if equals else f"{name}: no value"
            listed = f"write NAME=VALUE, of {known}" if known else "there are none"
            raise InputError(_after(where, f"{wrong} ({listed})"))
        data[name] = _read_word(text, root["properties"][name], name)
    return read(kind, data, where)


def override(instance: S, words: Sequence[str]) -> S:
    """Return the same settings with name=value applied; names may lack what is obvious.

    A name is a dotted path, or the end of one where only one path ends so; one that all items of a
    list have, such as all stages, is of each of them. InputError as `read`, of what comes out in
    the end: two settings may fit each other and neither the preset.
    """
    if not words:
        return instance
    data, root = plain(instance), _schema(type(instance))
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not name:
            raise InputError(f"{word!r} is not a setting: write name=value, such as steps=200")
        for *owners, last in (places := _resolve(instance, name)):
            owner = data
            for step in owners:
                owner = owner[int(step)] if isinstance(owner, list) else owner[step]
            owner[last] = _read_word(text, inside(root, places[0])[1], name)
        with suppress(InputError):  # the next word may mend it
            instance = read(type(instance), data)
    return read(type(instance), data)


def plain(value: Any, *, brief: bool = False) -> Any:
    """Return the data for YAML that `read` would turn into this value again.

    brief leaves out what was ADDED to its settings later and is as it is by default.
    """
    if isinstance(value, Schedule):
        return value.plain()
    if isinstance(value, Settings):
        idle = {name for name in value.ADDED if brief
                and getattr(value, name) == type(value).model_fields[name].default}  # fmt: skip
        return {name: plain(item, brief=brief) for name, item in value if name not in idle}
    if isinstance(value, Mapping):
        return {key: plain(item, brief=brief) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item, brief=brief) for item in value]
    return fspath(value) if isinstance(value, PathLike) else value


def read_yaml(text: str, where: str) -> Any:
    """The plain data of a YAML text; InputError (which begins with `where`) if it is not safe.

    Tags, anchors, aliases and repeated keys are refused, as are long and deep texts.
    """
    if len(text) > MAX_YAML:
        raise InputError(f"{where}: {len(text)} characters; at most {MAX_YAML} are read")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise InputError(f"{where}: anchors and aliases (& and *) are not read")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InputError(f"{where}: nested deeper than {MAX_DEPTH} levels")
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: not YAML: {_find_mistake(error)}") from error


def _find_mistake(error: Exception) -> str:
    """Where a text is no YAML, or what our own loader says of it."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"the mistake is at line {mark.line + 1}, column {mark.column + 1}"
    return str(error) if type(error) is yaml.YAMLError else "it holds what cannot be read"


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key said twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float)):
                raise yaml.YAMLError(f"{key!r} cannot be a key")
            if key in mapping:
                raise yaml.YAMLError(f"{key!r} is said twice")
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping)


@cache
def _schema(kind: type[Settings]) -> JsonSchema:
    """The JSON schema of a class, to be read only: to make it takes longer than all else here."""
    return kind.model_json_schema()


def _read_word(text: str, schema: JsonSchema, name: str) -> Any:
    """Read a word as its setting takes it: text as it stands, all else (and quotes) as YAML."""
    kinds = [choice.get("type") for choice in schema.get("anyOf", [schema])]
    none = "null" in kinds and text in ("", "null")
    if "string" in kinds and not none and not text.startswith(("'", '"')):
        return text
    return read_yaml(text, name)


def _sentence(kind: type[Settings], error: ValidationError) -> str:
    """Say the first mistake: the setting's dotted name, what it takes, and what it got."""
    first = error.errors(include_url=False)[0]
    place, sort, value, context = first["loc"], first["type"], first["input"], first.get("ctx", {})
    if isinstance(context.get("error"), InputError):
        return _after(".".join(map(str, place)), context["error"])
    if sort == "missing" and isinstance(place[-1], int):  # too few items: the list is wrong
        place, sort = place[:-1], "too_short"
    root = _schema(kind)
    name, schema = inside(root, place)
    whole = follow(root, schema)
    if sort == "extra_forbidden":
        near = did_you_mean(str(place[-1]), whole["properties"])
        return f"{'.'.join(map(str, place))}: no such setting{near}"
    if sort == "missing":
        return f"{name} is missing: {schema.get('description', 'it has no default')}"
    if sort == "limits":
        return f"{name} {context['words']}"
    numeric = sort.startswith(("greater_than", "less_than", "multiple_of"))
    takes = limits(whole) if numeric else allowed(root, schema)
    return f"{name} must be {takes}, got {_show(value)}{suggest(str(value), whole.get('enum', ()))}"


def _after(where: str, words: object) -> str:
    return f"{where}: {words}" if where else str(words)


def _show(value: Any) -> str:
    shown = f"{value:.12g}" if isinstance(value, float) else repr(plain(value))
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every place that holds a value or a mapping of some, and what it holds."""
    if isinstance(value, BaseModel):
        for name, item in value:
            yield from _leaves(item, (*place, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, item in enumerate(value):
            yield from _leaves(item, (*place, str(index)))
    else:
        yield place, value
        if isinstance(value, Mapping):
            yield from (((*place, key), item) for key, item in value.items())


def _resolve(instance: Settings, name: str) -> list[Place]:
    """Return the whole places of a name that may lack what is obvious."""
    parts, leaves = tuple(name.split(".")), dict(_leaves(instance))
    if parts in leaves:
        return [parts]
    found = [leaf for leaf in leaves if leaf[-len(parts) :] == parts]
    if not found:  # an entry that a mapping does not have yet, such as losses.sparsity
        mappings = [leaf for leaf, value in leaves.items() if isinstance(value, Mapping)]
        found = [(*leaf, parts[-1]) for leaf in mappings if leaf[1 - len(parts) :] == parts[:-1]]
    if len({tuple("" if part.isdigit() else part for part in leaf) for leaf in found}) == 1:
        return found
    dotted = [".".join(leaf) for leaf in found or leaves]
    if found:
        raise InputError(f"{name}: which one? Write {' or '.join(dotted)}")
    near = suggest(name, {leaf[-1] for leaf in leaves}) or suggest(name, dotted)
    raise InputError(f"{name}: no such setting{near} (`threed list settings` shows them all)")
