"""`mmkd teachers check`: the card, and the three exit codes."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from mmkd_core.plugins import card
from mmkd_core.testing.tiny import write_tiny_weights

PLUGIN = """
import sys, time
import mmkd_good
from mmkd_core.contract import hookimpl

@hookimpl
def mmkd_teachers():
    yield mmkd_good.SPEC.model_copy(update={{"name": "{name}"}})

@hookimpl
def mmkd_load_teacher(spec, weights, device):
    teacher = mmkd_good.mmkd_load_teacher(spec, weights, device)
{body}
    return teacher
"""


@pytest.fixture
def misbehaving(installed, tmp_path, monkeypatch):
    """Install a plugin that is the good one but for what its loader does; returns its name."""

    def write(body: str, name: str = "bad") -> str:
        installed("good")
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        (tmp_path / "site" / "mmkd_misbehaving.py").write_text(PLUGIN.format(name=name, body=lines))
        info = tmp_path / "site" / f"mmkd_{name}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mmkd-{name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[mmkd.v1]\n{name} = mmkd_misbehaving\n")
        return name

    return write


def test_a_good_teacher_gets_a_card_and_zero(mmkd, installed):
    installed("good")
    done = mmkd("teachers", "check", "good", "--full", "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert facts["passed"] is True
    assert facts["spec"]["embed_dim"] == 4
    assert facts["weights_bytes"] == len("7\n")
    assert facts["seconds_per_image"] > 0
    assert facts["seconds_per_text"] > 0
    assert {one["status"] for one in facts["checks"]} == {"passed", "skipped"}
    assert "files" in {one["name"] for one in facts["checks"]}
    assert len(facts["golden"]["image"]) == 4
    assert facts["golden"]["tokens"][:3] == list(b"med")


def test_a_failed_check_is_shown_with_its_reason_and_gives_one(mmkd, misbehaving):
    name = misbehaving("spec = teacher.spec\ntype(teacher).encode_text = lambda self, x: x.float() * float('nan')")
    done = mmkd("teachers", "check", name)
    assert done.exit_code == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "embedding 4 dimensions, logit scale 10" in lines
    assert "licence weights CC-BY-4.0, code Apache-2.0" in lines
    assert "finite failed encode_text: embeddings hold NaN or infinity" in lines
    assert "loads passed" not in lines
    assert "files passed" not in lines  # only with --full
    assert lines[-1] == "next: Mend the plugin, then run `mmkd teachers check bad`"
    assert lines[-2].startswith("bad failed ")


def test_a_hidden_attempt_to_reach_the_network_is_noticed(mmkd, misbehaving):
    name = misbehaving("import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass")
    done = mmkd("teachers", "check", name, "--json")
    assert done.exit_code == 1
    found = {one["name"]: one["reason"] for one in json.loads(done.stdout)["checks"] if one["status"] == "failed"}
    assert found == {"no-network": "it reaches for 127.0.0.1"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "teacher bad cannot be checked: "),
        ("time.sleep(60)", "teacher bad cannot be checked: "),
    ],
)
def test_a_teacher_that_takes_its_interpreter_down_gives_two(mmkd, misbehaving, monkeypatch, body, reason):
    monkeypatch.setattr(card, "TIME_LIMIT_S", 20 if "sleep" not in body else 3)
    done = mmkd("teachers", "check", misbehaving(body))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"mmkd: {reason}")
    assert "mmkd teachers remove bad" in done.stderr


@pytest.mark.parametrize(
    ("folder", "name", "reason"),
    [
        ("typo_hook", "typo-hook", "plugin typo-hook (mmkd-typo-hook 1.0) is broken: PluginValidationError: unknown"),
        ("good", "godo", "no teacher is called 'godo'. Did you mean good?"),
    ],
)
def test_what_cannot_be_checked_says_why_and_gives_two(mmkd, installed, folder, name, reason):
    installed(folder)
    done = mmkd("teachers", "check", name)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert os.listdir() == ["site"]


TINY = """
from mmkd_core.contract import *

SPEC = TeacherSpec(
    name="tiny", title="Tiny", summary="Knows nothing", family="open_clip", arch={{"activation": "gelu"}},
    weights=(WeightSource(role="model", kind="path", location={folder!r}, files={files!r}),),
    image=ImageSpec(size=32, resize={resize!r}, mean=CLIP_MEAN, std=CLIP_STD),
    text=TextSpec(tokenizer="hf", context_length=32), embed_dim=16, logit_scale={scale}, domains=("xray",),
    license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
)

@hookimpl
def mmkd_teachers():
    return [SPEC]
"""


@pytest.mark.parametrize(("resize", "scale", "code"), [("shortest", 14.3, 0), ("squash", 1.0, 1)])
def test_a_spec_that_contradicts_its_checkpoint_gives_one(mmkd, installed, tmp_path, resize, scale, code):
    installed()
    folder = tmp_path / "weights"
    names = write_tiny_weights("open_clip", folder)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    text = TINY.format(folder=str(folder), files=files, resize=resize, scale=scale)
    site = tmp_path / "site"
    (site / f"mmkd_tiny_{resize}.py").write_text(text)
    (site / "mmkd_tiny-1.0.dist-info").mkdir()
    (site / "mmkd_tiny-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mmkd-tiny\nVersion: 1.0\n")
    (site / "mmkd_tiny-1.0.dist-info/entry_points.txt").write_text(f"[mmkd.v1]\ntiny = mmkd_tiny_{resize}\n")
    done = mmkd("teachers", "check", "tiny")
    assert done.exit_code == code, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    if not code:
        assert {"configuration passed", "learnt-scale passed"} <= set(lines)
        return
    says = "configuration failed resize mode: the spec declares squash, open_clip_config.json says shortest"
    assert says in lines
    assert "learnt-scale failed logit scale: the spec declares 1, the weights say 14.29" in lines
    assert any(
        line.startswith("sure can never be 90 % sure of one caption among 64 (at best 10.5 %)") for line in lines
    )
    assert "tiny failed 2 of" in done.stdout
