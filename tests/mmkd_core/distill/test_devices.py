"""No step mixes devices: on a GPU that is an error, here torch's fake tensors know it without one.

Shapes and devices are followed, numbers are not; autograd cannot run, so the forward half of a step is what is seen.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmkd_core.distill import objective, streamed
from mmkd_core.distill.config import BankConfig, DistillConfig
from mmkd_core.distill.objective import Objective
from mmkd_core.distill.run import warm_head
from mmkd_core.student import model, views
from mmkd_core.student.step import Share

CUDA = torch.device("cuda:0")


def on_gpu(module):
    """Let a module's tensors be fake ones on a GPU."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = torch.nn.Parameter(torch.empty(p.shape, device=CUDA))
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=CUDA)


@pytest.mark.parametrize("balance", ["none", "dropping"])
def test_a_step_keeps_to_the_device_of_the_student(student, samples, bank, source, monkeypatch, balance):
    sources = [source("a", range(12)), source("b", [0, 2, 4, 9], dim=4), source("old", [3, 7], dim=16, heads=False)]
    heads = {s.name: warm_head(student, s, samples)[0] for s in sources if s.heads}
    config = DistillConfig(bank=BankConfig(per_step=3), crop=1.0, teacher_balance=balance)
    rows = np.array([7, 0, 3, 4, 9, 2])
    losses = Objective(student, heads, sources, samples, bank, lambda step: rows, config, 0)
    batch = losses.batch(0, Share())
    for module in (model, views, objective):
        monkeypatch.setattr(module, "to_device", lambda x, device: x.to(device))  # nothing can be pinned here
    monkeypatch.setattr(views, "crop", lambda images, windows: images)  # it looks at numbers, of which there are none
    monkeypatch.setattr(student, "texts", lambda tokens: student.model.text(tokens.to(CUDA)).float())
    gradients = lambda outputs, inputs, *_, **__: [torch.empty_like(x) for x in inputs]  # noqa: E731
    monkeypatch.setattr(streamed.torch.autograd, "grad", gradients)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (student.model, *heads.values()):
            on_gpu(module)
        for head in heads.values():
            head.normalisers = {
                t: phi.moved(lambda x: torch.empty(x.shape, device=CUDA)) for t, phi in head.normalisers.items()
            }
        embedded = losses.embed(batch, Share())
        parts = losses.losses(batch, tuple(x.detach().requires_grad_() for x in embedded))
    assert {x.device for x in embedded} == {CUDA}
    assert set(parts) >= {"clip", "relation", "fd"}
    assert {loss.device for loss in parts.values()} == {CUDA}
