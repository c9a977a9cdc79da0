"""No step of stage 1, of a distillation or of an integration asks for a sample that is not in the train split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmkd_core.integrate.student_data import run_pretrain
from mmkd_core.integrate.teaching import run_distill, run_incremental
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.student.views import Views


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Rows of the corpus whose images the student is shown in any step, while the test runs."""
    rows: set[int] = set()
    real = Views.of.__func__  # type: ignore[attr-defined]

    def of(cls: type[Views], pixels: Any, asked: Any, *rest: Any) -> Views:
        rows.update(asked.tolist())
        return real(cls, pixels, asked, *rest)  # type: ignore[no-any-return]

    monkeypatch.setattr(Views, "of", classmethod(of))
    return rows


@pytest.mark.parametrize("step", ["pretrain", "distill", "integrate"])
def test_only_training_samples_are_trained_on(step: str, arrived: Callable[..., Workspace], shown: set[int]) -> None:
    workspace = arrived(steps=7)
    corpus, config = workspace.corpus(), workspace.config
    if step == "pretrain":
        run_pretrain(workspace, config.pretrain.model_copy(update={"steps": 30}))
    elif step == "integrate":
        run_incremental(workspace)
    else:
        longer = config.distill.model_copy(update={"steps": 30})
        (workspace.root / "mmkd.yaml").write_text(config.model_copy(update={"distill": longer}).dump())
        run_distill(Workspace.open(workspace.root))
    rows = np.array(sorted(shown))
    assert len(rows) > 40, "a run that sees little shows little"
    assert set(corpus.split[rows]) == {"train"}
