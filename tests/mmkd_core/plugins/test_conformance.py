from __future__ import annotations

import os
import random
import socket
import sys
from functools import partial

import numpy as np
import pytest
import torch

from mmkd_core.contract import Golden, TrustClaim, hookimpl, measure_golden
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost
from mmkd_core.plugins.conformance import CHECKS, Subject, chosen, run_all
from mmkd_core.plugins.smoke import smoke_check


@pytest.fixture
def good(installed):
    installed("good")
    from mmkd_good import SPEC
    from mmkd_good.model import LinearTeacher

    return SPEC, LinearTeacher


def altered(good, **methods):
    spec, teacher = good
    return spec, type("Altered", (teacher,), methods)(spec, 7, "cpu")


def outcomes(spec, teacher, level="full"):
    load = teacher if callable(teacher) else lambda: teacher
    return {outcome.name: outcome for outcome in run_all(Subject(spec, load), level)}


def failures(spec, teacher):
    return {o.name: o.reason for o in outcomes(spec, teacher).values() if o.status == "failed"}


def plugin(spec, load):
    class Plugin:
        @hookimpl
        def mmkd_teachers(self):
            return [spec]

        @hookimpl
        def mmkd_load_teacher(self):
            return load()

    return PluginHost.offering({"good": Plugin()})


def test_a_good_teacher_passes(good):
    found = outcomes(*altered(good))
    assert {o.name: o.status for o in found.values() if o.status != "passed"} == {
        "trust": "skipped",
        "logit-scale": "skipped",
        "configuration": "skipped",
        "learnt-scale": "skipped",
        "golden-tokens": "skipped",
        "golden-pixels": "skipped",
        "golden-image": "skipped",
        "golden-text": "skipped",
    }
    assert list(found) == [check.name for check in CHECKS]


def test_levels_hold_each_other_and_every_check_says_what_it_is_for():
    fast, standard, full = ([c.name for c in chosen(level)] for level in ("fast", "standard", "full"))
    assert set(fast) < set(standard) < set(full) == {check.name for check in CHECKS}
    assert len(full) == len(set(full))
    assert all(check.summary.endswith(".") for check in CHECKS)


def seven(self, x):
    return torch.full((len(x), 4), 7.0)


def row(x):
    return torch.arange(4.0) + x.flatten(1).float().sum(1, keepdim=True)


def unit(self, x):
    return torch.nn.functional.normalize(row(x), dim=1)


def centred(self, x):
    found = row(x)
    return found - found.mean(0, keepdim=True) + torch.arange(4.0)


FAULTS = [
    ({"preprocess": lambda self, i: torch.zeros(3, 8, 9)}, "preprocess", "spec says float32 (3, 8, 8), it gives"),
    ({"preprocess": lambda self, i: 1 / 0}, "answers", "preprocess: ZeroDivisionError: division by zero"),
    ({"tokenize": lambda self, t: torch.zeros(len(t), 17).long()}, "tokenize", "spec says (3, at most 16), it gives"),
    ({"tokenize": lambda self, t: torch.ones(len(t), 9)}, "tokenize", "ids must be torch.int64 on cpu, not torch.fl"),
    ({"tokenize": lambda self, t: torch.randint(9, (len(t), 9))}, "tokenize", "the same texts give different ids"),
    ({"tokenize": lambda self, t: torch.ones(len(t), 9).long()}, "text-sensitivity", "tokenize gives the same ids for"),
    ({"encode_image": lambda self, x: row(x)[:, :3]}, "shape", "spec says embed_dim 4, encode_image gives 3"),
    ({"encode_image": lambda self, x: torch.zeros(4)}, "shape", "encode_image: 3 inputs give shape (4,), not (3, D)"),
    ({"encode_text": lambda self, x: row(x).double()}, "dtype", "encode_text: embeddings are torch.float64"),
    ({"encode_image": lambda self, x: row(x).requires_grad_()}, "dtype", "encode_image: embeddings carry a gradient"),
    ({"encode_text": lambda self, x: row(x) * torch.nan}, "finite", "encode_text: embeddings hold NaN or infinity"),
    ({"encode_image": lambda self, x: torch.rand(len(x), 4)}, "deterministic", "encode_image: the same input gives"),
    ({"encode_image": unit}, "raw", "encode_image: all embeddings have length 1: return them before they are norm"),
    ({"encode_text": seven}, "text-sensitivity", "encode_text: two different texts get the same embedding"),
    ({"encode_image": seven}, "image-sensitivity", "encode_image: two different images get the same embedding"),
    ({"encode_image": centred}, "batch-invariance", "encode_image: alone an input gets another embedding than in a"),
]


@pytest.mark.parametrize(("methods", "check", "reason"), FAULTS)
def test_each_fault_is_named_by_the_check_that_is_there_for_it(good, methods, check, reason):
    found = failures(*altered(good, **methods))
    assert found[check].startswith(reason)


