"""LMDB's file read without LMDB: every page of one snapshot, checked before it is believed.

LMDB trusts its pages: a flipped bit in a node makes it answer wrongly, or crash. This walker follows the same trees
(format 1 of LMDB 0.9, little-endian, 64 bit), checks every field that LMDB would act on, and never reads outside the
file. What it yields is what LMDB would find; what it reports is a page and a reason.

Checked: both meta pages; per page its number, kind, bounds, packing of nodes; order of keys, within a page and against
the separators above; length of overflow runs; the counts of each tree; and that each page of the file is used once or
free. Not checked, because LMDB ignores it: unused space, padding, the older meta page's trees.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_PAGE = struct.Struct("<QHHHH")
_NODE = struct.Struct("<HHHH")
_TREE = struct.Struct("<IHHQQQQQ")
_META = struct.Struct(f"<IIQQ{2 * _TREE.size}sQQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _METAPAGE = 1, 2, 4, 8
_BIG, _TREE_NODE = 1, 2
_NONE = (1 << 64) - 1
HEAD = _PAGE.size


@dataclass(frozen=True)
class Tree:
    """What LMDB notes about one B-tree."""

    page_size: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflow: int
    entries: int
    root: int


@dataclass(frozen=True)
class Meta:
    """One of the two meta pages: the roots of a snapshot."""

    txn: int
    free: Tree
    main: Tree
    last_page: int


@dataclass(frozen=True)
class Flaw:
    """One page that cannot be believed, or -1 for the file as a whole."""

    page: int
    reason: str

    def __str__(self) -> str:
        return f"page {self.page}: {self.reason}" if self.page >= 0 else self.reason


def read_metas(head: bytes | memoryview) -> tuple[list[Meta], list[Flaw]]:
    """Both meta pages from the first bytes of a file, as far as they are sound, and what is wrong with them."""
    metas: list[Meta] = []
    flaws: list[Flaw] = []
    size = 4096
    for number in (0, 1):
        start = number * size
        if len(head) < start + HEAD + _META.size:
            return metas, [Flaw(-1, f"the file ends after {len(head)} bytes, within its meta pages")]
        page, _, flags, _, _ = _PAGE.unpack_from(head, start)
        magic, version, address, _, trees, last, txn = _META.unpack_from(head, start + HEAD)
        free, main = (Tree(*_TREE.unpack_from(trees, at)) for at in (0, _TREE.size))
        if number == 0:
            size = free.page_size
        expected = (number, _METAPAGE, _MAGIC, _VERSION, 0)
        if (page, flags, magic, version, address) != expected or not 512 <= size <= 65536 or size & (size - 1):
            flaws.append(Flaw(number, "is no meta page"))
            size = 4096 if number == 0 else size
        elif free.page_size != size or free.flags != 8 or main.flags != 0 or (txn and txn & 1 != number):
            flaws.append(Flaw(number, "is a damaged meta page"))
        else:
            metas.append(Meta(txn, free, main, last))
    if len(metas) == 2 and abs(metas[0].txn - metas[1].txn) > 1:
        flaws.append(Flaw(-1, f"the meta pages are of commits {metas[0].txn} and {metas[1].txn}, not of neighbours"))
    return metas, flaws


def cut_off(path: Path) -> str:
    """Say how much is missing from the end of a data file; empty if nothing is."""
    with open(path, "rb") as file:
        head, size = file.read(2 * 65536), file.seek(0, 2)
    metas, flaws = read_metas(head)
    if not metas:
        return str(flaws[0]) if size < 8192 else ""
    newest = max(metas, key=lambda meta: meta.txn)
    due = (newest.last_page + 1) * newest.free.page_size
    return f"it has {size} of {due} bytes" if size < due else ""


def newest_commit(path: Path) -> int:
    """Number of the last commit in a data file; -1 if no meta page is sound."""
    with open(path, "rb") as file:
        metas, _ = read_metas(file.read(2 * 65536))
    return max((meta.txn for meta in metas), default=-1)


class Snapshot:
    """All trees of one commit. Walk each with ``entries``; ``flaws`` grows on the way; ``unaccounted`` ends it."""

    def __init__(self, path: Path, txn: int | None = None) -> None:
        """Map the file. ``txn`` is the commit that a reader's transaction holds; the newest one if left out."""
        self.flaws: list[Flaw] = []
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            self._data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
        metas, flaws = read_metas(self._data)
        self.flaws += flaws
        chosen = [meta for meta in metas if txn in (None, meta.txn)]
        self.meta = max(chosen, key=lambda meta: meta.txn) if chosen else None
        if self.meta is None:
            self.flaws.append(Flaw(-1, "no meta page can be used"))
            return
        self._size = self.meta.free.page_size
        self._end = self.meta.last_page + 1
        if len(self._data) < self._end * self._size:
            self.flaws.append(Flaw(-1, f"the file is cut off: {len(self._data)} of {self._end * self._size} bytes"))
            self._end = len(self._data) // self._size
        self._used = bytearray(self._end)
        self._used[:2] = b"\1\1"

    @property
    def looks_like_lmdb(self) -> bool:
        """Whether either meta page begins as LMDB's do."""
        magic = struct.pack("<I", _MAGIC)
        return any(self._data[at + HEAD : at + HEAD + 4] == magic for at in (0, 4096))

    def trees(self) -> dict[str, Tree]:
        """The named databases."""
        found = {}
        if self.meta is not None:
            for key, value, kind in self._walk(self.meta.main, "main"):
                if kind != _TREE_NODE or len(value) != _TREE.size:
                    self.flaws.append(Flaw(-1, f"main holds {key!r}, which is no database"))
                    continue
                tree = Tree(*_TREE.unpack(value))
                if tree.flags:
                    self.flaws.append(Flaw(-1, f"database {key!r} has flags {tree.flags} instead of 0"))
                found[key.decode("utf-8", "replace")] = tree
        return found

    def entries(self, tree: Tree, name: str) -> Iterator[tuple[bytes, memoryview]]:
        """Keys and values of a tree, in order; values are views of the file."""
        for key, value, kind in self._walk(tree, name):
            if kind == _TREE_NODE:
                self.flaws.append(Flaw(-1, f"{name} holds a database"))
            else:
                yield key, value

    def free_bytes(self) -> int:
        """Bytes of the pages that hold nothing."""
        if self.meta is None:
            return 0
        lists = self._walk(self.meta.free, "free")
        return sum(int.from_bytes(value[:8], "little") for _, value, _ in lists) * self._size

    def unaccounted(self) -> None:
        """After all trees were walked: note pages that are free and used, or neither."""
        if self.meta is None:
            return
        free = bytearray(self._end)
        for _, value, _ in self._walk(self.meta.free, "free"):
            count = int.from_bytes(value[:8], "little")
            if len(value) < 8 or len(value) < 8 + 8 * count:
                self.flaws.append(Flaw(-1, "a list of free pages is too short"))
                continue
            pages = struct.unpack_from(f"<{count}Q", value, 8)
            if any(a <= b for a, b in pairwise(pages)):
                self.flaws.append(Flaw(-1, "a list of free pages is out of order"))
            for page in pages:
                if not 2 <= page < self._end or free[page]:
                    self.flaws.append(Flaw(-1, f"page {page} is listed as free, which it cannot be"))
                else:
                    free[page] = 1
        for page in range(2, self._end):
            if free[page] == self._used[page]:
                self.flaws.append(Flaw(page, "is used and free" if free[page] else "is neither used nor free"))

    def _walk(self, tree: Tree, name: str) -> Iterator[tuple[bytes, memoryview, int]]:
        """Leaf nodes of a tree with their kind: 0 a value, 2 another tree."""
        counts = [0, 0, 0, 0]
        if tree.root != _NONE:
            yield from self._page(tree.root, tree.depth, None, None, counts, name)
        noted = [tree.branches, tree.leaves, tree.overflow, tree.entries]
        if noted != counts or (tree.root == _NONE) != (tree.depth == 0):
            self.flaws.append(
                Flaw(-1, f"{name} should have {noted} branch, leaf, overflow pages and entries; it has {counts}")
            )

    def _page(
        self, page: int, depth: int, low: bytes | None, high: bytes | None, counts: list[int], name: str
    ) -> Iterator[tuple[bytes, memoryview, int]]:
        nodes = self._nodes(page, _LEAF if depth == 1 else _BRANCH, name)
        counts[1 if depth == 1 else 0] += 1
        if nodes is None or depth < 1:
            return
        raw, offsets = nodes
        keys = [bytes(raw[at + 8 : at + 8 + _NODE.unpack_from(raw, at)[3]]) for at in offsets]
        order = [int.from_bytes(key, "little") for key in keys] if name == "free" else keys
        first = 0 if depth == 1 else 1  # LMDB ignores the first key of a branch page
        bounds = [key for key in keys[first:] if (low is not None and key < low) or (high is not None and key >= high)]
        if any(a >= b for a, b in pairwise(order[first:])) or (bounds and name != "free"):  # type: ignore[operator]
            self.flaws.append(Flaw(page, f"of {name} has keys out of order"))
        for number, at in enumerate(offsets):
            a, b, flags, length = _NODE.unpack_from(raw, at)
            if depth > 1:
                lower = keys[number] if number else low
                upper = keys[number + 1] if number + 1 < len(keys) else high
                yield from self._page(a | b << 16 | flags << 32, depth - 1, lower, upper, counts, name)
                continue
            counts[3] += 1
            size, start = a | b << 16, at + 8 + length
            if flags == _BIG:
                value = self._overflow(int.from_bytes(raw[start : start + 8], "little"), size, counts, name)
                if value is not None:
                    yield keys[number], value, 0
            elif flags in (0, _TREE_NODE):
                yield keys[number], raw[start : start + size], flags
            else:
                self.flaws.append(Flaw(page, f"of {name} has a node of unknown kind {flags}"))

    def _nodes(self, page: int, kind: int, name: str) -> tuple[memoryview, list[int]] | None:
        """A branch or leaf page and the offsets of its nodes, all of which lie inside it and fill it exactly."""
        if not self._take(page, 1, name):
            return None
        raw = self._data[page * self._size : (page + 1) * self._size]
        found, _, flags, lower, upper = _PAGE.unpack_from(raw)
        if found != page or flags != kind or lower & 1 or not HEAD < lower <= upper <= self._size:
            self.flaws.append(Flaw(page, f"of {name} has a damaged header"))
            return None
        offsets = list(struct.unpack_from(f"<{(lower - HEAD) // 2}H", raw, HEAD))
        total = 0
        for at in offsets:
            if at < upper or at + 8 > self._size:
                total = -1
                break
            a, b, node_flags, length = _NODE.unpack_from(raw, at)
            size = 8 + length + (0 if kind == _BRANCH else 8 if node_flags & _BIG else a | b << 16)
            if at + size > self._size:
                total = -1
                break
            total += size + (size & 1)
        if total != self._size - upper or len(set(offsets)) != len(offsets):
            self.flaws.append(Flaw(page, f"of {name} has nodes that do not fit it"))
            return None
        return raw, offsets

    def _overflow(self, page: int, size: int, counts: list[int], name: str) -> memoryview | None:
        pages = (HEAD + size + self._size - 1) // self._size
        counts[2] += pages
        if not self._take(page, pages, name):
            return None
        start = page * self._size
        found, _, flags, low, high = _PAGE.unpack_from(self._data, start)
        if (found, flags, low | high << 16) != (page, _OVERFLOW, pages):
            self.flaws.append(Flaw(page, f"of {name} has a damaged header"))
            return None
        return self._data[start + HEAD : start + HEAD + size]

    def _take(self, page: int, pages: int, name: str) -> bool:
        """Note pages as used; false if they lie outside the file or were used before."""
        if not 2 <= page <= page + pages <= self._end:
            self.flaws.append(Flaw(page, f"of {name} lies outside the file"))
            return False
        if any(self._used[page : page + pages]):
            self.flaws.append(Flaw(page, f"of {name} is used twice"))
            return False
        self._used[page : page + pages] = b"\1" * pages
        return True
