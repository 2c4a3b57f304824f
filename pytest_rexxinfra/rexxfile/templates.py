"""Templates of PUT, in Jinja: https://jinja.palletsprojects.com/en/stable/templates/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from .problems import Wrong
from .sources import Source

_MACHINE = "machine"
"""The variable that tells of the machine: ``machine.name`` and ``machine.system``."""


def check(source: Source, variables: Mapping[str, str], offset: int) -> None:
    """See that a template can be rendered: its syntax, its names. Raises `Wrong` for the instruction that names it."""
    try:
        from jinja2 import TemplateSyntaxError, meta
    except ImportError as missing:
        raise Wrong("PUT --template needs Jinja: pip install 'pytest-rexxinfra[rexxfile]'", offset) from missing
    try:
        tree = _environment().parse(source.path.read_text("utf-8"))
        unknown = sorted(meta.find_undeclared_variables(tree) - {*variables, _MACHINE})
        others = next(iter(meta.find_referenced_templates(tree)), "")
    except TemplateSyntaxError as error:
        raise Wrong(f"template {source.path}, line {error.lineno}: {error.message}", offset) from error
    except UnicodeDecodeError as error:
        raise Wrong(f"template {source.path} is not UTF-8", offset) from error
    if others != "":
        raise Wrong(f"template {source.path} takes in {others or 'another one'}; a template here is one file", offset)
    if unknown:
        raise Wrong(
            f"template {source.path} has {unknown[0]}, which is not defined; declare it with ARG or ENV", offset
        )


def render(source: Source, variables: Mapping[str, str], name: str, system: str) -> bytes:
    """The text of a template for the machine of that name and system. Raises `UsageError`."""
    told = {"name": name, "system": system}
    try:
        template = _environment().from_string(source.path.read_text("utf-8"))
        text: str = template.render({**variables, _MACHINE: told})
        return text.encode()
    except Exception as error:  # a template may divide by zero
        raise UsageError(f"template {source.path} cannot be rendered: {error}") from error


def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
