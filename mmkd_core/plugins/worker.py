"""The other side of an isolated teacher: started as a script by the interpreter of its own environment.

It reads requests from stdin and answers on what was stdout (``protocol``); whatever the plugin prints goes to the log.
Of mmkd it sees this file and ``protocol.py``, of the plugin its package without ``__init__``, because that declares the
teacher with mmkd's contract, which is not installed there. Standard library of Python 3.8 only.

Does not: restart, limit or retry. That is the parent's task (``isolation``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sys
import traceback
import types
from typing import Any, Callable, Dict, Tuple  # noqa: UP035

_MEMORY_FORMATS = {"<f4": "f", "<f8": "d", "|u1": "B", "<i4": "i", "<i8": "q", "|b1": "?"}


def main() -> None:
    """Answer requests until stdin ends."""
    protocol = _beside("protocol")
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a plugin that prints must not break the stream
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    block_network()
    teacher: Any = None
    while True:
        head = requests.read(protocol.HEAD.size)
        if len(head) < protocol.HEAD.size:
            return
        header, body = protocol.lengths(head)
        facts, arrays = protocol.decode(requests.read(header), bytearray(requests.read(body)))
        try:
            if facts["do"] == "load":
                teacher = _load(facts)
                scale = getattr(teacher, "logit_scale", None)
                facts = {"ok": True, "logit_scale": None if scale is None else float(scale)}
                answer: Tuple[Dict[str, Any], Dict[str, Any]] = (facts, {})  # noqa: UP006
            else:
                answer = ({"ok": True}, {"out": _block(protocol, _call(teacher, facts, arrays))})
            parts = protocol.encode(*answer)
        except Exception as error:
            traceback.print_exc()
            parts = protocol.encode({"ok": False, "error": f"{type(error).__name__}: {error}"}, {})
        for part in parts:
            answers.write(part)
        answers.flush()


def block_network() -> None:
    """Make every attempt of this process to look up or reach a host fail at once."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError("the network is blocked during this check")

    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        setattr(socket, name, refuse)


def _load(facts: Dict[str, Any]) -> Any:  # noqa: UP006
    module, _, function = facts["worker"].partition(":")
    top = module.partition(".")[0]
    if facts["package"]:
        package = types.ModuleType(top)
        package.__path__ = [facts["package"]]
        sys.modules[top] = package
    load: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return load(facts["spec"], facts["weights"], facts["device"])


def _call(teacher: Any, facts: Dict[str, Any], arrays: Dict[str, Any]) -> Any:  # noqa: UP006
    if facts["do"] == "tokenize":
        return teacher.tokenize(facts["texts"])
    if facts["do"] not in ("preprocess", "encode_image", "encode_text"):
        raise ValueError(f"there is no request {facts['do']}")
    return getattr(teacher, facts["do"])(_array(arrays["in"]))


def _array(block: Any) -> Any:
    """A numpy array where numpy is installed, else a memoryview of the same shape."""
    try:
        import numpy
    except ImportError:
        return block.data.cast("B").cast(_MEMORY_FORMATS[block.dtype], block.shape)
    return numpy.frombuffer(block.data, block.dtype).reshape(block.shape)


def _block(protocol: Any, value: Any) -> Any:
    """What the teacher answered, as it travels: a torch tensor, a numpy array, or anything with a buffer."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().contiguous().numpy()
    if hasattr(value, "__array_interface__"):
        import numpy

        value = numpy.ascontiguousarray(value)
        dtype = value.dtype.newbyteorder("<") if value.dtype.byteorder == ">" else value.dtype
        return protocol.Block(dtype.str, value.shape, value.astype(dtype, copy=False).reshape(-1).view("u1"))
    view = memoryview(value)
    formats = {letter: dtype for dtype, letter in _MEMORY_FORMATS.items()}
    formats["l"] = "<i8" if view.itemsize == 8 else "<i4"
    return protocol.Block(formats[view.format], view.shape, view)


def _beside(name: str) -> Any:
    """A module of this folder, without the folder (and mmkd's package around it) on the path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    spec = importlib.util.spec_from_file_location("_mmkd_" + name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
