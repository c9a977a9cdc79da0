"""A teacher in an environment of its own: another version of a library that this process has loaded, and accidents."""

from __future__ import annotations

import importlib
import os
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from feature_store import FeatureStore
from mmkd_core.contract import ImageSpec, Isolation, LicenseInfo, TeacherSpec, TextSpec, WeightSource
from mmkd_core.data.manifest import Corpus, image_id
from mmkd_core.errors import BatchError, PluginError
from mmkd_core.extract import Job, extract
from mmkd_core.plugins import PluginHost, limits
from mmkd_core.plugins.isolation import IsolatedTeacher, Limits
from mmkd_core.plugins.lifecycle import add
from mmkd_core.plugins.lock import LockedRuntime, read_lock
from mmkd_core.plugins.opening import open_teacher
from mmkd_core.plugins.registry import Registry

WORKER = '''
"""Plain Python: this environment has neither numpy nor torch nor mmkd."""
import array, json, os, signal, socket, sys, time
import versioned_lib

def bare(values, shape):
    return memoryview(array.array("f", values)).cast("B").cast("f", shape)

class Teacher:
    def __init__(self, spec, weights):
        self.size, self.scale = spec["image"]["size"], float(open(weights["model"] + "/scale.txt").read())
        self.misbehave, self.logit_scale = weights["model"] + "/misbehave", 2 * spec["logit_scale"]

    def accident(self):
        if not os.path.exists(self.misbehave):
            return
        kind, _, left = open(self.misbehave).read().partition(" ")
        if left:
            open(self.misbehave, "w").write(kind + " " + left[1:]) if left[1:] else os.remove(self.misbehave)
        if kind == "crash": os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang": time.sleep(600)
        if kind == "hog":
            hoard = bytearray(b"x") * (600 << 20)
            time.sleep(600)
        if kind == "raise": raise ValueError("not today")
        if kind == "network": socket.create_connection(("127.0.0.1", 9))
        if kind == "babble": os.write(3, b"x"); print("noise on stdout")

    def preprocess(self, pixels):
        shape = pixels.shape
        places = [(y, x) for y in range(shape[0]) for x in range(shape[1])]
        means = [sum(pixels[y, x, c] for y, x in places) / len(places) for c in range(3)]
        return bare([m / 255 for m in means for _ in range(self.size ** 2)], (3, self.size, self.size))

    def tokenize(self, texts):
        rows = [list(t.encode()[:4].ljust(4, b" ")) for t in texts]
        return memoryview(array.array("q", [v for r in rows for v in r])).cast("B").cast("q", (len(rows), 4))

    def encode_image(self, images):
        self.accident()
        n = images.shape[0]
        rows = [(images[i, 0, 0, 0] * self.scale, images[i, 1, 0, 0], versioned_lib.VERSION) for i in range(n)]
        return bare([value for row in rows for value in row], (n, 3))

    def encode_text(self, tokens):
        n = tokens.shape[0]
        return bare([v for i in range(n) for v in (tokens[i, 0], tokens[i, 1], versioned_lib.VERSION)], (n, 3))

def load(spec, weights, device):
    print("loading on", device)
    assert "numpy" not in sys.modules and "mmkd_core" not in sys.modules
    return Teacher(spec, weights)
'''  # fmt: skip


