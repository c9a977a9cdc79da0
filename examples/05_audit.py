"""Audit two classifiers that nobody trained with mmkd: did the second one forget anything?

Shows: predictions per sample, a verdict with its margin, why the change of a mean is not enough, and how many samples
would decide.

    python examples/05_audit.py
"""

import numpy as np

from mmkd_core.audit.evidence import Evidence
from mmkd_core.audit.forgetting import forgetting
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions

CLASSES = ("normal", "abnormal")


def predictions(skill: dict[str, float], patients: int, seed: int) -> Predictions:
    """Two images a patient and domain; ``skill`` is how far apart the classes are, by domain."""
    domains = {}
    for number, (domain, apart) in enumerate(skill.items()):
        hard = np.random.default_rng([7, number]).normal(size=2 * patients)  # what makes an image hard is not the model
        own = np.random.default_rng([seed, number]).normal(size=2 * patients)
        truth = np.arange(2 * patients) // 2 % 2
        logit = apart * (2 * truth - 1) + hard + 0.3 * own
        names = np.array([f"{domain}-{i}" for i in range(2 * patients)], dtype=object)
        groups = np.array([f"{domain}-p{i // 2}" for i in range(2 * patients)], dtype=object)
        labels = np.array([CLASSES[i] for i in truth], dtype=object)
        both = np.stack([-logit / 2, logit / 2], axis=1)
        domains[domain] = DomainPredictions.build(names, groups, labels, both, CLASSES)
    return Predictions(domains, "mmkd/zero-shot@2")


def main() -> None:
    """A candidate that gained much in one domain and lost a little in another."""
    for patients in (100, 1000):
        parent = predictions({"xray": 1.0, "oct": 1.5}, patients, 1)
        candidate = predictions({"xray": 1.6, "oct": 1.35}, patients, 2)
        audit = forgetting(Evidence(candidate), Evidence(parent))
        print(f"{patients} patients: {audit.verdict.value}")
        for domain, row in audit.family("zero-shot", "auc").items():
            needed = f", {row.needed:,} more samples would decide" if row.needed else ""
            bounds = f"{100 * row.lower:+.1f} to {100 * row.upper:+.1f}"
            print(f"  {domain}: {100 * row.delta:+.1f} points ({bounds}) {row.verdict.value}{needed}")


if __name__ == "__main__":
    main()
