"""MedMNIST files become evaluation sets: the published splits, classes and labels, several labels an image included.

Grades (RetinaMNIST) are classes in their order, as MedMNIST's evaluator takes them. The images become PNGs in the
folder of the set, named by their pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mmkd_core.data.captions import absent_prompts, prompts
from mmkd_core.data.copies import KEEP_ONCE, compare_copies, without_copies
from mmkd_core.data.domains import written
from mmkd_core.data.eval_sets import EvalSet, check_pixels, write
from mmkd_core.data.eval_task import SCHEMA, task_of
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.medmnist import classes_of
from mmkd_core.data.medmnist_file import flag_of, opened
from mmkd_core.data.medmnist_sets import FLAGS, NON_COMMERCIAL, SEVERAL
from mmkd_core.data.options import Reading
from mmkd_core.data.pngs import keep_png
from mmkd_core.errors import DataError
from mmkd_core.files import sha256_of
from mmkd_core.progress import Progress, Silent


def import_medmnist_set(
    source: Path,
    out: Path,
    name: str,
    domain: str | None,
    how: Reading,
    log: ImportLog,
    progress: Progress | None = None,
) -> EvalSet:
    """Write the images of a file, ``task.yaml`` and a manifest to ``out``.

    Args:
        source: the ``.npz`` file.
        out: folder of the set.
        name: of the set.
        domain: imaging modality; that of the published set if left out.
        how: what becomes of copies in two splits.
        log: is told what there is to remark upon.
        progress: who watches.

    Raises:
        DataError: not such a file, an unknown set without a domain, or an image that lies in two splits.
    """
    flag, rows, ids = flag_of(source), list[dict[str, Any]](), list[str]()
    with opened(source) as file:
        known, classes = classes_of(file, domain)
        if domain is None and flag not in FLAGS | SEVERAL:
            raise DataError(f"{flag} is no published set", where=source.name, next="Say its modality with --domain.")
        several = file.labels["train"].shape[1] > 1
        for split, values in file.labels.items():
            with (progress or Silent()).task(f"unpack {flag} {split}", len(values), "images") as advance:
                for pixels, given in zip(file.images(split), values, strict=True):
                    log.rows += 1
                    image, path = keep_png(Image.fromarray(pixels), out / "images")
                    there = [label for label, yes in zip(classes, given, strict=True) if yes] if several else None
                    labels = {"labels": there} if several else {"label": classes[int(given[0])]}
                    rows.append({"image": path.relative_to(out).as_posix(), "split": split, **labels})
                    ids.append(image)
                    advance(1)
    told = (tuple(row["labels"] if several else (row["label"],)) for row in rows)
    compare_copies(((i, r["split"], known, labels) for i, r, labels in zip(ids, rows, told, strict=True)), log)
    if how.keep_once:
        rows, ids = without_copies(rows, ids, log)
    check_pixels(ids, [row["split"] for row in rows], source.name, KEEP_ONCE)
    task: dict[str, Any] = {"schema": SCHEMA, "name": name, "tasks": ["zero-shot", "linear-probe"]}
    task |= {"domain": written(known), "classes": classes, "multilabel": several, "manifest": "manifest.parquet"}
    task["prompts"] = {label: prompts(known, label) for label in classes}
    task["absent"] = {label: absent_prompts(known, label) for label in classes} if several else {}
    task |= {"source": f"MedMNIST {source.name}", "revision": f"sha256:{sha256_of(source)}"}
    task["license"] = f"CC-BY-{'NC-' if flag in NON_COMMERCIAL else ''}4.0" if flag in FLAGS | SEVERAL else ""
    log.refuse(source.name, strict=how.strict)
    return write(out, task_of(task, source.name), rows)
