from __future__ import annotations

import json
import math
import os
import signal
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mmkd_core.errors import TrainingError
from mmkd_core.progress import Silent
from mmkd_core.student import checkpoint, training
from mmkd_core.student.batches import Epochs
from mmkd_core.student.checkpoint import forget_checkpoint, read_log
from mmkd_core.student.config import PretrainConfig, TrainConfig
from mmkd_core.student.interrupts import interrupts
from mmkd_core.student.pretrain import ClipObjective, clamp_logit_scale, clip_loss, pretrain
from mmkd_core.student.training import (
    fit,
    learning_rate,
    optimizer_for,
)
from mmkd_core.student.views import crop, crop_windows

CONFIG = PretrainConfig(steps=12, batch_size=4, warmup=3, lr=1e-2)
WORDS = ("radiograph", "nodule", "liver", "skin", "fundus", "retina", "lung", "lesion", "border", "slice", "left", "no")
CAPTIONS = [f"{word} {WORDS[-i]}" for i, word in enumerate(WORDS)]
DOMAINS = np.array(["ct"] * 8 + ["xray"] * 4, object)


class KilledError(Exception):
    """Stands for a kill."""


class Watch(Silent):
    """A progress that notes where a run goes on, and what is said."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)

    def task(self, label, total, unit, done=0):
        assert (label, total, unit) == ("stage 1", 12, "steps")
        self.resumed_at = done
        return super().task(label, total, unit, done)


def run(student, pixels, folder, *, progress=None, identity="a", rows=None, config=CONFIG):
    rows = np.arange(len(pixels)) if rows is None else rows
    return pretrain(
        student, pixels, CAPTIONS, DOMAINS, rows, config, folder, seed=3, identity=identity, progress=progress
    )


def state_of(student):
    return {name: value.clone() for name, value in student.model.state_dict().items()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def kill_after(monkeypatch, module, name, calls):
    """Let the function work ``calls`` times and then raise."""
    real, count = getattr(module, name), [0]

    def mortal(*args, **kwargs):
        count[0] += 1
        if count[0] > calls:
            raise KilledError
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, mortal)


class Plain:
    """A function from the step's number to losses, as an objective."""

    def __init__(self, losses):
        self.function = losses

    def batch(self, step, share):
        return step

    def embed(self, step, piece):
        parts = self.function(step)
        self.names = list(parts)
        return (torch.stack(list(parts.values())),)

    def losses(self, step, embedded):
        return dict(zip(self.names, embedded[0], strict=True))


def linear_run(folder, losses, *, identity="x", steps=6, **options):
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    config = TrainConfig(steps=steps, batch_size=2, warmup=2, precision="fp32")
    objective = Plain(lambda step: losses(module, step))
    log = fit(module, objective, config, folder, identity=identity, label="test", **options)
    return module, log


def square(module, step):
    x = torch.from_numpy(np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32))
    return {"square": module(x).square().mean()}


