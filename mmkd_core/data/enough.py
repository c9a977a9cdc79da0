"""How many labelled samples of how many patients a measurement needs. Trust asks it, and an import warns by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Minimum:
    """The least that counts as a measurement.

    Attributes:
        samples: labelled samples.
        patients: groups that they come from.
        per_class: samples of each of at least two classes.
    """

    samples: int = 20
    patients: int = 5
    per_class: int = 3

    def lacks(self, truth: NDArray[np.integer[Any]], groups: NDArray[np.object_], names: Sequence[str]) -> str:
        """Why nothing can be measured on some samples, in words for people; empty if it can.

        Args:
            truth: (n,) class of each sample.
            groups: (n,) patient of each.
            names: of the classes.
        """
        if not len(truth):
            return "no labelled images"
        count, patients = np.bincount(truth, minlength=len(names)), len(set(groups))
        if (count > 0).sum() == 1:
            return f"all {len(truth)} labelled images are {names[int(count.argmax())]}"
        if len(truth) < self.samples or patients < self.patients:
            return f"{len(truth)} labelled images of {patients} patients, {self.samples} of {self.patients} are needed"
        if (count >= self.per_class).sum() < 2:
            return f"fewer than two classes have {self.per_class} labelled images"
        return ""
