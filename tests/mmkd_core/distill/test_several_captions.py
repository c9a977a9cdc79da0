"""Of several captions the student and every teacher read the same one in a step, and the bank has them all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.align import fit_alignment
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import BankConfig, DistillConfig
from mmkd_core.distill.objective import Objective, Samples
from mmkd_core.distill.paper import PaperObjective
from mmkd_core.distill.run import warm_head
from mmkd_core.distill.sources import Source
from mmkd_core.student.step import Share

N, M = 12, 15
ROWS = np.array([1, 4, 7, 2, 9])


@pytest.fixture
def several(corpus: Corpus) -> Corpus:
    """Samples 1, 4 and 11 (of the test split) have two captions more, one, and one."""
    more = corpus.more_captions.copy()
    more[1], more[4] = ("a nodule", "normal radiograph of somebody"), ("ct with fluid",)
    return replace(corpus, more_captions=more)


@pytest.fixture
def two(several: Corpus, source, samples: Samples, student) -> tuple[Samples, list[Source]]:
    """Two teachers with features of all 15 captions, in stores whose rows run backwards."""
    made = []
    for name in ("a", "b"):
        teacher = source(name, np.arange(N))
        rng = np.random.default_rng(list(name.encode()))
        teacher.store.features["text"] = rng.normal(size=(M, 6)).astype(np.float32)
        made.append(replace(teacher, text_rows=np.arange(M)[::-1].copy()))
    return Samples.of(student, samples.pixels, several, Bank.build(several, BankConfig(captions=2), 0)), made


def test_the_student_and_all_teachers_read_the_same_caption(two, student, several, bank):
    samples, sources = two
    heads = {source.name: warm_head(student, source, samples)[0] for source in sources}
    objective = Objective(student, heads, sources, samples, bank, lambda step: ROWS, DistillConfig(), 5)
    read = set()
    for step in range(10):
        batch, drawn = objective.batch(step, Share()), samples.captions.drawn(ROWS, 5, step)
        assert several.owners[drawn].tolist() == ROWS.tolist()
        assert torch.equal(batch.tokens[batch.which], student.tokenize([several.texts[i] for i in drawn]))
        for source, texts in zip(sources, batch.reading.texts, strict=True):
            expected = torch.from_numpy(source.store.features["text"][M - 1 - drawn])
            torch.testing.assert_close(texts, torch.nn.functional.normalize(expected, dim=-1))
        read |= set(drawn.tolist())
    assert read >= {1, 4, 12, 13, 14}, "each caption has its turn"


def test_the_published_scheme_reads_the_same_caption_too(two, student, several):
    samples, sources = two
    config = DistillConfig(recipe="paper")
    alignment = fit_alignment("linear", sources, student.embed_dim, 0)
    scale = torch.nn.ParameterDict({"cross": torch.nn.Parameter(torch.zeros(()))})
    objective = PaperObjective(student, scale, alignment, sources[:1], samples, lambda step: ROWS, config, 5)
    for step in range(6):
        drawn = samples.captions.drawn(ROWS, 5, step)
        assert torch.equal(objective.batch(step, Share()).tokens, student.tokenize([several.texts[i] for i in drawn]))
        _, _, texts = objective._draw(ROWS, step)
        torch.testing.assert_close(texts, alignment.aligned("a", sources[0].texts(drawn)))


def test_the_bank_draws_from_all_captions_of_training_samples(several):
    more = several.more_captions.copy()
    more[11] = ("of the test split",)
    texts = Bank.build(replace(several, more_captions=more), BankConfig(captions=99), seed=0).texts
    assert {"a nodule", "normal radiograph of somebody"} <= set(texts["xray"])
    assert "ct with fluid" in texts["ct"]
    assert "of the test split" not in texts["xray"]
    assert len(set(texts["xray"])) == len(texts["xray"])
