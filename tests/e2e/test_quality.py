"""An integration teaches the newcomer's domain and keeps the parent's; without replay the same one forgets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from mmkd_core.data.phantom.generate import PhantomConfig, generate
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.evaluate.predictions import Predictions
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.student_data import run_pretrain
from mmkd_core.integrate.teaching import run_distill, run_incremental
from mmkd_core.integrate.workspace import Config, Workspace
from mmkd_core.plugins.lifecycle import add
from mmkd_core.student.config import PretrainConfig, StudentConfig, TextConfig

OLD, NEW = "ct", "mri"
DATA = PhantomConfig(domains=(OLD, NEW), train=150, val=60, test=200)
GAIN, LOSS = 0.05, 0.05
"""AUC that the newcomer's domain gains at least, and that the earlier teacher's loses at most."""
NOTHING_OLD = {"replay": 0.0, "replay_rows": 0, "parent": 0.0}
"""No replayed rows, no turn for an earlier teacher, no relation of the parent."""


def config(seed: int, **incremental: object) -> Config:
    """Of captions the student sees those of CT alone, so that it knows of MRI only what the newcomer teaches."""
    text = TextConfig(vocab_size=512, context_length=16, width=32)
    learning = {"batch_size": 32, "crop": 0.9}
    return Config(
        seed=seed,
        student=StudentConfig(image_size=32, embed_dim=32, text=text),
        pretrain=PretrainConfig(steps=30, warmup=5, domains=(OLD,), **learning),
        distill=DistillConfig(steps=120, lr=8e-3, warmup=20, weights={"untaught": 0}, **learning),
        incremental=IncrementalConfig(steps=60, lr=8e-3, warmup=10, keep=0.0, **learning, **incremental),
    )


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Images of both domains, and the features of both teachers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    workspace = Workspace.create(tmp_path_factory.mktemp("quality"), config(0))
    generate(workspace.root / "data", DATA)
    for name in ("phantom-radio", "phantom-sono"):
        add(name, workspace.lock_file)
    run_extract(workspace).require()
    yield workspace.root
    torch.set_num_threads(before)


def workspace_of(root: Path, settings: Config) -> Workspace:
    (root / "mmkd.yaml").write_text(settings.dump())
    return Workspace.open(root)


def auc(release: Release, domain: str) -> float:
    """Mean over classes of one against the rest, by scikit-learn."""
    part = Predictions.load(release.predictions)[domain]
    classes = np.flatnonzero(np.bincount(part.truth))
    posterior = softmax(part.logits, axis=1)
    return float(np.mean([roc_auc_score(part.truth == c, posterior[:, c]) for c in classes]))


def assert_integrated(parent: Release, candidate: Release) -> None:
    """The promise of an integration, by AUC on the test split."""
    gained = auc(candidate, NEW) - auc(parent, NEW)
    lost = auc(parent, OLD) - auc(candidate, OLD)
    assert gained >= GAIN, f"{NEW} gained {gained:+.3f}"
    assert lost <= LOSS, f"{OLD} lost {lost:+.3f}"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_integration_teaches_and_forgets_nothing_and_without_replay_it_forgets(extracted: Path, seed: int) -> None:
    """A seed of everything but the images: weights, batches, replay list.

    Measured with seeds 0 to 3, AUC in points; the parent has 77 to 85 in CT and 51 to 56 in MRI:

    - the integration: MRI +10 to +17, CT +1 to +5, where at least +5 and -5 are asked for;
    - the same without replay: MRI +23 to +25, CT -22 to -26.

    So the thresholds are 5 points and more away from what any seed gave.
    """
    workspace = workspace_of(extracted, config(seed))
    run_pretrain(workspace, workspace.config.pretrain)
    parent = run_distill(workspace, teachers=["phantom-radio"]).release
    assert parent.teachers == ["phantom-radio"]
    assert auc(parent, OLD) > 0.65, "a parent that knows nothing can forget nothing"
    whole = run_incremental(workspace, parent=parent).release
    assert_integrated(parent, whole)
    forgetful = run_incremental(workspace_of(extracted, config(seed, **NOTHING_OLD)), parent=parent).release
    assert auc(forgetful, NEW) - auc(parent, NEW) >= GAIN, "it has learnt"
    with pytest.raises(AssertionError, match=f"{OLD} lost"):
        assert_integrated(parent, forgetful)
    assert (whole.facts["replayed"] > 0, forgetful.facts["replayed"]) == (True, 0)
