"""CLIP_benchmark's webdataset folders become evaluation sets. Shards are read in place, nothing is unpacked.

    classnames.txt    a class per line; the number of the line, from 0, is the class
    zeroshot_classification_templates.txt    a sentence per line, {c} stands for the class
    train/ test/      nshards.txt, 0.tar, ...: 000017.jpg with 000017.cls (a class), 000017.npy (1 for
                      every class that is there) or 000017.txt (a caption per line)

Its layout has neither patients nor a validation split: every image is its own group, and a tenth of the train images
becomes the validation split, by the hash of their names.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_core.data.captions import absent_prompts
from mmkd_core.data.cells import lines_of, read_text, text_of
from mmkd_core.data.classes import with_labels
from mmkd_core.data.domains import written
from mmkd_core.data.eval_sets import EvalSet, write
from mmkd_core.data.eval_task import SCHEMA, task_of
from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.labels import Given
from mmkd_core.data.options import Reading
from mmkd_core.data.shards import IMAGES, read_member, samples_of
from mmkd_core.errors import DataError

_LAYOUT = "A folder as CLIP_benchmark writes it holds classnames.txt and test/0.tar."
_NAMES = "classnames.txt"


def import_clip_benchmark(source: Path, out: Path, name: str, domain: str, how: Reading, log: ImportLog) -> EvalSet:
    """Write ``task.yaml`` and a manifest to ``out`` that point into the shards of ``source``.

    Raises:
        DataError: the folder is not of that layout, or a class does not exist or has no name of its own.
    """
    lines = [line.strip() for line in read_text(source / _NAMES).splitlines()] if (source / _NAMES).exists() else []
    rows, given, problems = list[dict[str, Any]](), list[Given](), Problems()
    for split in ("train", "test"):
        for shard in sorted((source / split).glob("*.tar"), key=lambda path: (len(path.stem), path.stem)):
            for key, parts in samples_of(shard).items():
                log.rows += 1
                where = f"{split}/{shard.name}, sample {key}"
                with problems.gathered():
                    label, row = _label(shard, parts, lines, where), _row(shard, key, parts, split, where, log)
                    if label is None and not row["captions"]:
                        log.left_out.add("samples without a class (.cls, .npy) or a caption (.txt)", where)
                        continue
                    rows.append(row)
                    given.append(label)
    problems.refuse(str(source))
    if not rows:
        raise DataError("no shard holds a sample", where=str(source), next=_LAYOUT)
    if not how.merge_labels:
        _refuse_twice(lines, source)
    known = [line for line in dict.fromkeys(lines) if line]
    classes = with_labels(rows, given, known, _NAMES, log, merge=how.merge_labels)
    splits, captioned = {row["split"] for row in rows}, any(row["captions"] for row in rows)
    tasks = ["zero-shot"] * bool(classes) + ["linear-probe"] * (bool(classes) and "train" in splits)
    facts: dict[str, Any] = {"schema": SCHEMA, "name": name, "tasks": [*tasks, *["retrieval"] * captioned]}
    if classes:
        frames = _frames(source / "zeroshot_classification_templates.txt")
        prompts = {label: [frame.replace("{c}", label) for frame in frames] for label in classes}
        facts |= {"classes": classes, "prompts": prompts}
        if "labels" in rows[0]:
            facts |= {"multilabel": True, "absent": {label: absent_prompts(domain, label) for label in classes}}
    facts |= {"domain": written(domain), "source": f"CLIP_benchmark folder {source.name}"}
    log.refuse(str(source), strict=how.strict)
    return write(out, task_of(facts | {"manifest": "manifest.parquet"}, str(source)), rows)


def _frames(path: Path) -> list[str]:
    """Sentences in which {c} stands for the class."""
    frames = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not any("{c}" in frame for frame in frames):
        mend = "Write sentences such as: an image of {c}."
        raise DataError("no sentence names the class: none holds {c}", where=str(path), next=mend)
    return frames


def _row(shard: Path, key: str, parts: dict[str, str], split: str, where: str, log: ImportLog) -> dict[str, Any]:
    images = [name for suffix, name in parts.items() if suffix in IMAGES]
    if len(images) != 1:
        raise DataError(f"the sample has {len(images) or 'no'} images", where=where, next=_LAYOUT)
    for suffix in parts:
        if suffix not in (*IMAGES, ".cls", ".npy", ".txt"):
            log.left_out.add(f"{suffix} members, which are not read", f"{split}/{shard.name}, {parts[suffix]}")
    text = text_of(read_member(shard / parts[".txt"]) or b"", "the .txt", where) if ".txt" in parts else ""
    captions = tuple(dict.fromkeys(lines_of(text, each=True)))
    return {
        "image": str((shard / images[0]).absolute()),
        "split": _held_out(key) if split == "train" else split,
        "captions": captions,
    }


def _label(shard: Path, parts: dict[str, str], lines: Sequence[str], where: str) -> tuple[str, ...] | None:
    """Names of a sample's classes."""
    if ".npy" in parts:
        numbers = _numbers(read_member(shard / parts[".npy"]) or b"", len(lines), where)
    elif ".cls" in parts:
        text = text_of(read_member(shard / parts[".cls"]) or b"", "the .cls", where).strip()
        if not text.isdecimal() or int(text) >= len(lines):
            what = f"class {text!r} is none of the {len(lines)} of {_NAMES}"
            raise DataError(what, where=where, next=_LAYOUT)
        numbers = [int(text)]
    else:
        return None
    for number in numbers:
        if not lines[number]:
            what = f"class {number} has no name: line {number + 1} of {_NAMES} is blank"
            raise DataError(what, where=where, next="Write its name there.")
    return tuple(lines[number] for number in numbers)


def _numbers(data: bytes, count: int, where: str) -> list[int]:
    """Classes of a ``.npy`` with a 1 for every class that is there."""
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError("the .npy cannot be read", where=where, next="It must hold numbers, and no objects.") from error
    if values.shape != (count,) or not np.isin(values, (0, 1)).all():
        what = f"the .npy is of shape {values.shape}, and not {count} numbers 0 or 1, one for each line of {_NAMES}"
        raise DataError(what, where=where, next=_LAYOUT)
    return [int(number) for number in np.flatnonzero(values)]


def _refuse_twice(lines: Sequence[str], source: Path) -> None:
    """Classes of one name have one sentence: nothing can tell them apart."""
    problems = Problems()
    for number, line in enumerate(lines):
        if line and lines.index(line) < number:
            what = f"classes have the same name in {_NAMES}"
            where = f"{lines.index(line)} and {number}: {line!r}"
            mend = "Give each a name of its own, or add --merge-labels: they become one class."
            problems.add(DataError(what, where=where, next=mend))
    problems.refuse(str(source))


def _held_out(key: str) -> str:
    return "val" if blake2b(key.encode(), digest_size=1).digest()[0] < 26 else "train"
