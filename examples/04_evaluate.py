"""Evaluate frozen features in three tasks, from numpy arrays alone: no workspace, no model, no store.

Shows: a linear probe with few labels, survival by patient, what the interval rests on, and the paired
comparison of two models.

    python examples/04_evaluate.py
"""

import numpy as np

from mmkd_core.evaluate import probe, survival
from mmkd_core.evaluate.figures import Figure, compare, score
from mmkd_core.evaluate.probe import Labelled

CLASSES = np.array(["benign", "malignant"], dtype=object)


def images(count: int, seed: int, signal: float, split: str) -> Labelled:
    """Two images a patient; one feature in eight tells the class, more or less."""
    rng = np.random.default_rng([seed, len(split)])
    kind = np.arange(count) // 2 % 2
    features = rng.normal(size=(count, 8))
    features[:, 0] += signal * kind
    names = np.array([f"{split}-{i}" for i in range(count)], dtype=object)
    patients = np.array([f"{split}-p{i // 2}" for i in range(count)], dtype=object)
    return Labelled(features, CLASSES[kind], patients, names)


def shown(figure: Figure) -> str:
    """One line of a table."""
    found = figure.interval
    assert found is not None, figure.status
    return f"{figure.part} {figure.metric}: {found.estimate:.3f} ({found.lower:.3f} to {found.upper:.3f})".strip()


def main() -> None:
    """Two models of the same images: one whose features tell more."""
    models = {}
    for name, signal in (("strong", 2.0), ("weak", 1.0)):
        train, val, test = (images(n, 0, signal, s) for n, s in ((400, "train"), (100, "val"), (200, "test")))
        models[name] = probe.predict(train, val, test)
        wanted = [f for f in score(models[name], probe.measure, 200) if f.metric.startswith("macro AUC")]
        for figure in wanted:
            print(f"{name}: {shown(figure)}")
    change = compare(models["strong"], models["weak"], probe.measure, 200)
    print("strong minus weak:", shown(next(f for f in change if f.part == "100% of the labels")))

    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 8))
    patient = np.array([f"p{i // 2}" for i in range(300)], dtype=object)
    risk = np.repeat(features.reshape(150, 2, 8).mean(axis=1)[:, 0], 2)
    death, censored = np.exp(-2 * risk) * np.repeat(rng.exponential(size=150), 2), 3.0
    cohort = survival.pool(features, patient, np.minimum(death, censored) + 1e-6, death < censored)
    for figure in score(survival.predict(cohort), survival.measure, 200):
        print(f"150 patients, {shown(figure)}")


if __name__ == "__main__":
    main()
