"""Settings in words, from their JSON schema: what each takes, means, and is by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

JsonSchema = dict[str, Any]
NULL = {"type": "null"}
STEPS = "or such numbers by step as in {0: 10, 5000: 1000}"
TYPES = {
    "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "string": "text", "object": "a mapping of settings",
}  # fmt: skip

BOUNDS = {
    "exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below",
    "maximum": "at most", "multipleOf": "a multiple of",
}  # fmt: skip


@dataclass(frozen=True)
class Described:
    """One setting as `threed list settings` shows it."""

    name: str  # dotted path
    default: Any  # plain data; None where it has to be said
    allowed: str
    meaning: str


def describe(kind: type[BaseModel]) -> list[Described]:
    """Describe every setting of a kind and of those inside it; lists of settings show item 0."""
    root = kind.model_json_schema()
    return list(_describe(root, root, "", {}))


def _describe(
    root: JsonSchema, schema: JsonSchema, prefix: str, defaults: Mapping[str, Any]
) -> Iterator[Described]:
    for name, part in schema["properties"].items():
        default = defaults.get(name, part.get("default"))
        whole, item = follow(root, part), follow(root, part.get("items", {}))
        if "properties" in whole:
            yield from _describe(root, whole, f"{prefix}{name}.", default or {})
        elif "properties" in item:
            first = default[0] if default else {}
            yield from _describe(root, item, f"{prefix}{name}.0.", first)
        else:
            meaning = part.get("description", "")
            yield Described(prefix + name, default, allowed(root, part), meaning)


def follow(root: JsonSchema, schema: JsonSchema) -> JsonSchema:
    """Return what a schema refers to, without null where that is allowed as well."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != NULL]
    if len(choices) == 1:
        return {**follow(root, choices[0]), **{k: v for k, v in schema.items() if k != "anyOf"}}
    name = schema.get("$ref", "").rpartition("/")[2]
    return {**root["$defs"][name], **schema} if name else schema


def inside(root: JsonSchema, place: Sequence[int | str]) -> tuple[str, JsonSchema]:
    """Return the dotted name and the schema of a place, as far as the schema knows it."""
    known, schema = [], root
    for step in place:
        owner = follow(root, schema)
        if "items" in owner or "prefixItems" in owner:
            items = owner.get("prefixItems", ())[int(step) :]
            part = items[0] if items else owner.get("items")
        else:
            part = owner.get("properties", {}).get(step) or owner.get("additionalProperties")
        if not part:
            break
        known.append(str(step))
        schema = part
    return ".".join(known), schema


def allowed(root: JsonSchema, schema: JsonSchema) -> str:
    """Say what a schema takes."""
    choices = schema.get("anyOf", ())
    if choices:
        words = [STEPS if "patternProperties" in choice else f"or {allowed(root, choice)}"
                 for choice in choices]  # fmt: skip
        return ", ".join(words).removeprefix("or ")
    schema = follow(root, schema)
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum') or [schema['const']]))}"
    if schema == NULL:
        return "null"
    kind = schema.get("type")
    if kind == "array":
        items, least = schema.get("prefixItems"), schema.get("minItems")
        count = f" of {len(items)}" if items else f" of at least {least}" if least else ""
        return f"a list{count}, each {allowed(root, items[0] if items else schema['items'])}"
    if kind == "object" and "properties" not in schema:
        return f"a mapping of names, each to {allowed(root, schema['additionalProperties'])}"
    return f"{TYPES.get(str(kind), 'anything')} {limits(schema)}".rstrip()


def limits(schema: Mapping[str, Any]) -> str:
    """Say what limits a schema sets to a number: "above 0 and at most 1"."""
    said = {word: _number(schema[key]) for key, word in BOUNDS.items() if key in schema}
    if "at least" in said and "at most" in said:
        said = {"in": f"{said.pop('at least')}..{said.pop('at most')}", **said}
    return " and ".join(f"{word} {number}" for word, number in said.items())


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
