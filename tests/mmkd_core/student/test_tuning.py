from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch

from mmkd_core.errors import TrainingError
from mmkd_core.student import tuning
from mmkd_core.student.batches import Epochs
from mmkd_core.student.config import StudentConfig, TextConfig, TrainConfig
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import ClipObjective
from mmkd_core.student.training import fit, optimizer_for
from mmkd_core.student.tuning import layers, tuned

CAPTIONS = [f"{word} of patient {i}" for i, word in enumerate(("nodule", "liver", "skin", "retina") * 3)]


def build(vision):
    text = TextConfig(vocab_size=128, context_length=12, width=32, heads=2, layers=3)
    size = 64 if vision == "resnet-tiny" else 32
    return Student.build(StudentConfig(vision=vision, image_size=size, embed_dim=16, text=text), CAPTIONS, seed=0)


def train(student, pixels, folder, train, steps=3):
    """Train a few steps; returns the names of the weights that moved, and how many numbers were trained."""
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    size = student.pixels // pixels.shape[1]
    images = pixels.repeat(size, axis=1).repeat(size, axis=2)
    batches = partial(Epochs(np.arange(12), 0).batch, size=6)
    objective = ClipObjective(student, images, student.tokenize(CAPTIONS), batches, 1.0, 0)
    config = TrainConfig(steps=steps, batch_size=6, warmup=1, lr=1e-2, precision="fp32")
    with tuned(student, train, seed=0):
        groups = optimizer_for(student.model, config).param_groups
        trained = sum(p.numel() for group in groups for p in group["params"])
        fit(student.model, objective, config, folder, identity="x", label="x", freeze_norms=train != "full")
        inside = [x.clone() for x in embeddings(student, images)]
    for mine, merged in zip(inside, embeddings(student, images), strict=True):
        torch.testing.assert_close(mine, merged, rtol=1e-4, atol=1e-5)
    after = student.model.state_dict()
    assert after.keys() == before.keys()
    assert all(p.requires_grad for p in student.model.parameters())
    return {name for name in before if not torch.equal(before[name], after[name])}, trained


@torch.no_grad()
def embeddings(student, images):
    student.model.eval()
    return student.images(student.prepare(images[:4])), student.texts(student.tokenize(CAPTIONS[:4]))


@pytest.mark.parametrize(
    ("vision", "block"),
    [("vit-tiny", "transformer.resblocks."), ("resnet-timm", "trunk.layer"), ("resnet-tiny", "layer")],
)
def test_of_the_last_layers_alone_weights_move(vision, block, pixels, tmp_path):
    student = build(vision)
    depth = len(layers(student.model.visual))
    assert (depth, len(layers(student.model.text))) == (4, 3)
    moved, trained = train(student, pixels, tmp_path, "last-2")
    first = 2 if vision == "vit-tiny" else 3
    allowed = [f"visual.{block}{first + i}." for i in range(2)]
    allowed += [f"text.transformer.resblocks.{i}." for i in (1, 2)]
    tails = ("visual.ln_post.", "visual.proj", "visual.head.", "visual.attnpool.", "text.ln_final.", "text.text_proj")
    strange = {name for name in moved if not name.startswith((*allowed, *tails, "logit_scale"))}
    assert not strange
    for prefix in allowed:
        assert any(name.startswith(prefix) for name in moved), prefix
    assert "logit_scale" in moved
    assert trained < sum(p.numel() for p in student.model.parameters())


def test_more_layers_than_there_are_is_all_of_them(pixels, tmp_path):
    student = build("vit-tiny")
    moved, _ = train(student, pixels, tmp_path, "last-99")
    assert "visual.transformer.resblocks.0.mlp.c_fc.weight" in moved
    assert not {"visual.conv1.weight", "visual.positional_embedding", "text.token_embedding.weight"} & moved


@pytest.mark.parametrize("vision", ["vit-tiny", "resnet-timm"])
def test_lora_moves_matrices_and_leaves_an_ordinary_student(vision, pixels, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    student = build(vision)
    moved, trained = train(student, pixels, tmp_path / "run", "lora-2")
    matrices = {name for name, p in student.model.named_parameters() if p.ndim >= 2}
    assert moved <= matrices | {"logit_scale"}
    for name in ("0.attn.in_proj_weight", "2.attn.out_proj.weight", "1.mlp.c_fc.weight"):
        assert f"text.transformer.resblocks.{name}" in moved
    assert "text.token_embedding.weight" not in moved
    assert trained < 0.2 * sum(p.numel() for p in student.model.parameters())
    student.save(tmp_path / "student")
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it fails
    loaded = Student.load(tmp_path / "student").model.state_dict()
    for name, value in student.model.state_dict().items():
        assert torch.equal(value, loaded[name]), name


def test_everything_moves_when_everything_is_trained(pixels, tmp_path):
    student = build("vit-tiny")
    moved, trained = train(student, pixels, tmp_path, "full")
    assert moved == set(dict(student.model.named_parameters()))
    assert trained == sum(p.numel() for p in student.model.parameters())


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    student = build("vit-tiny")
    with (
        pytest.raises(TrainingError, match=r"^`train: lora` wants the package peft.*`pip install 'peft>=[\d.]+'`"),
        tuned(student, "lora", 0),
    ):
        pass
    assert all(p.requires_grad for p in student.model.parameters())
