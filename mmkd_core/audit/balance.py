"""Who is heard how much: samples, trusted pairs and gradient of each domain, and what another sampling would change.

The third open question of the paper is what the imbalance of modalities costs. This is the table to ask it with; the
answer in quality is ``mmkd study balance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POWERS = {"natural": 1.0, "sqrt": 0.5, "uniform": 0.0}
"""Share of a domain in a batch: its size to the power of this."""


@dataclass(frozen=True)
class DomainBalance:
    """One domain.

    Attributes:
        samples: in the training split.
        taught: of them, those that at least one teacher teaches.
        pairs: (sample, trusted teacher).
        batch: share of a batch by kind of sampling.
        gradient: share of the gradient at the image embeddings (sum of norms), as sampled now; None if not measured.
    """

    domain: str
    samples: int
    taught: int
    pairs: int
    batch: dict[str, float]
    gradient: float | None = None


def balance(
    domain: NDArray[np.object_],
    train: NDArray[np.bool_],
    masks: Mapping[str, NDArray[np.bool_]],
    gradient: Mapping[str, float] | None = None,
) -> list[DomainBalance]:
    """One row per domain with training samples, in alphabetical order.

    Args:
        domain: (N,) of each sample.
        train: (N,) whether it is trained on.
        masks: by teacher (N,) which samples it teaches.
        gradient: by domain the summed norms of the gradient.
    """
    names = sorted(set(domain[train]))
    sizes = np.array([(train & (domain == name)).sum() for name in names], float)
    shares = {kind: sizes**power / (sizes**power).sum() for kind, power in POWERS.items()}
    trusted = np.stack(list(masks.values())) if masks else np.zeros((1, len(domain)), bool)
    total = sum((gradient or {}).values())
    found = []
    for number, name in enumerate(names):
        rows = train & (domain == name)
        found.append(
            DomainBalance(
                name,
                int(sizes[number]),
                int(trusted[:, rows].any(axis=0).sum()),
                int(trusted[:, rows].sum()),
                {kind: float(share[number]) for kind, share in shares.items()},
                gradient.get(name, 0.0) / total if gradient and total else None,
            )
        )
    return found
