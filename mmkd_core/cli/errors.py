"""From exceptions to sentences and exit codes: 2 for what a user can mend, 70 for a fault of mmkd, 130 for Ctrl-C.

Code 1 is FAIL, or findings of a check, and nothing else: a script that reads verdicts must not take a crash for one.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

DEBUG = "mmkd.debug"
"""Key of the click context under which ``--debug`` is kept."""

TYPED = "mmkd.typed"
"""Key of the click context under which the arguments of the command lie."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # as files.NO_ROOM, which costs an import
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


MENDABLE, FAULT, STOPPED = 2, 70, 130
"""Exit codes: what a user can mend (as of a usage error), a fault of mmkd (EX_SOFTWARE of sysexits.h), Ctrl-C."""

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises where the arguments are wrong; it prints that itself."""


class Root(TyperGroup):
    """The group at the top: every error of a command passes here."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; a reader of its output that goes away changes neither the work nor its exit code."""
        with lasting_output():
            return super().main(*args, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what was typed, to tell how to go on."""
        ctx.meta[TYPED] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; print what a user can mend, and a fault of mmkd, as one sentence."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, UsageError):
            raise
        except (KeyboardInterrupt, typer.Abort) as stopped:
            if isinstance(stopped.__context__, EOFError):
                print("\nmmkd: a question was not answered. Agree beforehand with --yes", file=sys.stderr)
                raise typer.Exit(MENDABLE) from stopped
            if not _beside():
                print(f"\n{str(stopped) or 'stopped'}; go on with `{_command(ctx.meta[TYPED])}`", file=sys.stderr)
            raise typer.Exit(STOPPED) from None
        except (Exception, SystemExit) as error:  # a library or a plugin may end the process as it likes
            if isinstance(error, SystemExit) and not error.code:
                raise
            text = sentence(error)
            text = text and self.typed(ctx, text)
            if ctx.meta.get(DEBUG) or os.environ.get("MMKD_DEBUG", "0") not in ("", "0"):
                traceback.print_exc()
            if not (_beside() and _follows(error)):
                print(f"{_speaker()}{f': {text}' if text else fault(error)}", file=sys.stderr)
            raise typer.Exit(MENDABLE if text else FAULT) from error

    def typed(self, ctx: Any, text: str) -> str:
        """A sentence whose commands are about the workspace that was typed."""
        root = _workspace(ctx.meta[TYPED])
        return text if root is None else about(root, text, self)


def about(root: str, text: str, commands: Any) -> str:
    """A sentence whose commands are about a workspace.

    Args:
        root: the workspace.
        text: has commands in backticks.
        commands: the group at the top, which knows which commands take a workspace.
    """

    def whole(found: re.Match[str]) -> str:
        words = found[1].split()[1:]
        if "-w" in words or "--workspace" in words or not _takes_workspace(words, commands):
            return found[0]
        return f"`{found[1]} -w {shlex.quote(root)}`"

    return re.sub(r"`(mmkd [^`]*)`", whole, text)


def _takes_workspace(words: Sequence[str], command: Any) -> bool:
    for word in words:
        inner = getattr(command, "commands", {})
        if word not in inner:
            break
        command = inner[word]
    return any("--workspace" in parameter.opts for parameter in command.params)


def _workspace(typed: Sequence[str]) -> str | None:
    """What was given to ``-w``, if it is not the present folder."""
    for word, after in zip(typed, [*typed[1:], ""], strict=True):
        if word in ("-w", "--workspace"):
            return after if Path(after) != Path() else None
        if word.startswith("--workspace="):
            return word.partition("=")[2]
        if word.startswith("-w"):
            return word[2:]
    return None


@contextmanager
def lasting_output() -> Iterator[None]:
    """Drop what is printed after the reader has gone away (``| head -1``), and let the command end as it would."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Lasting(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
        sys.stdout, sys.stderr = before


class _Lasting:
    """A text stream; from a broken pipe on it leads nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as the stream does."""
        try:
            return int(self._stream.write(text))
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flush as the stream does."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # what is buffered goes there as well, at the end of the process
        os.close(nowhere)


def fault(error: BaseException) -> str:
    """What is told of an error that is none of the user's."""
    told = " ".join(str(error).split())
    what = f"{type(error).__name__}{f': {told[:300]}' if told else ''}"
    return f" has a fault: {what}. Run it again with --debug and report what it prints"


def _beside() -> bool:
    """Whether this is one of several processes that train together, and not the one that speaks."""
    return os.environ.get("RANK", "0") != "0"


def _speaker() -> str:
    """Who says it: most errors happen to all processes alike, but some to one of them."""
    return f"mmkd (process {os.environ['RANK']})" if _beside() else "mmkd"


def _follows(error: BaseException) -> bool:
    """Whether the error only tells that another process has ended, which says itself why."""
    parallel = sys.modules.get("mmkd_core.student.parallel")
    return parallel is not None and isinstance(error, parallel.PeerError)


def _command(typed: list[str]) -> str:
    """How to go on. A launcher's own arguments are not known here, only that there was one."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    return ("torchrun ... -m mmkd_core " if launched else "mmkd ") + shlex.join(typed)


def sentence(error: BaseException) -> str | None:
    """What to tell the user; None if the error is a fault of mmkd."""
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
