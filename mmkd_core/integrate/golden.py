"""A teacher against the features that the paper's authors published of it: same images, same captions, same model?

There are features of eight of the paper's nine teachers, by the names of ``trust.published``. They come from the folder
that the authors publish, or from a workspace that imported both (`mmkd store import mmkd-clip`, `mmkd data import`).

Compared is the cosine of each embedding with the published one, after L2. ``SAME`` leaves room for half precision and
for an image library that rounds otherwise. How far below it another activation, pooling or variant falls was not
measured: no real weights could be had where this was written, so cosines are shown and not only the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_core.contract import Teacher
from mmkd_core.errors import DataError, PluginError
from mmkd_core.extract.published import SOURCE, Published, pairs
from mmkd_core.integrate.features import open_store
from mmkd_core.integrate.workspace import CONFIG, LOCK, Workspace
from mmkd_core.plugins.card import Card, card_of, in_fresh, loader
from mmkd_core.trust.published import NAMES

SAME = 0.99
"""Least cosine at which two embeddings come from the same model."""
MOST = 64
"""Pairs that are compared, spread over all there are."""
TOWERS = ("image", "text")
_CAUSES = {
    ("image",): "its images differ: preprocessing, activation, pooling or weights of the image tower",
    ("text",): "its texts differ: tokenizer, context length, pooling or weights of the text tower",
    TOWERS: "both towers differ: other weights, or another variant of the model",
}

Vector = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Example:
    """One pair, with the published features of one teacher by tower."""

    name: str
    image: str
    caption: str
    published: dict[str, Vector]


@dataclass(frozen=True)
class Compared:
    """What came out: by pair the cosine of each tower with the published features.

    Args:
        model: what the publication calls the teacher.
        cosines: pair to tower to cosine; empty if dimensions differ.
        differs: a sentence; empty if all are the same.
        skipped: (pair, reason) of those that could not be read.
    """

    model: str
    cosines: dict[str, dict[str, float]]
    differs: str
    same: float = SAME
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether it is the published model."""
        return not self.differs

    def summary(self, tower: str) -> str:
        """The least and the mean cosine of a tower."""
        found = [row[tower] for row in self.cosines.values()]
        return f"{tower} cosine at least {min(found):.4f}, on average {sum(found) / len(found):.4f}" if found else ""


def run_golden(name: str, root: Path, folder: Path | None, *, full: bool = False) -> tuple[Card, Compared | None]:
    """Check an installed teacher, and compare it with the published features of its model.

    Args:
        root: the workspace, for features that were imported.
        folder: as the authors publish it; None to take what the workspace holds.
        full: also read and hash every file again.

    Returns:
        Its card, and what the comparison gave; None if it cannot be loaded, which the card says.

    Raises:
        PluginError: the paper has no features of this teacher, none are at hand, or the teacher cannot be loaded.
        DataError: the folder is none that the authors publish.
    """
    key = next((theirs for theirs, ours in NAMES.items() if ours == name), "")
    if not key:
        raise PluginError(
            f"the paper's authors published no features of {name}",
            next=f"The teachers of the paper are {', '.join(NAMES.values())}",
        )
    done = Published()
    found = list(of_folder(folder, key, done) if folder else of_workspace(root, key))
    if not found:
        why = f" ({done.skipped[0][0]}: {done.skipped[0][1]})" if done.skipped else ""
        raise PluginError(
            f"no published features of {name} (there {key}) are at hand with their images{why}",
            where=str(folder or root),
            next=f"Name the folder with meta.jsonl: `mmkd teachers check {name} --golden DIR`",
        )
    chosen = [found[i] for i in sorted({int(i) for i in np.linspace(0, len(found) - 1, MOST)})]
    asked = [{"image": one.image, "caption": one.caption} for one in chosen]
    answer = in_fresh(f"{__name__}:check_fresh", name, root / LOCK, full=full, pairs=asked)
    made = answer["embedded"]
    return Card.model_validate(answer["card"]), compared(key, chosen, made, done.skipped) if made else None


