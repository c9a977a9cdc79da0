"""The streamed losses against the plain formulas, the masks and shares against loops over samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmkd_core.distill import losses, streamed
from mmkd_core.distill.config import Weights
from mmkd_core.distill.heads import TeacherHead
from mmkd_core.distill.normalise import PhiS
from mmkd_core.distill.streamed import PAIRED, TERMS, Lesson, Method, taught

S, B = 5, 11
OFF = dict.fromkeys(("clip", "untaught", "relation"), 0.0)


def weights(**given):
    return Weights(**(dict.fromkeys(TERMS, 0.0) | OFF | given))


def unit(*size, generator):
    return F.normalize(torch.randn(*size, generator=generator, dtype=torch.float64), dim=-1)


def lesson(seed, dim, rows, factor=1.0, sample_factor=None, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    features = {tower: unit(len(rows), dim, generator=g).to(dtype) for tower in ("image", "text")}
    phis = {}
    for tower in features:
        rotation = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64))[0].to(dtype)
        phis[tower] = PhiS(torch.randn(dim, generator=g, dtype=torch.float64).to(dtype) / 4, rotation, 1.7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TeacherHead(S, phis, 6.0, fusion=True).to(dtype)
    rows = torch.tensor(rows)
    return Lesson(head, rows, features, torch.arange(len(rows)), 9.0, factor, sample_factor)


def student(seed=0, batch=B, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [unit(batch, S, generator=g).to(dtype).requires_grad_() for _ in range(2)]


LESSONS = [lesson(1, 7, range(B), 0.5), lesson(2, 4, [0, 3, 4, 8, 10], 0.3), lesson(3, 6, [2, 9, 1], 0.2)]


def plainly(image, text, lessons, method):
    """The weighted terms by their formulas, with full logits."""
    totals = dict.fromkeys((name for name in TERMS if getattr(method.weights, name)), 0.0)
    for one in lessons:
        head, phis = one.head, one.head.normalisers
        predicted = {"image": head(image[one.rows], "image"), "text": head(text[one.rows], "text")}
        native = [head.native(p, tower) for tower, p in predicted.items()]
        own = list(one.features.values())
        fd = {"cosine": losses.feature_distillation, "mse": losses.mse_distillation}[method.fd]
        values = {"fd": sum(fd(p, phis[tower].forward(one.features[tower])) for tower, p in predicted.items()) / 2}
        if len(one.rows) > 1:
            pair = (*native, *own, head.scale(), torch.tensor(one.logit_scale, dtype=image.dtype))
            values["icl"] = losses.interactive_contrast(*pair[:5])
            values["crd"] = losses.contrastive_relation(*pair)
            values["gd"] = losses.gradient_distillation(*pair)
            values["afd"] = losses.clip_contrast(*head.fusion(*native, *own))
        for name in totals.keys() & values.keys():
            totals[name] = totals[name] + one.factor * getattr(method.weights, name) * values[name]
    return totals


def gradients(parts, image, text, lessons):
    leaves = [image, text, *(p for one in lessons for p in one.head.parameters())]
    found = torch.autograd.grad(torch.stack(list(parts.values())).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def agree(lessons, method, rel=1e-9):
    image, text = student()
    mine, true = (way(image, text, lessons, method) for way in (taught, plainly))
    assert list(mine) == list(true)
    for name in true:
        torch.testing.assert_close(mine[name].detach(), torch.as_tensor(true[name]).detach(), rtol=rel, atol=1e-10)
    pairs = zip(gradients(mine, image, text, lessons), gradients(true, image, text, lessons), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=rel, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 30, 10**6])  # one row, some rows, all rows at a time
@pytest.mark.parametrize("fd", ["cosine", "mse"])
@pytest.mark.parametrize(
    "terms", [{"fd": 5.0}, {"icl": 0.3}, {"fd": 5.0, "icl": 0.3}, {"fd": 5, "icl": 1, "crd": 2, "gd": 0.7, "afd": 0.4}]
)
def test_values_and_gradients_are_those_of_the_formulas(monkeypatch, chunk, fd, terms):
    monkeypatch.setitem(streamed.CHUNK_LOGITS, "cpu", chunk)
    agree(LESSONS, Method(weights(**terms), fd))


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone(term):
    agree(LESSONS, Method(weights(**{term: 1.5})))


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_weight_zero_is_not_even_called(monkeypatch, term):
    def refuse(*_):
        raise AssertionError(f"{term} was computed")

    if term == "fd":
        monkeypatch.setitem(streamed.FD, "cosine", refuse)
    elif term == "icl":
        monkeypatch.setattr(streamed, "_contrast", refuse)
    else:
        names = {"crd": "contrastive_relation", "gd": "gradient_distillation", "afd": "clip_contrast"}
        monkeypatch.setattr(losses, names[term], refuse)
    on = dict.fromkeys(TERMS, 1.0) | {term: 0.0}
    assert list(taught(*student(), LESSONS, Method(weights(**on)))) == [name for name in TERMS if name != term]
    with pytest.raises(AssertionError, match=f"{term} was computed"):
        taught(*student(), LESSONS, Method(weights(**{term: 1.0})))


def test_without_pairs_no_sample_is_embedded_twice(monkeypatch):
    monkeypatch.setattr(streamed._Teaching, "_paired", None)
    assert list(taught(*student(), LESSONS, Method(weights(fd=1, icl=1)))) == ["fd", "icl"]


def test_nothing_to_teach():
    assert taught(*student(), LESSONS, Method(weights(relation=1.0))) == {}
    image, text = student()
    parts = taught(image, text, [], Method(weights(fd=1, icl=1)))
    assert [part.item() for part in parts.values()] == [0, 0]
    parts["icl"].backward()
    assert not image.grad.any()


def test_one_sample_has_no_contrast():
    one = lesson(4, 6, [7])
    parts = taught(*student(), [one], Method(weights(**dict.fromkeys(TERMS, 1.0))))
    assert parts.pop("fd") > 0
    assert all(part.item() == 0 for part in parts.values())


def test_fd_sample_by_sample():
    """A factor of 2 on one sample and 0 on another: the mean is still over all samples."""
    factor = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    whole = lesson(3, 6, [2, 9, 1])
    image, text = student()
    method = Method(weights(fd=1))
    each = [
        plainly(image, text, [replace(whole, rows=whole.rows[[i]], features=part(whole.features, i))], method)["fd"]
        for i in range(3)
    ]
    mine = taught(image, text, [replace(whole, sample_factor=factor)], method)
    assert mine["fd"].item() == pytest.approx((each[0] + 2 * each[1]).item() / 3, rel=1e-12)
    one, other = (gradients({"fd": x}, image, text, [whole]) for x in (mine["fd"], (each[0] + 2 * each[1]) / 3))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def part(features, index):
    return {tower: x[[index]] for tower, x in features.items()}


@settings(max_examples=15)
@given(owner=st.lists(st.integers(0, 2), min_size=B, max_size=B))
def test_shares_of_processes_add_up(owner):
    """Each process holds some of the samples, and all teachers' features: the sums are those of one process."""
    image, text = student()
    method = Method(weights(fd=5, icl=0.3))
    whole = taught(image, text, LESSONS, method)
    true = gradients(whole, image, text, LESSONS)
    value, found = 0.0, [torch.zeros_like(g) for g in true]
    for process in range(3):
        mine = torch.tensor([i for i in range(B) if owner[i] == process], dtype=torch.long)
        place = {int(row): i for i, row in enumerate(mine)}
        shares = []
        for one in LESSONS:
            own = torch.tensor([i for i, row in enumerate(one.rows.tolist()) if row in place], dtype=torch.long)
            local = torch.tensor([place[int(one.rows[i])] for i in own], dtype=torch.long)
            shares.append(replace(one, rows=local, own=own))
        parts = taught(image[mine], text[mine], shares, method)
        value += sum(part.item() for part in parts.values())
        found = [a + b for a, b in zip(found, gradients(parts, image, text, LESSONS), strict=True)]
    assert value == pytest.approx(sum(part.item() for part in whole.values()), rel=1e-9)
    for a, b in zip(found, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("term", PAIRED)
def test_pairs_need_all_samples(term):
    some = replace(LESSONS[1], rows=LESSONS[1].rows[:2], own=LESSONS[1].own[:2])
    with pytest.raises(ValueError, match="pair all samples of a batch"):
        taught(*student(), [some], Method(weights(**{term: 1.0})))


def test_the_gradient_is_taken_once_and_scaled():
    image, text = student()
    method = Method(weights(fd=1, icl=1))
    one = gradients({"all": 3 * sum(taught(image, text, LESSONS, method).values())}, image, text, LESSONS)
    true = gradients(plainly(image, text, LESSONS, method), image, text, LESSONS)
    for a, b in zip(one, true, strict=True):
        torch.testing.assert_close(a, 3 * b)
    total = sum(taught(image, text, LESSONS, method).values())
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute them again"):
        total.backward()


def test_bf16_is_close_and_in_full_precision_outside_of_products():
    lessons = [lesson(seed, 64, range(B), 0.5, dtype=torch.float32) for seed in (1, 2)]
    image, text = student(dtype=torch.float32)
    method = Method(weights(fd=5, icl=1))
    true = gradients(plainly(image, text, lessons, method), image, text, lessons)
    with torch.autocast("cpu", torch.bfloat16):
        parts = taught(image, text, lessons, method)
    assert all(value.dtype == torch.float32 for value in parts.values())
    found = gradients(parts, image, text, lessons)
    for a, b in zip(found, true, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 0.02 * b.norm()


def test_large_scales_do_not_overflow():
    """The positive's posterior is 0 in fp32, its loss is not infinite."""
    one = lesson(1, 4, range(2), dtype=torch.float32)
    with torch.no_grad():
        one.head.log_scale.fill_(20.0)  # far above the bound
    assert one.head.scale().item() == pytest.approx(100)
    away = replace(one, features={"image": torch.eye(2, 4), "text": torch.eye(2, 4)})
    for phis in away.head.normalisers.values():
        object.__setattr__(phis, "mean", torch.tensor([-1e4, 1e4, 0.0, 0.0]))  # both samples look like the second
    parts = taught(*student(batch=2, dtype=torch.float32), [away], Method(weights(icl=1)))
    assert parts["icl"].item() == pytest.approx((141.4 + 0) / 2, abs=0.2)
