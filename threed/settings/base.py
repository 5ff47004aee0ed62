"""Settings as frozen dataclasses, built from what people write: YAML and name=value.

What a setting means is the comment behind it in the source, what it may be is its type and the
range in its annotation; every error names the setting, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import inspect
import math
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from io import StringIO
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.core.words import did_you_mean

T = TypeVar("T")
MAX_YAML = 256 * 1024  # characters
MAX_DEPTH = 20  # of nested lists and mappings
Path = tuple[str, ...]  # ("stages", "0", "steps")


@dataclass(frozen=True)
class Range:
    """What the numbers of a setting may be: `steps: Annotated[int, Range(1)] = 400`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None  # a bound that may not be reached

    def __contains__(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
        )

    def __str__(self) -> str:
        words = [] if self.above is None else [f"above {self.above:g}"]
        if self.low is not None and self.high is not None:
            words.append(f"in {self.low:g}..{self.high:g}")
        elif self.low is not None:
            words.append(f"at least {self.low:g}")
        elif self.high is not None:
            words.append(f"at most {self.high:g}")
        return " and ".join(words) or "finite"


def check_ranges(instance: Any) -> None:
    """InputError for a number outside the Range of its annotation; for use in __post_init__."""
    for name, hint in _hints(type(instance)).items():
        limits = _limits(hint) or Range()
        for number in _numbers(getattr(instance, name)):
            if number not in limits:
                raise InputError(f"{name} must be {limits}, got {number:g}")


@dataclass(frozen=True)
class Described:
    """One setting as `threed list settings` shows it."""

    name: str  # dotted path
    default: Any  # plain data
    allowed: str
    meaning: str


def describe(kind: type, prefix: Path = ()) -> Iterator[Described]:
    """Every setting of a dataclass and of those inside it; lists of dataclasses show item 0."""
    hints, comments = _hints(kind), _comments(kind)
    instance = kind()
    for field in fields(kind):
        hint, path = hints[field.name], (*prefix, field.name)
        item = _item(hint)
        if is_dataclass(hint) and hint is not Schedule:
            yield from describe(typing.cast(type, hint), path)
        elif item is not None and is_dataclass(item):
            yield from describe(typing.cast(type, item), (*path, "0"))
        else:
            default = plain(getattr(instance, field.name))
            allowed = _allowed(hint)
            yield Described(".".join(path), default, allowed, comments.get(field.name, ""))


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


def build(kind: type[T], data: Any, path: Path = ()) -> T:
    """A dataclass from plain data that says only what differs from its defaults."""
    if not isinstance(data, Mapping):
        raise _wrong(path, data, "a mapping of settings")
    hints = _hints(kind)
    values = {}
    for name, value in data.items():
        if name not in hints:
            raise InputError(f"{_dotted((*path, str(name)))}: no such setting"
                             f"{did_you_mean(str(name), hints)}")  # fmt: skip
        values[name] = _convert(hints[name], value, (*path, name))
    try:
        return kind(**values)
    except InputError as error:
        where = f"{_dotted(path)}: " if path else ""
        raise InputError(f"{where}{error}") from error


def plain(value: Any) -> Any:
    """The data for YAML that `build` would turn into this value again."""
    if isinstance(value, Schedule):
        points = dict(value.points)
        return value.points[0][1] if tuple(points) == (0,) else points
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def override(instance: T, words: Sequence[str]) -> T:
    """The same settings with name=value applied, in order; names may lack what is obvious.

    A name is a dotted path, or the end of one where only one path ends so. InputError as `build`,
    of what comes out in the end: two settings may fit each other and neither the preset.
    """
    data = plain(instance)
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{word!r} is not a setting: write name=value, such as steps=200")
        path = _resolve(instance, name.strip())
        value = read_yaml(text, name.strip())
        data = _replaced(data, path, value, text)
        with suppress(InputError):  # the next word may mend it
            instance = build(type(instance), data)
    return build(type(instance), data)


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


def _convert(hint: Any, value: Any, path: Path) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        try:
            return _convert(arguments[0], value, path)
        except InputError as error:
            raise InputError(f"{error}, {_limits(hint)}") from error
    if hint is Schedule:
        return _schedule(value, path)
    if is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin is Literal:
        if value not in arguments:
            near = difflib.get_close_matches(str(value), map(str, arguments), n=1)
            hint_text = f"; did you mean {near[0]!r}?" if near else ""
            raise _wrong(path, value, _allowed(hint), hint_text)
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _convert(arguments[0], value, path)
    if origin is tuple:
        return _tuple(arguments, value, path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, value, _allowed(hint))
        return {str(k): _convert(arguments[1], v, (*path, str(k))) for k, v in value.items()}
    return _scalar(hint, value, path)


