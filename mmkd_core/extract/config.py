"""Settings of extraction, as they stand in ``mmkd.yaml`` under ``extract``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmkd_core.settings import Settings

Setting = Literal["auto", "fp32", "bf16"]


class ExtractConfig(Settings):
    """How teachers are asked."""

    precision: Setting = Field(
        default="auto", description="auto: bf16 where the hardware multiplies it much faster (CUDA, CPUs with AMX)."
    )
    max_bad: float = Field(default=0.01, ge=0, le=1, description="share of the images that may be unreadable")
