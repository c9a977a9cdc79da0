"""What a teacher does beside answering: prints, reaches for the network, writes files, changes the process.

Everything is put back afterwards, so that one careless teacher cannot change what the next one computes.

Does not: see what compiled code does (a C++ library that opens a file), and is no sandbox: it notices accidents.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
_CHANGES = ("os.remove", "os.rmdir", "os.truncate", "os.chmod", "sqlite3.connect")
_TWO_PATHS = ("os.rename", "os.link", "os.symlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


_AT_START = {"default dtype": "torch.float32", "default device": "cpu", "grad mode": True}
"""What torch begins with, for a plugin that is the first to import it."""


@dataclass
class Seen:
    """What was noticed; each list holds every fact once."""

    printed: str = ""
    network: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def faults(self) -> Iterator[str]:
        """One clause per kind of misbehaviour."""
        if self.printed.strip():
            yield f"it writes to stdout: {first_line(self.printed)}"
        if self.changed:
            yield f"it changes the state of the process: {'; '.join(self.changed)}"
        if self.network:
            yield f"it reaches for the network: {', '.join(self.network[:3])}"
        if self.writes:
            yield f"it writes outside the cache: {', '.join(self.writes[:3])}"


@contextmanager
def watching(seen: Seen | None = None, *, block: bool = True) -> Iterator[Seen]:
    """Record what the block does and put the process back as it was.

    Args:
        seen: a record to extend; a new one if left out.
        block: refuse network and writes outside the cache (they fail as without a network, or without the right);
            otherwise only stdout and the state of the process are watched, at the cost of microseconds.
    """
    seen = Seen() if seen is None else seen
    before = _AT_START | {name: read() for name, (read, _) in _states().items()}
    if block:
        _install()
        watch = (seen, tuple(_cache_roots()))  # looked up here: tempfile's lock must not be taken in the hook
        _watched.append(watch)
    try:
        with _stdout(seen):
            yield seen
    finally:
        if block:
            _watched.remove(watch)
        for name, (read, write) in _states().items():
            now = read()
            if before.setdefault(name, now) != now:
                write(before[name])
                says = f": {before[name]} became {now}" if isinstance(now, (str, int, float, bool)) else ""
                _note(seen.changed, f"{name}{says}")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer.

    Only in the main thread of a system with SIGALRM, and only if nobody else uses its timer; otherwise without limit.
    """
    here = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds:g} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _states() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """What is put back: name to how it is read and written. torch's and numpy's part, if they were imported."""
    found: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "Python's random numbers": (random.getstate, random.setstate),
        "working directory": (os.getcwd, os.chdir),
    }
    if "numpy" in sys.modules:
        found["numpy's random numbers"] = (_numpy_random, _set_numpy_random)
    return found | _torch_states() if "torch" in sys.modules else found


def _torch_states() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    import torch

    def device(name: str) -> None:
        torch.set_default_device(None if name == "cpu" else name)

    return {
        "default dtype": (lambda: str(torch.get_default_dtype()), lambda name: torch.set_default_dtype(_dtype(name))),
        "default device": (lambda: str(torch.get_default_device()), device),
        "number of threads": (torch.get_num_threads, torch.set_num_threads),
        "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
        "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
        "torch's random numbers": (lambda: torch.get_rng_state().numpy().tobytes(), _set_torch_random),
    }


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name.removeprefix("torch."))


def _set_torch_random(state: bytes) -> None:
    import torch

    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _numpy_random() -> tuple[Any, ...]:
    import numpy

    state: Any = numpy.random.get_state()
    kind, key, *rest = state
    return (kind, key.tobytes(), *rest)


def _set_numpy_random(state: tuple[Any, ...]) -> None:
    import numpy

    kind, key, *rest = state
    numpy.random.set_state((kind, numpy.frombuffer(key, dtype=numpy.uint32), *rest))


# Python can add an audit hook and never take it away, so there is one for the life of the process; it does nothing
# while this list is empty.
_watched: list[tuple[Seen, tuple[str, ...]]] = []
_installed: list[bool] = []


def _install() -> None:
    if not _installed:
        sys.addaudithook(_audit)
        _installed.append(True)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    seen, roots = _watched[-1]
    if event in _NETWORK:
        _note(seen.network, _address(event, arguments))
        raise OSError("the network is blocked during this check")
    for path in _written(event, arguments):
        if not _is_cache(path, roots):
            _note(seen.writes, path)
            raise PermissionError(f"{path} must not be written: only the cache may be")


def _address(event: str, arguments: tuple[Any, ...]) -> str:
    target = next((a for a in reversed(arguments) if isinstance(a, tuple)), arguments[0] if arguments else "")
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        target = arguments[0]
    if isinstance(target, tuple):
        return ":".join(map(str, target[:2]))
    return target.decode(errors="replace") if isinstance(target, bytes) else str(target)


def _written(event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
    """Absolute paths that the event would write, create or remove."""
    paths: tuple[Any, ...] = ()
    if event == "open":
        path, mode, flags = arguments
        if (set(mode or "") & set("wax+")) or (isinstance(flags, int) and flags & _WRITING):
            paths = (path,)
    elif event == "os.mkdir":
        paths = arguments[:1] if not os.path.isdir(arguments[0]) else ()
    elif event in _CHANGES:
        paths = arguments[:1]
    elif event in _TWO_PATHS:
        paths = arguments[:2] if event == "os.rename" else arguments[1:2]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):  # a number is an open file
            yield os.path.abspath(os.fsdecode(path))


def _is_cache(path: str, roots: tuple[str, ...]) -> bool:
    if "__pycache__" in path or path.startswith(("/dev/", "/proc/")) or path.endswith(":memory:"):
        return True
    real = os.path.realpath(path)
    return any(real == root or real.startswith(root + os.sep) for root in roots)


def _cache_roots() -> Iterator[str]:
    home = Path.home()
    for root in (
        os.environ.get("XDG_CACHE_HOME") or home / ".cache",
        *(
            os.environ.get(name)
            for name in ("MMKD_CACHE", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR")
        ),
        tempfile.gettempdir(),
    ):
        if root:
            yield os.path.realpath(root)


@contextmanager
def _stdout(seen: Seen) -> Iterator[None]:
    """Keep what Python and compiled code write to stdout away from it."""
    real, mine = sys.stdout, io.StringIO()
    with tempfile.TemporaryFile() as file:
        try:
            _flush(real)
            saved = os.dup(1)
        except OSError:  # closed: then nothing can be written there
            saved = -1
        if saved >= 0:
            os.dup2(file.fileno(), 1)
        sys.stdout = mine
        try:
            yield
        finally:
            sys.stdout = real
            if saved >= 0:
                _flush(real)
                os.dup2(saved, 1)
                os.close(saved)
            file.seek(0)
            seen.printed += mine.getvalue() + file.read().decode(errors="replace")


def _flush(stream: Any) -> None:
    both: tuple[Any, ...] = (stream, sys.__stdout__)
    for one in both:
        with suppress(OSError, ValueError, AttributeError):
            one.flush()


def _note(facts: list[str], fact: str) -> None:
    if fact not in facts:
        facts.append(fact)


def first_line(text: str) -> str:
    """The first line of what was printed, quoted and cut."""
    line = text.strip().splitlines()[0]
    return repr(line if len(line) <= 80 else f"{line[:77]}...")
