"""Bad input through the command line: one sentence with what, where and what to do next, exit code 2, nothing lost.

Each case looks at what was there before, and where that is cheap runs the corrected command afterwards.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from mmkd_core.cli import app

PLUGINS = Path(__file__).parents[1] / "data" / "plugins"
TINY = {
    "name": "tiny",
    "seed": 3,
    "student": {
        "image_size": 32,
        "embed_dim": 16,
        "text": {"vocab_size": 128, "context_length": 12, "width": 32, "heads": 2, "layers": 1},
    },
    "pretrain": {"steps": 1, "batch_size": 8},
    "distill": {"steps": 1, "batch_size": 8},
    "trust": {"rule": "none", "seed": 3},
}
HOLLOW = '''"""A teacher that is sound for one image and answers NaN for several: a smoke check cannot see it."""

import mmkd_good
import mmkd_good.model
from mmkd_core.contract import hookimpl

SPEC = mmkd_good.SPEC.model_copy(update={"name": "hollow", "family": "hollow"})


class Hollow(mmkd_good.model.LinearTeacher):
    def encode_image(self, images):
        answer = super().encode_image(images)
        return answer if len(images) <= 3 else answer / 0 * 0  # as many as the smoke check asks for


@hookimpl
def mmkd_teachers():
    return [SPEC]


@hookimpl
def mmkd_load_teacher(spec, weights, device):
    return Hollow(spec, 1, device) if spec.family == "hollow" else None
'''


def mmkd(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="mmkd")


def done(*arguments: object) -> Result:
    """Run a command that must succeed."""
    result = mmkd(*arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def refusal(*arguments: object) -> str:
    """Run a command that must be refused; return its one sentence."""
    result = mmkd(*arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert [line for line in lines if line.startswith("mmkd: ")] == lines[-1:]
    return lines[-1].removeprefix("mmkd: ")


def contents(*folders: Path) -> dict[str, bytes]:
    """All files but the mark of who uses the workspace."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if path.name not in ("in-use", "lock.mdb", "writer.lock")}


def write_dist_info(site: Path, name: str, entry_points: str) -> None:
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metadata and modules of the plugins of this page."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("good", "broken_import"):
        project = tomllib.loads((PLUGINS / name / "pyproject.toml").read_text())["project"]
        points = project["entry-points"]["mmkd.v1"].items()
        write_dist_info(folder, project["name"], "[mmkd.v1]\n" + "".join(f"{k} = {v}\n" for k, v in points))
        package = next((PLUGINS / name).glob("mmkd_*"))
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    write_dist_info(folder, "mmkd-hollow", "[mmkd.v1]\nhollow = mmkd_hollow\n")
    (folder / "mmkd_hollow.py").write_text(HOLLOW)
    return folder


