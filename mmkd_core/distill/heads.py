"""Per-teacher heads: small maps from the student's embedding to one teacher's normalised space. Training only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd_core.distill.normalise import PhiS
from mmkd_core.errors import ReleaseError
from mmkd_core.files import replacing

MAX_SCALE = 100.0


def full(features: Tensor) -> Tensor:
    """In fp32 at least: what a matrix product in bf16 gives is summed and compared in fp32."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


class Fusion(nn.Module):
    """AFD of CLIP-KD: student's and teacher's features of a sample are fused by a linear map per tower.

    Their CLIP loss teaches the student to be what the teacher's features lack.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))

    def forward(
        self, student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unit-norm fused images and texts (B, D), and the factor on their cosines."""
        image = full(self.image(torch.cat([student_image, teacher_image], dim=-1)))
        text = full(self.text(torch.cat([student_text, teacher_text], dim=-1)))
        scale = self.log_scale.exp().clamp_max(MAX_SCALE)
        return nn.functional.normalize(image, dim=-1), nn.functional.normalize(text, dim=-1), scale


class TeacherHead(nn.Module):
    """Linear maps, one per tower, from the student's unit-norm embedding (B, S) to PHI-S space (B, D).

    Attributes:
        image, text: ``nn.Linear``.
        normalisers: ``{"image": PhiS, "text": PhiS}`` of the teacher, frozen.
        log_scale: the learned logit scale of this teacher's contrast (log).
        more: with ``mlp``, per tower a hidden layer of 4 S units beside the linear map. It starts at zero, so that the
            ridge fit of the linear map is where both begin.
        fusion: what AFD trains beside the maps; None where AFD is not asked for.
    """

    def __init__(
        self,
        student_dim: int,
        normalisers: dict[str, PhiS],
        logit_scale: float,
        *,
        mlp: bool = False,
        fusion: bool = False,
    ) -> None:
        super().__init__()
        dim = len(normalisers["image"].mean)
        self.image, self.text = nn.Linear(student_dim, dim), nn.Linear(student_dim, dim)
        self.normalisers = normalisers
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(min(logit_scale, MAX_SCALE)))))
        self.more = nn.ModuleDict({tower: _hidden(student_dim, dim) for tower in ("image", "text")}) if mlp else None
        self.fusion = Fusion(dim) if fusion else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TeacherHead:
        """Frozen normalisers go where the layers go."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.normalisers = {tower: phi.moved(fn) for tower, phi in self.normalisers.items()}
        return self

    def forward(self, embedding: Tensor, tower: str) -> Tensor:
        """Predicted features in PHI-S space (B, D)."""
        layer: nn.Linear = self.image if tower == "image" else self.text
        predicted = full(layer(embedding))
        return predicted if self.more is None else predicted + full(self.more[tower](embedding))

    def native(self, predicted: Tensor, tower: str) -> Tensor:
        """PHI-S space back to unit-norm features in the teacher's own space."""
        return nn.functional.normalize(self.normalisers[tower].inverse(predicted), dim=-1)

    def scale(self) -> Tensor:
        """The learned factor on cosines, at most 100."""
        return self.log_scale.exp().clamp_max(MAX_SCALE)

    def fuse(self, seed: int) -> None:
        """Add what AFD trains, if it is not there."""
        if self.fusion is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.fusion = Fusion(self.image.out_features)

    @torch.no_grad()
    def fit_ridge(self, embedding: Tensor, features: Tensor, tower: str, penalty: float = 1e-2) -> float:
        """Set one layer by ridge regression from frozen student embeddings (N, S) to teacher features (N, D).

        Returns:
            The mean cosine between prediction and target in PHI-S space: the fidelity before any training.
        """
        target = self.normalisers[tower].forward(features).double()
        design = torch.cat([embedding.double(), torch.ones(len(embedding), 1, dtype=torch.float64)], dim=1)
        ridge = torch.eye(design.shape[1], dtype=torch.float64) * penalty / design.shape[1]
        gram = design.T @ design / len(design) + ridge
        solution = torch.linalg.solve(gram, design.T @ target / len(design))
        layer: nn.Linear = self.image if tower == "image" else self.text
        layer.weight.copy_(solution[:-1].T)
        layer.bias.copy_(solution[-1])
        return float(nn.functional.cosine_similarity(design @ solution, target, dim=-1).mean())


def _hidden(student_dim: int, dim: int) -> nn.Module:
    last = nn.Linear(4 * student_dim, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(student_dim, 4 * student_dim), nn.GELU(), last)


def save_heads(heads: dict[str, TeacherHead], folder: Path) -> None:
    """Write ``heads.safetensors`` (weights and normalisers) and ``heads.json`` (names and dimensions)."""
    from safetensors.torch import save

    state: dict[str, Tensor] = {}
    facts = {}
    for name, head in sorted(heads.items()):
        state |= {f"{name}/{key}": value.detach().contiguous().clone() for key, value in head.state_dict().items()}
        for tower, normaliser in head.normalisers.items():
            state |= normaliser.state(f"{name}/normaliser/{tower}")
        facts[name] = {
            "student_dim": head.image.in_features,
            "teacher_dim": head.image.out_features,
            "mlp": head.more is not None,
            "fusion": head.fusion is not None,
        }
    with replacing(folder / "heads.safetensors") as file:
        file.write(save(state))
    (folder / "heads.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def load_heads(folder: Path) -> dict[str, TeacherHead]:
    """Read what ``save_heads`` wrote.

    Raises:
        ReleaseError: a file is missing or damaged, or was written by another version of mmkd.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / "heads.safetensors")
        written = json.loads((folder / "heads.json").read_text())
        return {name: _load_head(state, name, facts) for name, facts in written.items()}
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        what = "the heads of this release are damaged, or of another version of mmkd"
        mend = (
            "`mmkd releases show ID` checks its files; if they are whole, make a release with this mmkd: `mmkd distill`"
        )
        raise ReleaseError(what, where=f"{folder}: {type(error).__name__} {error}".strip(), next=mend) from error


def _load_head(state: dict[str, Tensor], name: str, facts: Mapping[str, Any]) -> TeacherHead:
    normalisers = {tower: PhiS.from_state(state, f"{name}/normaliser/{tower}") for tower in ("image", "text")}
    head = TeacherHead(facts["student_dim"], normalisers, 1.0, mlp=facts["mlp"], fusion=facts["fusion"])
    head.load_state_dict({key: state[f"{name}/{key}"] for key in head.state_dict()})
    return head
