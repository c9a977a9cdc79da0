"""Per-sample predictions, in memory and as parquet: every published figure can be computed from the file again.

One row per sample (sample_id, group_id, domain, label, logits); the classes that the logits belong to and the protocol
that made them stand in the metadata of the file. Never pixels.
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
from mmkd_core.evaluate.parquet import Kind
from mmkd_core.statistics import macro_auc
from mmkd_core.statistics.odds import log_odds, softmax

_COLUMNS = ("sample_id", "group_id", "domain", "label", "logits")
_FILE = Kind("predictions", 2, _COLUMNS, "Evaluate again with `mmkd eval zero-shot`.")


@dataclass(frozen=True, eq=False)
class DomainPredictions:
    """What one model says about n samples of one domain.

    Raises:
        DataError: columns of different lengths, a label that is no class, or logits that are not finite.
    """

    sample_id: NDArray[np.object_]
    group_id: NDArray[np.object_]
    label: NDArray[np.object_]
    truth: NDArray[np.int64]
    """(n,) index of ``label`` in ``classes``."""
    logits: NDArray[np.float64]
    """(n, C) logit scale x cosine. What ranks samples is ``log_odds``, what is a probability ``posteriors``."""
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
        """Look the labels up among the classes."""
        order = {name: index for index, name in enumerate(classes)}
        for sample, name in zip(sample_id, label, strict=True):
            if name not in order:
                what = f"the label {name!r} is none of the classes {', '.join(classes)}"
                raise DataError(what, where=f"sample {sample}", next="Add it to prompts.yaml.")
        truth = np.array([order[name] for name in label], dtype=np.int64)
        matrix = np.asarray(logits, dtype=np.float64).reshape(len(label), len(classes))
        return cls(sample_id, group_id, label, truth, matrix, tuple(classes))

    def __len__(self) -> int:
        return len(self.sample_id)

    def posteriors(self) -> NDArray[np.float64]:
        """(n, C) softmax of the logits: how sure the model is. It ranks nothing, for near 0 and 1 it is rounded."""
        return softmax(self.logits)

    @cached_property
    def log_odds(self) -> NDArray[np.float64]:
        """(n, C) of each class against the others: what orders samples by a class."""
        return log_odds(self.logits)

    @cached_property
    def choice(self) -> NDArray[np.int64]:
        """(n,) class with the highest logit."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether the choice is the truth."""
        return np.asarray(self.choice == self.truth)

    def auc(self) -> float | None:
        """Macro one-vs-rest AUC over the classes present; None if fewer than two are."""
        return macro_auc(self.log_odds, self.truth)

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
        columns = {
            "sample_id": _strings([part.sample_id for _, part in parts]),
            "group_id": _strings([part.group_id for _, part in parts]),
            "domain": pa.array([domain for domain, part in parts for _ in range(len(part))], pa.string()),
            "label": _strings([part.label for _, part in parts]),
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


def _domains(table: pa.Table, classes: dict[str, list[str]]) -> dict[str, DomainPredictions]:
    column = {name: _objects(table.column(name)) for name in _COLUMNS[:-1]}
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
