from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from mmkd_core.distill import balance
from mmkd_core.distill.config import BankConfig, DistillConfig
from mmkd_core.distill.objective import Objective, Samples
from mmkd_core.distill.run import warm_head
from mmkd_core.distill.streamed import fd_of_samples
from mmkd_core.student.step import Share, losses_of

ALL = list(range(12))
EVEN, ODD = ALL[::2], ALL[1::2]  # the domains ct and xray
BATCH = np.array([7, 0, 3, 4, 9, 2])
SEED = 5


@pytest.fixture
def build(student, samples, bank):
    """Call with sources (and weights): an objective whose every batch is BATCH, heads fitted by ridge."""

    def make(sources, batch=BATCH, samples=samples, bank=bank, **weights):
        heads = {s.name: warm_head(student, s, samples)[0] for s in sources if s.heads and s.mask.sum() >= 2}
        config = DistillConfig(weights=weights, bank=BankConfig(per_step=3), crop=1.0)
        student.model.eval()  # so that a batch norm does not make samples see one another
        return Objective(student, heads, sources, samples, bank, lambda step: batch, config, SEED)

    return make


def gradients(objective, names=("relation", "fd", "icl")):
    modules = nn.ModuleList([objective.student.model, *objective.heads.values()])
    modules.zero_grad(set_to_none=True)
    parts = losses_of(objective, 0)
    torch.stack([parts[name] for name in names]).sum().backward()
    return {name: p.grad.clone() for name, p in modules.named_parameters() if p.grad is not None}


def altered(source, rows):
    """The source with other features in these rows of the corpus."""
    other = {tower: x.copy() for tower, x in source.store.features.items()}
    for tower in other:
        other[tower][rows] = np.random.default_rng(99).normal(size=other[tower][rows].shape)
    store = type(source.store)(other["image"], other["text"])
    return replace(source, store=store)


def as_before(objective, sources):
    """The same heads, other sources: what changes is what the step reads, not what the heads were fitted to."""
    o = objective
    return Objective(o.student, o.heads, sources, o.samples, o.bank, o.batches, o.config, o.seed)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"relation": 0},
        {"fd": 0},
        {"icl": 0},
        {"clip": 0, "untaught": 0},
        {"fd": 0, "icl": 0},
        {"fd": 0, "icl": 0, "relation": 0},
        {"clip": 0, "untaught": 0, "relation": 0},
    ],
)
def test_a_loss_of_weight_zero_is_not_computed(build, source, weights):
    teacher = source("a", ALL)
    parts = losses_of(build([teacher], **weights), 0)
    assert set(parts) == {"fd", "icl", "clip", "relation"} - set(weights)


def test_without_losses_on_teachers_no_feature_is_read(build, source):
    teacher = source("a", ALL)
    objective = build([teacher], fd=0, icl=0, relation=0)
    teacher.store.gathered.clear()
    losses_of(objective, 0)
    assert teacher.store.gathered == []


def test_weights_are_factors(build, source):
    plain = losses_of(build([source("a", ALL)], fd=1, icl=1, clip=1, relation=1), 0)
    double = losses_of(build([source("a", ALL)], fd=2, icl=3, clip=0.5, relation=7), 0)
    for name, factor in (("fd", 2), ("icl", 3), ("clip", 0.5), ("relation", 7)):
        assert double[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-5)


def test_an_untrusted_sample_changes_no_gradient(build, source):
    """Rows 3 and 4 of the batch are not admitted: whatever the teacher says about them, nothing moves."""
    trusted = [i for i in ALL if i not in (3, 4)]
    teachers = [source("a", trusted), source("b", EVEN)]
    objective = build(teachers)
    before = gradients(objective)
    assert same(before, gradients(as_before(objective, [altered(teachers[0], [3, 4]), teachers[1]])))
    assert not same(before, gradients(as_before(objective, [altered(teachers[0], [7]), teachers[1]])))
    assert not same(before, gradients(as_before(objective, [altered(teachers[0], [0]), teachers[1]])))
    assert not same(before, gradients(as_before(objective, [teachers[0], altered(teachers[1], [4])])))
    teachers[0].store.gathered.clear()
    losses_of(objective, 0)
    assert set(teachers[0].store.gathered) == {7, 0, 9, 2}


@pytest.mark.parametrize("name", ["relation", "fd", "icl"])
def test_a_sample_outside_the_batch_changes_no_gradient(build, source, name):
    teacher = source("a", ALL)
    objective = build([teacher], **dict.fromkeys(("relation", "fd", "icl"), 0.0) | {name: 1.0})
    outside = [i for i in ALL if i not in BATCH]
    before = gradients(objective, [name])
    assert same(before, gradients(as_before(objective, [altered(teacher, outside)]), [name]))
    assert not same(before, gradients(as_before(objective, [altered(teacher, [2])]), [name]))


