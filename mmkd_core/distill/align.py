"""Aligners that make one space of all teachers, of the student's dimension: for schemes without heads.

Each comes to one affine map per teacher, the same for images and texts, followed by L2 normalisation:

    none         nothing; all teachers must have the student's dimension
    phi-s        PHI-S of each teacher; the same holds
    linear       the leading principal components, with zeros where a teacher has fewer
    procrustes   those, rotated so that all teachers agree as well as rotations can (Gower 1975)
    autoencoder  the published one: per teacher a map in and out, encoders and decoders shared between them; as in the
                 released code only the maps in are used

They align dimension, and but for Procrustes not meaning: after the published one, embeddings of an image by different
teachers are about orthogonal. That is why the default recipe has heads instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_core.distill.config import Aligner
from mmkd_core.distill.normalise import PhiS
from mmkd_core.distill.sources import Source
from mmkd_core.errors import TrainingError

FIT_ROWS, ROUNDS, ENOUGH = 4000, 100, 1e-7
STEPS, BATCH, DROPOUT, NOISE = 300, 256, 0.2, 0.01


@dataclass(frozen=True)
class Alignment:
    """Per teacher ``x -> normalise(x @ matrix + offset)``.

    Attributes:
        matrix: (D, S) by teacher.
        offset: (S) by teacher.
    """

    matrix: Mapping[str, Tensor]
    offset: Mapping[str, Tensor]

    def aligned(self, name: str, features: Tensor) -> Tensor:
        """Unit-norm features (B, S) of a teacher's (B, D)."""
        return F.normalize(features @ self.matrix[name] + self.offset[name], dim=-1)


def fit_alignment(kind: Aligner, sources: Sequence[Source], dim: int, seed: int) -> Alignment:
    """Fit to the trusted features of all sources, images and captions; deterministic in ``seed``.

    Raises:
        TrainingError: ``none`` or ``phi-s`` of a teacher of another dimension than the student's.
    """
    if kind == "autoencoder":
        return fit_autoencoder(sources, dim, seed)
    matrices, offsets = {}, {}
    for source in sources:
        width = source.dim
        if kind in ("none", "phi-s") and width != dim:
            raise TrainingError(
                f"{source.name} has {width} dimensions and the student has {dim}, which aligner {kind} cannot bring "
                "together",
                next="Set aligner: linear, procrustes or autoencoder in mmkd.yaml, or give the student heads",
            )
        mean, matrix = _map(kind, _sample(source, seed), width, dim)
        matrices[source.name], offsets[source.name] = matrix, -mean @ matrix
    alignment = Alignment(matrices, offsets)
    return _agreeing(alignment, sources, seed) if kind == "procrustes" else alignment


