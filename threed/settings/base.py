"""Settings as pydantic models, read from what people write: YAML, JSON, and name=value.

What a setting means, what it may be and what it is by default stand in its field; from there
come errors, `threed list settings` and the JSON schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError, core_schema

from threed.core import schedule
from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.core.words import did_you_mean, suggest

MAX_YAML = 256 * 1024  # characters
MAX_DEPTH = 20  # of nested lists and mappings
Place = tuple[str, ...]  # ("stages", "0", "steps")
JsonSchema = dict[str, Any]
NULL = {"type": "null"}


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

    def __init__(self, /, **data: Any) -> None:
        """InputError in one sentence for an unknown name or a value that is not allowed."""
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InputError(_sentence(type(self), error)) from error

    # without this mark, pydantic would make settings inside of settings by their __init__, and
    # then an error would not know its place in the whole
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

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


@dataclass(frozen=True)
class Within:
    """Limits of all values of a Schedule: `t_max: Annotated[Schedule, Within(0, 1)]`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None  # a bound that may not be reached

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Tell pydantic to check the limits of what it read."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> JsonSchema:
        """Tell pydantic the JSON schema of a schedule within the limits."""
        return schedule.json_schema(self._limits())

    def _limits(self) -> dict[str, float]:
        named = {"minimum": self.low, "maximum": self.high, "exclusiveMinimum": self.above}
        return {name: limit for name, limit in named.items() if limit is not None}

    def _check(self, value: Schedule) -> Schedule:
        limits = self._limits()
        for _, number in value.points:
            if not (
                limits.get("minimum", number) <= number <= limits.get("maximum", number)
                and (self.above is None or number > self.above)
            ):
                words = f"must be {_range(limits)}, got {number:g}"
                raise PydanticCustomError("limits", "{words}", {"words": words})
        return value


def replace(instance: S, **changes: Any) -> S:
    """The same settings but for the changes; InputError if they do not fit."""
    return type(instance)(**{**dict(instance), **changes})


def read(kind: type[S], data: Any, where: str = "") -> S:
    """Settings from plain data that says only what differs from their defaults.

    InputError begins with `where`, and says which setting is unknown or wrong and what it takes.
    """
    try:
        if not isinstance(data, Mapping):
            raise InputError(
                f"the settings must be a mapping of names to values, got {_show(data)}"
            )
        return kind(**{str(name): value for name, value in data.items()})
    except InputError as error:
        raise InputError(_after(where, error)) from error


def read_words(kind: type[S], words: Sequence[str], where: str = "") -> S:
    """Settings without others inside them from NAME=VALUE words; InputError as `read`."""
    data = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals or name not in kind.model_fields:
            known = ", ".join(f"{d.name}={_write(d.default)}" for d in describe(kind)) or "none"
            raise InputError(
                _after(where, f"{word}: write NAME=VALUE" if not equals else
                       f"{name}: no such setting{suggest(name, kind.model_fields)}")
                + f" There are, with their defaults: {known}"
            )  # fmt: skip
        hint = kind.model_fields[name].annotation
        data[name] = text if str in (hint, *get_args(hint)) else read_yaml(text, name)
    return read(kind, data, where)


def override(instance: S, words: Sequence[str]) -> S:
    """The same settings with name=value applied, in order; names may lack what is obvious.

    A name is a dotted path, or the end of one where only one path ends so. InputError as `read`,
    of what comes out in the end: two settings may fit each other and neither the preset.
    """
    data = plain(instance)
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{word!r} is not a setting: write name=value, such as steps=200")
        path = _resolve(instance, name.strip())
        data = _replaced(data, path, read_yaml(text, name.strip()), text)
        with suppress(InputError):  # the next word may mend it
            instance = read(type(instance), data)
    return read(type(instance), data)


def plain(value: Any) -> Any:
    """The data for YAML that `read` would turn into this value again."""
    if isinstance(value, Schedule):
        return value.plain()
    if isinstance(value, BaseModel):
        return {name: plain(item) for name, item in value}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return fspath(value) if isinstance(value, PathLike) else value


@dataclass(frozen=True)
class Described:
    """One setting as `threed list settings` shows it."""

    name: str  # dotted path
    default: Any  # plain data; None where it has to be said
    allowed: str
    meaning: str


def describe(kind: type[Settings]) -> list[Described]:
    """Every setting of a kind and of those inside it; lists of settings show item 0."""
    schema = kind.model_json_schema()
    return list(_describe(schema, schema, (), {}))


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
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: not YAML: {reason}") from error


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


def _sentence(kind: type[Settings], error: ValidationError) -> str:
    """Say the first error: the setting's dotted name, what it takes, and what it got."""
    first = error.errors(include_url=False)[0]
    place, sort, value = first["loc"], first["type"], first["input"]
    context = first.get("ctx", {})
    if isinstance(context.get("error"), InputError):
        return _after(".".join(map(str, place)), context["error"])
    if sort == "missing" and isinstance(place[-1], int):  # too few items: the list is wrong
        place = place[:-1]
    name = ".".join(map(str, place))
    root = kind.model_json_schema()
    if sort == "extra_forbidden":
        known = _inside(root, root, place[:-1])["properties"]
        return f"{name}: no such setting{did_you_mean(str(place[-1]), known)}"
    if sort == "limits":
        return f"{name} {context['words']}"
    schema = _inside(root, root, place)
    if sort == "missing":
        return f"{name} is missing: {schema.get('description', 'it has no default')}"
    limits = sort.startswith(("greater_than", "less_than", "multiple_of"))
    takes = _range(schema) if limits else _allowed(root, schema)
    near = suggest(str(value), schema.get("enum", ()))
    return f"{name} must be {takes}, got {_show(value)}{near}"