def test_relation_against_numpy(build, source, student, samples, bank):
    """All trusted teachers of a sample count; each pair (sample, teacher) weighs its teacher's factor."""
    teachers = [source("a", [0, 3, 4, 7]), source("b", [0, 2, 9], dim=4, logit_scale=25.0, factor=2.0)]
    value = losses_of(build(teachers), 0)["relation"].item()
    draw = bank.draw(3, SEED, 0)
    images = student.embed_images(samples.pixels)
    total, weight = 0.0, 0.0
    for teacher in teachers:
        for row in BATCH:
            if not teacher.mask[row]:
                continue
            domain = ("ct", "xray")[row % 2]
            texts = student.embed_texts([bank.texts[domain][i] for i in draw[domain]])
            own = softmax(student.logit_scale * texts @ images[row])
            feature = teacher.store.features["image"][row]
            cosines = teacher.bank[domain][draw[domain]].numpy() @ (feature / np.linalg.norm(feature))
            total += teacher.factor * entropy(softmax(teacher.logit_scale * cosines), own)
            weight += teacher.factor
    assert weight == 4 + 2 * 3
    assert value == pytest.approx(total / weight, rel=1e-4)


def test_fd_and_icl_are_means_over_teachers(build, source):
    one, two = source("a", ALL), source("b", EVEN, dim=9)
    alone = [losses_of(build([teacher]), 0) for teacher in (one, two)]
    both = losses_of(build([one, two]), 0)
    for name in ("fd", "icl"):
        assert both[name].item() == pytest.approx((alone[0][name].item() + alone[1][name].item()) / 2, rel=1e-5)


def test_a_teacher_that_counts_for_one_sample_of_the_batch_has_no_contrast(build, source):
    one, two = source("a", ALL), source("b", [0, 1])  # of the batch only row 0
    alone, both = losses_of(build([one]), 0), losses_of(build([one, two]), 0)
    assert both["fd"].item() == pytest.approx(alone["fd"].item())
    assert both["icl"].item() == pytest.approx(alone["icl"].item())
    assert both["relation"].item() != pytest.approx(alone["relation"].item())


def test_the_parent_teaches_by_relation_only(build, source):
    one, parent = source("a", EVEN), source("student-0001", ODD, dim=16, heads=False, factor=2.0)
    alone, both = losses_of(build([one]), 0), losses_of(build([one, parent]), 0)
    assert both["fd"].item() == pytest.approx(alone["fd"].item())
    assert both["icl"].item() == pytest.approx(alone["icl"].item())
    assert both["relation"].item() != pytest.approx(alone["relation"].item())


def test_nobody_trusted_gives_zero_and_no_gradient_but_clips(build, source):
    parts = losses_of(build([source("a", [5, 11])]), 0)
    assert (parts["relation"].item(), parts["fd"].item(), parts["icl"].item()) == (0, 0, 0)
    assert parts["clip"].item() > 0
    parts["clip"].backward()


def test_a_domain_without_a_bank_has_no_relation(build, source, student, samples, corpus, bank):
    from mmkd_core.distill.bank import Bank

    half = Bank({"xray": bank.texts["xray"]})
    fewer = Samples.of(student, samples.pixels, corpus, half)
    assert fewer.domain.tolist() == [-1, 0] * 6
    teacher = source("a", ALL)
    objective = build([teacher], samples=fewer, bank=half)
    before = gradients(objective, ["relation"])
    assert same(before, gradients(as_before(objective, [altered(teacher, EVEN)]), ["relation"]))
    assert not same(before, gradients(as_before(objective, [altered(teacher, [7])]), ["relation"]))


def test_a_step_is_a_function_of_its_number(build, source):
    objective = build([source("a", ALL)])
    one, two, again = (losses_of(objective, step)["relation"].item() for step in (0, 1, 0))
    assert one == again
    assert one != two  # other texts of the bank


def test_a_student_that_agrees_with_its_teacher_has_no_relation_loss(build, source, student, samples, bank):
    """The student's own embeddings as a teacher: nothing is left to learn."""
    texts = {domain: torch.from_numpy(student.embed_texts(row)) for domain, row in bank.texts.items()}
    store = type(source("x", []).store)(student.embed_images(samples.pixels), np.ones((12, 16), np.float32))
    itself = replace(source("self", ALL, logit_scale=student.logit_scale, heads=False), store=store, bank=texts)
    assert losses_of(build([itself]), 0)["relation"].item() == pytest.approx(0, abs=1e-4)
    assert losses_of(build([replace(itself, logit_scale=3.0)]), 0)["relation"].item() > 1e-3


def test_at_least_one_loss_counts():
    with pytest.raises(ValidationError, match="one of fd, icl, crd, gd, afd, clip and relation must be above 0"):
        DistillConfig(weights={"fd": 0, "icl": 0, "clip": 0, "relation": 0})


