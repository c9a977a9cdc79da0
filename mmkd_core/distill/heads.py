"""Per-teacher heads: small maps from the student's embedding to one teacher's normalised space. Training only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmkd_core.data.files import replacing
from mmkd_core.distill.normalise import PhiS


class TeacherHead(nn.Module):
    """Linear maps, one per tower, from the student's unit-norm embedding (B, S) to PHI-S space (B, D).

    Attributes:
        image, text: ``nn.Linear``.
        normalisers: ``{"image": PhiS, "text": PhiS}`` of the teacher, frozen.
        log_scale: the learned logit scale of this teacher's contrast (log).
    """

    def __init__(self, student_dim: int, normalisers: dict[str, PhiS], logit_scale: float) -> None:
        super().__init__()
        dim = len(normalisers["image"].mean)
        self.image, self.text = nn.Linear(student_dim, dim), nn.Linear(student_dim, dim)
        self.normalisers = normalisers
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(min(logit_scale, 100.0)))))

    def forward(self, embedding: Tensor, tower: str) -> Tensor:
        """Predicted features in PHI-S space (B, D)."""
        layer: nn.Linear = self.image if tower == "image" else self.text
        predicted: Tensor = layer(embedding)
        return predicted.float()

    def native(self, predicted: Tensor, tower: str) -> Tensor:
        """PHI-S space back to unit-norm features in the teacher's own space."""
        return nn.functional.normalize(self.normalisers[tower].inverse(predicted), dim=-1)

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


def save_heads(heads: dict[str, TeacherHead], folder: Path) -> None:
    """Write ``heads.safetensors`` (weights and normalisers) and ``heads.json`` (names and dimensions)."""
    from safetensors.torch import save

    state: dict[str, Tensor] = {}
    facts = {}
    for name, head in sorted(heads.items()):
        state |= {f"{name}/{key}": value.detach().contiguous().clone() for key, value in head.state_dict().items()}
        for tower, normaliser in head.normalisers.items():
            state |= normaliser.state(f"{name}/normaliser/{tower}")
        facts[name] = {"student_dim": head.image.in_features, "teacher_dim": head.image.out_features}
    with replacing(folder / "heads.safetensors") as file:
        file.write(save(state))
    (folder / "heads.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def load_heads(folder: Path) -> dict[str, TeacherHead]:
    """Read what ``save_heads`` wrote."""
    from safetensors.torch import load_file

    state = load_file(folder / "heads.safetensors")
    heads = {}
    for name, facts in json.loads((folder / "heads.json").read_text()).items():
        normalisers = {tower: PhiS.from_state(state, f"{name}/normaliser/{tower}") for tower in ("image", "text")}
        head = TeacherHead(facts["student_dim"], normalisers, 1.0)
        head.load_state_dict({key: state[f"{name}/{key}"] for key in head.state_dict()})
        heads[name] = head
    return heads
