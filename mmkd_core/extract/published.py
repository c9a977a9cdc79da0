"""The folder of features that the authors of MMKD-CLIP publish, read into a store.

    meta.jsonl                              one JSON object per pair: folderid, id, imgpath, txt, available_clips
    features/FOLDERID/ID/clips_output.pt           "TEACHER_img" and "TEACHER_txt", as the teacher gave them, unit norm
    features/FOLDERID/ID/clips_project_output.pt   the same after the paper's alignment to 512 dimensions

``available_clips`` names the teachers that are trusted for the pair; only their features are there. Raw and aligned
features become tables ``mmkd-clip/TEACHER/raw`` and ``mmkd-clip/TEACHER/aligned``. Rows are those of a corpus made from
the same images and captions; where an image is missing, its row is named after the pair.

A pair whose files are damaged or missing is listed and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from feature_store import FeatureStore
from mmkd_core.data.cells import text_cell
from mmkd_core.data.decode import decode
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.manifest import image_id, text_id
from mmkd_core.errors import DataError
from mmkd_core.progress import Progress, Silent

SOURCE = "mmkd-clip"
KINDS = {"raw": "clips_output.pt", "aligned": "clips_project_output.pt"}
_TOWERS = {"image": "img", "text": "txt"}
_PAIRS = 512
"""Pairs in memory at a time."""

Vector = np.ndarray[Any, np.dtype[np.float32]]


@dataclass
class Published:
    """What was read.

    Args:
        pairs: image-caption pairs whose features are stored.
        skipped: (id, reason) of each pair that was left out.
        trusted: id of the image's row, id of the caption's row and the trusted teachers of each pair.
        features: number of features put, by table.
    """

    pairs: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    trusted: list[tuple[str, str, list[str]]] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """One image and its caption: their ids, what the publication calls it, and what its teachers made of it."""

    name: str
    image: str
    text: str
    caption: str
    file: Path | None
    """The image, where it is there."""
    teachers: list[str]
    vectors: dict[tuple[str, str, str], Vector]
    """By teacher, kind and tower."""


def import_published(folder: Path, store: FeatureStore, progress: Progress | None = None) -> Published:
    """Put the features of every sound pair into ``store``, in float32 as they are published.

    Raises:
        DataError: the folder has no ``meta.jsonl``, or not one pair can be read.
    """
    lines = _lines(folder)
    done = Published()
    with (progress or Silent()).task(f"reading {folder.name}", len(lines), "pairs") as advance:
        for first in range(0, len(lines), _PAIRS):
            part = lines[first : first + _PAIRS]
            _put(store, list(_read(folder, part, done)), done)
            advance(len(part))
    if not done.pairs:
        reason = f": {done.skipped[0][0]}: {done.skipped[0][1]}" if done.skipped else ""
        raise DataError(f"no pair could be read{reason}", where=str(folder), next="Name the folder with meta.jsonl")
    return done


def pairs(folder: Path, done: Published) -> Iterator[Pair]:
    """Every sound pair; the others are listed in ``done``. Raises DataError if the folder has no ``meta.jsonl``."""
    yield from _read(folder, _lines(folder), done)


def _lines(folder: Path) -> list[str]:
    try:
        text = (folder / "meta.jsonl").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = "this is no folder of published features: meta.jsonl is missing or cannot be read"
        raise DataError(what, where=str(folder), next="Name the folder that holds meta.jsonl") from error
    return [line for line in text.split("\n") if line.strip()]


def _read(folder: Path, lines: list[str], done: Published) -> Iterator[Pair]:
    for line in lines:
        name = "?"
        try:
            meta = json.loads(line)
            name = str(meta["id"])
            yield _pair(folder, meta, name)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, DataError) as error:
            done.skipped.append((name, " ".join(f"{type(error).__name__}: {error}".split())[:200]))
        except Exception as error:  # torch's unpickler refuses foreign objects with an error of its own
            if type(error).__name__ != "UnpicklingError":
                raise
            done.skipped.append((name, "UnpicklingError: the file holds more than tensors, or is damaged"))


def _pair(folder: Path, meta: dict[str, Any], name: str) -> Pair:
    teachers = [str(teacher) for teacher in meta["available_clips"]]
    if not teachers:
        raise ValueError("no teacher is trusted for it")
    home = (folder / "features" / str(meta["folderid"]) / name).resolve()
    if not home.is_relative_to(folder.resolve()):
        raise ValueError("its folder lies outside of the published one")
    vectors = {}
    for kind, file in KINDS.items():
        tensors = _tensors(home / file)
        for teacher in teachers:
            for tower, suffix in _TOWERS.items():
                vectors[teacher, kind, tower] = _vector(tensors, f"{teacher}_{suffix}", file)
    caption, picture = text_cell(meta["txt"], "txt", name, ImportLog()), _image(folder, str(meta.get("imgpath", "")))
    if caption is None:
        raise ValueError("it has no caption")
    image = image_id(decode(picture)) if picture else f"{SOURCE}/{name}"
    return Pair(name, image, text_id(caption), caption, picture, teachers, vectors)


def _tensors(file: Path) -> dict[str, Any]:
    import torch

    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise TypeError(f"{file.name} holds no dictionary")
    return found


def _vector(tensors: dict[str, Any], key: str, file: str) -> Vector:
    if key not in tensors:
        raise ValueError(f"{file} lacks {key}")
    vector: Vector = tensors[key].detach().float().numpy()
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise ValueError(f"{key} of {file} is no vector of finite numbers")
    return vector


def _image(folder: Path, path: str) -> Path | None:
    file = (folder / path).resolve()
    return file if path and file.is_relative_to(folder.resolve()) and file.is_file() else None


def _put(store: FeatureStore, pairs: list[Pair], done: Published) -> None:
    groups: dict[tuple[str, str, str], dict[str, Vector]] = {}
    for pair in pairs:
        for key, vector in pair.vectors.items():
            groups.setdefault(key, {})[pair.image if key[2] == "image" else pair.text] = vector
    known = {(info.table, info.tower): info.dim for info in store.tables()}
    for (teacher, kind, tower), vectors in groups.items():
        table = f"{SOURCE}/{teacher}/{kind}"
        dims = {len(vector) for vector in vectors.values()} | {known.get((table, tower), 0)} - {0}
        if len(dims) > 1:
            what = f"features of {teacher} ({kind}, {tower}) have {' and '.join(map(str, sorted(dims)))} dimensions"
            raise DataError(what, where="clips_output.pt", next="All pairs must come from one publication")
        rows = store.add_ids(tower, list(vectors))
        absent = store.missing(table, tower, rows)
        if absent.any():
            features = np.stack(list(vectors.values()))[absent]
            store.put(table, tower, rows[absent], features, dtype="float32")
        if (table, tower) not in known:
            store.describe(table, teacher=teacher, source=SOURCE, kind=kind, unit_norm=kind == "raw")
        done.features[table] = done.features.get(table, 0) + int(absent.sum())
    done.pairs += len(pairs)
    done.trusted += [(pair.image, pair.text, pair.teachers) for pair in pairs]
