"""Plugins that do what they must not: the others go on, the message names them, and nothing reaches lock or store."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from feature_store import FeatureStore
from mmkd_core.plugins import PluginHost, host
from mmkd_core.plugins.isolated import run_isolated

DECLARES = """
import os, random, sys, time
import mmkd_good
from mmkd_core.contract import hookimpl
{top}

@hookimpl
def mmkd_teachers():
    yield mmkd_good.SPEC.model_copy(update={{"name": "{teacher}", "arch": {{"of": "bad"}}}})

@hookimpl
def mmkd_load_teacher(spec, weights, device):
    import torch
    teacher = mmkd_good.mmkd_load_teacher(spec, weights, device)
    def before(name, work):
        real = getattr(teacher, name)
        setattr(teacher, name, lambda x: work(real, x))
    os.environ.get("MISBEHAVE") != "no" and misbehave(torch, teacher, before)
    return teacher

def misbehave(torch, teacher, before):
    {body}
"""


@pytest.fixture
def bad(installed, tmp_path, monkeypatch):
    """Install ``good`` and a plugin ``bad`` that misbehaves at import (top) or once it is loaded (body)."""
    installed("good")

    def write(top: str = "", body: str = "pass", teacher: str = "bad") -> None:
        site = tmp_path / "site"
        (site / "mmkd_bad.py").write_text(DECLARES.format(top=top, body=body, teacher=teacher))
        info = site / "mmkd_bad-2.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmkd-bad\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text("[mmkd.v1]\nbad = mmkd_bad\n")

    yield write
    import sys

    for name in [name for name in sys.modules if name.startswith(("mmkd_bad", "mmkd_good"))]:
        del sys.modules[name]


AT_IMPORT = [
    ("raise RuntimeError('no such library')", "RuntimeError: no such library"),
    ("sys.exit(3)", "SystemExit: 3"),
    ("print('hello from bad')", "when it is asked for its teachers it writes to stdout: 'hello from bad'"),
    ("os.write(1, b'hello from C')", "when it is asked for its teachers it writes to stdout: 'hello from C'"),
    ("random.seed(0)", "it changes the state of the process: Python's random numbers"),
    ("os.chdir('/')", "it changes the state of the process: working directory: "),
    ("import torch; torch.set_default_dtype(torch.float64)", "default dtype: torch.float32 became torch.float64"),
    ("import torch; torch.set_grad_enabled(False)", "grad mode: True became False"),
    ("mmkd_teacherz = hookimpl(lambda: [])", "unknown hook 'mmkd_teacherz'"),
    ("while True: time.sleep(0.01)", "TimeoutError: it took more than 2 s"),
    ("while True: pass", "TimeoutError: it took more than 2 s"),
]


@pytest.mark.parametrize(("top", "reason"), AT_IMPORT)
def test_at_import_it_is_listed_as_broken_and_the_others_as_they_are(mmkd, bad, monkeypatch, capfd, top, reason):
    monkeypatch.setattr(host, "IMPORT_LIMIT_S", 2.0)
    bad(top.replace("mmkd_teacherz = hookimpl(lambda: [])", "@hookimpl\ndef mmkd_teacherz(): pass"))
    before = Path.cwd()
    done = mmkd("teachers", "list", "--json")
    assert done.exit_code == 0
    rows = {row["name"]: row for row in json.loads(done.stdout)["teachers"]}  # nothing else is on stdout
    assert rows["bad"]["status"] == "broken"
    assert reason in rows["bad"]["error"]
    assert rows["good"]["status"] == "available"
    assert capfd.readouterr().out == ""
    assert (Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled()) == (before, torch.float32, True)


PROBE = """
from mmkd_core.plugins import PluginHost

def state(_):
    broken = [record.name for record in PluginHost.discover().records() if record.status == "broken"]
    import torch
    return {"dtype": str(torch.get_default_dtype()), "broken": broken}
