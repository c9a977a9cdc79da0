from __future__ import annotations

import pytest
import torch

from mmkd_core.contract import Golden, hookimpl, measure_golden
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost
from mmkd_core.plugins.smoke import smoke_check


@pytest.fixture
def good(installed):
    installed("good")
    from mmkd_good import SPEC
    from mmkd_good.model import LinearTeacher

    return SPEC, LinearTeacher


def check(spec, teacher):
    class Plugin:
        @hookimpl
        def mmkd_teachers(self):
            return [spec]

        @hookimpl
        def mmkd_load_teacher(self):
            return teacher

    smoke_check(PluginHost.offering({"good": Plugin()}), spec)


def altered(good, **methods):
    spec, teacher = good
    return spec, type("Altered", (teacher,), methods)(spec, 7, "cpu")


def test_a_good_teacher_passes(good):
    check(*altered(good))


FAULTS = [
    ({"preprocess": lambda self, image: torch.zeros(3, 8, 9)}, r"preprocess: spec says float32 \(3, 8, 8\), it gives"),
    ({"tokenize": lambda self, texts: torch.zeros(2, 17).long()}, r"tokenize: spec says \(2, at most 16\), it gives"),
    ({"encode_image": lambda self, x: torch.zeros(len(x), 5)}, "embed_dim: spec says 4, encode_image gives 5"),
    ({"encode_image": lambda self, x: torch.zeros(4)}, r"encode_image: 1 inputs give shape \(4,\)"),
    ({"encode_text": lambda self, x: torch.zeros(2, 4).double()}, "encode_text: embeddings are torch.float64"),
    ({"encode_text": lambda self, x: torch.full((2, 4), torch.nan)}, "encode_text: embeddings hold NaN"),
    ({"encode_image": lambda self, x: torch.zeros(1, 4, requires_grad=True)}, "encode_image: embeddings carry a grad"),
    ({"encode_image": lambda self, x: torch.rand(1, 4)}, "encode_image: the same input gives different embeddings"),
]


@pytest.mark.parametrize(("methods", "message"), FAULTS)
def test_each_fault_is_named(good, methods, message):
    with pytest.raises(PluginError, match=f"good: smoke check failed at {message}"):
        check(*altered(good, **methods))


def test_training_mode_and_gradients_are_noticed(good):
    spec, teacher = altered(good)
    teacher.net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(PluginError, match="failed at eval mode: the model is in training mode"):
        check(spec, teacher)
    teacher.net.eval()
    with pytest.raises(PluginError, match=r"failed at frozen: parameter 0.weight requires a gradient"):
        check(spec, teacher)


def test_golden_values_are_compared(good):
    spec, teacher = altered(good)
    golden = measure_golden(teacher, seed=3, prompt="a scan")
    check(spec.model_copy(update={"golden": golden}), teacher)
    wrong = Golden.model_validate(golden.model_dump() | {"text": [golden.text[0] + 0.1, *golden.text[1:]]})
    with pytest.raises(PluginError, match=r"smoke check failed at golden text values: off by 0\.\d+ of the largest"):
        check(spec.model_copy(update={"golden": wrong}), teacher)
    other = type(teacher)(spec, 8, "cpu")
    with pytest.raises(PluginError, match="smoke check failed at golden image values"):
        check(spec.model_copy(update={"golden": golden}), other)
