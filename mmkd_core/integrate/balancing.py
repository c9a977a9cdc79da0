"""`mmkd audit balance`: the table of domains, with the gradient that the release in use would get from each."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from mmkd_core.audit.balance import DomainBalance, balance
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.heads import load_heads
from mmkd_core.distill.objective import Objective, Samples
from mmkd_core.integrate import releases
from mmkd_core.integrate.features import Features, locked_specs, whole_store
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.student_data import pixels_of
from mmkd_core.integrate.teaching import run_trust
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import PluginHost
from mmkd_core.progress import Progress
from mmkd_core.student.batches import Batches
from mmkd_core.student.model import Student
from mmkd_core.student.step import Share
from mmkd_core.trust import TeacherTrust

STEPS = 16
"""Batches whose gradient is looked at; nothing is learnt from them."""


def run_balance(workspace: Workspace, progress: Progress | None = None) -> list[DomainBalance]:
    """Samples, trusted pairs, batch and gradient shares of each domain; the gradient needs a release with heads."""
    corpus = workspace.corpus()
    trust = run_trust(workspace, progress)
    release = releases.current(workspace)
    gradient = _gradient(workspace, release, trust, progress) if release and load_heads(release.heads) else None
    masks = {name: found.mask for name, found in trust.items()}
    return balance(corpus.domain, corpus.split == "train", masks, gradient)


def _gradient(
    workspace: Workspace, release: Release, trust: dict[str, TeacherTrust], progress: Progress | None
) -> dict[str, float]:
    """By domain the norms of the gradient at the image embeddings, summed over a few batches as training draws them."""
    corpus, config, seed = workspace.corpus(), workspace.config.distill, workspace.config.seed
    student, heads = Student.load(release.student), load_heads(release.heads)
    specs = {name: spec for name, spec in locked_specs(workspace, PluginHost.discover()).items() if name in heads}
    bank = Bank.build(corpus, config.bank, seed)
    pixels = pixels_of(workspace, corpus, progress, student)
    samples = Samples.of(student, pixels, corpus, bank)
    train = corpus.where(split="train")
    batches = Batches(train, corpus.domain[train], config, seed)
    found: defaultdict[str, float] = defaultdict(float)
    with whole_store(workspace) as store:
        sources = [Features(spec, corpus, store).source(bank, trust[name].mask) for name, spec in specs.items()]
        used = {name: heads[name] for name in specs}
        objective = Objective(student, used, sources, samples, bank, batches, config, seed)
        student.model.eval()
        for step in range(STEPS):
            batch = objective.batch(step, Share())
            with torch.no_grad():
                embedded = objective.embed(batch, Share())
            image, text = (part.detach().requires_grad_() for part in embedded)
            torch.stack(list(objective.losses(batch, (image, text)).values())).sum().backward()  # type: ignore[no-untyped-call]
            assert image.grad is not None
            norms = image.grad.norm(dim=1).double().numpy()
            for domain in np.unique(corpus.domain[batch.rows].astype(str)):
                found[domain] += float(norms[corpus.domain[batch.rows] == domain].sum())
    return dict(found)