def test_caption_of_a_sample_counts_more_where_no_teacher_teaches_it(build, source):
    nobody, everybody, some = [], ALL, [7, 3]

    def clip(taught, **weights):
        return losses_of(build([source("a", taught, heads=False)], relation=1, fd=0, icl=0, **weights), 0)[
            "clip"
        ].item()

    whole = clip(nobody, clip=0, untaught=1)
    assert whole == pytest.approx(clip(everybody, clip=1, untaught=0))
    taught, free = clip(some, clip=1, untaught=0), clip(some, clip=0, untaught=1)
    assert 0 < taught < whole
    assert taught + free == pytest.approx(whole)
    assert clip(some, clip=0.1, untaught=1) == pytest.approx(0.1 * taught + free)


def test_a_source_without_its_turn_is_not_asked(build, source):
    teachers = [source("a", ALL), replace(source("b", EVEN), turn=lambda step: step % 2 == 0)]
    objective, both, alone = build(teachers), build(teachers), build(teachers[:1])
    for step in (0, 1):
        teachers[1].store.gathered.clear()
        found = losses_of(objective, step)
        assert bool(teachers[1].store.gathered) == (step == 0)
        expected = losses_of(both if step == 0 else alone, step)
        assert {name: value.item() for name, value in found.items()} == {n: v.item() for n, v in expected.items()}


def test_what_is_urgent_adds_to_the_relation_and_takes_nothing_from_the_others(build, source):
    """Twice the urgency of one half of the samples, and of the other: together the loss of all of them thrice."""

    def relation(urgency):
        teacher = replace(source("a", ALL), urgency=urgency)
        return losses_of(build([teacher], relation=1), 0)["relation"].item()

    plain = relation(None)
    even = relation(lambda rows: torch.from_numpy((rows % 2 == 0).astype(np.float32) + 1))
    odd = relation(lambda rows: torch.from_numpy((rows % 2 == 1).astype(np.float32) + 1))
    assert even > plain
    assert even + odd == pytest.approx(3 * plain, rel=1e-5)


def test_the_share_of_a_teacher_weighs_its_fd_alone(build, source):
    sources = [source("a", ALL), source("b", EVEN, dim=9)]
    objective = build(sources)
    plain = losses_of(objective, 0)
    o = objective
    same_heads = (o.student, o.heads, sources, o.samples, o.bank, o.batches, o.config, o.seed)
    a, b = (
        losses_of(Objective(*same_heads, shares={"a": 0.0, "b": 0.0} | {name: 1.0}), 0)["fd"].item() for name in "ab"
    )
    weighed = losses_of(Objective(*same_heads, shares={"a": 1.5, "b": 0.5}), 0)
    assert weighed["fd"].item() == pytest.approx(1.5 * a + 0.5 * b, rel=1e-5)
    assert plain["fd"].item() == pytest.approx(a + b, rel=1e-5)
    assert weighed["icl"].item() == pytest.approx(plain["icl"].item(), rel=1e-5)


def test_dropping_keeps_the_worst_teacher_of_each_sample(build, source, monkeypatch):
    """With every other teacher dropped, FD is what the worst teacher of each sample says."""
    sources = [source("a", ALL), source("b", EVEN, dim=9)]
    objective = build(sources)
    batch = objective.batch(0, Share())
    embedded = objective.embed(batch, Share())
    image, text = embedded[0], embedded[1][batch.which]
    lessons = objective._lessons(batch, Share())
    found = fd_of_samples(image, text, lessons, "cosine")
    table = np.full((2, len(BATCH)), -np.inf)
    for row, lesson, values in zip(table, lessons, found, strict=True):
        row[lesson.rows] = values
    counts = [len(lesson.rows) for lesson in lessons]
    expected = sum(table[t, i] / counts[t] for i, t in enumerate(table.argmax(axis=0))) / 2
    monkeypatch.setattr(balance, "DROPPED", 1.1)
    config = objective.config.model_copy(update={"teacher_balance": "dropping"})
    o = objective
    dropping = Objective(o.student, o.heads, sources, o.samples, o.bank, o.batches, config, o.seed)
    value = losses_of(dropping, 0)["fd"].item()
    assert value == pytest.approx(config.factors.fd * expected, rel=1e-5)


def test_a_sample_is_taught_only_while_its_teacher_has_its_turn(build, source):
    """The teacher of all samples has its turn in even steps: in odd ones each caption counts in full."""
    teacher = replace(source("a", ALL, heads=False), turn=lambda step: step % 2 == 0)
    objective = build([teacher], relation=1, fd=0, icl=0, clip=0.25, untaught=1)
    weights = [objective._captions(objective.batch(step, Share())) for step in (0, 1)]
    assert set(weights[0].tolist()) == {0.25}
    assert set(weights[1].tolist()) == {1.0}
