"""In which precision a teacher computes: bfloat16 where the hardware is fast at it and the features stay the same.

"The same" is measured once per teacher and tower: the largest cosine deviation from float32 on the first inputs of the
run. Above ``BOUND`` float32 is used. What was chosen is recorded beside the table, and later runs keep to it, so that
a table never holds two kinds of features.

Does not: reach a teacher that runs in an environment of its own; that computes as its plugin says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmkd_core.extract.config import Setting

BOUND = 1e-3
"""Largest 1 - cosine that is accepted. Two images that differ have 0.01 and more, rounding to float16 costs 1e-7."""
SAMPLE = 32

Name = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Precision:
    """What was chosen for one teacher and tower.

    Args:
        name: what features are computed in.
        deviation: largest 1 - cosine between bfloat16 and float32, if it was measured.
        note: why bfloat16 was refused, for people.
    """

    name: Name = "fp32"
    deviation: float | None = None
    note: str = ""

    def facts(self, tower: str) -> dict[str, str | float | None]:
        """As kept in the store."""
        return {f"{tower}_precision": self.name, f"{tower}_deviation": self.deviation}

    @classmethod
    def read(cls, facts: dict[str, Any], tower: str) -> Precision:
        """What a table was computed in; one without the fact is of float32."""
        name: Name = "bf16" if facts.get(f"{tower}_precision") == "bf16" else "fp32"
        return cls(name, facts.get(f"{tower}_deviation"))


def candidate(setting: Setting, device: str) -> Name:
    """What the setting means on this machine. Depends on the hardware alone, never on a clock."""
    if setting != "auto":
        return setting
    return "bf16" if _fast(device) else "fp32"


def choose(encode: Callable[[Any], Any], inputs: Any, device: str) -> Precision:
    """Measure how far bfloat16 is from float32 on the first ``SAMPLE`` of the inputs, and choose.

    Raises:
        Exception: whatever the teacher raises in float32.
    """
    import torch

    sample = inputs[:SAMPLE]
    exact = encode(sample)
    try:
        with computing("bf16", device):
            rough = encode(sample)
        cosine = torch.cosine_similarity(exact.double(), rough.double(), dim=-1)
        deviation = max(0.0, float((1 - cosine).max()))
    except Exception as error:
        return Precision("fp32", None, f"bf16 fails ({type(error).__name__})")
    if not deviation <= BOUND:  # also where it is NaN
        told = deviation if deviation == deviation else None
        return Precision("fp32", told, f"bf16 deviates by {deviation:.2g} in cosine, {BOUND:g} is allowed")
    return Precision("bf16", deviation)


@contextmanager
def computing(name: Name, device: str) -> Iterator[None]:
    """Let matrix products in the block run in this precision."""
    if name == "fp32":
        yield
        return
    import torch

    with torch.autocast(device.partition(":")[0], torch.bfloat16):
        yield


def _fast(device: str) -> bool:
    """CUDA with bfloat16 of its own; CPUs with AMX. Without AMX the gain was measured to be 0 to 20 %."""
    if device.startswith("cuda"):
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "amx_bf16" in _processor()


def _processor() -> str:
    """Return what Linux says of the processor; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
