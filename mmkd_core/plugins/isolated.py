"""Runs one function in a fresh interpreter: JSON in, JSON out, a time limit, and no network.

A fresh interpreter sees what was just installed, and a crash or a hang in a plugin's code ends there. Blocking
sockets proves that a teacher loads from its declared files alone. It contains accidents; it is no sandbox.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import mmkd_core
from mmkd_core.errors import MmkdError, PluginError

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_START = "from mmkd_core.plugins.isolated import serve; serve()"


def run_isolated(function: str, argument: Any, *, time_limit_s: float = 300, network: bool = False) -> Any:
    """Call ``module:function`` of this project with one JSON value in a fresh interpreter; returns its JSON answer.

    Raises:
        PluginError: what the function raised, or that it crashed or took longer than ``time_limit_s``.
    """
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
        answer, noise = process.communicate(request, timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise PluginError(f"the check took more than {time_limit_s:g} s and was stopped") from None
    except BaseException:
        _end(process)
        raise
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


def block_network() -> None:
    """Make every attempt of this process to look up or reach a host fail at once."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("the network is blocked during this check")

    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        setattr(socket, name, refuse)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
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
