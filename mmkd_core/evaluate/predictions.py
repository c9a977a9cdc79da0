"""Per-sample predictions, in memory and as parquet: every published figure can be computed from the file again.

One row per sample (sample_id, group_id, domain, label or labels, logits); the classes that the logits belong to and the
protocol that made them stand in the metadata of the file. Never pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmkd_core.errors import DataError
from mmkd_core.evaluate.calibration import brier_scores
from mmkd_core.evaluate.parquet import Kind
from mmkd_core.statistics import macro_auc
from mmkd_core.statistics.classification import balanced_accuracy
from mmkd_core.statistics.odds import log_odds, sigmoid, softmax

_COLUMNS = ("sample_id", "group_id", "domain", "label", "labels", "logits")
_FILE = Kind("predictions", 2, _COLUMNS, "Evaluate again with `mmkd eval zero-shot`.")


@dataclass(frozen=True, eq=False)
class DomainPredictions:
    """What one model says about n samples of one domain.

    Of a multi-label domain each of the C classes is a finding, which is there or not there.

    Raises:
        DataError: columns of different lengths, a label that is no class, or logits that are not finite.
    """

    sample_id: NDArray[np.object_]
    group_id: NDArray[np.object_]
    label: NDArray[np.object_]
    """(n,) class of each sample, or the tuple of its findings."""
    truth: NDArray[np.int64] | NDArray[np.bool_]
    """(n,) index of ``label`` in ``classes``, or (n, C) bool: which findings are there."""
    logits: NDArray[np.float64]
    """(n, C) logit scale x cosine, of findings there minus not there. What ranks samples is ``log_odds``, what is a
    probability ``posteriors``."""
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.sample_id) == len(self.group_id) == len(self.label) == len(self.truth) == len(self.logits):
            raise DataError("columns of predictions differ in length")
        if self.logits.ndim != 2 or self.logits.shape[1] != len(self.classes):
            raise DataError(f"logits of shape {self.logits.shape} for {len(self.classes)} classes")
        bad = ~np.isfinite(self.logits).all(axis=1)
        if bad.any():
            where = f"sample {self.sample_id[int(bad.argmax())]}"
            raise DataError(
                "logits with NaN or infinity", where=where, next="Check the features with `mmkd store verify`."
            )

    @classmethod
    def build(
        cls,
        sample_id: NDArray[np.object_],
        group_id: NDArray[np.object_],
        label: NDArray[np.object_],
        logits: NDArray[np.floating],
        classes: tuple[str, ...],
    ) -> DomainPredictions:
        """Look the labels up among the classes; where they are tuples, the domain is a multi-label one."""
        order = {name: index for index, name in enumerate(classes)}
        multilabel = any(map(several, label))
        given = [name if multilabel else (name,) for name in label]
        for sample, names in zip(sample_id, given, strict=True):
            if odd := [name for name in names if name not in order]:
                what = f"the label {odd[0]!r} is none of the classes {', '.join(classes)}"
                raise DataError(what, where=f"sample {sample}", next="Add it to prompts.yaml.")
        matrix = np.asarray(logits, dtype=np.float64).reshape(len(label), len(classes))
        if multilabel:
            there = np.zeros(matrix.shape, dtype=bool)
            for row, names in enumerate(given):
                there[row, [order[name] for name in names]] = True
            return cls(sample_id, group_id, label, there, matrix, tuple(classes))
        truth = np.array([order[names[0]] for names in given], dtype=np.int64)
        return cls(sample_id, group_id, label, truth, matrix, tuple(classes))

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def multilabel(self) -> bool:
        """True where the classes are findings, of which an image has any number."""
        return self.truth.ndim == 2

    @property
    def chooses(self) -> bool:
        """True where there is something to choose: one class alone is right whoever is asked, and says nothing."""
        return len(self) > 0 and (self.multilabel or len(self.classes) > 1)

    @property
    def questions(self) -> list[tuple[NDArray[np.int64], NDArray[np.object_], tuple[str, ...]]]:
        """Class (n,) and group (n,) of the samples, and names of the classes; of each finding, there or not there."""
        if not self.multilabel:
            return [(self.truth.astype(np.int64), self.group_id, self.classes)]
        named = [(f"no {name}", name) for name in self.classes]
        return [
            (column.astype(np.int64), self.group_id, pair) for column, pair in zip(self.truth.T, named, strict=True)
        ]

    def posteriors(self) -> NDArray[np.float64]:
        """(n, C) probability of each class, or that each finding is there: how sure the model is.

        They rank nothing, for near 0 and 1 they are rounded.
        """
        return sigmoid(self.logits) if self.multilabel else softmax(self.logits)

    @cached_property
    def log_odds(self) -> NDArray[np.float64]:
        """(n, C) of each class against the others, or of each finding: what orders samples by it."""
        return self.logits if self.multilabel else log_odds(self.logits)

    @cached_property
    def choice(self) -> NDArray[np.int64] | NDArray[np.bool_]:
        """(n,) class with the highest logit, or (n, C) which findings are said to be there."""
        return np.asarray(self.logits > 0) if self.multilabel else np.asarray(self.logits.argmax(axis=1), np.int64)

    @cached_property
    def sure(self) -> NDArray[np.float64]:
        """(n,) probability of the choice; of findings that of the least sure answer."""
        said = self.posteriors()
        return np.asarray(np.maximum(said, 1 - said).min(axis=1) if self.multilabel else said.max(axis=1))

    @cached_property
    def hits(self) -> NDArray[np.bool_] | NDArray[np.float64]:
        """(n,) whether the choice is the truth, or the share of the findings of which it is."""
        right = np.asarray(self.choice == self.truth)
        return right.mean(axis=1) if self.multilabel else right

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether the choice is the truth, with all its findings."""
        right = np.asarray(self.choice == self.truth)
        return np.asarray(right.all(axis=1)) if self.multilabel else right

    def answers(self) -> list[str]:
        """The choice for each sample in words."""
        if not self.multilabel:
            return [self.classes[c] for c in self.choice]
        return [named(tuple(np.array(self.classes, object)[there])) for there in self.choice]

    def auc(self) -> float | None:
        """Macro AUC, one class against the rest, over the classes or findings that some samples have and some do not.

        None if there is none.
        """
        return macro_auc(self.log_odds, self.truth)

    def balanced_accuracy(self) -> float | None:
        """Mean of the accuracies of the classes present; of findings the mean over them (sensitivity, specificity)."""
        return balanced_accuracy(self.truth, self.choice, len(self.classes))

    def brier(self) -> float | None:
        """Mean Brier score, 0 to 2; None where there is nothing to choose."""
        return float(brier_scores(self.posteriors(), self.truth).mean()) if self.chooses else None

    def take(self, index: NDArray[Any]) -> DomainPredictions:
        """The samples at ``index``."""
        sample, group, label = self.sample_id[index], self.group_id[index], self.label[index]
        return DomainPredictions(sample, group, label, self.truth[index], self.logits[index], self.classes)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model says about the samples of some domains."""

    domains: dict[str, DomainPredictions]
    protocol: str
    """Name and version of what made the logits, such as ``mmkd/zero-shot@2``."""

    def __getitem__(self, domain: str) -> DomainPredictions:
        return self.domains[domain]

    def __len__(self) -> int:
        return sum(len(part) for part in self.domains.values())

    def auc(self) -> dict[str, float | None]:
        """Macro one-vs-rest AUC of each domain, as a fraction."""
        return {domain: part.auc() for domain, part in self.domains.items()}

    def mean_auc(self) -> float | None:
        """Mean over the domains whose AUC is defined."""
        defined = [auc for auc in self.auc().values() if auc is not None]
        return float(np.mean(defined)) if defined else None

    def save(self, path: Path) -> None:
        """Write one parquet file; ``load`` gives back the same bits in the same order."""
        parts = self.domains.items()
        labels = [name for _, part in parts for name in part.label]
        columns = {
            "sample_id": _strings([part.sample_id for _, part in parts]),
            "group_id": _strings([part.group_id for _, part in parts]),
            "domain": pa.array([domain for domain, part in parts for _ in range(len(part))], pa.string()),
            "label": pa.array([None if several(name) else str(name) for name in labels], pa.string()),
            "labels": pa.array([list(name) if several(name) else None for name in labels], pa.list_(pa.string())),
            "logits": _lists([part.logits for _, part in parts]),
        }
        classes = {domain: list(part.classes) for domain, part in parts}
        _FILE.save(path, pa.table(columns), {"protocol": self.protocol, "classes": classes})

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what ``save`` wrote.

        Raises:
            DataError: no such file, not predictions, damaged, or of another version.
        """
        table, facts = _FILE.load(path)
        try:
            return cls(_domains(table, facts["classes"]), facts["protocol"])
        except DataError as error:
            raise DataError(f"the predictions are damaged: {error.what}", where=str(path), next=_FILE.again) from error


