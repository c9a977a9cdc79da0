"""From exceptions to sentences and exit codes: 2 for what a user can mend, 130 for Ctrl-C, a traceback for a bug."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

DEBUG = "mmkd.debug"
"""Key of the click context under which ``--debug`` is kept."""

TYPED = "mmkd.typed"
"""Key of the click context under which the arguments of the command lie."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # as data.files.NO_ROOM, which costs an import
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class Root(TyperGroup):
    """The group at the top: every error of a command passes here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what was typed, to tell how to go on."""
        ctx.meta[TYPED] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; print what a user can mend as one sentence."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a closed pipe is still dealt with
            return result
        except KeyboardInterrupt as stopped:
            if not _beside():
                print(f"\n{str(stopped) or 'stopped'}; go on with `{_command(ctx.meta[TYPED])}`", file=sys.stderr)
            raise typer.Exit(130) from None
        except Exception as error:
            text = sentence(error)
            if text is None:
                raise
            if ctx.meta.get(DEBUG) or os.environ.get("MMKD_DEBUG", "0") not in ("", "0"):
                traceback.print_exc()
            if not (_beside() and _follows(error)):
                print(f"{_speaker()}: {text}", file=sys.stderr)
            raise typer.Exit(2) from error


def _beside() -> bool:
    """Whether this is one of several processes that train together, and not the one that speaks."""
    return os.environ.get("RANK", "0") != "0"


def _speaker() -> str:
    """Who says it: most errors happen to all processes alike, but some to one of them."""
    return f"mmkd (process {os.environ['RANK']})" if _beside() else "mmkd"


def _follows(error: Exception) -> bool:
    """Whether the error only tells that another process has ended, which says itself why."""
    parallel = sys.modules.get("mmkd_core.student.parallel")
    return parallel is not None and isinstance(error, parallel.PeerError)


def _command(typed: list[str]) -> str:
    """How to go on. A launcher's own arguments are not known here, only that there was one."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    return ("torchrun ... -m mmkd_core " if launched else "mmkd ") + shlex.join(typed)


def sentence(error: Exception) -> str | None:
    """What to tell the user; None if the error is a bug."""
    from mmkd_core.errors import MmkdError

    if isinstance(error, MmkdError):
        return str(error)
    # Only a process that has opened a store can raise its error; importing it costs more than the message.
    store = sys.modules.get("feature_store")
    if store is not None and isinstance(error, store.StoreError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (*_FULL, *_FORBIDDEN):
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _FULL:
            return f"the disk is full; what was finished is kept{where}. Make room and run the same command again"
        return f"{str(error.strerror).lower()}{where}. Check the rights of the file and its folder"
    return None
