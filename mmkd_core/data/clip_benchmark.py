"""CLIP_benchmark's webdataset folders become evaluation sets. Shards are read in place, nothing is unpacked.

    classnames.txt    a class per line
    zeroshot_classification_templates.txt    a sentence per line, {c} stands for the class
    train/ test/      nshards.txt, 0.tar, ...: 000017.jpg with 000017.cls (a class) or 000017.txt (captions)

Its layout has neither patients nor a validation split: every image is its own group, and a tenth of the train images
becomes the validation split, by the hash of their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mmkd_core.data.eval_sets import EvalSet, write
from mmkd_core.data.eval_task import SCHEMA, TaskFile
from mmkd_core.data.shards import IMAGES, read_member, samples_of
from mmkd_core.errors import DataError

_LAYOUT = "A folder as CLIP_benchmark writes it holds classnames.txt and test/0.tar."


def import_clip_benchmark(source: Path, out: Path, name: str, domain: str) -> EvalSet:
    """Write ``task.yaml`` and a manifest to ``out`` that point into the shards of ``source``.

    Raises:
        DataError: the folder is not of that layout, a class does not exist, or labels are lists (multi-label).
    """
    classes = _lines(source / "classnames.txt") if (source / "classnames.txt").exists() else []
    rows = [row for split in ("train", "test") for row in _rows(source / split, split, classes)]
    if not rows:
        raise DataError("no shard holds a sample", where=str(source), next=_LAYOUT)
    labelled, captioned = ("label" in rows[0]), ("caption" in rows[0])
    splits = {row["split"] for row in rows}
    tasks = ["zero-shot"] * labelled + ["linear-probe"] * (labelled and "train" in splits) + ["retrieval"] * captioned
    facts: dict[str, Any] = {"schema": SCHEMA, "name": name, "tasks": tasks, "domain": domain}
    if labelled:
        frames = _lines(source / "zeroshot_classification_templates.txt")
        prompts = {label: [frame.replace("{c}", label) for frame in frames] for label in classes}
        facts |= {"classes": classes, "prompts": prompts}
    facts["source"] = f"CLIP_benchmark folder {source.name}"
    return write(out, TaskFile.model_validate(facts | {"manifest": "manifest.parquet"}), rows)


def _rows(folder: Path, split: str, classes: list[str]) -> Iterator[dict[str, Any]]:
    for shard in sorted(folder.glob("*.tar"), key=lambda path: (len(path.stem), path.stem)):
        for key, parts in samples_of(shard).items():
            where = f"{shard.name}, sample {key}"
            image = next((name for suffix, name in parts.items() if suffix in IMAGES), None)
            if image is None:
                raise DataError("the sample has no image", where=where, next=_LAYOUT)
            if ".npy" in parts:
                raise DataError("the labels are lists (multi-label)", where=where, next="Such sets cannot be used yet.")
            row = {"image": str((shard / image).absolute()), "split": _held_out(key) if split == "train" else split}
            if ".cls" in parts:
                row["label"] = _class(read_member(shard / parts[".cls"]) or b"", classes, where)
            if ".txt" in parts:
                row["caption"] = (read_member(shard / parts[".txt"]) or b"").decode().strip().split("\n")[0]
            yield row


def _class(data: bytes, classes: list[str], where: str) -> str:
    text = data.decode().strip()
    if not text.isdigit() or int(text) >= len(classes):
        what = f"class {text!r} is none of the {len(classes)} of classnames.txt"
        raise DataError(what, where=where, next=_LAYOUT)
    return classes[int(text)]


def _held_out(key: str) -> str:
    return "val" if blake2b(key.encode(), digest_size=1).digest()[0] < 26 else "train"


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read", where=str(path.parent), next=_LAYOUT) from error