"""


def test_a_plugin_that_is_the_first_to_import_torch_cannot_leave_it_changed(bad, tmp_path):
    bad("import torch; torch.set_default_dtype(torch.float16)")
    (tmp_path / "site" / "mmkd_probe_of_state.py").write_text(PROBE)
    assert run_isolated("mmkd_probe_of_state:state", None) == {"dtype": "torch.float32", "broken": ["bad"]}


@pytest.mark.parametrize("name", ["good", "good-small", "phantom-eye"])
def test_it_cannot_take_anothers_name(mmkd, bad, name):
    bad(teacher=name)
    done = mmkd("teachers", "list", "--json")
    rows = {(row["name"], row["status"]) for row in json.loads(done.stdout)["teachers"]}
    assert ("bad", "broken") in rows
    assert {("good", "available"), ("good-small", "available"), ("phantom-eye", "available")} <= rows
    assert f"teacher {name} must be called bad or bad-..., after its entry point" in done.stdout


def slowly(case: tuple[str, str]):
    """`teachers add` examines a plugin in fresh interpreters, which takes seconds."""
    return pytest.param(*case, marks=pytest.mark.slow)


LOADED = [
    ("before('encode_image', lambda real, x: real(x)[:, :3])", "spec says embed_dim 4, encode_image gives 3"),
    ("before('encode_text', lambda real, x: real(x) * float('nan'))", "encode_text: embeddings hold NaN or infinity"),
    ("before('tokenize', lambda real, x: print('hello') or real(x))", "stdout: it writes to stdout: 'hello'"),
    ("torch.set_default_dtype(torch.float64)", "global-state: default dtype: torch.float32 became torch.float64"),
    ("torch.set_num_threads(torch.get_num_threads() + 1)", "global-state: number of threads: "),
    ("before('encode_text', lambda real, x: torch.set_grad_enabled(False) and None or real(x))", "grad mode: True"),
    ("before('preprocess', lambda real, x: torch.manual_seed(0) and real(x))", "global-state: torch's random numbers"),
    ("raise MemoryError('cannot allocate')", "teacher bad cannot be loaded: MemoryError: cannot allocate"),
    ("raise RuntimeError('no such file')", "teacher bad cannot be loaded: RuntimeError: no such file"),
]


def features(workspace: Path) -> set[str]:
    with FeatureStore.open(workspace / ".mmkd" / "features") as store:
        return {table.facts["teacher"] for table in store.tables()}


@pytest.mark.parametrize(("body", "reason"), [*map(slowly, LOADED[1:]), LOADED[0]])
def test_add_refuses_it_and_the_lock_stays(mmkd, bad, workspace, body, reason):
    bad(body=body)
    assert mmkd("teachers", "add", "good", "-w", workspace).exit_code == 0
    before = (workspace / "mmkd.lock").read_bytes()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    done = mmkd("teachers", "add", "bad", "-w", workspace)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("mmkd: bad was not added, at step smoke check: ")
    assert reason in done.stderr
    assert "hello" not in done.stdout
    assert (workspace / "mmkd.lock").read_bytes() == before
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == (dtype, threads, True)


@pytest.mark.slow
@pytest.mark.parametrize(("body", "reason"), [LOADED[i] for i in (0, 1, 2, 3, 8)])
def test_extraction_goes_on_without_one_that_went_bad_after_it_was_added(
    mmkd, bad, with_data, monkeypatch, body, reason
):
    bad(body=body)
    monkeypatch.setenv("MISBEHAVE", "no")
    for name in ("bad", "good"):
        assert mmkd("teachers", "add", name, "-w", with_data).exit_code == 0
    monkeypatch.delenv("MISBEHAVE")
    done = mmkd("extract", "-w", with_data, "--json")
    assert done.exit_code == 2
    facts = json.loads(done.stdout)
    assert facts["images"]["good"] > 0
    assert facts["images"]["bad"] == facts["texts"]["bad"] == 0
    assert reason in facts["failed"]["bad"]
    assert "mmkd: bad" in done.stderr or "mmkd: teacher bad" in done.stderr
    assert features(with_data) == {"good"}


def test_one_that_goes_bad_in_the_middle_loses_that_batch_only_and_changes_nothing(mmkd, bad, with_data):
    # Harmless to the smoke check's three images; then, at its first real batch, it prints and changes the dtype.
    bad(
        body="before('encode_image', lambda real, x: real(x) if len(x) <= 3 else "
        "(print('hello'), torch.set_default_dtype(torch.float64), real(x))[2])"
    )
    for name in ("bad", "good"):
        assert mmkd("teachers", "add", name, "-w", with_data).exit_code == 0
    done = mmkd("extract", "-w", with_data, "--json")
    assert done.exit_code == 2
    assert "mmkd: bad misbehaves: it writes to stdout: 'hello'; nothing of this batch was stored" in done.stderr
    assert json.loads(done.stdout)["images"]["bad"] == 0
    assert json.loads(done.stdout)["images"]["good"] > 0
    assert torch.get_default_dtype() == torch.float32


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.slow
def test_a_checkpoint_with_code_in_it_is_refused_and_does_not_run(mmkd, bad, workspace, tmp_path):
    import hashlib

    folder = tmp_path / "bomb"
    folder.mkdir()
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8,
              "head_width": 8}, "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2,
              "layers": 1}}  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps({"visual.proj": Bomb()}))
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    bad()
    facts = {"name": "bad", "family": "open_clip", "embed_dim": 8,
             "image": {"size": 16, "mean": [0] * 3, "std": [1] * 3},
             "text": {"tokenizer": "open_clip", "context_length": 12},
             "weights": [{"role": "model", "kind": "path", "location": str(folder), "files": files}]}  # fmt: skip
    (tmp_path / "site" / "mmkd_bad.py").write_text(
        "import mmkd_good\nfrom mmkd_core.contract import TeacherSpec, hookimpl\n\n@hookimpl\ndef mmkd_teachers():\n"
        f"    return [TeacherSpec.model_validate(mmkd_good.SPEC.model_dump() | {facts!r})]\n"
    )
    assert [record.status for record in PluginHost.discover().records() if record.name == "bad"] == ["loaded"]
    done = mmkd("teachers", "add", "bad", "-w", workspace)
    assert done.exit_code == 2
    assert "bad was not added, at step smoke check: " in done.stderr
    assert "weights_only" in done.stderr or "Weights only load failed" in done.stderr
    assert not list(Path.cwd().rglob("exploded"))
    assert not (workspace / "mmkd.lock").exists()
