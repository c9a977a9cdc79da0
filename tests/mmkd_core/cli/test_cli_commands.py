"""The commands that train nothing, over one small workspace; the others run in tests/e2e."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mmkd_core.audit.gate import write_gate
from mmkd_core.integrate import releases, studying
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.study.cells import STUDIES, Given
from mmkd_core.study.findings import Run


def settings(workspace):
    return yaml.safe_load((workspace / "mmkd.yaml").read_text())


def test_init_writes_every_setting(mmkd):
    done = mmkd("init", "ws", "--name", "eye", "--seed", 5, "--trust", "gain")
    assert done.stdout == (
        "images of your own: mmkd data import PATH -w ws; synthetic ones: the next command\n"
        "wrote: ws/mmkd.yaml\nwrote: ws/gate.yaml\nnext: mmkd data phantom -w ws\n"
    )
    found = settings(Path("ws"))
    assert (found["name"], found["seed"], found["trust"]["seed"], found["trust"]["rule"]) == ("eye", 5, 5, "gain")
    assert found["pretrain"]["steps"] > 0
    assert mmkd("init", "ws", "--name", "eye", "--seed", 5, "--trust", "gain").exit_code == 0  # the same again


def test_init_from_a_file_keeps_what_is_not_named(mmkd):
    Path("mine.yaml").write_text("name: mine\nseed: 7\ntrust: {rule: none, threshold: 0.8}\npretrain: {steps: 3}\n")
    assert mmkd("init", "-w", "ws", "--config", "mine.yaml", "--seed", 8).exit_code == 0
    found = settings(Path("ws"))
    assert (found["name"], found["seed"], found["pretrain"]["steps"]) == ("mine", 8, 3)
    assert {key: found["trust"][key] for key in ("rule", "threshold", "strict", "seed", "probe", "samples")} == {
        "rule": "none",
        "threshold": 0.8,
        "strict": False,
        "seed": 8,
        "probe": "train",
        "samples": 20,
    }


def test_phantom_and_check(mmkd, with_data):
    again = mmkd("data", "phantom", "-w", with_data, "--train", 4, "--val", 2, "--test", 2, "--json")
    facts = json.loads(again.stdout)
    assert facts["samples"] == 64
    assert facts["domains"]["xray"] == {"train": 4, "val": 2, "test": 2}
    assert facts["config"]["seed"] == 3  # the workspace's
    assert facts["next"] == "mmkd teachers list -w ws"
    checked = mmkd("data", "check", "-w", with_data, "--json")
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["ok"] is True
    assert "check images: 64 images in" in checked.stderr


def test_poor_captions_are_asked_for_and_told(mmkd, workspace):
    assert (
        "poor on purpose" not in mmkd("data", "phantom", "-w", workspace, "--train", 4, "--val", 2, "--test", 2).stdout
    )
    mmkd("init", "poor")
    found = mmkd("data", "phantom", "-w", "poor", "--poor-captions", "--train", 4, "--val", 2, "--test", 2)
    note = "note: The captions are poor on purpose: 50 % say only what kind of image it is, 15 % are false.\n"
    assert found.stdout.startswith(note)
    kept = json.loads(Path("poor/data/phantom.json").read_text())["config"]
    assert (kept["plain_captions"], kept["wrong_captions"]) == (0.5, 0.15)


def test_check_finds_a_missing_image(mmkd, with_data):
    image = next((with_data / "data" / "images" / "ct").iterdir())
    image.unlink()
    found = mmkd("data", "check", "-w", with_data)
    assert found.exit_code == 1
    assert "problem: image missing or unreadable: 1 (" in found.stdout
    assert image.name in found.stdout


def test_import_once(mmkd, workspace, tmp_path):
    lines = ["image,domain,label,group_id,split"]
    for i in range(6):
        Image.new("L", (8, 8), 40 * i).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,xray,{'ab'[i % 2]},p{i},{('train', 'val', 'test')[i // 2]}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    done = mmkd("data", "import", "manifest.csv", "-w", workspace, "--json")
    facts = json.loads(done.stdout)
    assert (facts["samples"], facts["report"]["groups"]) == (6, 6)
    again = mmkd("data", "import", "manifest.csv", "-w", workspace)
    assert again.exit_code == 2
    assert "mmkd: the workspace has its data already (ws/data)" in again.stderr


def test_an_import_says_all_that_there_is_to_say_and_strict_makes_it_an_error(mmkd, workspace, tmp_path):
    lines = ["image;domain;label;caption;group_id;split"]
    for i in range(6):
        Image.new("L", (8, 8), 40 * i).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png;X-Ray;{('a', 'b', 'NA')[i % 3]};{'word ' * 40 if i % 3 == 2 else ''};p{i};train")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    refused = mmkd("data", "import", "manifest.csv", "-w", workspace, "--strict")
    assert refused.exit_code == 2
    assert 'taken as absent, label: "NA" 2' in refused.stderr
    assert "captions longer than the student's context of 32 tokens (by words, so at least these): 2" in refused.stderr
    assert not (workspace / "data").exists()
    done = mmkd("data", "import", "manifest.csv", "-w", workspace)
    assert done.exit_code == 0
    assert done.stdout.startswith("rows read: 6\ntaken as absent: caption: empty 4\n")
    assert 'taken as absent: label: "NA" 2\n' in done.stdout
    assert "look at: captions longer than the student's context of 32 tokens" in done.stdout
    assert "note: the domain 'X-Ray' is xray\n" in done.stdout
    shown = done.stdout.split("captions as they will be trained on:\n")[1].splitlines()[:3]
    assert len(shown) == 3
    assert all(line.startswith("  ") for line in shown)


def test_a_broken_plugin_is_listed_and_stops_nobody(mmkd, installed):
    installed("good", "broken_import", "api_v2")
    done = mmkd("teachers", "list", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)["teachers"]}
    assert rows["good"]["status"] == "available"
    assert rows["api-v2"]["status"] == "incompatible"
    assert rows["broken-import"]["status"] == "broken"
    assert rows["broken-import"]["error"] == "SystemExit: this plugin needs a library that is not here"
    shown = mmkd("teachers", "list").stdout
    assert "broken: broken-import: SystemExit: this plugin needs a library that is not here\n" in shown


@pytest.mark.parametrize("command", ["info", "add"])
def test_an_unknown_teacher_and_the_nearest_name(command, mmkd, installed, workspace):
    installed("good")
    done = mmkd("teachers", command, "goood", "-w", workspace)
    assert done.exit_code == 2
    assert "no teacher is called 'goood'. Did you mean good" in done.stderr
    assert not (workspace / "mmkd.lock").exists()


def test_removing_a_teacher_that_is_not_in_use(mmkd, workspace):
    done = mmkd("teachers", "remove", "good", "-w", workspace)
    assert done.exit_code == 2
    assert "teacher 'good' is not locked" in done.stderr


def test_from_a_teacher_to_its_evaluation(mmkd, installed, with_data):
    """One way through the commands of a teacher; each must keep stdout pure and name the next command."""
    installed("good")

    def answer(*arguments):
        done = mmkd(*arguments, "-w", with_data, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    added = answer("teachers", "add", "good")
    assert {teacher["name"] for teacher in added["added"]} == {"good"}
    assert added["wrote"] == ["ws/mmkd.lock"]
    listed = answer("teachers", "list")["teachers"]
    assert {row["name"]: row["status"] for row in listed if row["package"] == "mmkd-good"} == {
        "good": "locked",
        "good-small": "available",
    }
    assert answer("teachers", "info", "good")["locked"]["version"] == "1.0"
    extracted = answer("extract")
    assert extracted["images"] == {"good": 64}
    assert extracted["next"] == "mmkd pretrain -w ws"
    again = answer("extract")
    assert (again["images"], again["texts"], again["wrote"]) == ({"good": 0}, {"good": 0}, [])

    assert {table["facts"]["teacher"] for table in answer("store", "info")["tables"]} == {"good"}
    assert answer("store", "verify")["sound"] is True
    found = answer("eval", "zero-shot", "good")
    assert set(found["domains"]) == {"ct", "dermatology", "fundus", "mri", "oct", "pathology", "ultrasound", "xray"}
    assert Path(found["wrote"][0]).is_file()
    assert answer("eval", "retrieval", "good")["image_to_text"]["queries"] == 16
    trust = answer("audit", "trust", "--sweep")
    assert (trust["verdict"], trust["exit_code"], len(trust["rows"])) == (None, 0, 8)  # no teacher claims anything
    ct = trust["sweep"]["teachers"]["good"]["ct"]
    assert (ct["of"], len(ct["admitted"]), len(trust["sweep"]["thresholds"])) == (4, 101, 101)
    assert trust["students"]["missing"] == ["0.90", "0.50", "0.70", "0.80", "0.95", "everyone"]
    said = mmkd("audit", "trust", "--sweep", "-w", with_data).stdout
    assert "no student yet at 0.90, 0.50, 0.70, 0.80, 0.95, everyone: run `mmkd study threshold -w ws`" in said
    page = (with_data / ".mmkd" / "audits" / "trust.html").read_text()
    assert "<code>mmkd study threshold</code> trains them" in page
    _study(with_data)
    trust = answer("audit", "trust", "--sweep")
    assert trust["students"]["missing"] == ["0.50", "0.70", "0.80", "everyone"]
    assert [row["cell"] for row in trust["students"]["rows"]] == ["0.90", "0.95"]
    assert trust["students"]["rows"][1]["change"]["mean"] == pytest.approx(-0.02)
    said = mmkd("audit", "trust", "--sweep", "-w", with_data).stdout
    assert "no student yet at 0.50, 0.70, 0.80, everyone: run" in said
    assert ["0.95", "9", "78.0", "-2.0", "-14.7", "to", "+10.7", "2"] in [line.split() for line in said.splitlines()]
    answer("report")
    page = (with_data / "report.html").read_text()
    assert "If the threshold were another" in page
    assert "Not trained yet: 0.50, 0.70, 0.80, everyone." in page

    removed = answer("teachers", "remove", "good")
    assert removed["removed"]["name"] == "good"
    lost = mmkd("extract", "-w", with_data)
    assert lost.exit_code == 2
    assert "no teacher is in use" in lost.stderr


def _study(folder):
    """Two cells of `mmkd study threshold` as if they were trained, and one of other data, which must not be shown."""
    workspace, cells = Workspace.open(folder), STUDIES["threshold"].cells(Given(("good",), (), {}))
    inputs, into = studying._inputs(workspace), folder / ".mmkd" / "studies" / "threshold"
    for cell, mean in (("0.90", 0.80), ("0.95", 0.78)):
        found = next(one for one in cells if one.name == cell)
        for seed in (3, 4):
            auc = {"ct": mean + (0.01 if (seed, cell) == (3, "0.95") else -0.01 if cell == "0.95" else 0.0)}
            studying._note(into, studying._key(inputs, found, seed), Run(cell, seed, auc, {"trusted pairs": 9.0}))
    studying._note(into, "other data", Run("everyone", 3, {"ct": 0.9}, {"trusted pairs": 64.0}))


def test_the_list_of_releases_stands_although_one_is_damaged(mmkd, workspace):
    made = Workspace.open(workspace)
    for parent in (None, "0001"):
        staging = workspace / "staging"
        staging.mkdir()
        write_gate(staging / "gate.yaml", made.gate())
        facts = {"identity": f"of {parent}", "parent": parent, "teachers": [], "new": [], "recipe": "mmkd", "steps": 1}
        releases.commit(made, staging, {**facts, "license": {"weights": "MIT"}})
    releases.promote(made, "0001", "first")
    (workspace / "releases/0001/release.json").write_bytes(bytes(99))
    listed = json.loads(mmkd("releases", "list", "-w", workspace, "--json").stdout)
    assert [entry["id"] for entry in listed["releases"]] == ["0002"]
    assert listed["current"] == "0001"
    assert listed["damaged"]["0001"].startswith("release 0001 is damaged: release.json cannot be read")
    said = mmkd("releases", "list", "-w", workspace)
    assert said.exit_code == 2
    assert "release 0001 is damaged" in said.stderr
    assert "0001  yes" in said.stdout
    # The way out that every sentence about a damaged release names leads out.
    assert mmkd("releases", "rollback", "0002", "-w", workspace).exit_code == 2
    assert (
        mmkd("releases", "rollback", "0002", "--force", "--because", "0001 is damaged", "-w", workspace).exit_code == 0
    )
    assert (workspace / "releases/CURRENT").read_text() == "0002\n"


def test_no_release_yet(mmkd, workspace):
    assert "next: mmkd data phantom -w ws" in mmkd("releases", "list", "-w", workspace).stdout
    for command in (("releases", "rollback", "0001"), ("audit", "forgetting"), ("export", "onnx", "out")):
        done = mmkd(*command, "-w", workspace)
        assert done.exit_code == 2
        assert "there is no release" in done.stderr
