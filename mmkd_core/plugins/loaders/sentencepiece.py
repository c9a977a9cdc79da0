"""SentencePiece unigram models (``spiece.model``, ``*.spm``), read without that library.

The file is a protocol buffer: pieces with scores, and a table of characters that are replaced before splitting. The
splitting is done by ``tokenizers``, which transformers brings. So a teacher whose tokenizer is published in this
container only needs no further dependency; a test compares with the library ``sentencepiece`` where that is installed.

One difference is known: after a character that the table replaces, an accent of its own is dropped where the library
keeps it, because ``tokenizers`` looks up both as one.

Does not: read byte-pair models, sample, or know special tokens. A caller adds those, and what it does to texts before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NORMAL, _UNKNOWN = 1, 2
_NEVER_IN_A_TEXT = (3, 5)  # control and unused: the library gives them ids and never finds them
_UNIGRAM = 1
_SPACE = "▁"
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def read(spec: TeacherSpec, file: Path) -> Tokenizer:
    """A tokenizer that splits as the model says; ``encode(text).ids`` are the ids of its pieces.

    Raises:
        PluginError: the file is damaged, or it is no unigram model, or it has pieces of a kind not handled here.
    """
    try:
        return _tokenizer(file.read_bytes())
    except Exception as error:  # tokenizers raises bare ones
        raise PluginError(f"{file.name} of teacher {spec.name} cannot be read: {error}", where=str(file)) from error


def _tokenizer(data: bytes) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers

    pieces: list[tuple[str, float]] = []
    unknown = None
    trainer: dict[int, Any] = {}
    settings: dict[int, Any] = {}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(value))
            text, kind = piece[1].decode("utf-8"), piece.get(3, _NORMAL)
            if kind == _UNKNOWN:
                unknown = len(pieces)
            elif kind not in (_NORMAL, *_NEVER_IN_A_TEXT):
                raise ValueError(f"pieces of kind {kind} are not handled")
            hidden = kind != _NORMAL
            pieces.append((f"\0hidden {text}" if hidden else text, 0.0 if hidden else float(piece.get(2, 0.0))))
        elif field == 2:
            trainer = dict(_fields(value))
        elif field == 3:
            settings = dict(_fields(value))
    if trainer.get(3, _UNIGRAM) != _UNIGRAM:
        raise ValueError("it is no unigram model")
    if unknown is None:
        raise ValueError("it has no piece for what it does not know")
    squeeze = settings.get(4, 1)  # remove_extra_whitespaces
    steps: list[Any] = [normalizers.Precompiled(settings[2])] if settings.get(2) else []
    if squeeze:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if settings.get(3, 1):  # add_dummy_prefix; an empty text stays empty
        steps.append(normalizers.Prepend(" "))
    steps.append(normalizers.Replace(" ", _SPACE))
    if squeeze:
        steps.append(normalizers.Replace(Regex(rf"{_SPACE}+\z"), ""))
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of one message: int, float (four bytes) or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield field, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"byte {at} is no field of a SentencePiece model")
        if at + length > len(data):
            raise ValueError("it ends too early")
        chunk, at = data[at : at + length], at + length
        yield field, struct.unpack("<f", chunk)[0] if wire == _FOUR_BYTES else chunk


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return number, at
        if shift > 63:
            raise ValueError("a number in it is too long")