def _after(where: str, words: object) -> str:
    return f"{where}: {words}" if where else str(words)


def _show(value: Any) -> str:
    shown = f"{value:.12g}" if isinstance(value, float) else repr(plain(value))
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _write(value: Any) -> str:
    """A value as one would write it behind an equals sign."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _follow(root: JsonSchema, schema: JsonSchema) -> JsonSchema:
    """A schema itself, where it refers to another one or may be null as well."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != NULL]
    if NULL in schema.get("anyOf", ()):
        inner = choices[0] if len(choices) == 1 else {"anyOf": choices}
        outer = {name: value for name, value in schema.items() if name != "anyOf"}
        return {**_follow(root, inner), **outer}
    name = schema.get("$ref", "").rpartition("/")[2]
    return {**root["$defs"][name], **schema} if name else schema


def _inside(root: JsonSchema, schema: JsonSchema, place: Sequence[int | str]) -> JsonSchema:
    """The schema at a place inside of another."""
    for step in place:
        schema = _follow(root, schema)
        if isinstance(step, int):
            items = schema.get("prefixItems", ())
            schema = items[step] if step < len(items) else schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(step) or schema.get(
                "additionalProperties", {}
            )
    return _follow(root, schema)


def _describe(
    root: JsonSchema, schema: JsonSchema, path: Place, default: Mapping[str, Any]
) -> Iterator[Described]:
    for name, part in schema["properties"].items():
        here, value = (*path, name), default.get(name, part.get("default"))
        item, whole = _follow(root, part.get("items", {})), _follow(root, part)
        if "properties" in whole:
            yield from _describe(root, whole, here, value or {})
        elif "properties" in item:
            yield from _describe(root, item, (*here, "0"), value[0] if value else {})
        else:
            meaning = part.get("description", "")
            yield Described(".".join(here), value, _allowed(root, part), meaning)


def _allowed(root: JsonSchema, schema: JsonSchema) -> str:
    """What a schema takes, in words."""
    choices = schema.get("anyOf", ())
    if NULL in choices:
        return f"{_allowed(root, _follow(root, schema))}, or null"
    if choices and "patternProperties" in choices[-1]:
        return f"{_allowed(root, choices[0])}, or such numbers by step as in {{0: 10, 5000: 1000}}"
    if choices:
        return " or ".join(_allowed(root, choice) for choice in choices)
    schema = _follow(root, schema)
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum') or [schema['const']]))}"
    kind = schema.get("type")
    if kind == "array":
        items, least = schema.get("prefixItems"), schema.get("minItems")
        each = _allowed(root, items[0] if items else schema.get("items", {}))
        count = f" of {len(items)}" if items else f" of at least {least}" if least else ""
        return f"a list{count}, each {each}"
    if kind == "object" and "properties" not in schema:
        return f"a mapping of names, each to {_allowed(root, schema['additionalProperties'])}"
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false",
             "string": "text", "object": "a mapping of settings"}  # fmt: skip
    return f"{names.get(str(kind), 'anything')} {_range(schema)}".rstrip()


def _range(schema: Mapping[str, Any]) -> str:
    """The limits of a number, in words."""
    low, high = schema.get("minimum"), schema.get("maximum")
    words = []
    for bound, name in (("above", "exclusiveMinimum"), ("below", "exclusiveMaximum")):
        if name in schema:
            words.append(f"{bound} {_number(schema[name])}")
    if low is not None and high is not None:
        words.append(f"in {_number(low)}..{_number(high)}")
    elif low is not None:
        words.append(f"at least {_number(low)}")
    elif high is not None:
        words.append(f"at most {_number(high)}")
    if "multipleOf" in schema:
        words.append(f"a multiple of {_number(schema['multipleOf'])}")
    return " and ".join(words)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _leaves(value: Any, path: Place = ()) -> Iterator[Place]:
    """The paths of all values, and of the mappings that hold some."""
    if isinstance(value, BaseModel):
        for name, item in value:
            yield from _leaves(item, (*path, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path
        if isinstance(value, Mapping):
            yield from ((*path, key) for key in value)


def _resolve(instance: Settings, name: str) -> Place:
    """The whole path of a name that may lack what is obvious."""
    parts = tuple(name.split("."))
    leaves = list(_leaves(instance))
    if parts in leaves:
        return parts
    found = [leaf for leaf in leaves if leaf[-len(parts) :] == parts]
    # an entry that a mapping does not have yet, such as losses.sparsity
    if not found and len(parts) > 1:
        owners = [leaf for leaf in leaves if leaf[-len(parts) + 1 :] == parts[:-1]]
        found = [(*owner, parts[-1]) for owner in owners if _is_mapping(instance, owner)]
    if len(found) == 1:
        return found[0]
    dotted = [".".join(leaf) for leaf in found or leaves]
    if found:
        raise InputError(f"{name}: which one? Write {' or '.join(dotted)}")
    hint = suggest(name, {leaf[-1] for leaf in leaves}) or suggest(name, dotted)
    raise InputError(f"{name}: no such setting{hint} (`threed list settings` shows them all)")


def _is_mapping(instance: Any, path: Place) -> bool:
    for name in path:
        instance = instance[int(name)] if isinstance(instance, tuple) else getattr(instance, name)
    return isinstance(instance, Mapping)


def _replaced(data: Any, path: Place, value: Any, text: str) -> Any:
    """Plain data with the value at a path; where text stood before, the text as it was written."""
    if not path:
        return text if isinstance(data, str) and not isinstance(value, str) else value
    if isinstance(data, list):
        changed = _replaced(data[int(path[0])], path[1:], value, text)
        return [changed if str(index) == path[0] else item for index, item in enumerate(data)]
    return {**data, path[0]: _replaced(data.get(path[0]), path[1:], value, text)}
