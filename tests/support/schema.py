"""A validator for the part of JSON Schema (draft 7) that our own schema uses. An unknown keyword is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

NOTES = frozenset(("$schema", "title", "description", "default", "allowComments", "allowTrailingCommas"))
MAPPING = frozenset(("properties", "patternProperties", "additionalProperties", "propertyNames"))


def accepts(schema: Any, value: Any) -> bool:
    """Return whether `value` is valid."""
    if isinstance(schema, bool):
        return schema
    unknown = set(schema) - set(_CHECKS) - NOTES - MAPPING
    assert not unknown, f"this validator does not support {unknown}"
    if not all(check(schema[word], value) for word, check in _CHECKS.items() if word in schema):
        return False
    return not isinstance(value, dict) or all(_entry(schema, name, inner) for name, inner in value.items())


def _entry(schema: Mapping[str, Any], name: str, value: Any) -> bool:
    if not accepts(schema.get("propertyNames", True), name):
        return False
    own = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    own += [inner for pattern, inner in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
    return all(accepts(inner, value) for inner in own or [schema.get("additionalProperties", True)])


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "number": _number,
    "integer": lambda value: _number(value) and value % 1 == 0,
}

_CHECKS: Mapping[str, Callable[[Any, Any], bool]] = {
    "type": lambda wanted, value: _TYPES[wanted](value),
    "enum": lambda wanted, value: value in wanted,
    "const": lambda wanted, value: value == wanted,
    "anyOf": lambda wanted, value: any(accepts(schema, value) for schema in wanted),
    "not": lambda wanted, value: not accepts(wanted, value),
    "items": lambda wanted, value: not isinstance(value, list) or all(accepts(wanted, item) for item in value),
    "pattern": lambda wanted, value: not isinstance(value, str) or bool(re.search(wanted, value)),
    "required": lambda wanted, value: not isinstance(value, dict) or all(name in value for name in wanted),
    "minItems": lambda wanted, value: not isinstance(value, list) or len(value) >= wanted,
    "uniqueItems": lambda wanted, value: not isinstance(value, list) or len({*map(repr, value)}) == len(value),
    "exclusiveMinimum": lambda wanted, value: not _number(value) or value > wanted,
    "minimum": lambda wanted, value: not _number(value) or value >= wanted,
    "maximum": lambda wanted, value: not _number(value) or value <= wanted,
    "exclusiveMaximum": lambda wanted, value: not _number(value) or value < wanted,
}