def named(label: object) -> str:
    """A label, or findings, in words."""
    return (" + ".join(label) or "none of them") if isinstance(label, tuple) else str(label)


def several(label: object) -> bool:
    """True for findings."""
    return isinstance(label, tuple)


def _domains(table: pa.Table, classes: dict[str, list[str]]) -> dict[str, DomainPredictions]:
    column = {name: _objects(table.column(name)) for name in _COLUMNS[:-1]}
    for row, names in enumerate(column["labels"]):
        if names is not None:
            column["label"][row] = tuple(names)
    if strange := sorted(set(column["domain"]) - set(classes)):
        raise DataError(f"no classes are given for the domain {strange[0]!r}")
    logits = table.column("logits").combine_chunks()
    values = logits.flatten().to_numpy(zero_copy_only=False)
    lengths = logits.value_lengths().to_numpy(zero_copy_only=False)
    starts = np.cumsum(lengths) - lengths
    result = {}
    for domain, names in classes.items():
        rows = np.flatnonzero(column["domain"] == domain)
        if (lengths[rows] != len(names)).any():
            raise DataError(f"rows of {domain} whose number of logits is not that of its {len(names)} classes")
        place = starts[rows][:, None] + np.arange(len(names))
        sample, group, label = (column[name][rows] for name in ("sample_id", "group_id", "label"))
        result[domain] = DomainPredictions.build(sample, group, label, values[place], tuple(names))
    return result


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values


def _strings(parts: list[NDArray[np.object_]]) -> pa.Array:
    return pa.array([str(value) for part in parts for value in part], pa.string())


def _lists(parts: list[NDArray[np.float64]]) -> pa.Array:
    lengths = np.concatenate([[0], *(np.full(len(part), part.shape[1]) for part in parts)])
    values = np.concatenate([np.zeros(0), *(part.ravel() for part in parts)])
    return pa.ListArray.from_arrays(pa.array(np.cumsum(lengths), pa.int32()), pa.array(values, pa.float64()))
