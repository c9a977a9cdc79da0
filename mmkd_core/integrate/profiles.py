"""Sizes of ``mmkd quickstart``: the full one (under five minutes on two cores), and the smallest that runs every step."""

from __future__ import annotations

from typing import Any

from mmkd_core.data.phantom.generate import PhantomConfig
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.integrate.workspace import Config, SpecialistConfig
from mmkd_core.student.config import PretrainConfig, StudentConfig
from mmkd_core.trust import TrustConfig

SMOKE_STEPS = {"steps": 20, "batch_size": 64, "warmup": 5}


def profile(
    smoke: bool, real: bool, seed: int, trust: str = "90", recipe: str = "mmkd", name: str = "phantom"
) -> tuple[Config, PhantomConfig | None]:
    """Settings of a quickstart and, unless it runs on real data, what phantom to generate."""
    settings: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "data": f"data/{name}",
        "student": StudentConfig(),
        "trust": TrustConfig(rule=trust, seed=seed),  # type: ignore[arg-type]
        "pretrain": PretrainConfig(**(SMOKE_STEPS if smoke else {})),
        "distill": DistillConfig(recipe=recipe, **(SMOKE_STEPS if smoke else {})),  # type: ignore[arg-type]
        "incremental": IncrementalConfig(**(SMOKE_STEPS if smoke else {})),
        "specialist": SpecialistConfig(steps=20 if smoke else 700),
    }
    phantom = None
    if not real:
        phantom = PhantomConfig(seed=seed, train=60, val=40, test=40) if smoke else PhantomConfig(seed=seed)
    return Config(**settings), phantom
