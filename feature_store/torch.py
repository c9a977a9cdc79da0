"""Batches of features as torch tensors, of several teachers at once. The only module of the store that imports torch.

Rows are copied by ``torch.index_select`` from one strided view over the whole file, one call per table and tower, in
the precision they are stored in. That takes as long as from a tensor in memory. The view is a raw pointer into a map
that may not be written, so it is never handed out: users get copies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from feature_store.columns import NO_ROWS, Columns, Found, find
from feature_store.errors import StoreError
from feature_store.layout import TableState
from feature_store.store import FeatureStore
from feature_store.writing import as_rows

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
_CHUNK = 1024
"""Rows converted at a time."""


@dataclass(frozen=True)
class Batch:
    """Features of n samples by T tables; pinned memory where there is a GPU.

    Attributes:
        images, texts: per table a contiguous tensor (n, d). Zeros where ``mask`` is False.
        mask: bool (n, T), tables in the order asked for: the features of every tower asked for are there, and the
            table is trusted.
    """

    images: dict[str, Tensor]
    texts: dict[str, Tensor]
    mask: Tensor

    def side(self, tower: str) -> dict[str, Tensor]:
        """``images`` or ``texts``."""
        return self.images if tower == "image" else self.texts


def gather(
    store: FeatureStore,
    tables: Sequence[str],
    images: ArrayLike | None = None,
    texts: ArrayLike | None = None,
    *,
    trust: ArrayLike | None = None,
    dtype: torch.dtype | None = None,
    view: int = 0,
    out: Batch | None = None,
) -> Batch:
    """Features of n samples by several teachers, all as of one moment of the store.

    Args:
        store: an open store.
        tables: the teachers' fingerprints.
        images: rows (n,) of the samples' images; None leaves the images out.
        texts: rows (n,) of their captions, several samples may share one; None leaves the texts out.
        trust: bool (n, T) to be combined with what is there; features that are not trusted are not read.
        dtype: of the tensors; None for the stored one, and float32 for int8.
        view: which view of the images.
        out: an earlier batch; its memory is written again where it is large enough.

    Raises:
        StoreError: a table has no features at all, shapes do not fit, a block is damaged, or the store is closed.
    """
    towers = {name: as_rows(rows) for name, rows in (("image", images), ("text", texts)) if rows is not None}
    sizes = {len(rows) for rows in towers.values()}
    if len(sizes) != 1:
        raise StoreError(f"images and texts must be rows of the same samples, not of {sorted(sizes)}")
    count = sizes.pop()
    mask = _trusted(trust, (count, len(tables)))
    batch = Batch({}, {}, torch.from_numpy(mask))
    asked = [(table, tower, view if tower == "image" else 0) for tower in towers for table in tables]
    with store.reading(*asked) as (txn, columns):
        parts = []
        for number, (tower, rows) in enumerate(towers.items()):
            ours = columns[number * len(tables) : (number + 1) * len(tables)]
            parts.append((tower, ours, find(txn, ours, rows)))
        refused = _refused(mask, [found for _, _, found in parts], trust is not None)
        copies, others = [], []
        for tower, ours, found in parts:
            side, kept = batch.side(tower), out.side(tower) if out is not None else {}
            for table, one, where, without in zip(tables, ours, found, refused, strict=True):
                state = one.require()
                target = side[table] = _buffer(kept.get(table), count, state, dtype)
                whole = len(where.places) and not len(where.elsewhere) and not len(without)
                if whole and target.dtype == _TYPES[state.dtype]:
                    copies.append((_view(one), torch.from_numpy(where.places), target))
                else:
                    others.append((one, where, without, target))
        # Copies run over the processor's caches, and this program with them: nothing else is done between them.
        for view_of_all, places, target in copies:
            torch.index_select(view_of_all, 0, places, out=target)
        for one, where, without, target in others:
            _fill(one, where, without, target)
    return batch


def _trusted(trust: ArrayLike | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if trust is None:
        mask = np.empty(shape, np.bool_)
        mask.fill(True)
        return mask
    mask = np.array(trust)
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise StoreError(f"trust must be bool of shape {shape}, not {mask.dtype} of {mask.shape}")
    return mask


def _refused(mask: NDArray[np.bool_], found: Sequence[list[Found]], partly: bool) -> list[NDArray[np.intp]]:
    """Per table the positions that are not trusted or lack features in a tower; these become False in ``mask``."""
    for tower in found:
        for number, one in enumerate(tower):
            if len(one.absent):
                mask[one.absent, number], partly = False, True
    return [np.flatnonzero(~column) for column in mask.T] if partly else [NO_ROWS] * mask.shape[1]


def _fill(columns: Columns, found: Found, refused: NDArray[np.intp], out: Tensor) -> None:
    """Write features (n, d) that need more than one copy; zeros where they are refused."""
    state = columns.require()
    if len(refused) == len(out):
        out.zero_()
        return
    if len(found.places):
        if len(refused):
            found.places[refused] = found.places[_outside(refused)]  # already in the cache when its turn comes
        _copy(columns, torch.from_numpy(found.places), out)
    if len(found.elsewhere):
        loose = torch.from_numpy(found.features).view(_TYPES[state.dtype])
        features = _decoded(loose, state.dtype, state.dim).to(out.dtype)
        out.index_copy_(0, torch.from_numpy(found.elsewhere), features)
    if len(refused):
        out.index_fill_(0, torch.from_numpy(refused), 0)


def _outside(positions: NDArray[np.intp]) -> int:
    """The first position that is not among these, which ascend."""
    gaps = np.flatnonzero(positions != np.arange(len(positions)))
    return int(gaps[0]) if len(gaps) else len(positions)


def _buffer(kept: Tensor | None, count: int, state: TableState, asked: torch.dtype | None) -> Tensor:
    """Memory for (count, dim) numbers of the type asked for, or stored: that of an earlier batch if it fits."""
    dtype = asked or (torch.float32 if state.dtype == "int8" else _TYPES[state.dtype])
    if kept is not None and kept.dtype == dtype:
        rows, width = kept.shape
        if width == state.dim and rows >= count:
            return kept if rows == count else kept[:count]
    return torch.empty(count, state.dim, dtype=dtype, pin_memory=_has_gpu())


@cache
def _has_gpu() -> bool:
    return torch.cuda.is_available()


def _copy(columns: Columns, places: Tensor, out: Tensor) -> None:
    """Copy rows out of the map; converted in parts that stay in the processor's cache, if they must be."""
    state, view = columns.require(), _view(columns)
    if out.dtype == view.dtype and state.dtype != "int8":
        torch.index_select(view, 0, places, out=out)
        return
    for first in range(0, len(places), _CHUNK):
        part = torch.index_select(view, 0, places[first : first + _CHUNK])
        out[first : first + _CHUNK] = _decoded(part, state.dtype, state.dim)


def _view(columns: Columns) -> Tensor:
    """Every row of the table, and all else in the file, as one strided tensor."""
    state = columns.require()
    kind = _TYPES[state.dtype]
    return columns.files.view(  # type: ignore[no-any-return]
        ("torch", state.dtype, state.width, state.step), lambda data: _strided(data, kind, state.width, state.step)
    )


def _decoded(stored: Tensor, dtype: str, dim: int) -> Tensor:
    if dtype != "int8":
        return stored
    scale = stored[:, -4:].contiguous().view(torch.float32)
    return stored[:, :dim] * scale


def _strided(data: NDArray[np.uint8], kind: torch.dtype, width: int, step: int) -> Tensor:
    """All rows of ``width`` items that begin at a multiple of ``step`` bytes: (many, width), overlapping."""
    buffer = (ctypes.c_uint8 * len(data)).from_address(data.ctypes.data)  # torch warns of read-only memory
    buffer.keep = data  # type: ignore[attr-defined]  # the map lives as long as the view
    flat = torch.frombuffer(buffer, dtype=torch.uint8).view(kind)
    stride = step // kind.itemsize
    return flat.as_strided(((len(flat) - width) // stride + 1, width), (stride, 1))