def spec_of(folder: Path, **changes) -> TeacherSpec:
    import hashlib

    (folder / "scale.txt").write_text("2.0")
    digest = hashlib.sha256(b"2.0").hexdigest()
    fields = {
        "name": "apart",
        "title": "Apart",
        "summary": "Pins another version of a library that mmkd's process has loaded",
        "family": "apart",
        "weights": (WeightSource(role="model", kind="path", location=str(folder), files={"scale.txt": digest}),),
        "image": ImageSpec(size=2, mean=(0, 0, 0), std=(1, 1, 1)),
        "text": TextSpec(tokenizer="hf", context_length=4),
        "embed_dim": 3,
        "logit_scale": 10,
        "domains": ("ct",),
        "license": LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
        "runtime": "isolated",
        "isolation": Isolation(worker="mmkd_apart.worker:load", requires=()),
    }
    return TeacherSpec(**fields | changes)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment that holds versioned_lib 2, and nothing else."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False, symlinks=True)
    site = next((home / "lib").glob("python*")) / "site-packages"
    (site / "versioned_lib.py").write_text("VERSION = 2.0\n")
    return home / "bin" / "python"


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """The plugin is importable here, and versioned_lib 1 is loaded."""
    package = tmp_path / "path" / "mmkd_apart"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from mmkd_core.contract import TeacherSpec\n")
    (package / "worker.py").write_text(WORKER)
    (tmp_path / "path" / "versioned_lib.py").write_text("VERSION = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    importlib.invalidate_caches()
    folder = tmp_path / "weights"
    folder.mkdir()
    yield folder
    for name in ("mmkd_apart", "mmkd_apart.worker", "versioned_lib"):
        sys.modules.pop(name, None)


@pytest.fixture
def start(weights, python, tmp_path):
    """Call for a running teacher; optional limits."""
    running = []

    def begin(**bounds):
        spec = spec_of(weights)
        teacher = IsolatedTeacher(spec, {"model": weights}, python, tmp_path / "log", bounds=Limits(**bounds))
        running.append(teacher)
        return teacher

    yield begin
    for teacher in running:
        teacher.close()


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (value, value // 2, 0))


def test_two_versions_of_a_library_in_one_run(start):
    import versioned_lib

    teacher = start()
    assert versioned_lib.VERSION == 1.0
    images = torch.stack([teacher.preprocess(grey(255)), teacher.preprocess(grey(0))])
    assert images.shape == (2, 3, 2, 2)
    assert teacher.encode_image(images).tolist() == [[2.0, pytest.approx(127 / 255), 2.0], [0.0, 0.0, 2.0]]
    tokens = teacher.tokenize(["ab", "é"])
    assert (tokens.dtype, tokens.tolist()) == (torch.int64, [[97, 98, 32, 32], [0xC3, 0xA9, 32, 32]])
    assert teacher.encode_text(tokens).tolist() == [[97, 98, 2], [0xC3, 0xA9, 2]]
    assert versioned_lib.VERSION == 1.0


def test_the_log_has_what_the_worker_prints(start, tmp_path):
    start()
    assert "loading on cpu" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("kind", ["crash", "hang", "hog"])
def test_an_accident_is_tried_again_in_a_new_worker(start, weights, kind):
    teacher = start(call_s=5 if kind == "hang" else 600, memory=300 << 20)
    images = torch.ones(1, 3, 2, 2)
    (weights / "misbehave").write_text(f"{kind} 1")  # once
    assert teacher.encode_image(images).tolist() == [[2, 1, 2]]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("crash", "it died with signal 11"),
        ("hang", "it took more than 1 s and was stopped"),
        ("hog", "it used more than 300 MiB of memory and was stopped"),
    ],
)
def test_a_second_accident_costs_the_batch(start, weights, tmp_path, kind, reason):
    teacher = start(call_s=1 if kind == "hang" else 600, memory=300 << 20)
    (weights / "misbehave").write_text(f"{kind} 11")  # twice
    with pytest.raises(BatchError) as caught:
        teacher.encode_image(torch.ones(1, 3, 2, 2))
    assert str(caught.value) == (
        f"apart: its worker failed twice at encode_image: {reason} ({tmp_path / 'log'}). "
        "Run the same command again for what is missing; the log has the worker's last words"
    )
    teacher._bounds = Limits()  # one second was for the worker that hangs: a slow machine may need it for its answer
    assert teacher.encode_image(torch.ones(1, 3, 2, 2)).tolist() == [[2, 1, 2]]


def test_what_the_plugin_raises_is_told_and_its_worker_lives(start, weights):
    teacher = start()
    (weights / "misbehave").write_text("raise 1")
    with pytest.raises(PluginError, match="teacher apart failed in its worker: ValueError: not today"):
        teacher.encode_image(torch.ones(1, 3, 2, 2))
    assert teacher.encode_image(torch.ones(1, 3, 2, 2)).tolist() == [[2, 1, 2]]


def test_the_worker_has_no_network(start, weights):
    teacher = start()
    (weights / "misbehave").write_text("network")
    with pytest.raises(PluginError, match="the network is blocked during this check"):
        teacher.encode_image(torch.ones(1, 3, 2, 2))


def test_a_worker_that_cannot_be_started_or_loaded(weights, python, tmp_path):
    spec = spec_of(weights)
    with pytest.raises(PluginError, match="the interpreter of an isolated teacher cannot be started: No such file"):
        IsolatedTeacher(spec, {"model": weights}, tmp_path / "gone", tmp_path / "log")
    with pytest.raises(PluginError, match="teacher apart failed in its worker: FileNotFoundError"):
        IsolatedTeacher(spec, {"model": tmp_path}, python, tmp_path / "log")
    with pytest.raises(PluginError, match="the worker of teacher apart cannot load it: it died with exit status 1"):
        IsolatedTeacher(spec, {"model": weights}, Path("/bin/false"), tmp_path / "log")