def _map(kind: Aligner, features: Tensor | None, width: int, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and matrix of one teacher; nothing is known of one that nobody trusts."""
    if features is None or kind == "none":
        return torch.zeros(width), torch.eye(width, dim)
    if kind == "phi-s":
        phi = PhiS.fit(features.numpy())
        return phi.mean, phi.scale * phi.rotation.T
    mean = features.double().mean(0)
    _, directions = torch.linalg.eigh((features.double() - mean).T.cov().reshape(width, width))
    matrix = torch.zeros(width, dim)
    kept = min(width, dim)
    matrix[:, :kept] = directions.flip(1)[:, :kept].float()
    return mean.float(), matrix


def _sample(source: Source, seed: int) -> Tensor | None:
    rows = np.flatnonzero(source.mask)
    if len(rows) < 2:
        return None
    rows = np.random.default_rng([seed, 13]).permutation(rows)[:FIT_ROWS]
    return torch.cat([source.images(rows), source.texts(rows)])


def _agreeing(alignment: Alignment, sources: Sequence[Source], seed: int) -> Alignment:
    """Rotate all teachers towards their consensus, on samples that each is asked for, trusted there or not."""
    rows = np.flatnonzero(np.any([source.mask for source in sources], axis=0))
    rows = np.random.default_rng([seed, 13]).permutation(rows)[:FIT_ROWS]
    if len(rows) < 2:
        return alignment
    views = [
        alignment.aligned(source.name, torch.cat([source.images(rows), source.texts(rows)])).double()
        for source in sources
    ]
    rotations = procrustes(views)
    turns = {source.name: turn.float() for source, turn in zip(sources, rotations, strict=True)}
    old = (alignment.matrix, alignment.offset)
    matrices, offsets = ({name: part[name] @ turn for name, turn in turns.items()} for part in old)
    return Alignment(matrices, offsets)


def procrustes(views: Sequence[Tensor]) -> list[Tensor]:
    """Orthogonal (S, S) for each view (N, S) that bring all of them as close together as rotations can.

    Generalised orthogonal Procrustes analysis (Gower 1975, Psychometrika 40): each view is rotated to the mean of the
    others by a singular value decomposition, in turn, until nothing moves.
    """
    rotations = [torch.eye(view.shape[1], dtype=view.dtype) for view in views]
    turned = list(views)
    total = torch.stack(turned).sum(0)
    before = float("inf")
    for _ in range(ROUNDS):
        for i, view in enumerate(views):
            left, _, right = torch.linalg.svd(view.T @ (total - turned[i]))
            total = total - turned[i]
            rotations[i] = left @ right
            turned[i] = view @ rotations[i]
            total = total + turned[i]
        apart = float(sum((view - total / len(views)).square().sum() for view in turned))
        if before - apart <= ENOUGH * max(apart, 1e-12):
            break
        before = apart
    return rotations


class Autoencoder(nn.Module):
    """Per teacher a linear map in and out, shared encoders and decoders per tower between them."""

    def __init__(self, dims: dict[str, int], latent: int) -> None:
        super().__init__()
        self.into = nn.ModuleDict({name.replace(".", "_"): nn.Linear(dim, latent) for name, dim in dims.items()})
        self.back = nn.ModuleDict({name.replace(".", "_"): nn.Linear(latent, dim) for name, dim in dims.items()})
        self.encoder = nn.ModuleDict({tower: _encoder(latent) for tower in ("image", "text")})
        self.decoder = nn.ModuleDict({tower: _decoder(latent) for tower in ("image", "text")})

    def reconstruction(self, name: str, tower: str, features: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of features (B, D) after the round trip; ``noise`` is added on the way in."""
        name = name.replace(".", "_")
        hidden = self.encoder[tower](self.into[name](features + noise))
        return F.mse_loss(self.back[name](self.decoder[tower](hidden)), features)


def _encoder(width: int) -> nn.Module:
    layer = (nn.Linear(width, width), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*layer, nn.Dropout(DROPOUT))


def _decoder(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def fit_autoencoder(sources: Sequence[Source], dim: int, seed: int) -> Alignment:
    """Train the published autoencoder; returns its maps in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder({source.name: source.dim for source in sources}, dim)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        rng = np.random.default_rng([seed, 11])
        for _ in range(STEPS):
            parts = []
            for source in sources:
                trusted = np.flatnonzero(source.mask)
                if not len(trusted):
                    continue
                rows = rng.choice(trusted, size=min(BATCH, len(trusted)), replace=False)
                for tower, features in (("image", source.images(rows)), ("text", source.texts(rows))):
                    noise = NOISE * torch.randn_like(features)
                    parts.append(model.reconstruction(source.name, tower, features, noise))
            if not parts:
                break
            optimizer.zero_grad()
            torch.stack(parts).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    maps = {source.name: model.into[source.name.replace(".", "_")] for source in sources}
    matrices = {name: layer.get_parameter("weight").detach().T for name, layer in maps.items()}
    return Alignment(matrices, {name: layer.get_parameter("bias").detach() for name, layer in maps.items()})
