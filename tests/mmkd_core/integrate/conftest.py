"""A workspace of a few hundred phantom images, in which every step is the real one and the student is tiny."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mmkd_core.data.phantom.generate import PhantomConfig, generate
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.student_data import run_pretrain
from mmkd_core.integrate.teaching import run_distill
from mmkd_core.integrate.workspace import Config, Workspace
from mmkd_core.plugins.lifecycle import add
from mmkd_core.student.config import PretrainConfig, StudentConfig, TextConfig

SIZES = PhantomConfig(domains=("ct", "fundus", "mri", "pathology"), train=30, val=40, test=30)
STEPS = {"steps": 6, "batch_size": 16, "warmup": 1}
TINY = Config(
    student=StudentConfig(
        image_size=32, embed_dim=16, text=TextConfig(vocab_size=256, context_length=16, width=32, heads=2, layers=1)
    ),
    pretrain=PretrainConfig(**STEPS),
    distill=DistillConfig(**STEPS),
    incremental=IncrementalConfig(**STEPS, at_once=1, keep=0.0),
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release 0001 has learnt from phantom-eye (fundus) and phantom-radio (ct); phantom-sono (mri) has just arrived."""
    workspace = Workspace.create(tmp_path_factory.mktemp("integrate") / "ws", TINY)
    generate(workspace.root / TINY.data, SIZES)
    for name in ("phantom-eye", "phantom-radio"):
        add(name, workspace.lock_file)
    run_extract(workspace).require()
    run_pretrain(workspace, TINY.pretrain)
    run_distill(workspace)
    add("phantom-sono", workspace.lock_file)
    run_extract(workspace).require()
    return workspace.root


@pytest.fixture(scope="session")
def arrived(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Workspace]:
    """Call with settings of an integration: a copy of the workspace with them, to be changed."""

    def copy(**incremental: object) -> Workspace:
        root = tmp_path_factory.mktemp("arrived") / "ws"
        shutil.copytree(made, root)
        settings = IncrementalConfig(**{**dict(TINY.incremental), **incremental})
        config = TINY.model_copy(update={"incremental": settings})
        (root / "mmkd.yaml").write_text(config.dump())
        return Workspace.open(root)

    return copy
