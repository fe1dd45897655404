"""Generate the JSON Schema of rate-limit-config.json (draft 7) from `keys`, for editors.

The generated file is shipped in the same directory as this module. After a change to `keys`, redirect the output of
`ocwatch config schema` to that file. A test compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ocwatchd.config.keys import AUTO, KEYS, LARGEST, LIMIT_WINDOW, SHARE, Key, Kind
from ocwatchd.config.names import ROOT

Schema = dict[str, Any]

FILE = Path(__file__).with_name("rate-limit-config.schema.json")
"""The path of the shipped schema."""

REMARK = r"^(//|\$|#)"
_BEFORE = r"(?!\s)(?!.*\s$)(?!\*$)"
_NAME = {
    "type": "string",
    "pattern": f"^{_BEFORE}[^/]+(/.+)?$",
    "description": "provider/model, or a name from `models`.",
}
_NO_AGENT = r"agent:(\s|@|$)|agent:[^@]*(\s(@|$)|@$)"
_CHAINED = {
    "type": "string",
    "pattern": f"^(?!{_NO_AGENT}){_BEFORE}[^/]+(/.+)?$",
    "description": "provider/model, a name from `models`, agent:NAME or agent:NAME@provider/model.",
}
_SINGLE = {**_NAME, "pattern": rf"^{_BEFORE}(?!.*/\*$)[^/]+(/.+)?$"}


def uri(copy: Path | None = None) -> str:
    """Return the `$schema` value for a configuration. It is the URI of `copy` or, if there is no copy, of the shipped
    file.

    A copy is preferable, because the shipped file is in a virtual environment that may be removed.
    """
    return (copy or FILE).absolute().as_uri()


def schema() -> Schema:
    """Return the whole schema. It forbids unknown keys, so that editors mark them, although the reader accepts them."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "rate-limit-config.json",
        "description": "What ocwatchd does when a model is rate limited. Every key is optional.",
        "allowComments": True,
        "allowTrailingCommas": True,
        **_object((Key(ROOT, Kind.SECTION, "All settings.", inner=KEYS),)),
    }


def _object(keys: tuple[Key, ...]) -> Schema:
    return {
        "type": "object",
        "properties": {key.name: _described(key) for key in keys},
        "patternProperties": {REMARK: True},
        "additionalProperties": False,
    }


def _described(key: Key) -> Schema:
    unit = f" In {key.unit}." if key.unit else ""
    default = {} if key.default is None else {"default": key.default}
    return {"description": f"{key.about}{unit}", **default, **_value(key)}


def _value(key: Key) -> Schema:
    match key.kind:
        case Kind.SECTION if key.name == SHARE:
            return {**_object(key.inner), "not": {"required": ["url", "folder"]}}
        case Kind.SECTION:
            return _object(key.inner)
        case Kind.FLAG:
            return {"type": "boolean"}
        case Kind.NUMBER | Kind.WHOLE:
            most = {"exclusiveMaximum": LARGEST} if key.most is None else {"maximum": key.most}
            return {"type": "integer" if key.kind is Kind.WHOLE else "number", "minimum": key.least, **most}
        case Kind.PATIENCE:
            number = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": LARGEST}
            return {"anyOf": [{"enum": [AUTO, False]}, number]}
        case Kind.CHOICES:
            return {"type": "array", "items": {"enum": list(key.choices)}, "uniqueItems": True}
        case Kind.CHOICE:
            return {"enum": list(key.choices)}
        case Kind.TEXT:
            return _text(key)
        case Kind.TEXTS:
            return {"type": "array", "items": _text(key)}
        case Kind.CHAINS:
            targets = {"anyOf": [_SINGLE, {"type": "array", "items": _SINGLE}]}
            return _map([{"const": "*"}, _CHAINED], targets)
        case Kind.ALIASES:
            return _map([{}], _NAME)
        case Kind.AGENTS:
            return _map([_SINGLE], {"type": "string", "pattern": r"\S", "description": "The name of an agent."})
        case Kind.POOLS:
            pool = {**_object(key.inner), "required": [key.inner[0].name]}
            return _map([{"pattern": r"^(?!\*$)[^/]*[^/\s][^/]*$"}], pool)
        case Kind.MODELS:
            return {"type": "array", "items": _SINGLE, "minItems": 1, "uniqueItems": True}
        case Kind.ACCOUNTS:
            return _map([{"pattern": r"^[^/]*[^/\s][^/]*$"}], _text(key))
        case Kind.WEIGHTS:
            return _map([_SINGLE], {"type": "number", "exclusiveMinimum": 0, "maximum": 1000})
        case Kind.LIMITS:
            limit = _limit(key.inner)
            return _map([_SINGLE], {"anyOf": [limit, {"type": "array", "items": limit}]})
        case Kind.PER_MODEL:
            own = tuple(Key(i.name, i.kind, i.about, None, i.unit, least=i.least, most=i.most) for i in key.inner)
            return _map([_SINGLE], _object(own))


def _limit(keys: tuple[Key, ...]) -> Schema:
    above = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": LARGEST}
    limit = _object(keys)
    limit["properties"] = {key.name: {**_described(key), **above} for key in keys}
    for about in limit["properties"].values():
        about.pop("minimum")
    either = [{"required": [key.name]} for key in keys if key.name != LIMIT_WINDOW]
    return {**limit, "required": [LIMIT_WINDOW], "anyOf": either}


def _text(key: Key) -> Schema:
    return {"type": "string", "pattern": key.pattern}


def _map(names: list[Schema], values: Schema) -> Schema:
    return {
        "type": "object",
        "propertyNames": {"anyOf": [{"pattern": REMARK}, *names]},
        "patternProperties": {REMARK: True},
        "additionalProperties": values,
    }
