from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmkd_core.distill import losses as loss
from mmkd_core.distill import paper
from mmkd_core.distill.align import fit_alignment
from mmkd_core.distill.config import DistillConfig
from mmkd_core.distill.paper import PaperObjective
from mmkd_core.student.step import losses_of

ALL = list(range(12))
BATCH = np.array([7, 0, 3, 4, 9, 2, 11, 5])


class Marks:
    """An alignment that answers with the number of the teacher; the objective's draw can be read from it."""

    def aligned(self, name, features):
        return torch.cat([torch.full((len(features), 1), float(ord(name))), features], dim=1)


@pytest.fixture
def build(student, samples):
    def make(sources, alignment, batch=BATCH, **weights):
        scale = nn.ParameterDict({"cross": nn.Parameter(torch.tensor(2.0))})
        config = DistillConfig(recipe="paper", weights=weights, crop=1.0)
        student.model.eval()
        return PaperObjective(student, scale, alignment, sources, samples, lambda step: batch, config, 3)

    return make


def test_the_drawn_teacher_is_among_the_trusted(build, source):
    sources = {"a": source("a", [0, 2, 3, 4]), "b": source("b", [0, 3, 7]), "c": source("c", [0, 9])}
    objective = build(list(sources.values()), Marks())
    counts: dict[tuple[int, str], int] = {}
    for step in range(300):
        taught, images, texts = objective._draw(BATCH, step)
        assert sorted(BATCH[taught].tolist()) == [0, 2, 3, 4, 7, 9]  # once each; 5 and 11 are trusted to nobody
        for place, image, text in zip(taught, images, texts, strict=True):
            row, name = int(BATCH[place]), chr(int(image[0]))
            assert sources[name].mask[row]
            for tower, answer in (("image", image), ("text", text)):
                expected = sources[name].store.features[tower][row]
                np.testing.assert_allclose(answer[1:], expected / np.linalg.norm(expected), atol=1e-6)
            counts[row, name] = counts.get((row, name), 0) + 1
    assert set(counts) == {(row, n) for n, s in sources.items() for row in BATCH.tolist() if s.mask[row]}
    for name in "abc":
        assert counts[0, name] == pytest.approx(100, abs=30)  # three trusted teachers, equally likely
    assert counts[2, "a"] == 300


def test_the_draw_is_a_function_of_the_step(build, source):
    objective = build([source("a", ALL), source("b", ALL)], Marks())
    names = [objective._draw(BATCH, step)[1][:, 0].tolist() for step in (0, 0, 1)]
    assert names[0] == names[1]
    assert names[0] != names[2] or objective._draw(BATCH, 0)[0].tolist() != objective._draw(BATCH, 1)[0].tolist()


def test_losses_against_numpy(build, source, student, samples):
    teacher = source("a", [0, 2, 3, 4], dim=16)

    class Identity:
        def aligned(self, name, features):
            return features

    parts = losses_of(build([teacher], Identity(), fd=2.0, icl=0.5, clip=0.1), 0)
    rows = [3, 0, 4, 2]
    image, tokens = student.embed_images(samples.pixels[rows]), samples.tokens[rows]
    with torch.no_grad():
        text = torch.nn.functional.normalize(student.texts(tokens), dim=-1).numpy()
    t_image, t_text = (
        x[rows] / np.linalg.norm(x[rows], axis=1, keepdims=True)
        for x in (teacher.store.features["image"], teacher.store.features["text"])
    )
    fd = ((image - t_image) ** 2).mean() + ((text - t_text) ** 2).mean()

    def contrast(a, b):
        logits = np.exp(2.0) * a @ b.T
        return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))

    assert parts["fd"].item() == pytest.approx(2 * fd, rel=1e-4)
    assert parts["icl"].item() == pytest.approx(0.5 * (contrast(image, t_text) + contrast(text, t_image)) / 2, rel=1e-4)
    assert set(parts) == {"clip", "fd", "icl"}


def test_fewer_than_two_taught_samples_leave_only_clip(build, source):
    alignment = fit_alignment("autoencoder", [source("a", [0])], 16, seed=0)
    assert set(losses_of(build([source("a", [0])], alignment), 0)) == {"clip"}


@pytest.mark.parametrize(
    ("weights", "computed"),
    [
        ({"clip": 0}, {"fd", "icl"}),
        ({"fd": 0}, {"clip", "icl"}),
        ({"icl": 0}, {"clip", "fd"}),
        ({"fd": 0, "icl": 0}, {"clip"}),
    ],
)
def test_what_weighs_nothing_is_not_computed(weights, computed, build, source, monkeypatch):
    called = set()
    losses = {"clip": (paper, "clip_loss"), "fd": (loss, "mse_distillation"), "icl": (loss, "interactive_contrast")}
    for name, (module, function) in losses.items():

        def counted(*arguments, name=name, real=getattr(module, function), **options):
            called.add(name)
            return real(*arguments, **options)

        monkeypatch.setattr(module, function, counted)
    teacher = source("a", ALL, dim=16)
    objective = build(
        [teacher], fit_alignment("autoencoder", [teacher], 16, seed=0), **{"fd": 1, "icl": 1, "clip": 1} | weights
    )
    teacher.store.gathered.clear()
    assert set(losses_of(objective, 0)) == computed == called
    assert bool(teacher.store.gathered) == bool(computed & {"fd", "icl"})


def test_a_step_that_teaches_nothing_still_has_a_gradient(build, source):
    nobody = source("a", [])
    parts = losses_of(build([nobody], fit_alignment("autoencoder", [nobody], 16, seed=0), clip=0), 0)
    assert list(parts) == ["fd"]
    assert parts["fd"].item() == 0
    parts["fd"].backward()
