"""``phantom``: procedural medical images of eight domains with findings, captions and patients, from a seed.

Does not: look like any real patient, need a network, or import torch.
"""

from mmkd_core.data.phantom.catalogue import DOMAINS, FINDINGS, render
from mmkd_core.data.phantom.generate import PhantomConfig, Sample, generate, samples

__all__ = ["DOMAINS", "FINDINGS", "PhantomConfig", "Sample", "generate", "render", "samples"]
