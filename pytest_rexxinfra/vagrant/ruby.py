"""Values as Ruby has them, for Vagrantfiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Value = str | int | bool | Sequence[str] | Mapping[str, str]


def literal(value: Value) -> str:
    """A value as a literal; in single quotes Ruby interprets a backslash and the quote, and nothing else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{quoted}'"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)} => {literal(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(literal, value)) + "]"