@pytest.fixture(autouse=True, scope="module")
def _installed(site: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")  # for fresh interpreters
        for name in ("MMKD_STRICT", "MMKD_REGISTRY", "MMKD_DEBUG", "MMKD_PLUGINS"):
            patch.delenv(name, raising=False)
        importlib.invalidate_caches()
        yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("mmkd_good", "mmkd_hollow")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A workspace at four moments of its life: made, with data, with features, with release 0001."""
    root = tmp_path_factory.mktemp("made")
    (root / "mine.yaml").write_text(yaml.safe_dump(TINY))
    steps: dict[str, list[tuple[object, ...]]] = {
        "made": [("init", "--config", root / "mine.yaml")],
        "data": [("data", "phantom", "--train", 4, "--val", 2, "--test", 2, "--domains", "xray,ct")],
        "features": [("teachers", "add", "good"), ("extract",)],
        "release": [("pretrain",), ("distill",)],
    }
    moments: dict[str, Path] = {}
    for name, commands in steps.items():
        moments[name] = root / name
        if len(moments) > 1:
            shutil.copytree(list(moments.values())[-2], moments[name])
        for command in commands:
            done(*command, "-w", moments[name])
    return moments


@pytest.fixture
def at(finished: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Call with a moment: a copy of the workspace as it was then."""
    return lambda moment: Path(shutil.copytree(finished[moment], tmp_path / "ws"))


# --- teachers -------------------------------------------------------------------------------------------------------


def test_an_unknown_teacher(at: Callable[[str], Path]) -> None:
    ws = at("features")
    before = contents(ws)
    want = f"no teacher is called 'godo'. Did you mean good? Run `mmkd teachers list -w {ws}` to see all teachers"
    assert refusal("teachers", "info", "godo", "-w", ws) == want
    assert refusal("teachers", "add", "godo", "-w", ws) == f"godo was not added, at step resolve: {want}"
    assert refusal("eval", "zero-shot", "godo", "-w", ws) == want
    assert "godo" in refusal("teachers", "remove", "godo", "-w", ws)
    assert contents(ws) == before
    done("eval", "zero-shot", "good", "-w", ws)


def test_a_plugin_that_raises_on_import(at: Callable[[str], Path]) -> None:
    ws = at("features")
    before = contents(ws)
    rows = {row["name"]: row for row in json.loads(done("teachers", "list", "-w", ws, "--json").stdout)["teachers"]}
    assert (rows["good"]["status"], rows["good-small"]["status"]) == ("locked", "available")
    assert rows["broken-import"]["status"] == "broken"
    assert rows["broken-import"]["error"] == "SystemExit: this plugin needs a library that is not here"
    sentence = refusal("teachers", "add", "broken-import", "-w", ws)
    assert "broken-import" in sentence
    assert "this plugin needs a library that is not here" in sentence
    assert contents(ws) == before
    assert "nothing was missing" in done("extract", "-w", ws).stdout  # the others work


def test_features_with_nan(at: Callable[[str], Path]) -> None:
    ws = at("features")
    done("teachers", "add", "hollow", "-w", ws)
    told = mmkd("extract", "-w", ws, "--json")  # what the others gave is reported as well, hence not a plain refusal
    assert told.exit_code == 2
    facts = json.loads(told.stdout)
    missing = facts["lost"]["hollow"]
    assert list(facts["failed"]) == ["hollow"]
    assert (facts["images"]["hollow"], missing > 0) == (0, True)
    assert told.stderr.splitlines()[-1] == (
        f"mmkd: hollow gives image features with NaN or infinity; nothing of this batch was stored; {missing} features "
        f"are missing. Run `mmkd teachers remove hollow -w {ws}`, or mend its weights and add it again"
    )
    facts = json.loads(done("store", "info", "-w", ws, "--json").stdout)
    assert {(t["facts"]["teacher"], t["tower"]) for t in facts["tables"] if t["rows"]} == {
        ("good", "image"), ("good", "text"), ("hollow", "text"),
    }  # fmt: skip
    assert json.loads(done("store", "verify", "-w", ws, "--json").stdout)["sound"] is True
    assert "hollow" in refusal("eval", "zero-shot", "hollow", "-w", ws)
    done("teachers", "remove", "hollow", "-w", ws)
    assert "nothing was missing" in done("extract", "-w", ws).stdout


# --- data -----------------------------------------------------------------------------------------------------------

GOOD_ROWS = [
    {"image": f"{i}.png", "domain": "xray", "label": "ab"[i % 2], "caption": f"image {i}", "patient": f"p{i}"}
    | {"split": ("train", "val", "test")[i // 2]}
    for i in range(6)
]


def write_manifest(folder: Path, rows: list[dict[str, str]], **renamed: str) -> Path:
    names = {"patient": "group_id", **renamed}
    lines = [",".join(names.get(name, name) for name in rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def changed(number: int, **cells: str) -> list[dict[str, str]]:
    return [row | cells if i == number else row for i, row in enumerate(GOOD_ROWS)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        Image.new("L", (8, 8), 40 * i).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:40])
    return folder


@pytest.mark.parametrize(
    ("rows", "renamed", "words"),
    [
        pytest.param(
            changed(2, image="broken.png"), {}, ["broken.png, manifest.csv, line 4", "Mend the image"], id="unreadable"
        ),
        pytest.param(changed(2, image="cut.png"), {}, ["cut.png, manifest.csv, line 4", "Mend the image"], id="cut"),
        pytest.param(
            changed(3, image="gone.png"),
            {},
            ["no such image file", "gone.png, manifest.csv, line 5", "Mend the image or remove the row"],
            id="no-file",
        ),
        pytest.param(changed(1, image=""), {}, ["the image is missing (manifest.csv, line 3)"], id="no-image"),
        pytest.param(
            changed(4, caption='"  "', label="nan"),
            {},
            ["the label and caption is missing (manifest.csv, line 6)"],
            id="empty",
        ),
        pytest.param(
            [{k: v for k, v in row.items() if k != "caption"} for row in changed(0, label="")],
            {},
            ["the label is missing (manifest.csv, line 2). Every image needs a label or a caption"],
            id="no-caption",
        ),
        pytest.param(
            GOOD_ROWS,
            {"image": "file", "domain": "modality"},
            ["no column image and no column domain", "manifest.csv", "Rename 'file' to 'image'"],
            id="columns",
        ),
        pytest.param(
            changed(2, patient="p1"),
            {},
            ["a group is in two splits ('p1': train at line 3, val at line 4 of manifest.csv). Keep every patient in"],
            id="torn",
        ),
    ],
)
def test_a_bad_manifest(
    rows: list[dict[str, str]], renamed: dict[str, str], words: list[str], at: Callable[[str], Path], pictures: Path
) -> None:
    ws = at("made")
    manifest = write_manifest(pictures, rows, **renamed)
    before = contents(ws, pictures)
    sentence = refusal("data", "import", manifest, "-w", ws)
    for part in words:
        assert part in sentence
    assert contents(ws, pictures) == before
    done("data", "import", write_manifest(pictures, GOOD_ROWS), "-w", ws)
    done("data", "check", "-w", ws)


def test_an_image_that_went_away_after_the_import(at: Callable[[str], Path]) -> None:
    ws = at("data")
    done("teachers", "add", "good", "-w", ws)
    image = sorted((ws / "data" / "images").rglob("*.png"))[0]
    image.rename(ws / "away.png")
    for command in ("extract", "pretrain"):
        sentence = refusal(command, "-w", ws)
        assert sentence.startswith("no such image file")
        assert image.name in sentence
    (ws / "away.png").rename(image)
    done("extract", "-w", ws)


def test_data_that_is_there_is_not_overwritten(at: Callable[[str], Path], pictures: Path) -> None:
    ws = at("data")
    before = contents(ws)
    sentence = refusal("data", "import", write_manifest(pictures, GOOD_ROWS), "-w", ws)
    assert "the workspace has its data already" in sentence
    assert contents(ws) == before


def test_no_training_images(at: Callable[[str], Path], pictures: Path) -> None:
    ws = at("made")
    done("data", "import", write_manifest(pictures, [row | {"split": "test"} for row in GOOD_ROWS]), "-w", ws)
    assert refusal("pretrain", "-w", ws).startswith("there is nothing to train on: no sample is in the train split. ")


# --- the workspace --------------------------------------------------------------------------------------------------


def test_a_store_of_another_version(at: Callable[[str], Path]) -> None:
    ws = at("features")
    store, engine = ws / ".mmkd" / "features", {}
    if int(lmdb.__version__.split(".")[0]) >= 3:
        engine = {"lib_version": 0}
    kept = (store / "data.mdb").read_bytes()
    with lmdb.open(str(store), max_dbs=16, map_size=1 << 30, **engine) as environment:
        meta = environment.open_db(b"meta")
        with environment.begin(write=True, db=meta) as txn:
            txn.put(b"store", json.dumps(json.loads(txn.get(b"store")) | {"format": 99}).encode())
    before = contents(ws)
    reading = (("extract", "--dry-run"), ("store", "info"), ("store", "verify"), ("eval", "zero-shot", "good"))
    writing = (("extract",), ("store", "gc"), ("store", "seal"), ("store", "compact"), ("store", "repair"))
    for command in (*reading, *writing):
        assert refusal(*command, "-w", ws) == (
            f"the store has format 99, newer than format 3 that this program reads ({store}). Update this program"
        )
    assert contents(ws) == before
    (store / "data.mdb").write_bytes(kept)
    assert "nothing was missing" in done("extract", "-w", ws).stdout


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_store_that_was_cut_off(at: Callable[[str], Path], share: float) -> None:
    ws = at("features")
    file = ws / ".mmkd" / "features" / "data.mdb"
    kept = file.read_bytes()
    file.write_bytes(kept[: int(share * len(kept))])
    before = contents(ws)
    for command in (("extract",), ("store", "verify"), ("store", "repair"), ("eval", "zero-shot", "good")):
        assert refusal(*command, "-w", ws).startswith("the data file is cut off: ")
    assert contents(ws) == before
    file.write_bytes(kept)
    assert "nothing was missing" in done("extract", "-w", ws).stdout


def test_mmkd_yaml_of_another_version(at: Callable[[str], Path]) -> None:
    ws = at("data")
    text = (ws / "mmkd.yaml").read_text()
    (ws / "mmkd.yaml").write_text(text.replace("schema: mmkd/v1", "schema: mmkd/v2"))
    before = contents(ws)
    for command in (("data", "check"), ("extract",), ("init", "--seed", 3), ("report",)):
        assert refusal(*command, "-w", ws) == (
            f"the workspace is of version 'mmkd/v2', this mmkd reads 'mmkd/v1' ({ws / 'mmkd.yaml'}). "
            "Use the mmkd that made it, or make a new workspace in another folder"
        )
    assert contents(ws) == before
    (ws / "mmkd.yaml").write_text(text)
    done("data", "check", "-w", ws)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            "student: {vision: resnet-50}",
            "setting student.vision: no vision tower is called 'resnet-50'; there are resnet-timm, ",
        ),
        ("sead: 3", "setting sead: Extra inputs are not permitted"),
        ("seed: [", "mmkd.yaml cannot be read: "),
        ("- 1", "mmkd.yaml holds no settings but a list"),
    ],
)
def test_mmkd_yaml_with_a_mistake(text: str, want: str, at: Callable[[str], Path]) -> None:
    ws = at("made")
    (ws / "mmkd.yaml").write_text(text + "\n")
    sentence = refusal("data", "phantom", "-w", ws)
    assert sentence.startswith(want)
    assert str(ws / "mmkd.yaml") in sentence
    assert (ws / "mmkd.yaml").read_text() == text + "\n"


def test_a_workspace_in_use_by_another_process(at: Callable[[str], Path]) -> None:
    ws = at("features")
    program = (
        "import sys; from pathlib import Path; from mmkd_core.integrate.workspace import Workspace\n"
        "with Workspace.open(Path(sys.argv[1])).writing():\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(ws)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = contents(ws)
        for command in (("extract",), ("pretrain",), ("distill",), ("teachers", "remove", "good"), ("report",)):
            assert refusal(*command, "-w", ws) == (
                f"the workspace is in use by process {holder.pid} ({ws}). "
                "Wait until it has finished, or stop it; nothing was changed"
            )
        assert contents(ws) == before
        done("store", "info", "-w", ws)  # who only looks is not kept out
        holder.kill()
    assert "nothing was missing" in done("extract", "-w", ws).stdout


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: every write beyond fails in the kernel, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("moment", "command", "size"),
    [
        ("made", ("data", "phantom", "--train", 8, "--val", 4, "--test", 4, "--domains", "xray,ct"), 1500),
        ("data", ("extract",), 0),  # the store cannot be made
        ("data", ("extract",), 20_000),
        ("features", ("pretrain",), 20_000),  # the cache of pixels
        ("features", ("pretrain",), 120_000),  # the weights
        ("release", ("distill", "--recipe", "paper"), 120_000),
        ("release", ("export", "open-clip", "out"), 120_000),
        ("release", ("export", "teacher", "out", "mine", "--domains", "xray"), 120_000),
        ("release", ("eval", "zero-shot", "good"), 500),
        ("release", ("report",), 500),
    ],
)
def test_a_full_disk(
    moment: str, command: tuple[object, ...], size: int, at: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = at(moment)
    monkeypatch.chdir(ws.parent)
    if moment == "data":
        done("teachers", "add", "good", "-w", ws)
    before = contents(ws)
    with room_for(size):
        sentence = refusal(*command, "-w", ws)
    assert "the disk is full" in sentence
    assert "run" in sentence.partition(". ")[2]  # the next step
    after = contents(ws)
    assert before.keys() <= after.keys()
    assert all(after[name] == data for name, data in before.items() if not name.endswith("data.mdb"))
    assert not [name for name in after if name.endswith(".tmp")]
    done(*command, "-w", ws)


def test_a_full_disk_in_a_checkpoint(at: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is the largest file of a run; the one before it stays."""
    ws = at("features")
    settings = yaml.safe_load((ws / "mmkd.yaml").read_text())
    settings["pretrain"]["steps"] = 3
    (ws / "mmkd.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr("mmkd_core.student.checkpoint.SECONDS", -1.0)
    with room_for(200_000):
        assert "the disk is full; what was finished is kept" in refusal("pretrain", "-w", ws)
    done("pretrain", "-w", ws)


# --- where a student starts -------------------------------------------------------------------------------------------


def test_weights_to_start_from_that_are_not_there(at: Callable[[str], Path]) -> None:
    ws = at("data")
    settings = yaml.safe_load((ws / "mmkd.yaml").read_text())
    settings["student"]["start"] = "weights/b16_400m.pt"
    (ws / "mmkd.yaml").write_text(yaml.safe_dump(settings))
    before = contents(ws)
    sentence = refusal("pretrain", "-w", ws)
    assert sentence.startswith(f"there are no weights to start from ({ws / 'weights/b16_400m.pt'}). Give a file, or a")
    assert contents(ws) == before


def test_a_student_that_starts_as_an_earlier_release_and_goes_on_as_it_is(at: Callable[[str], Path]) -> None:
    ws = at("release")
    settings = yaml.safe_load((ws / "mmkd.yaml").read_text())
    settings["student"]["start"] = "releases/0001/student"
    settings["pretrain"]["steps"] = 0
    (ws / "mmkd.yaml").write_text(yaml.safe_dump(settings))
    old = ws / "releases/0001/student/open_clip_model.safetensors"
    started = json.loads(done("pretrain", "-w", ws, "--json").stdout)
    assert (Path(started["student"]) / old.name).read_bytes() == old.read_bytes()
    release = json.loads(done("distill", "-w", ws, "--json").stdout)["release"]
    facts = json.loads((ws / "releases" / release / "release.json").read_text())
    expected = {"path": "releases/0001/student", "sha256": hashlib.sha256(old.read_bytes()).hexdigest()}
    assert {key: facts["start"]["image"][key] for key in expected} == expected
    assert facts["start"]["text"] == facts["start"]["image"]
    assert facts["start"]["image"]["license"]["code"] == facts["license"]["code"]


# --- the order of the steps -----------------------------------------------------------------------------------------


def test_steps_in_the_wrong_order(at: Callable[[str], Path]) -> None:
    ws = at("data")
    before = contents(ws)
    advice = f"Run `mmkd teachers add NAME -w {ws}`"
    assert refusal("extract", "-w", ws) == f"no teacher is in use ({ws / 'mmkd.lock'}). {advice}"
    assert refusal("audit", "forgetting", "-w", ws) == f"there is no release to audit. Run `mmkd distill -w {ws}`"
    for command in (
        ("distill", "--incremental"),
        ("eval", "zero-shot", "current"),
        ("export", "open-clip", ws / "out"),
    ):
        assert "mmkd distill" in refusal(*command, "-w", ws)
    assert contents(ws) == before


def test_distill_before_pretrain(at: Callable[[str], Path]) -> None:
    ws = at("features")
    before = contents(ws)
    folder = ws / ".mmkd" / "runs" / "pretrain" / "student"
    assert refusal("distill", "-w", ws) == f"there is no stage-1 student ({folder}). Run `mmkd pretrain -w {ws}`"
    assert contents(ws) == before


def test_distill_before_extract(at: Callable[[str], Path]) -> None:
    ws = at("data")
    done("teachers", "add", "good", "-w", ws)
    done("pretrain", "-w", ws)
    before = contents(ws)
    assert refusal("distill", "-w", ws) == (
        f"no features were extracted yet ({ws / '.mmkd' / 'features'}). Run `mmkd extract -w {ws}`"
    )
    assert contents(ws) == before
    done("extract", "-w", ws)
    done("distill", "-w", ws)


def test_an_audit_of_forgetting_without_a_parent(at: Callable[[str], Path]) -> None:
    ws = at("release")
    before = contents(ws)
    assert refusal("audit", "forgetting", "-w", ws) == (
        "release 0001 has no parent, so there is nothing that it could have forgotten. "
        f"Run `mmkd distill --incremental -w {ws}`, or name one with --against"
    )
    assert contents(ws) == before
    assert json.loads(done("releases", "list", "-w", ws, "--json").stdout)["current"] == "0001"
    assert "has learnt from every locked teacher already" in refusal("distill", "--incremental", "-w", ws)
    assert contents(ws) == before


def test_the_installed_command_ends_with_2_and_no_traceback(at: Callable[[str], Path]) -> None:
    """The same through a process of its own: what a shell sees."""
    ws = at("made")
    command = [sys.executable, "-m", "mmkd_core", "store", "info", "-w", str(ws)]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("mmkd: ")
