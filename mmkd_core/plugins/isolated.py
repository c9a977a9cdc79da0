"""Runs one function in a fresh interpreter: JSON in, JSON out, limits of time and memory, and no network.

A fresh interpreter sees what was just installed, and a crash or a hang in a plugin's code ends there. Blocking
sockets proves that a teacher loads from its declared files alone. It contains accidents; it is no sandbox.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import mmkd_core
from mmkd_core.errors import MmkdError, PluginError
from mmkd_core.plugins import limits
from mmkd_core.plugins.worker import block_network

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_START = "from mmkd_core.plugins.isolated import serve; serve()"


def run_isolated(
    function: str, argument: Any, *, time_limit_s: float = 300, memory: int | None = None, network: bool = False
) -> Any:
    """Call ``module:function`` of this project with one JSON value in a fresh interpreter; returns its JSON answer.

    Args:
        memory: bytes that it and what it starts may use; by default ``limits.memory_limit``.

    Raises:
        PluginError: what the function raised, or that it crashed, took too long or used too much memory.
    """
    memory = limits.memory_limit() if memory is None else memory
    request = json.dumps({"function": function, "argument": argument, "network": network})
    root = str(Path(mmkd_core.__file__).parent.parent)
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), root]
    environ = {**os.environ, **({} if network else OFFLINE), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        text=True,
        errors="replace",
        start_new_session=True,  # so that what the plugin may have started ends with it
    )
    try:
        with limits.watched(process.pid, memory, partial(_kill, process)) as exceeded:
            answer, noise = process.communicate(request, timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise PluginError(f"the check took more than {time_limit_s:g} s and was stopped") from None
    except BaseException:
        _end(process)
        raise
    if exceeded.is_set():
        raise PluginError(f"the check used more than {limits.in_words(memory)} of memory and was stopped")
    return _read(answer, noise, process.returncode)


def serve() -> None:
    """The fresh interpreter's side: read one request, answer it, end."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a plugin prints must not end up in the answer
    request = json.loads(sys.stdin.read())
    if not request["network"]:
        block_network()
    module, _, name = request["function"].partition(":")
    try:
        reply = {"value": getattr(importlib.import_module(module), name)(request["argument"])}
    except MmkdError as error:
        reply = {"error": {"what": error.what, "where": error.where, "next": error.next}}
    except (Exception, SystemExit) as error:
        reply = {"error": {"what": f"{type(error).__name__}: {error}", "where": "", "next": ""}}
    json.dump(reply, answer)
    answer.close()


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[str]) -> None:
    _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _read(answer: str, noise: str, code: int) -> Any:
    tail = noise.strip()[-2000:]
    try:
        reply = json.loads(answer)
    except ValueError:
        died = f"signal {-code}" if code < 0 else f"exit status {code}"
        raise PluginError(f"the check's interpreter died with {died}{':' + chr(10) + tail if tail else ''}") from None
    if "error" in reply:
        error = reply["error"]
        raise PluginError(error["what"], where=error["where"], next=error["next"])
    return reply["value"]
