"""`mmkd extract`: the plan before the work, unreadable images, and that what follows does without them."""

from __future__ import annotations

import json
import sys

import pytest
import yaml


def facts(done):
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)


@pytest.fixture
def ready(mmkd, installed, with_data):
    """A workspace of 64 images with a teacher that can be asked."""
    installed("good")
    assert mmkd("teachers", "add", "good", "-w", with_data).exit_code == 0
    yield with_data
    for name in [name for name in sys.modules if name.startswith("mmkd_good")]:
        del sys.modules[name]


def test_a_dry_run_tells_what_a_run_then_does(mmkd, ready):
    plan = facts(mmkd("extract", "--dry-run", "-w", ready, "--json"))
    assert not (ready / ".mmkd" / "features").exists()
    assert (plan["samples"], plan["images"], plan["duplicates"]) == (64, 64, 0)
    share = plan["teachers"][0]
    assert (share["teacher"], share["images"], share["texts"]) == ("good", 64, plan["texts"])
    assert plan["bytes"] == share["bytes"] == 2 * 4 * (64 + plan["texts"])
    assert plan["seconds"] > 0
    told = mmkd("extract", "--dry-run", "-w", ready).stdout
    assert "64 samples: 64 distinct images (0 duplicates)" in told
    assert "next: mmkd extract -w ws" in told
    done = facts(mmkd("extract", "-w", ready, "--json"))
    assert (done["images"]["good"], done["texts"]["good"]) == (share["images"], share["texts"])
    assert "nothing is missing" in mmkd("extract", "--dry-run", "-w", ready).stdout
    assert "nothing was missing" in mmkd("extract", "-w", ready).stdout


def test_unreadable_images_are_listed_and_left_out_until_they_are_mended(mmkd, ready):
    image = sorted((ready / "data" / "images").rglob("*.png"))[0]
    kept = image.read_bytes()
    image.write_bytes(b"nothing")
    refused = mmkd("extract", "-w", ready)  # 1 of 64 is more than 1 %
    assert refused.exit_code == 2
    assert "1 of 64 images cannot be read so far, at most 1 % may be left out" in refused.stderr
    done = mmkd("extract", "--max-bad", "2%", "-w", ready)
    assert done.exit_code == 0
    listed = ready / ".mmkd" / "skipped.json"
    assert f"1 images cannot be read and are left out: {listed}" in done.stdout
    assert [entry["image"] for entry in json.loads(listed.read_text()).values()] == [
        str(image.relative_to(ready / "data"))
    ]
    # What comes after meets neither the image nor an incomplete teacher; the check still sees it.
    assert facts(mmkd("audit", "trust", "-w", ready, "--json"))
    assert facts(mmkd("eval", "zero-shot", "good", "-w", ready, "--json"))
    assert mmkd("data", "check", "-w", ready).exit_code == 1
    image.write_bytes(kept)
    again = facts(mmkd("extract", "-w", ready, "--json"))
    assert (again["images"]["good"], again["skipped"]) == (1, {})
    assert json.loads(listed.read_text()) == {}


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), ("0.02", 0.02), ("0", 0), ("100%", 1)])
def test_shares(text, share):
    from mmkd_core.cli.options import share as read

    assert read(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["many", "-1%", "2", "nan", "101%"])
def test_what_is_no_share(mmkd, ready, text):
    done = mmkd("extract", f"--max-bad={text}", "-w", ready)
    assert done.exit_code == 2
    assert "is no share of all images" in done.stderr.replace("\n", " ").replace("│ ", "").replace(" │", "")


def test_a_precision_that_does_not_exist(mmkd, ready):
    config = yaml.safe_load((ready / "mmkd.yaml").read_text())
    assert config["extract"] == {"precision": "auto", "max_bad": 0.01}
    (ready / "mmkd.yaml").write_text(yaml.safe_dump(config | {"extract": {"precision": "fp8"}}))
    done = mmkd("extract", "-w", ready)
    assert done.exit_code == 2
    assert "setting extract.precision: Input should be 'auto', 'fp32' or 'bf16'" in done.stderr


def test_without_ray_a_sentence_says_how_to_get_it(mmkd, ready, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = mmkd("extract", "--engine", "ray", "-w", ready)
    assert done.exit_code == 2
    assert "Ray is not installed" in done.stderr
    assert "Run `pip install 'ray[data]>=2.48'`, or leave out" in done.stderr


def test_patients_of_dicom_files_are_hashed_with_the_secret_of_the_workspace(mmkd, workspace, tmp_path):
    pytest.importorskip("pydicom")
    from mmkd_core.data.volumes import hashed
    from mmkd_core.integrate.workspace import Workspace

    first, second = Workspace.open(workspace).salt(), Workspace.open(workspace).salt()
    assert first == second
    assert len(first) == 32
    assert (workspace / ".mmkd" / "salt").stat().st_mode & 0o077 == 0
    assert hashed("a patient", first) != hashed("a patient", bytes(32))