def check_fresh(request: dict[str, Any]) -> dict[str, Any]:
    """In a fresh interpreter: the card, and both embeddings of each pair by the teacher's own preprocessing."""
    spec, load = loader(request)
    built: list[Teacher] = []

    def once() -> Teacher:
        built.append(load())
        return built[0]

    card = card_of(spec, once, "full" if request["full"] else "standard").model_dump(mode="json")
    return {"card": card, "embedded": embedded(built[0], request["pairs"]) if built else None}


def embedded(teacher: Teacher, asked: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """By tower the embeddings of pairs, each a path ``image`` and a text ``caption``."""
    from mmkd_core.data.decode import decode

    found: dict[str, list[Any]] = {tower: [] for tower in TOWERS}
    for pair in asked:
        pixels = teacher.preprocess(decode(Path(pair["image"])))
        found["image"] += teacher.encode_image(pixels[None]).tolist()
        found["text"] += teacher.encode_text(teacher.tokenize([pair["caption"]])).tolist()
    return found


def of_folder(folder: Path, key: str, done: Published) -> Iterable[Example]:
    """Pairs of a published folder for which the teacher is trusted; those without their image go into ``done``."""
    for pair in pairs(folder, done):
        if key in pair.teachers and pair.file is None:
            done.skipped.append((pair.name, "its image is not there"))
        elif key in pair.teachers:
            raw = {tower: pair.vectors[key, "raw", tower] for tower in TOWERS}
            yield Example(pair.name, str(pair.file), pair.caption, raw)


def of_workspace(root: Path, key: str) -> Iterable[Example]:
    """Samples of the corpus whose image and first caption have an imported feature."""
    if not (root / CONFIG).is_file():
        return
    workspace, table = Workspace.open(root), f"{SOURCE}/{key}/raw"
    try:
        corpus, store = workspace.corpus(), open_store(workspace)
    except (DataError, PluginError):
        return  # no corpus, or nothing was imported yet
    with store:
        held = {one.tower for one in store.tables() if one.table == table}
        if held < set(TOWERS):
            return
        rows = {"image": store.rows("image", list(map(str, corpus.image_id)))}
        rows["text"] = store.rows("text", list(map(str, corpus.text_id)))
        there = [i for i in range(len(corpus)) if all(rows[tower][i] >= 0 for tower in TOWERS)]
        absent = {tower: store.missing(table, tower, rows[tower][there]) for tower in TOWERS}
        for at, i in enumerate(there):
            if not any(absent[tower][at] for tower in TOWERS):
                vectors = {tower: store.gather(table, tower, rows[tower][i : i + 1])[0] for tower in TOWERS}
                yield Example(str(corpus.image_id[i]), str(corpus.path(i)), str(corpus.caption[i]), vectors)


def compared(key: str, chosen: list[Example], answer: dict[str, Any], skipped: list[tuple[str, str]]) -> Compared:
    """The cosines of embeddings (``embedded``) with what was published of the same pairs."""
    cosines: dict[str, dict[str, float]] = {}
    for i, example in enumerate(chosen):
        for tower in TOWERS:
            own, published = np.asarray(answer[tower][i], np.float64), example.published[tower].astype(np.float64)
            if own.shape != published.shape:
                differs = f"its {tower} embeddings have {len(own)} numbers, the published ones {len(published)}"
                return Compared(key, {}, differs, skipped=skipped)
            lengths = np.linalg.norm(own) * np.linalg.norm(published)
            cosines.setdefault(example.name, {})[tower] = float(own @ published / lengths) if lengths > 0 else 0.0
    off = tuple(tower for tower in TOWERS if not all(row[tower] >= SAME for row in cosines.values()))
    return Compared(key, cosines, _CAUSES.get(off, ""), skipped=skipped)
