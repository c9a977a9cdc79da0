"""Which samples are trained, tuned and tested on: as a table says, else by a hash of the patient; never torn.

Does not: look at images.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from mmkd_core.data.check import torn
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.manifest import SPLITS
from mmkd_core.data.tables import Row
from mmkd_core.errors import DataError

SHARES = {"train": 0.70, "val": 0.10, "test": 0.20}


class Known(NamedTuple):
    """A row whose image was decoded."""

    row: Row
    image_id: str
    group: str


def splits_of(known: Sequence[Known], seed: int, log: ImportLog) -> list[str]:
    """Return a split per row; the log is told if any was assigned.

    Rows without a split join their group's; where the whole group has none, ``split_of`` decides. Groups that
    share an image count as one, so that no image can fall into two splits.
    """
    names = _components(known)
    _note_shared(known, names, log)
    given = [item.row.split for item in known]
    absent = given.count(None)
    if not absent:
        return [split for split in given if split is not None]
    told: dict[str, str] = {}
    for name, split in zip(names, given, strict=True):
        if split is not None:
            told.setdefault(name, split)
    shares = "/".join(f"{100 * share:.0f}" for share in SHARES.values())
    how = f"assigned by a hash of group_id with seed {seed}, {shares} % {'/'.join(SPLITS)}"
    log.note(f"{absent} of {len(given)} rows name no split: {how}")
    return [s or told.get(name) or split_of(name, seed) for name, s in zip(names, given, strict=True)]


def split_of(group_id: str, seed: int) -> str:
    """Return the split of a group by a hash of the seed and its name: 70 % train, 10 % val, 20 % test.

    The seed is the workspace's, so that no published teacher can have been fitted to the probe split of everybody.
    """
    digest = blake2b(f"{seed}\n{group_id}".encode(), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64
    edge = 0.0
    for split, share in SHARES.items():
        edge += share
        if point < edge:
            return split
    return SPLITS[-1]


def _note_shared(known: Sequence[Known], names: Sequence[str], log: ImportLog) -> None:
    """Count images that stand under several groups: a copy under another name, or a picture of nothing."""
    linked: dict[str, dict[str, None]] = {}
    for item, name in zip(known, names, strict=True):
        linked.setdefault(name, {})[item.group] = None
    for groups in linked.values():
        if len(groups) > 1:
            more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
            log.issues.add(
                "groups that share an image, and so lie in one split", f"{', '.join(list(groups)[:3])}{more}"
            )


def _components(known: Sequence[Known]) -> list[str]:
    """Return, per row, the alphabetically first group among those linked to its own by common images."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for item in known:
        a, b = find(item.group), find(owner.setdefault(item.image_id, item.group))
        parent[max(a, b)] = min(a, b)
    return [find(item.group) for item in known]


def refuse_torn(known: Sequence[Known], splits: Sequence[str], table: str) -> None:
    """Refuse patients, and images, that lie in two splits.

    Raises:
        DataError: names them.
    """
    problems = Problems()
    advice = "Keep every patient in one split, or remove the column split: then it is assigned by group_id."
    for what, keys in (("a group", [item.group for item in known]), ("an image", [item.image_id for item in known])):
        for key, (i, j) in torn(keys, splits).items():
            name = f"'{key}'" if what == "a group" else f"{known[i].row.image}, {known[j].row.image}"
            places = f"{name}: {splits[i]} at {known[i].row.where}, {splits[j]} at {known[j].row.where} of {table}"
            problems.add(DataError(f"{what} is in two splits", where=places, next=advice))
    problems.refuse(table)