@pytest.mark.parametrize(("kept", "precision"), [(1, "bf16"), (5, "fp32"), (11, "fp32")])
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(
    make_student, pixels, tmp_path, monkeypatch, kept, precision
):
    config = CONFIG.model_copy(update={"precision": precision})
    whole = make_student()
    log = run(whole, pixels, tmp_path / "whole", config=config)

    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)
    broken = make_student()
    with monkeypatch.context() as patch:
        from mmkd_core.student import pretrain as module

        kill_after(patch, module, "clip_loss", kept)
        with pytest.raises(KilledError):
            run(broken, pixels, tmp_path / "broken", config=config)
    watch, resumed = Watch(), make_student()
    again = run(resumed, pixels, tmp_path / "broken", progress=watch, config=config)

    assert watch.resumed_at == kept
    assert_same(state_of(whole), state_of(resumed))
    assert again == log
    assert [row["step"] for row in log] == [1, 10, 12]
    assert (tmp_path / "broken/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


def test_a_finished_run_whose_result_was_not_kept_costs_nothing(make_student, pixels, tmp_path):
    first, second = make_student(), make_student()
    log = run(first, pixels, tmp_path / "run")
    watch = Watch()
    assert run(second, pixels, tmp_path / "run", progress=watch) == log
    assert watch.resumed_at == CONFIG.steps
    assert_same(state_of(first), state_of(second))
    forget_checkpoint(tmp_path / "run")
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_damaged_checkpoint_is_not_gone_on_from(make_student, pixels, tmp_path):
    whole = make_student()
    log = run(whole, pixels, tmp_path / "run")
    path = tmp_path / "run/checkpoint.pt"
    good = path.read_bytes()
    zeros = good[: len(good) // 2] + bytes(64) + good[len(good) // 2 + 64 :]
    for raw in (zeros, good[: len(good) // 3], good[:-1], b"", bytes(5)):
        path.write_bytes(raw)
        watch, again = Watch(), make_student()
        assert run(again, pixels, tmp_path / "run", progress=watch) == log
        assert watch.resumed_at == 0
        assert any("the checkpoint is damaged; the run begins again" in line for line in watch.said)
        assert_same(state_of(whole), state_of(again))
        assert path.read_bytes() == good


def test_rows_of_the_log_beyond_the_checkpoint_are_done_again(tmp_path, monkeypatch):
    """The kill comes long after the last checkpoint; a half-written line is left at the end."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)
    whole, log = linear_run(tmp_path / "whole", square)

    def dies(module, step):
        if step == 2:  # the checkpoint of two steps stays the last one
            monkeypatch.setattr(checkpoint, "SECONDS", 1e9)
        if step == 4:
            raise KilledError
        return square(module, step)

    with pytest.raises(KilledError):
        linear_run(tmp_path / "broken", dies)
    file = tmp_path / "broken/log.jsonl"
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
    file.write_text(file.read_text() + '{"step": 5.0, "lo')
    resumed, again = linear_run(tmp_path / "broken", square)
    assert again == log
    assert read_log(file) == log
    assert_same(whole.state_dict(), resumed.state_dict())


def test_a_checkpoint_of_another_identity_is_ignored(make_student, pixels, tmp_path, monkeypatch):
    log = run(make_student(), pixels, tmp_path / "whole", identity="b")
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)
    from mmkd_core.student import pretrain as module

    with monkeypatch.context() as patch:
        kill_after(patch, module, "clip_loss", 5)
        with pytest.raises(KilledError):
            run(make_student(), pixels, tmp_path / "other", identity="a")
    assert (tmp_path / "other/checkpoint.pt").exists()
    watch = Watch()
    assert run(make_student(), pixels, tmp_path / "other", identity="b", progress=watch) == log
    assert watch.resumed_at == 0
    assert read_log(tmp_path / "other/log.jsonl") == log


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_changes_nothing(tmp_path, bad):
    seen = []

    def losses(module, step):
        seen.append(module.weight.detach().clone())
        parts = square(module, step)
        return parts | ({"broken": parts["square"] * bad} if step == 3 else {})

    with pytest.raises(TrainingError, match=r"^the loss is not finite at step 3 \(test\)\. Lower lr in mmkd\.yaml"):
        linear_run(tmp_path, losses)
    assert len(seen) == 4


def test_the_log_holds_each_loss_and_their_sum(tmp_path):
    def two(module, step):
        parts = square(module, step)
        return parts | {"half": parts["square"] / 2}

    _, log = linear_run(tmp_path, two)
    assert [row["step"] for row in log] == [1, 6]
    for row in log:
        assert row.keys() == {"step", "loss", "square", "half"}
        assert row["loss"] == pytest.approx(1.5 * row["square"], rel=1e-6)


def test_training_is_the_textbook_optimiser(tmp_path):
    """Six steps of ``fit`` against AdamW, written out by hand."""
    module, _ = linear_run(tmp_path, square)
    torch.manual_seed(0)
    mine = nn.Linear(3, 2)
    values = {name: value.detach().double() for name, value in mine.named_parameters()}
    first, second = ({name: torch.zeros_like(v) for name, v in values.items()} for _ in range(2))
    config = TrainConfig(steps=6, batch_size=2, warmup=2)
    for step in range(6):
        x = torch.from_numpy(np.random.default_rng(step).normal(size=(4, 3)))
        leaf = {name: value.clone().requires_grad_() for name, value in values.items()}
        F.linear(x, leaf["weight"], leaf["bias"]).square().mean().backward()
        norm = math.sqrt(sum(float(v.grad.square().sum()) for v in leaf.values()))
        lr = learning_rate(config, step)
        for name in values:
            grad = leaf[name].grad * min(1.0, 1.0 / (norm + 1e-6))
            decay = 0.05 if name == "weight" else 0.0
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.98 * second[name] + 0.02 * grad**2
            m, v = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.98 ** (step + 1))
            values[name] = values[name] * (1 - lr * decay) - lr * m / (v.sqrt() + 1e-6)
    for name, value in module.named_parameters():
        torch.testing.assert_close(value.detach().double(), values[name], rtol=1e-4, atol=1e-6)


def test_learning_rate():
    config = TrainConfig(steps=100, warmup=10, lr=1.0, final_lr=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 55) == pytest.approx(0.55)  # half way down the cosine
    assert learning_rate(config, 100) == pytest.approx(0.1)
    assert learning_rate(config.model_copy(update={"warmup": 0}), 0) == pytest.approx(1.0)
    assert learning_rate(config.model_copy(update={"warmup": 200}), 99) == pytest.approx(0.5)


def test_vectors_and_scalars_do_not_decay(built):
    decay, plain = optimizer_for(built.model, TrainConfig()).param_groups
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert all(p.ndim >= 2 for p in decay["params"])
    assert all(p.ndim < 2 for p in plain["params"])
    assert any(p is built.model.logit_scale for p in plain["params"])
    assert len(decay["params"]) + len(plain["params"]) == len(list(built.model.parameters()))


@pytest.mark.parametrize("frozen", [True, False])
def test_freeze_norms_keeps_running_statistics(tmp_path, frozen):
    norm = nn.BatchNorm1d(3)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) + 5
    config = TrainConfig(steps=2, batch_size=2, precision="fp32")
    objective = Plain(lambda _: {"x": norm(x).square().mean()})
    fit(norm, objective, config, tmp_path, identity="", label="", freeze_norms=frozen)
    assert torch.equal(norm.running_mean, torch.zeros(3)) is frozen
    assert not norm.training


def test_after_step_clamps_the_logit_scale(make_student, pixels, tmp_path):
    student = make_student()
    with torch.no_grad():
        student.model.logit_scale.fill_(9.0)
    run(student, pixels, tmp_path, config=CONFIG.model_copy(update={"steps": 1, "lr": 1e-6}))
    assert student.logit_scale == pytest.approx(100, rel=1e-4)
    with torch.no_grad():
        student.model.logit_scale.fill_(-3.0)
    clamp_logit_scale(student)
    assert student.logit_scale == 1.0


def test_pretraining_learns_the_pairs(make_student, pixels, tmp_path):
    config = CONFIG.model_copy(update={"steps": 30, "batch_size": 12, "crop": 1.0})
    log = run(make_student(), pixels, tmp_path, config=config)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


def test_pretraining_uses_the_rows_it_is_given_and_no_others(make_student, pixels, tmp_path):
    rows = np.array([1, 4, 5, 8, 9])
    altered = pixels.copy()
    altered[[0, 2, 3, 6, 7, 10, 11]] = 0
    one, two = make_student(), make_student()
    run(one, pixels, tmp_path / "one", rows=rows)
    run(two, altered, tmp_path / "two", rows=rows)
    assert_same(state_of(one), state_of(two))


def test_a_crop_of_one_is_the_image_itself():
    images = torch.rand(3, 3, 8, 8)
    assert crop(images, crop_windows(3, 1.0, seed=0, step=0)) is images


@given(seed=st.integers(0, 2**31), step=st.integers(0, 10**6), smallest=st.floats(0.1, 0.99))
def test_crops_depend_on_seed_and_step_alone(seed, step, smallest):
    ramp = torch.linspace(-1, 1, 8).expand(2, 3, 8, 8)
    torch.manual_seed(0)
    one = crop(ramp, crop_windows(2, smallest, seed, step))
    torch.manual_seed(1)
    np.random.default_rng().random()
    assert torch.equal(one, crop(ramp, crop_windows(2, smallest, seed, step)))
    assert one.shape == ramp.shape
    other = crop(ramp, crop_windows(2, smallest, seed, step + 1))
    assert not torch.equal(one, other)
    # Nobody is mirrored: the ramp still rises from left to right, at most as steeply as before.
    rise = one[..., 2:-2].diff(dim=-1)
    assert rise.min() >= -1e-6
    assert rise.max() <= 2 / 7 + 1e-6


def test_a_crop_shows_a_window_inside_the_image():
    """Grid coordinates of a crop stay inside the image: no border is made up."""
    across = torch.linspace(-1, 1, 64).expand(64, 1, 64, 64)
    images = torch.cat([across, across.transpose(2, 3), across], dim=1)
    crops = crop(images, crop_windows(64, 0.5, seed=5, step=1))
    left, right = crops[:, 0, 32, 0], crops[:, 0, 32, -1]
    side = (right - left) / 2
    assert side.min() >= 0.48
    assert side.max() <= 1.0
    assert side.std() > 0.1  # sides differ
    assert ((left + right) / 2).std() > 0.1  # places differ
    top, bottom = crops[:, 1, 0, 32], crops[:, 1, -1, 32]
    torch.testing.assert_close(bottom - top, right - left, atol=5e-3, rtol=0)  # the window is square


def test_clip_loss_against_numpy_and_gradients():
    rng = np.random.default_rng(0)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 4)))
    logits = 7.0 * image @ text.T

    def entropy(rows):
        return np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(rows)])

    tensors = [torch.tensor(x, requires_grad=True) for x in (image, text, np.array(7.0))]
    assert clip_loss(*tensors).item() == pytest.approx((entropy(logits) + entropy(logits.T)) / 2, rel=1e-12)
    assert torch.autograd.gradcheck(clip_loss, tensors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_keeps_it_and_says_so(tmp_path, number):
    whole, log = linear_run(tmp_path / "whole", square)

    def pressed(module, step):
        if step == 2:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a launcher passes it on
        return square(module, step)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=r"^stopped after step 3 of 6 of test, which is kept$"):
        linear_run(tmp_path / "run", pressed)
    assert signal.getsignal(number) is before
    seen = []

    def watched(module, step):
        seen.append(step)
        return square(module, step)

    resumed, again = linear_run(tmp_path / "run", watched)
    assert seen == [3, 4, 5]
    assert again == log
    assert_same(whole.state_dict(), resumed.state_dict())


def test_a_second_wish_interrupts_at_once(monkeypatch):
    monkeypatch.setattr("mmkd_core.student.interrupts.ONE_PRESS_S", -1.0)
    with interrupts() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class Carrying(nn.Module):
    """A dual variable that grows with the weights: what an objective carries from step to step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("dual", torch.zeros(()))

    def after_step(self, done):
        self.dual += self.layer.weight.detach().square().sum()


def test_what_is_carried_from_step_to_step_is_kept(tmp_path, monkeypatch):
    def run(folder, dies_at=99):
        torch.manual_seed(0)
        module = Carrying()

        def losses(step):
            if step == dies_at:
                raise KilledError
            return {"square": (1 + module.dual) * square(module.layer, step)["square"]}

        config = TrainConfig(steps=6, batch_size=2, warmup=2, precision="fp32")
        fit(module, Plain(losses), config, folder, identity="x", label="test", after_step=module.after_step)
        return module.state_dict()

    whole = run(tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)
    with pytest.raises(KilledError):
        run(tmp_path / "broken", dies_at=3)
    assert whole["dual"] > 0
    assert_same(whole, run(tmp_path / "broken"))


def test_checkpoints_take_a_small_part_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    module = nn.Linear(2, 2)
    kept = checkpoint.Checkpoints(tmp_path, "x", module, torch.optim.AdamW(module.parameters()))
    assert not kept.due()
    clock[0] = 16.0
    assert kept.due()
    monkeypatch.setattr(checkpoint, "replacing", lambda path: slow(path, clock))
    kept.save(1)
    for later, due in ((16.0 + 4 + 30, False), (16.0 + 4 + 81, True)):  # it took 4 s, of which 20 times have to pass
        clock[0] = later
        assert kept.due() is due


@contextmanager
def slow(path, clock):
    clock[0] += 4
    with path.open("wb") as file:
        yield file


@pytest.mark.parametrize("change", [{"accumulate": 2}, {}])
def test_batch_norms_do_not_see_parts_of_a_batch(make_student, pixels, tmp_path, monkeypatch, change):
    if not change:
        monkeypatch.setattr("mmkd_core.student.parallel.world", lambda: 2)
    with pytest.raises(TrainingError, match=r"batch norms, which see only a part of a batch.*or take a vision tower"):
        run(make_student(), pixels, tmp_path, config=CONFIG.model_copy(update=change))


def test_frozen_batch_norms_may_see_pieces(make_student, pixels, tmp_path):
    config = CONFIG.model_copy(update={"steps": 3, "precision": "fp32"})
    logs = []
    for pieces in (1, 3):
        student = make_student()
        batches = partial(Epochs(np.arange(12), 0).batch, size=6)
        objective = ClipObjective(student, pixels, student.tokenize(CAPTIONS), batches, 0.8, 0)
        pieced = config.model_copy(update={"accumulate": pieces})
        facts = {"identity": "x", "label": "x", "freeze_norms": True}
        logs.append(fit(student.model, objective, pieced, tmp_path / str(pieces), **facts))
    assert logs[1][-1]["loss"] == pytest.approx(logs[0][-1]["loss"], rel=1e-5)
