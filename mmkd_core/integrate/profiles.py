"""Sizes of ``mmkd quickstart``: the full one (under five minutes on two cores), and the smallest with every step."""

from __future__ import annotations

from typing import Any

from mmkd_core.data.phantom.generate import POOR_CAPTIONS, PhantomConfig
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.integrate.workspace import Config, SpecialistConfig
from mmkd_core.student.config import PretrainConfig, StudentConfig
from mmkd_core.trust import TrustConfig

Settings = dict[str, dict[str, Any]]

_TINY = {"steps": 20, "batch_size": 64, "warmup": 5}
SMOKE: Settings = {"pretrain": _TINY, "distill": _TINY, "incremental": _TINY, "specialist": {"steps": 20}}
# On phantom the time is the limit, on real images the number of images is: the student sees them more often.
PHANTOM: Settings = {
    "pretrain": {"steps": 120, "crop": 0.9},
    "distill": {"steps": 1000, "lr": 8e-3, "crop": 0.9},
    "incremental": {"steps": 400, "lr": 4e-3, "crop": 0.9},
    "specialist": {"steps": 700},
}
REAL: Settings = {
    "pretrain": {"steps": 500, "crop": 0.7},
    "distill": {"steps": 1200, "crop": 0.75},
    "incremental": {"steps": 480, "lr": 1e-3, "crop": 0.75},
    "specialist": {"steps": 700},
}


def profile(
    smoke: bool, real: bool, seed: int, trust: str = "90", recipe: str = "mmkd", name: str = "phantom"
) -> tuple[Config, PhantomConfig | None]:
    """Settings of a quickstart and, unless it runs on real data, what phantom to generate."""
    chosen = SMOKE if smoke else REAL if real else PHANTOM
    settings: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "data": f"data/{name}",
        "student": StudentConfig(),
        "trust": TrustConfig(rule=trust, seed=seed),
        "pretrain": PretrainConfig(**chosen["pretrain"]),
        "distill": DistillConfig(recipe=recipe, **chosen["distill"]),  # type: ignore[arg-type]
        "incremental": IncrementalConfig(**chosen["incremental"]),
        "specialist": SpecialistConfig(**chosen["specialist"]),
    }
    phantom = None
    if not real:
        sizes = {"train": 60, "val": 40, "test": 40} if smoke else {}
        phantom = PhantomConfig.model_validate({"seed": seed, **sizes, **POOR_CAPTIONS})
    return Config(**settings), phantom
