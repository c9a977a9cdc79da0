"""Messages between mmkd and the worker of an isolated teacher: framed, and of plain data only.

    4 bytes   b"mmkd"
    4 bytes   length of the header, little endian
    8 bytes   length of the body
    header    UTF-8 JSON: an object; "arrays" in it lists [name, dtype, shape] in the order of the body
    body      the arrays' raw bytes, C order, one after the other

Nothing is unpickled, so neither side can run code in the other by what it sends. This module is also read by the
worker's interpreter: it uses the standard library of Python 3.8 and nothing of mmkd.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple  # noqa: UP035

HEAD = struct.Struct("<4sIQ")
MAGIC = b"mmkd"
SIZES = {"<f2": 2, "<f4": 4, "<f8": 8, "|u1": 1, "<i4": 4, "<i8": 8, "|b1": 1}
"""Bytes per value of each dtype that may be sent, by numpy's name."""
MOST_HEADER, MOST_BODY = 1 << 28, 1 << 36
_MOST_AXES = 8


class ProtocolError(Exception):
    """Bytes that are no message."""


class Block(NamedTuple):
    """One array as it travels."""

    dtype: str
    shape: Tuple[int, ...]  # noqa: UP006
    data: Any
    """Its bytes."""


Message = Tuple[Dict[str, Any], Dict[str, Block]]  # noqa: UP006


def encode(facts: Mapping[str, Any], arrays: Mapping[str, Block]) -> List[Any]:  # noqa: UP006
    """A message as buffers to be written one after the other; arrays are not copied."""
    listed = [[name, block.dtype, list(block.shape)] for name, block in arrays.items()]
    header = json.dumps({**facts, "arrays": listed}, separators=(",", ":")).encode()
    body = [memoryview(block.data).cast("B") for block in arrays.values() if _count(block.shape)]
    length = sum(len(part) for part in body)
    for name, block in arrays.items():
        if SIZES.get(block.dtype) is None:
            raise ProtocolError(f"array {name} has dtype {block.dtype}, which cannot be sent")
    if length != sum(SIZES[block.dtype] * _count(block.shape) for block in arrays.values()):
        raise ProtocolError("an array has another number of bytes than its shape says")
    return [HEAD.pack(MAGIC, len(header), length), header, *body]


def lengths(head: bytes) -> Tuple[int, int]:  # noqa: UP006
    """Lengths of header and body that the first 16 bytes announce; raises ProtocolError."""
    magic, header, body = HEAD.unpack(head)
    if magic != MAGIC or header > MOST_HEADER or body > MOST_BODY:
        raise ProtocolError("the stream holds something else than messages")
    return header, body


def decode(header: bytes, body: Any) -> Message:
    """Facts and arrays of a message; arrays are views of ``body``. Raises ProtocolError."""
    try:
        facts = json.loads(header.decode("utf-8"))
        listed = facts.pop("arrays")
        blocks = [(str(name), str(dtype), [int(side) for side in shape]) for name, dtype, shape in listed]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"the header of a message cannot be read: {error}") from None
    view, start, arrays = memoryview(body), 0, {}
    for name, dtype, shape in blocks:
        if dtype not in SIZES or len(shape) > _MOST_AXES or any(side < 0 for side in shape):
            raise ProtocolError(f"array {name} has no dtype and shape that can be sent")
        end = start + SIZES[dtype] * _count(shape)
        if end > len(view):
            raise ProtocolError(f"array {name} is longer than the message")
        arrays[name] = Block(dtype, tuple(shape), view[start:end])
        start = end
    if start != len(view):
        raise ProtocolError("the message is longer than its arrays")
    return facts, arrays


def _count(shape: Any) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
