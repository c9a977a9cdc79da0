"""The command line: parse, call one function of a room below, print.

Does not: compute, and does not import torch, numpy or rich when imported: heavy imports stand inside the commands, so
that `mmkd --help` and `mmkd teachers list` are instant. For the same reason the modules of commands do without
`from __future__ import annotations`: typer would compile every annotation again, three times.
"""

import gc
import os
from typing import Annotated

import typer

from mmkd_core.cli import (
    authors,
    data,
    doctor,
    eval_sets,
    evaluate,
    export,
    forecast,
    integrate,
    push,
    quickstart,
    releases,
    store,
    study,
    teachers,
    train,
    workspace,
)
from mmkd_core.cli.errors import Root

__all__ = ["app", "main"]

app = typer.Typer(
    name="mmkd",
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its help costs 80 ms and says the same
    pretty_exceptions_enable=False,  # a fault is one sentence, and a traceback with --debug: cli.errors
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  mmkd quickstart",
)


def _version(wanted: bool) -> None:
    if wanted:
        from mmkd_core import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Continual integration of CLIP-like teachers into one medical image-text model."""


for _group in (quickstart, workspace, train, integrate, doctor, study, push):
    app.add_typer(_group.app)
app.add_typer(data.app, name="data")
app.add_typer(export.app, name="export")
teachers.app.add_typer(authors.app)
teachers.app.add_typer(forecast.app)
app.add_typer(teachers.app, name="teachers")
evaluate.eval_app.add_typer(eval_sets.app)
app.add_typer(evaluate.eval_app, name="eval")
app.add_typer(eval_sets.compare_app)
app.add_typer(evaluate.audit_app, name="audit")
app.add_typer(releases.app, name="releases")
app.add_typer(store.app, name="store")


def main() -> None:
    """Run the command line of this process."""
    # Starting makes objects but no garbage, and no plugin of pydantic is ours: a fifth of `mmkd teachers list`.
    gc.set_threshold(50_000, 20, 20)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    app()
