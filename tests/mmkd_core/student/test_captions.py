"""Of a sample's captions each step reads one, drawn from (seed, step, sample) alone; stage 1 trains on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_core.data.manifest import Corpus
from mmkd_core.student import training
from mmkd_core.student.captions import ONE_EACH, Captions
from mmkd_core.student.config import PretrainConfig
from mmkd_core.student.pretrain import ClipObjective, pretrain
from mmkd_core.student.step import Share

MORE = [(), ("lung", "nodule"), (), ("skin",), (), ()]


@pytest.fixture
def corpus() -> Corpus:
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"{i}",
            "caption": f"radiograph {i}",
            "more_captions": MORE[i],
            "domain": "xray",
            "group_id": f"{i}",
            "split": "train",
        }
        for i in range(6)
    ]
    return Corpus.build(Path("nowhere"), rows, {})


def test_captions_are_numbered_first_ones_first(corpus: Corpus) -> None:
    assert corpus.texts == [*(f"radiograph {i}" for i in range(6)), "lung", "nodule", "skin"]
    assert corpus.owners.tolist() == [0, 1, 2, 3, 4, 5, 1, 1, 3]
    assert list(corpus.text_ids[:6]) == list(corpus.text_id)
    assert len(set(corpus.text_ids)) == 9


def test_a_draw_gives_a_sample_one_of_its_own_captions(corpus: Corpus) -> None:
    captions = Captions.of(corpus)
    everybody = np.arange(6)
    draws = np.stack([captions.drawn(everybody, seed=0, step=step) for step in range(300)])
    for sample in range(6):
        assert set(draws[:, sample].tolist()) == set(np.flatnonzero(corpus.owners == sample).tolist())
    shares = [(draws[:, 1] == number).mean() for number in (1, 6, 7)]
    assert np.allclose(shares, 1 / 3, atol=0.09)
    assert 0.4 < (draws[:, 3] == 8).mean() < 0.6
    assert 0.3 < ((draws[:, 1] == 1) == (draws[:, 3] == 3)).mean() < 0.7, "samples are drawn apart"


def test_a_draw_depends_on_seed_step_and_sample_alone(corpus: Corpus) -> None:
    captions = Captions.of(corpus)
    assert captions.drawn(np.array([1, 3]), 5, 9).tolist() == captions.drawn(np.array([3, 1]), 5, 9).tolist()[::-1]
    assert captions.drawn(np.arange(6), 5, 9)[[1, 3, 4]].tolist() == captions.drawn(np.array([1, 3, 4]), 5, 9).tolist()
    drawn = [captions.drawn(np.array([1]), 0, step).item() for step in range(8)]
    assert drawn == [6, 6, 7, 1, 1, 1, 6, 7]
    others = [captions.drawn(np.array([1]), 1, step).item() for step in range(8)]
    assert others != drawn


def test_one_caption_each_needs_no_draw(corpus: Corpus) -> None:
    alone = Captions.of(corpus.take([0, 2, 4]))
    assert alone.offsets is None
    for captions in (alone, ONE_EACH):
        assert captions.drawn(np.array([2, 0]), 3, 4).tolist() == [2, 0]


def test_stage_one_reads_the_drawn_caption(corpus: Corpus, built) -> None:
    pixels = np.zeros((6, 32, 32, 3), np.uint8)
    tokens, captions = built.tokenize(corpus.texts), Captions.of(corpus)
    rows = np.array([3, 1, 0, 5])
    objective = ClipObjective(built, pixels, tokens, lambda step: rows, 1.0, seed=2, captions=captions)
    read = set()
    for step in range(12):
        drawn = captions.drawn(rows, 2, step)
        assert torch.equal(objective.batch(step, Share()).tokens, tokens[drawn])
        assert torch.equal(objective.batch(step, Share(1, 2)).tokens, tokens[drawn[2:]])
        read |= set(drawn.tolist())
    assert read == {0, 1, 3, 5, 6, 7, 8}


def test_a_run_that_was_killed_draws_the_same_captions(
    corpus: Corpus, make_student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(steps=6, batch_size=4, warmup=1)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)

    def run(model, folder: str, captions: Captions):
        return pretrain(
            model, pixels, corpus.texts, corpus.domain, np.arange(6), config, tmp_path / folder,
            seed=3, identity="a", whose=captions,
        )  # fmt: skip

    whole, single, killed = make_student(), make_student(), make_student()
    run(whole, "whole", Captions.of(corpus))
    run(single, "single", ONE_EACH)
    monkeypatch.setattr(training.Checkpoints, "due", lambda self: True)
    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", _mortal(training.learning_rate, after=3))
        with pytest.raises(RuntimeError, match="killed"):
            run(make_student(), "killed", Captions.of(corpus))
    run(killed, "killed", Captions.of(corpus))
    one, two, other = (model.model.state_dict() for model in (whole, killed, single))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def _mortal(real, after: int):
    def rate(config, step: int) -> float:
        if step >= after:
            raise RuntimeError("killed")
        return real(config, step)

    return rate
