"""What every page shares: the templates with their filters, one style, and writing whole files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from mmkd_core.errors import WorkspaceError
from mmkd_core.report import forest, svg, words


def render(template: str, **values: Any) -> str:
    """A page as a string of HTML that is also well-formed XML. What is put in is escaped, but for ``Markup``."""
    environment = Environment(
        loader=PackageLoader("mmkd_core", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        points=words.points,
        signed=words.signed,
        between=words.between,
        percent=words.percent,
        duration=words.duration,
        amount=words.amount,
    )
    return environment.get_template(template).render(
        styles=Markup(svg.palette(":root") + svg.FIGURE_CSS),
        font=Markup(svg.FONT),
        share=words.share,
        verdict_class={verdict: kind for verdict, (kind, _) in forest.VERDICTS.items()},
        **values,
    )


def write(html: str, out: Path, what: str) -> Path:
    """Write a page, whole or not at all, and return its path.

    Raises:
        WorkspaceError: the file cannot be written.
    """
    out = Path(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(html, encoding="utf-8", newline="\n")
        os.replace(temporary, out)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise WorkspaceError(
            f"{what} cannot be written: {error.strerror or error}",
            where=str(out),
            next="Free space or choose another place, then write it again.",
        ) from error
    return out


def cleaned(value: Any) -> Any:
    """The same structure without characters that a page cannot hold, in keys and in values."""
    if isinstance(value, str):
        return words.clean(value)
    if isinstance(value, Mapping):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    return value