def _scalar(kind: type, value: Any, path: Path) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float):
        number = _number(value)
        if number is not None and (kind is float or number == int(number)):
            return kind(number)
    raise _wrong(path, value, _allowed(kind))


def _number(value: Any) -> float | None:
    # YAML 1.1 reads 1e-3 as a string
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _schedule(value: Any, path: Path) -> Schedule:
    points = value if isinstance(value, Mapping) else {0: value}
    pairs = []
    for step, item in points.items():
        number = _number(item)
        if not isinstance(step, int) or isinstance(step, bool) or step < 0 or number is None:
            raise _wrong(path, value, _allowed(Schedule))
        pairs.append((step, number))
    if not pairs:
        raise _wrong(path, value, _allowed(Schedule))
    return Schedule(tuple(sorted(pairs)))


def _tuple(arguments: tuple[Any, ...], value: Any, path: Path) -> tuple[Any, ...]:
    repeated = len(arguments) == 2 and arguments[1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (repeated or len(value) == len(arguments)):
        what = "a list" if repeated else f"a list of {len(arguments)} numbers, low to high"
        raise _wrong(path, value, what)
    hints = [arguments[0]] * len(value) if repeated else arguments
    items = zip(hints, value, strict=True)
    return tuple(_convert(hint, item, (*path, str(i))) for i, (hint, item) in enumerate(items))


def _wrong(path: Path, value: Any, allowed: str, hint: str = "") -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return InputError(f"{_dotted(path)}: {shown} is not allowed{hint}; it takes {allowed}")


def _dotted(path: Path) -> str:
    return ".".join(path) or "the settings"


def _item(hint: Any) -> Any:
    arguments = get_args(hint)
    many = get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis
    return arguments[0] if many else None


def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _limits(hint: Any) -> Range | None:
    if get_origin(hint) in (Union, types.UnionType):
        hint = get_args(hint)[0]
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)), None)


def _allowed(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        Schedule: "a number, or numbers by step such as {0: 10, 5000: 1000}",
    }
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = _limits(hint)
        return _allowed(arguments[0]) + (f", {limits}" if limits else "")
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return f"{_allowed(arguments[0])}, or null"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each {_allowed(arguments[0])}"
        return f"a list of {len(arguments)} numbers, low to high"
    if origin is not None and issubclass(origin, Mapping):
        if arguments[1] is not Schedule:
            return f"a mapping of names to {_allowed(arguments[1])}"
        return "a mapping of names to numbers or schedules"
    return names.get(hint, str(hint))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Schedule):
        yield from (number for _, number in value.points)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _comments(kind: type) -> dict[str, str]:
    """What stands behind each field of a dataclass in its source, by the field's name."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # run without sources: the names have to do
        return {}
    found, name, start = {}, "", True
    for token in tokenize.generate_tokens(StringIO(inspect.cleandoc(source)).readline):
        if token.type == tokenize.NAME and start and token.start[1] == 4:
            name = token.string
        elif token.type == tokenize.COMMENT and name:
            found[name] = token.string.lstrip("# ")
        start = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.NL, tokenize.DEDENT)
        name = "" if token.type == tokenize.NEWLINE else name
    return found


def _leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    if is_dataclass(value) and not isinstance(value, Schedule):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, Mapping):
        yield path
        for key in value:
            yield (*path, key)
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path


def _resolve(instance: Any, name: str) -> Path:
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
    if found:
        choices = " or ".join(_dotted(leaf) for leaf in found)
        raise InputError(f"{name}: which one? Write {choices}")
    near = difflib.get_close_matches(name, {leaf[-1] for leaf in leaves}, n=1, cutoff=0.5)
    near = near or difflib.get_close_matches(name, [_dotted(leaf) for leaf in leaves], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{name}: no such setting{hint} (`threed list settings` shows them all)")


def _is_mapping(instance: Any, path: Path) -> bool:
    for name in path:
        instance = instance[int(name)] if isinstance(instance, tuple) else getattr(instance, name)
    return isinstance(instance, Mapping)


def _replaced(data: Any, path: Path, value: Any, text: str) -> Any:
    """Plain data with the value at a path; where text stood before, the text as it was written."""
    if not path:
        return text if isinstance(data, str) and not isinstance(value, str) else value
    if isinstance(data, list):
        index = int(path[0])
        return [_replaced(v, path[1:], value, text) if i == index else v
                for i, v in enumerate(data)]  # fmt: skip
    return {**data, path[0]: _replaced(data.get(path[0]), path[1:], value, text)}
