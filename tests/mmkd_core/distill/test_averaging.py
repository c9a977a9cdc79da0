from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmkd_core.distill.averaging import RunningAverage, measure_norms, mix
from mmkd_core.student.model import Student


def walk(average, model, values):
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()


def test_a_tail_average_is_the_mean_of_the_last_quarter():
    model = nn.Linear(2, 1, bias=False)
    average = RunningAverage(model, "tail", steps=8)
    walk(average, model, [1, 2, 3, 4, 5, 6])
    average.into_model()
    assert model.weight.tolist() == [[6.0, 6.0]], "nothing was averaged yet"
    walk(average, model, [7, 9])
    average.into_model()
    assert model.weight.tolist() == [[8.0, 8.0]]


def test_an_exponential_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    average = RunningAverage(model, "ema", steps=40)  # 1 / 4 of each new one
    walk(average, model, [1.0, 5.0, 5.0])
    average.into_model()
    assert model.weight.item() == pytest.approx(0.75 * 2.0 + 0.25 * 5.0)


@pytest.mark.parametrize("kind", ["tail", "ema"])
def test_it_is_what_torchs_own_is(kind):
    torch.manual_seed(0)
    model, steps = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)), 40
    average = RunningAverage(model, kind, steps)
    how = get_ema_multi_avg_fn(1 - 1 / (0.1 * steps)) if kind == "ema" else None
    theirs = AveragedModel(model, multi_avg_fn=how)
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        if kind == "ema" or step > 0.75 * steps:
            theirs.update_parameters(model)
    average.into_model()
    for ours, other in zip(model.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=0 if kind == "ema" else 1e-6)


def test_a_checkpoint_holds_an_average():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    whole, broken = (RunningAverage(model, "tail", steps=8) for _ in range(2))
    walk(whole, model, range(8))
    walk(broken, model, range(7))
    resumed = RunningAverage(model, "tail", steps=8)
    resumed.load_state_dict(broken.state_dict())
    walk(resumed, model, [7])
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(parameter.requires_grad for parameter in whole.parameters()), "the optimiser leaves it alone"


def copy_of(student: Student) -> Student:
    return Student(deepcopy(student.model), student.tokenizer, student.model_config, student.preprocess)


def moved(student: Student) -> Student:
    other = copy_of(student)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in other.model.parameters():
            value.add_(torch.randn_like(value))
    return other


def test_a_mixture_lies_between_and_its_ends_are_the_two_themselves(built):
    child, mixed = moved(built), copy_of(built)
    parent, candidate = built.model.state_dict(), child.model.state_dict()
    for step, expected in ((0.0, parent), (1.0, candidate)):
        mix(mixed, parent, candidate, step)
        assert all(torch.equal(value, expected[name]) for name, value in mixed.model.state_dict().items())
    mix(mixed, parent, candidate, 0.25)
    for name, value in mixed.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * parent[name] + 0.25 * candidate[name])


def test_measured_norms_are_those_of_the_images(built):
    student = moved(built)
    images = torch.randn(24, 3, 32, 32)
    measure_norms(student, images.split(24))
    seen = []
    first = next(module for module in student.model.visual.modules() if isinstance(module, nn.BatchNorm2d))
    handle = first.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    student.model.eval()
    with torch.no_grad():
        student.images(images)
    handle.remove()
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, seen[0].var((0, 2, 3)), rtol=1e-4, atol=1e-5)