@pytest.mark.parametrize(("methods", "check", "reason"), [f for f in FAULTS if f[1] != "batch-invariance"])
def test_the_fast_checks_stop_it_before_the_lock(good, methods, check, reason):
    spec, teacher = altered(good, **methods)
    with pytest.raises(PluginError, match=r"^good: smoke check failed at \S+: .*Mend the plugin, then run `mmkd teach"):
        smoke_check(plugin(spec, lambda: teacher), spec)


def test_the_smoke_check_gives_the_loaded_teacher_back(good):
    spec, teacher = altered(good)
    assert smoke_check(plugin(spec, lambda: teacher), spec) is teacher


@pytest.mark.parametrize(
    ("times", "hint"), [(2, "it is normalised twice"), (0, "it is scaled to 0..1 and not normalised")]
)
def test_pixels_are_normalised_once(good, times, hint):
    def preprocess(self, image):
        pixels = torch.tensor(np.array(image.convert("RGB").resize((8, 8)))).permute(2, 0, 1) / 255
        for _ in range(times):
            pixels = (pixels - 0.5) / 0.5
        return pixels.float()

    assert failures(*altered(good, preprocess=preprocess))["pixels"].endswith(hint)


def test_any_image_and_any_text_will_do(good):
    def preprocess(self, image):
        if image.mode != "RGB":
            raise ValueError(f"cannot read {image.mode}")
        return good[1].preprocess(self, image)

    def tokenize(self, texts):
        if max(map(len, texts)) > 1000:
            raise ValueError("too long")
        return good[1].tokenize(self, texts)

    found = failures(*altered(good, preprocess=preprocess, tokenize=tokenize))
    assert found == {
        "any-image": "an image of mode L: ValueError: cannot read L",
        "any-text": "a text that is too long: ValueError: too long",
    }


def test_training_mode_and_gradients_are_noticed(good):
    spec, teacher = altered(good)
    teacher.net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert failures(spec, teacher) == {"frozen": "the model is in training mode"}
    teacher.net.eval()
    assert failures(spec, teacher) == {"frozen": "parameter 0.weight requires a gradient"}


def test_golden_values_are_compared(good):
    spec, teacher = altered(good)
    golden = measure_golden(teacher, seed=3, prompt="a scan")
    declares = lambda **changes: spec.model_copy(  # noqa: E731
        update={"golden": Golden.model_validate(golden.model_dump() | changes)}
    )
    assert failures(declares(), teacher) == {}
    assert not [
        o
        for o in outcomes(declares(), teacher).values()
        if o.status == "skipped" and o.name not in ("trust", "logit-scale", "configuration", "learnt-scale")
    ]
    spoilt = lambda values: [values[0] + 1, *values[1:]]  # noqa: E731
    for part, name, reason in [
        ("tokens", "golden-tokens", "token 0: 98 is declared, tokenize gives 97"),
        ("pixels", "golden-pixels", "pixels are off by"),
        ("image", "golden-image", "image values are off by"),
        ("text", "golden-text", "text values are off by"),
    ]:
        found = failures(declares(**{part: spoilt(getattr(golden, part))}), teacher)
        assert list(found) == [name]
        assert found[name].startswith(reason)
    assert set(failures(declares(), good[1](spec, 8, "cpu"))) == {"golden-image", "golden-text"}
    assert failures(declares(text=golden.text[:4] * 2), teacher) == {"golden-text": "8 are declared, there are 4"}


def test_a_teacher_that_cannot_be_loaded_fails_once(good):
    def load():
        raise SystemExit("no such device")

    found = outcomes(good[0], load)
    assert found["load"].reason == "SystemExit: no such device"
    assert [o.name for o in found.values() if o.status == "failed"] == ["load"]
    assert found["finite"].reason == "it could not be loaded"


def test_placeholders_and_what_bypassed_validation_are_noticed(good):
    spec, teacher = altered(good)
    source = spec.weights[0]
    zero = source.model_copy(update={"files": {"w": "0" * 64}})
    hub = source.model_copy(update={"kind": "hf", "location": "me/clip", "revision": "0" * 40})
    assert failures(spec.model_copy(update={"weights": (zero,)}), teacher)["spec"] == "the sha256 of w is a placeholder"
    changed = spec.model_copy(update={"weights": (hub,)})
    assert failures(changed, teacher)["spec"] == f"revision {'0' * 40} of me/clip is a placeholder"
    assert failures(spec.model_copy(update={"embed_dim": 0}), teacher)["spec"].startswith(
        "TeacherSpec is not valid: em"
    )


def test_a_claim_says_where_it_comes_from(good):
    spec, teacher = altered(good)
    claim = TrustClaim(score=0.9, metric="zero-shot accuracy", dataset="NIH", n=100, source="Table 2")
    claims = lambda domain="xray", **changes: spec.model_copy(  # noqa: E731
        update={"trust": {domain: claim.model_copy(update=changes)}}
    )
    assert outcomes(claims(), teacher)["trust"].status == "passed"
    for change, reason in [
        ({"source": "TODO"}, "the claim for xray does not say its source"),
        ({"dataset": " "}, "the claim for xray does not say its dataset"),
        ({"score": 92.0}, "the claim for xray must be a fraction of at least one sample"),
        ({"domain": "ct"}, "trust is claimed for ct, which domains does not list"),
    ]:
        assert failures(claims(**change), teacher)["trust"] == reason


