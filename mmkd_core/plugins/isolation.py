"""A teacher that runs in an environment of its own, seen from here: a ``Teacher`` whose work is done by a worker.

The worker gets one request at a time, each with a limit of time and of memory. If it crashes, hangs or eats memory it
is ended and started again, and the same request is asked once more; a second failure costs that batch
(``BatchError``), not the run. What the worker prints is in its log.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import BatchError, PluginError
from mmkd_core.plugins import limits, worker
from mmkd_core.plugins.isolated import OFFLINE
from mmkd_core.plugins.protocol import HEAD, Block, Message, ProtocolError, decode, encode, lengths

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a worker may use."""

    load_s: float = 900
    call_s: float = 600
    memory: int = field(default_factory=limits.memory_limit)


class IsolatedTeacher:
    """A ``Teacher`` in another interpreter. The worker ends with this object.

    Args:
        spec: its declaration, with ``isolation``.
        weights: role to verified folder.
        python: the interpreter of its environment.
        log: file that the worker's output is added to.
        device: where the worker puts the model.
        bounds: what it may use.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        weights: Mapping[str, Path],
        python: Path,
        log: Path,
        device: str = "cpu",
        bounds: Limits | None = None,
    ) -> None:
        assert spec.isolation is not None
        self.spec, self._log, self._python = spec, log, python
        self._bounds = bounds or Limits()
        self._request = {
            "do": "load",
            "worker": spec.isolation.worker,
            "package": _package_of(spec.isolation.worker, spec.name),
            "spec": spec.model_dump(mode="json"),
            "weights": {role: str(folder) for role, folder in weights.items()},
            "device": device,
        }
        self._worker: _Worker | None = None
        self.logit_scale: float | None = None
        self._ask_once({"do": "nothing"}, {}, start_only=True)

    def preprocess(self, image: Image) -> Tensor:
        """(3, H, W) float32, by the plugin's own code; RGB pixels (H, W, 3) are sent."""
        import numpy as np

        return self._ask({"do": "preprocess"}, np.asarray(image.convert("RGB"), np.uint8))

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64."""
        return self._ask({"do": "tokenize", "texts": list(texts)}, None)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D)."""
        return self._ask({"do": "encode_image"}, images.detach().cpu().contiguous().numpy())

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D)."""
        return self._ask({"do": "encode_text"}, tokens.detach().cpu().contiguous().numpy())

    def close(self) -> None:
        """End the worker; the next request would start another."""
        if self._worker is not None:
            self._worker.end()
        self._worker = None

    def _ask(self, facts: dict[str, Any], array: Any) -> Tensor:
        import numpy as np
        import torch

        sent = {} if array is None else {"in": Block(array.dtype.str, array.shape, np.ascontiguousarray(array))}
        try:
            answer = self._ask_once(facts, sent)
        except _EndedError:
            try:
                answer = self._ask_once(facts, sent)
            except _EndedError as again:
                raise BatchError(
                    f"{self.spec.name}: its worker failed twice at {facts['do']}: {again}",
                    where=str(self._log),
                    next="Run the same command again for what is missing; the log has the worker's last words",
                ) from again
        out = answer[1]["out"]
        return torch.from_numpy(np.frombuffer(out.data, out.dtype).reshape(out.shape).copy())

    def _ask_once(self, facts: dict[str, Any], arrays: dict[str, Block], *, start_only: bool = False) -> Message:
        """One request to a worker that is running, or started for it."""
        try:
            if self._worker is None:
                self._worker = _Worker(self._python, self._log, self._bounds.memory)
                weakref.finalize(self, self._worker.end)
                loaded, _ = self._answer(self._worker, self._request, {}, self._bounds.load_s)
                self.logit_scale = loaded.get("logit_scale")
            if start_only:
                return {}, {}
            return self._answer(self._worker, facts, arrays, self._bounds.call_s)
        except _EndedError as ended:
            self.close()
            if start_only:
                raise PluginError(
                    f"the worker of teacher {self.spec.name} cannot load it: {ended}", where=str(self._log)
                ) from ended
            raise

    def _answer(self, worker: _Worker, facts: dict[str, Any], arrays: dict[str, Block], limit_s: float) -> Message:
        answer, out = worker.ask(facts, arrays, limit_s)
        if not answer.get("ok"):
            raise PluginError(
                f"teacher {self.spec.name} failed in its worker: {answer.get('error')}", where=str(self._log)
            )
        if facts["do"] != "load" and "out" not in out:
            raise PluginError(f"the worker of teacher {self.spec.name} answered without an array", where=str(self._log))
        return answer, out


class _EndedError(Exception):
    """The worker is gone, or had to be ended; says why."""


class _Worker:
    """One process and its two pipes."""

    def __init__(self, python: Path, log: Path, memory: int) -> None:
        self._memory = memory
        log.parent.mkdir(parents=True, exist_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    [str(python), "-I", "-u", worker.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    env={**environ, **OFFLINE},
                    bufsize=0,
                    start_new_session=True,  # so that what the plugin may have started ends with it
                )
            except OSError as error:
                raise PluginError(
                    f"the interpreter of an isolated teacher cannot be started: {error.strerror}",
                    where=str(python),
                    next="Run `mmkd teachers sync` to make its environment again",
                ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)

    def ask(self, facts: dict[str, Any], arrays: dict[str, Block], limit_s: float) -> Message:
        """Send one request and wait for its answer.

        Raises:
            _EndedError: the worker died, took too long, used too much memory, or answered nonsense.
        """
        deadline = time.monotonic() + limit_s
        with limits.watched(self._process.pid, self._memory, self._kill) as exceeded:
            try:
                for part in encode(facts, arrays):
                    self._write(memoryview(part), deadline)
                header, body = lengths(bytes(self._read(HEAD.size, deadline)))
                return decode(bytes(self._read(header, deadline)), self._read(body, deadline))
            except TimeoutError:
                reason = f"it took more than {limit_s:g} s and was stopped"
            except ProtocolError as error:
                reason = str(error)
            except (EOFError, OSError):
                self._kill()
                reason = f"it died with {_end_of(self._process.wait())}"
            if exceeded.is_set():
                reason = f"it used more than {limits.in_words(self._memory)} of memory and was stopped"
        raise _EndedError(reason)

    def end(self) -> None:
        """Kill it and what it started, if it still runs."""
        self._kill()
        self._process.wait()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()

    def _kill(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _write(self, data: memoryview, deadline: float) -> None:
        while len(data):
            _, ready, _ = select.select([], [self._in], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            data = data[os.write(self._in.fileno(), data[:_CHUNK]) :]

    def _read(self, count: int, deadline: float) -> bytearray:
        data = bytearray()
        while len(data) < count:
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(self._out.fileno(), min(_CHUNK, count - len(data)))
            if not part:
                raise EOFError
            data += part
        return data


def _package_of(function: str, teacher: str) -> str:
    """Folder of the plugin's package here; the worker reads its modules from there, but does not run ``__init__``."""
    top = function.partition(":")[0].partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is None or not found.submodule_search_locations:
        raise PluginError(f"package {top}, which holds the worker of teacher {teacher}, is not installed")
    return str(Path(next(iter(found.submodule_search_locations))).resolve())


def _end_of(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"