def test_the_worker_ends_with_the_teacher(start):
    teacher = start()
    pid = teacher._worker._process.pid
    teacher.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_crash_costs_the_batch_and_other_teachers_nothing(start, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd_core.extract.features.IMAGE_BATCH", 2)
    rows = []
    for i in range(6):
        grey(10 * i).save(tmp_path / f"{i}.png")
        facts = {"image": f"{i}.png", "image_id": image_id(grey(10 * i)), "caption": f"c{i}"}
        rows.append({**facts, "domain": "ct", "group_id": str(i), "split": "train"})
    corpus = Corpus.build(tmp_path, rows, {})
    teacher = start()
    (weights / "misbehave").write_text("crash 11")

    class Shared:
        spec = spec_of(weights, name="apart-shared", arch={"other": True}, runtime="shared", isolation=None)

        def __getattr__(self, name):
            return getattr(teacher_of_its_own, name)

    teacher_of_its_own = start()
    (weights / "misbehave").unlink()
    teacher.encode_image(torch.ones(1, 3, 2, 2))
    (weights / "misbehave").write_text("crash 11")
    jobs = [Job(teacher.spec, lambda: teacher), Job(Shared.spec, lambda: Shared())]
    with FeatureStore.open(tmp_path / "store", "w") as store:
        done = extract(corpus, ["a text"], jobs, store)
        assert (done.images, done.texts) == ({"apart": 4, "apart-shared": 6}, {"apart": 1, "apart-shared": 1})
        assert done.lost == {"apart": 2}
        assert isinstance(done.failed["apart"], BatchError)
        assert extract(corpus, ["a text"], jobs, store).require().images == {"apart": 2, "apart-shared": 0}
        image_rows = store.rows("image", list(corpus.image_id))
        assert np.allclose(store.gather(teacher.spec.fingerprint, "image", image_rows)[:, 2], 2.0)


def test_add_makes_the_environment_checks_the_teacher_and_locks_both(weights, python, tmp_path, monkeypatch):
    spec = spec_of(weights, isolation=Isolation(worker="mmkd_apart.worker:load", requires=("versioned-lib==2.0",)))

    class Plugin:
        from mmkd_core.contract import hookimpl

        @hookimpl
        def mmkd_teachers(self):
            return [spec]

    host, made = PluginHost.offering({"apart": Plugin()}), []

    def make(folder, requires, wheels=()):
        made.append(tuple(requires))
        venv.create(folder, with_pip=False, symlinks=True)
        site = next((folder / "lib").glob("python*")) / "site-packages"
        (site / "versioned_lib.py").write_text("VERSION = 2.0\n")

    monkeypatch.setattr("mmkd_core.plugins.installer.make_environment", make)
    lock = tmp_path / "ws" / "mmkd.lock"
    lock.parent.mkdir()
    from mmkd_core.plugins.lifecycle import Choices

    facts = {"registry": Registry(schema_version=1), "host": host}
    with pytest.raises(
        PluginError, match=r"it needs your agreement: it installs versioned-lib==2\.0 into an environment"
    ):
        add("apart", lock, **facts)
    agreed = Choices(agree=lambda offer: True)
    (weights / "misbehave").write_text("crash")
    with pytest.raises(PluginError, match="at step smoke check: apart: its worker failed twice at encode_image"):
        add("apart", lock, **facts, choices=agreed)
    assert not lock.exists()
    assert not (lock.parent / ".mmkd" / "runtimes" / "apart").exists()
    (weights / "misbehave").unlink()
    (locked,) = add("apart", lock, **facts, choices=agreed)
    assert read_lock(lock).teachers["apart"].runtime == LockedRuntime(requires=("versioned-lib==2.0",))
    assert locked.logit_scale == 20  # the worker tells the model's own
    add("apart", lock, **facts)
    assert len(made) == 2  # the environment that was there was used
    teacher = open_teacher(host, spec, locked, lock.parent)
    assert teacher.encode_image(torch.ones(1, 3, 2, 2))[0, 2] == 2.0
    (ready,) = add("apart", lock, **facts, choices=Choices(python=python))
    assert ready.runtime == LockedRuntime(python=str(python))
    with pytest.raises(PluginError, match=r"this is no interpreter of Python 3.8 or newer \(.*false\)"):
        add("apart", lock, **facts, choices=Choices(python=Path("/bin/false")))
    with pytest.raises(PluginError, match="teacher apart runs in an environment of its own"):
        host.load(spec)
    with pytest.raises(PluginError, match=r"the environment of teacher apart is not there .* Run `mmkd teachers sync`"):
        open_teacher(host, spec, locked, tmp_path)


def test_a_shared_teacher_has_no_isolation_and_an_isolated_one_needs_it(weights):
    for changes in ({"runtime": "shared"}, {"isolation": None}):
        with pytest.raises(ValueError, match="isolation belongs to runtime isolated"):
            spec_of(weights, **changes)
    assert spec_of(weights).fingerprint == spec_of(weights, runtime="shared", isolation=None).fingerprint


def test_memory_is_measured_over_a_session():
    held = bytearray(os.urandom(1)) * (64 << 20)
    assert limits.memory_used(os.getsid(0)) > len(held)
    assert limits.memory_used(2**22 + 7) == 0
    assert limits.in_words(3 << 29) == "1.5 GiB"