def test_a_file_that_changed_since_it_was_read_is_noticed(good, tmp_path):
    spec, teacher = altered(good)
    (tmp_path / "seed.txt").write_text("8\n")
    files = spec.weights[0].files
    moved = spec.weights[0].model_copy(update={"kind": "path", "location": str(tmp_path), "files": files})
    found = failures(spec.model_copy(update={"weights": (moved,)}), teacher)
    assert list(found) == ["files"]
    assert "model file seed.txt of teacher good is not the declared one" in found["files"]


STATES = {
    "default dtype: torch.float32 became torch.float64": lambda: torch.set_default_dtype(torch.float64),
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "grad mode: True became False": lambda: torch.set_grad_enabled(False),
    "deterministic algorithms: False became True": lambda: torch.use_deterministic_algorithms(True),
    "default device: cpu became meta": lambda: torch.set_default_device("meta"),
    "matmul precision: highest became high": lambda: torch.set_float32_matmul_precision("high"),
    "autocast: False became True": lambda: torch.set_autocast_enabled("cpu", True),
    "torch's random numbers": lambda: torch.manual_seed(0),
    "numpy's random numbers": lambda: np.random.seed(0),
    "Python's random numbers": lambda: random.seed(0),
    "working directory": lambda: os.chdir("/"),
}


def state():
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cpu"),
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        random.getstate(),
        os.getcwd(),
    )


@pytest.mark.parametrize("changed", STATES)
def test_changed_global_state_is_named_and_put_back(good, changed):
    spec, teacher = good

    def load():
        built = teacher(spec, 7, "cpu")
        STATES[changed]()
        return built

    before = state()
    found = failures(spec, load)
    assert state() == before
    assert found.pop("global-state").startswith(changed)
    with pytest.raises(PluginError, match=r"good: smoke check failed at .*global-state: "):
        smoke_check(plugin(spec, load), spec)
    assert state() == before


@pytest.mark.parametrize(
    "write",
    [
        lambda: print("hello\nthere"),  # noqa: T201
        lambda: os.write(1, b"hello\n"),
        lambda: (sys.__stdout__.write("hello\n"), sys.__stdout__.flush()),
    ],
)
def test_output_on_stdout_is_kept_away_and_quoted(good, capfd, write):
    spec, teacher = altered(good, tokenize=lambda self, texts: (write() and None) or good[1].tokenize(self, texts))
    assert failures(spec, teacher) == {"stdout": "it writes to stdout: 'hello'"}
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("reach", "address"),
    [
        (lambda: socket.create_connection(("127.0.0.1", 9)), "127.0.0.1"),
        (lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)), "127.0.0.1:9"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_network_is_refused_even_if_the_teacher_does_not_mind(good, reach, address):
    def encode_image(self, images):
        with pytest.raises(OSError, match="the network is blocked during this check"):
            reach()
        return good[1].encode_image(self, images)

    assert failures(*altered(good, encode_image=encode_image)) == {"no-network": f"it reaches for {address}"}


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "new").write_text("x"),
        lambda folder: os.close(os.open(folder / "new", os.O_CREAT | os.O_WRONLY)),
        lambda folder: (folder / "new").mkdir(),
        lambda folder: (folder / "old").unlink(),
        lambda folder: (folder / "old").rename(folder / "new"),
    ],
)
def test_writing_is_refused_outside_the_cache_and_allowed_inside(good, tmp_path, monkeypatch, write):
    elsewhere, cache = tmp_path / "elsewhere", tmp_path / "cache"
    for folder in (elsewhere, cache):
        folder.mkdir()
        (folder / "old").touch()
    monkeypatch.setattr("tempfile.tempdir", str(cache / "tmp"))
    (cache / "tmp").mkdir()
    monkeypatch.setenv("HF_HOME", str(cache))
    spec, teacher = good

    def load(folder):
        write(folder)
        return teacher(spec, 7, "cpu")

    found = failures(spec, partial(load, elsewhere))
    assert found["load"].startswith(f"PermissionError: {elsewhere}/")
    assert found["no-writes"].startswith(f"it writes {elsewhere}/")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["old"]
    assert failures(spec, partial(load, cache)) == {}


def test_a_logit_scale_that_the_teacher_tells_must_be_one(good):
    spec, teacher = altered(good)
    teacher.logit_scale = 14.3
    assert outcomes(spec, teacher)["logit-scale"].status == "passed"
    teacher.logit_scale = float("nan")
    assert failures(spec, teacher) == {"logit-scale": "the model's own is nan"}
