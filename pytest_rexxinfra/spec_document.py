"""A spec as a plain document, for what keeps it beside a machine, and for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import RexxInfraError
from .model import Spec

Document = dict[str, Any]
"""What JSON and YAML can say; its keys are the names of fields in camelCase."""

HIDDEN = "(hidden)"
"""Stands for a secret: a value of the environment, the text of the user data."""


def to_document(spec: Spec) -> Document:
    """What was asked for: the power, and whatever is not as it would be by itself. Sizes are in bytes.

    Values of ``env`` and the text of ``user_data`` are secrets, and `HIDDEN` instead. Of the build there are label and
    digest.
    """
    shown = spec.but(
        env=dict.fromkeys(spec.env, HIDDEN), user_data=None if spec.user_data is None else HIDDEN, build=None
    )
    document: Document = {"power": str(spec.power), **plain(shown)}
    if spec.build:
        document["build"] = {"label": spec.build.label, "digest": spec.build.digest}
    return document


def from_document(document: Mapping[str, Any]) -> Spec:
    """The spec that `to_document` wrote, but for what was hidden, and without its build.

    Hidden values are `HIDDEN`, so that written again the document is the same, and nobody takes them for empty ones.
    Fields of a newer version are left out. Raises `RexxInfraError` for what is no such document, naming the place.
    """
    known = {name: value for name, value in document.items() if name != "build"}
    spec: Spec = _object(Spec, known, "spec")
    return spec


def to_text(spec: Spec) -> str:
    """`to_document` as JSON: one line of printable ASCII."""
    return json.dumps(to_document(spec))


def from_text(text: str) -> Spec:
    """The spec that `to_text` wrote; see `from_document`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _senseless("spec", f"is no JSON ({error})") from error
    if not isinstance(document, dict):
        raise _senseless("spec", "is no object")
    return from_document(document)


def plain(value: Any) -> Any:
    """A value as JSON and YAML have it; of dataclasses, the fields that differ from their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        given = ((each, getattr(value, each.name)) for each in fields(value))
        return {_camel(each.name): plain(what) for each, what in given if what != _default(each)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if type(value) in (bool, int, float, NoneType) else str(value)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _default(each: Field[Any]) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


def _object(cls: Any, value: Any, place: str) -> Any:
    """A dataclass, from what is known of it."""
    if not isinstance(value, Mapping):
        raise _senseless(place, "is no object")
    known = [(name, _camel(name), hint) for name, hint in _hints(cls).items()]
    given = {name: _read(hint, value[key], f"{place}.{key}") for name, key, hint in known if key in value}
    try:
        return cls(**given)
    except TypeError as error:
        raise _senseless(place, f"lacks something ({error})") from error


def _read(hint: Any, value: Any, place: str) -> Any:
    """A value of the type that a field has."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return None if value is None else _read(next(each for each in parts if each is not NoneType), value, place)
    if is_dataclass(hint):
        return _object(hint, value, place)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _senseless(place, "is no list")
        return tuple(_read(parts[0], each, f"{place}[{number}]") for number, each in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _senseless(place, "is no object")
        return {str(name): _read(parts[1], each, f"{place}.{name}") for name, each in value.items()}
    if issubclass(hint, StrEnum) and value in [*hint]:
        return hint(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _senseless(place, f"cannot be {value!r}")
    return value


@cache
def _hints(cls: Any) -> Mapping[str, Any]:
    return get_type_hints(cls, localns={"Build": Any})


def _senseless(place: str, why: str) -> RexxInfraError:
    return RexxInfraError(
        f"the spec that was kept makes no sense: {place} {why}",
        hint="something else wrote it, or a newer pytest-rexxinfra; that one can read it",
    )
