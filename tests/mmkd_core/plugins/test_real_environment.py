"""The way of a user: `mmkd teachers ...` in an environment of its own, with real pip and git, and no network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "plugins"

BACKEND = '''
import base64, hashlib, pathlib, tomllib, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    """Enough of a build backend for these tests: nothing has to be fetched to run it."""
    here = pathlib.Path(__file__).parent
    project = tomllib.loads((here / "pyproject.toml").read_text())["project"]
    stem = project["name"].replace("-", "_") + "-" + project["version"]
    info = stem + ".dist-info"
    paths = [p for p in sorted(here.glob("*/**/*")) if p.is_file() and ".git" not in p.parts]
    files = {str(p.relative_to(here)): p.read_bytes() for p in paths}
    files = {n: d for n, d in files.items() if not n.startswith(("build", "dist")) and "__pycache__" not in n}
    requires = "".join(f"Requires-Dist: {r}\\n" for r in project.get("dependencies", []))
    head = f"Metadata-Version: 2.1\\nName: {project['name']}\\nVersion: {project['version']}\\n"
    files[info + "/METADATA"] = (head + requires).encode()
    files[info + "/WHEEL"] = b"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    points = [(g, k, v) for g, e in project.get("entry-points", {}).items() for k, v in e.items()]
    files[info + "/entry_points.txt"] = "".join(f"[{g}]\\n{k} = {v}\\n" for g, k, v in points).encode()
    hashed = lambda d: base64.urlsafe_b64encode(hashlib.sha256(d).digest()).rstrip(b"=").decode()
    record = "".join(f"{n},sha256={hashed(d)},{len(d)}\\n" for n, d in files.items()) + info + "/RECORD,,\\n"
    with zipfile.ZipFile(pathlib.Path(folder) / (stem + "-py3-none-any.whl"), "w") as wheel:
        for name, data in [*files.items(), (info + "/RECORD", record.encode())]:
            wheel.writestr(name, data)
    return stem + "-py3-none-any.whl"
'''
PROJECT = """
[build-system]
requires = []
build-backend = "_backend"
backend-path = ["."]

[project]
name = "{name}"
version = "{version}"
dependencies = {requires}
"""
GOOD_POINT = '\n[project.entry-points."mmkd.v1"]\n{teacher} = "{module}"\n'


def write_project(folder: Path, name: str, version: str, files: dict[str, str], requires=(), teacher="") -> Path:
    """A package that can be built without a network."""
    folder.mkdir(parents=True)
    (folder / "_backend.py").write_text(BACKEND)
    text = PROJECT.format(name=name, version=version, requires=json.dumps(list(requires)))
    module = name.replace("-", "_")
    (folder / "pyproject.toml").write_text(
        text + (GOOD_POINT.format(teacher=teacher, module=module) if teacher else "")
    )
    for path, content in files.items():
        (folder / module / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / module / path).write_text(content)
    return folder


def good_files(**changes: str) -> dict[str, str]:
    """The module of the plugin "good", edited."""
    source = DATA / "good" / "mmkd_good"
    files = {
        str(path.relative_to(source)): path.read_text() for path in source.rglob("*") if path.suffix in (".py", ".txt")
    }
    for old, new in changes.items():
        files = {name: text.replace(old, new) for name, text in files.items()}
    return files


class Machine:
    """One environment and one workspace in it, with mmkd from this checkout or from a wheel."""

    def __init__(self, home: Path, wheel: Path | None = None) -> None:
        self.env, self.root = home / "env", home / "ws"
        venv.create(self.env, with_pip=False, symlinks=True)
        self.site = next((self.env / "lib").glob("python*")) / "site-packages"
        installed = [path for path in sys.path if path.endswith("site-packages")]
        checkout = [] if wheel else [ROOT, ROOT / "plugins" / "mmkd-phantom" / "src"]
        (self.site / "parent.pth").write_text("".join(f"{path}\n" for path in [*checkout, *installed]))
        self.python = self.env / "bin" / "python"
        if wheel:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.site)
        assert self.run("init", self.root).returncode == 0

    def command(self, *arguments: object, **environ: str) -> dict[str, object]:
        """What ``subprocess`` is given for it."""
        settings = {
            **os.environ, "PYTHONPATH": "", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PATH": f"{self.env / 'bin'}:/usr/bin:/bin", "HF_HUB_CACHE": str(self.root.parent / "hub"), **environ,
        }  # fmt: skip
        command = [self.python, "-W", "ignore", "-m", "mmkd_core", *map(str, arguments)]
        return {"args": command, "cwd": self.root.parent, "env": settings, "text": True}

    def run(self, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self.command(*arguments, **environ), capture_output=True, check=False)

    def mmkd(self, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
        done = self.run(*arguments, "-w", self.root, **environ)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def teachers(self, *arguments: object, **environ: str) -> str:
        """A command that must succeed."""
        done = self.mmkd("teachers", *arguments, **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def lock(self) -> bytes:
        path = self.root / "mmkd.lock"
        return path.read_bytes() if path.exists() else b""

    @property
    def locked(self) -> dict:
        return json.loads(self.lock)["teachers"]

    @property
    def packages(self) -> set[str]:
        """What is installed into the environment itself, with the hashes of its files."""
        found = set()
        for path in sorted(self.site.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pth":
                found.add(f"{path.relative_to(self.site)} {hash(path.read_bytes())}")
        return found


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_adding_removing_and_adding_again_leaves_all_as_after_the_first_time(machine, wheel):
    file = wheel("good")
    machine.teachers("add", file)
    first, packages = machine.lock, machine.packages
    assert machine.locked["good"]["source"].startswith(f"wheel+{file.as_uri()}#sha256=")
    for removing, adding in [((), "good"), (("--uninstall",), file), ((), file)]:
        machine.teachers("remove", "good-small")
        machine.teachers("remove", "good", *removing)
        assert (machine.packages == set()) is bool(removing)
        assert machine.locked == {}
        machine.teachers("add", adding)
        if adding == "good":  # one of the two teachers of this package
            machine.teachers("add", "good-small")
        assert (machine.lock, machine.packages) == (first, packages)


def test_a_failure_takes_back_what_was_installed_and_puts_back_what_was_replaced(machine, tmp_path):
    first = write_project(tmp_path / "a", "mmkd-good", "1.0", good_files(), ["helper-lib"], "good")
    helper = write_project(tmp_path / "h", "helper-lib", "1.0", {"__init__.py": "X = 1"})
    links = {"PIP_FIND_LINKS": str(tmp_path / "wheels")}
    build = [machine.python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "wheels", helper]
    subprocess.run(build, check=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    body = "raise RuntimeError('out of order')"
    bad = good_files(**{"torch.manual_seed": "x", "self.spec = spec\n": f"self.spec = spec\n        {body}\n"})
    second = write_project(tmp_path / "b", "mmkd-good", "2.0", bad, ["helper-lib"], "good")
    failed = machine.mmkd("teachers", "add", second, **links)
    assert failed.returncode == 2
    assert f"{second} was not added, at step smoke check: " in failed.stderr
    assert "RuntimeError: out of order" in failed.stderr
    assert (machine.packages, machine.lock) == (set(), b"")
    machine.teachers("add", first, **links)
    lock, packages = machine.lock, machine.packages
    assert machine.mmkd("teachers", "add", second, **links).returncode == 2
    assert machine.lock == lock
    assert {line for line in machine.packages if "dist-info" not in line} == {
        line for line in packages if "dist-info" not in line
    }
    assert machine.teachers("sync", **links).startswith("nothing is missing")


def test_a_repository_is_pinned_to_the_commit_it_meant(machine, tmp_path):
    folder = write_project(tmp_path / "repository", "mmkd-good", "1.0", good_files(), (), "good")
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (folder / "mmkd_good" / "__init__.py").write_text("raise ImportError('later and broken')")
    subprocess.run([*git, "commit", "-qam", "two"], check=True)
    url = f"git+{folder.as_uri()}"
    unasked = machine.mmkd("teachers", "add", f"{url}@{commit[:12]}")
    assert unasked.returncode == 2
    assert f"it needs your agreement: it installs mmkd-good from {url}@{commit}, whose code runs" in unasked.stderr
    assert f"Run `mmkd teachers add {url}@{commit[:12]} -w " in unasked.stderr
    assert "` in a terminal, or with --yes" in unasked.stderr
    assert (machine.packages, machine.lock) == (set(), b"")
    machine.teachers("add", f"{url}@{commit[:12]}", "--yes")
    assert machine.locked["good"]["source"] == f"{url}@{commit}"
    broken = machine.mmkd("teachers", "add", f"{url}@main", "--yes")
    assert "at step discover: plugin good (mmkd-good 1.0) is broken: ImportError: later and broken" in broken.stderr
    lock = machine.lock
    machine.teachers("remove", "good-small")
    machine.teachers("remove", "good", "--uninstall")
    (machine.root / "mmkd.lock").write_bytes(lock)
    said = machine.teachers("sync")
    assert f"package mmkd-good 1.0 from {url}@{commit}, for good, good-small" in said
    assert machine.lock == lock
    nowhere = machine.mmkd("teachers", "add", f"{url}@nowhere", "--yes")
    assert "the repository has no commit, tag or branch 'nowhere'" in nowhere.stderr


def test_a_pack_takes_a_teacher_to_a_machine_without_a_network(tmp_path):
    here, there = Machine(tmp_path / "here"), Machine(tmp_path / "there")
    helper = write_project(tmp_path / "h", "helper-lib", "1.0", {"__init__.py": "X = 1"})
    build = [here.python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "wheels", helper]
    subprocess.run(build, check=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    future = "from __future__ import annotations\n"
    hub = f'location="me/good", revision="{"a" * 40}"'
    changes = {future: f"{future}import helper_lib\n", 'kind="package"': 'kind="hf"'}
    files = good_files(**changes, **{'location="mmkd_good:weights"': hub})
    seed = files.pop("weights/seed.txt")
    snapshot = tmp_path / "here" / "hub" / "models--me--good" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "seed.txt").write_text(seed)
    project = write_project(tmp_path / "p", "mmkd-good", "1.0", files, ["helper-lib"], "good")
    here.teachers("add", project, PIP_FIND_LINKS=str(tmp_path / "wheels"))
    said = here.teachers("pack", "good", "-o", tmp_path / "good.mmkd")
    again = tmp_path / "again.mmkd"
    here.teachers("pack", "good", "-o", again)
    assert again.read_bytes() == (tmp_path / "good.mmkd").read_bytes()
    assert {line.split()[0] for line in said.splitlines()[1:4]} == {
        "weights/good/model/seed.txt",
        "wheels/helper_lib-1.0-py3-none-any.whl",
        "wheels/mmkd_good-1.0-py3-none-any.whl",
    }
    there.teachers("add", tmp_path / "good.mmkd")
    assert there.locked["good"]["source"].startswith("wheel+./.mmkd/packages/mmkd_good-1.0-py3-none-any.whl#sha256=")
    assert there.locked["good"]["weights"] == here.locked["good"]["weights"]
    assert list(there.locked) == ["good"]
    lock, packages = there.lock, there.packages
    for package in ("mmkd-good", "helper-lib"):
        subprocess.run([there.python, "-m", "pip", "uninstall", "-qy", package], check=True)
    there.teachers("sync")
    assert (there.lock, there.packages) == (lock, packages)
    subprocess.run([here.python, "-m", "pip", "uninstall", "-qy", "helper-lib"], check=True)
    refused = here.mmkd("teachers", "pack", "good", "-o", tmp_path / "x.mmkd")
    assert refused.returncode == 2
    assert not (tmp_path / "x.mmkd").exists()


def test_two_at_once_both_arrive(machine, wheel, tmp_path):
    """Two processes in two workspaces of one environment, and two that write one lock."""
    machine.teachers("add", wheel("good"))
    code = """
import sys
from pathlib import Path
from mmkd_core.plugins import PluginHost, Registry
from mmkd_core.plugins.lifecycle import add
from mmkd_core.plugins.removal import remove
host = PluginHost.discover()
for _ in range(15):
    add(sys.argv[1], Path("mmkd.lock"), registry=Registry(schema_version=1), host=host)
    if sys.argv[2] == "remove":
        remove(sys.argv[1], Path("mmkd.lock"))
"""
    environ = {**os.environ, "PYTHONPATH": ""}
    command = [machine.python, "-W", "ignore", "-c", code]
    pair = [("good", "keep"), ("good-small", "remove")]
    processes = [subprocess.Popen([*command, *p], cwd=machine.root, env=environ, stderr=subprocess.PIPE) for p in pair]
    for process in processes:
        assert process.communicate()[1] == b""
        assert process.returncode == 0
    assert list(machine.locked) == ["good"]


def test_the_wheel_that_is_made_of_an_installation_is_the_wheel_that_was_installed(machine, wheel, tmp_path):
    file = wheel("good")
    machine.teachers("add", file)
    code = """
import importlib.metadata, pathlib, sys
from mmkd_core.plugins.wheels import repack
print(repack(importlib.metadata.distribution("mmkd-good"), pathlib.Path(sys.argv[1])))
"""
    (tmp_path / "out").mkdir()
    done = subprocess.run([machine.python, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=True)
    made = Path(done.stdout.strip())
    assert made.name == file.name
    contents = [
        {n: z.read(n) for n in z.namelist() if not n.endswith("RECORD")} for z in map(zipfile.ZipFile, (made, file))
    ]
    assert contents[0] == contents[1]
    (machine.site / "mmkd_good" / "model.py").write_text("changed = True")
    failed = subprocess.run([machine.python, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert "mmkd_good/model.py was changed since it was installed" in failed.stderr


APART = """
from mmkd_core.contract import ImageSpec, Isolation, LicenseInfo, TeacherSpec, TextSpec, WeightSource, hookimpl
import versioned_lib
assert versioned_lib.VERSION == 1.0

@hookimpl
def mmkd_teachers():
    return [TeacherSpec(
        name="apart", title="Apart", summary="Pins another version", family="apart",
        weights=(WeightSource(role="model", kind="package", location="mmkd_apart:weights", files={"w.txt": "DIGEST"}),),
        image=ImageSpec(size=2, mean=(0, 0, 0), std=(1, 1, 1)), text=TextSpec(tokenizer="hf", context_length=4),
        embed_dim=2, logit_scale=10, domains=("xray",),
        license=LicenseInfo(code="MIT", weights="CC-BY-NC-4.0", commercial_use=False), runtime="isolated",
        isolation=Isolation(worker="mmkd_apart.worker:load", requires=("versioned-lib==2.0",)))]
"""
APART_WORKER = """
import array
import versioned_lib
assert versioned_lib.VERSION == 2.0

class Teacher:
    def preprocess(self, pixels):
        values = [pixels[0, 0, c] / 255 for c in range(3) for _ in range(4)]
        return memoryview(array.array("f", values)).cast("B").cast("f", (3, 2, 2))
    def tokenize(self, texts):
        return memoryview(array.array("q", [len(t) for t in texts] * 1)).cast("B").cast("q", (len(texts), 1))
    def encode_image(self, images):
        rows = [images[i, c, 0, 0] * 3 for i in range(images.shape[0]) for c in range(2)]
        return memoryview(array.array("f", rows)).cast("B").cast("f", (images.shape[0], 2))
    def encode_text(self, tokens):
        rows = [v for i in range(tokens.shape[0]) for v in (1.0, float(tokens[i, 0]))]
        return memoryview(array.array("f", rows)).cast("B").cast("f", (tokens.shape[0], 2))

def load(spec, weights, device):
    return Teacher()
"""


def test_an_isolated_teacher_pins_another_version_than_mmkds_environment_and_can_be_packed(tmp_path):
    here, there = Machine(tmp_path / "here"), Machine(tmp_path / "there")
    links = {"PIP_FIND_LINKS": str(tmp_path / "wheels")}
    for version in ("1.0", "2.0"):
        source = tmp_path / f"lib{version}"
        write_project(source, "versioned-lib", version, {"__init__.py": f"VERSION = {version}"})
        build = [here.python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "wheels", source]
        subprocess.run(build, check=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    digest = hashlib.sha256(b"1").hexdigest()
    files = {"__init__.py": APART.replace("DIGEST", digest), "worker.py": APART_WORKER, "weights/w.txt": "1"}
    project = write_project(tmp_path / "p", "mmkd-apart", "1.0", files, ["versioned-lib==1.0"], "apart")
    refused = here.mmkd("teachers", "add", project, "--yes", **links)
    assert "the licence of its weights (CC-BY-NC-4.0) does not allow commercial use" in refused.stderr
    assert here.packages == set()
    unasked = here.mmkd("teachers", "add", project, "--accept-license", **links)
    assert "it installs versioned-lib==2.0 into an environment of its own" in unasked.stderr
    assert here.packages == set()
    here.teachers("add", project, "--accept-license", "--yes", **links)
    assert here.locked["apart"]["runtime"] == {"python": None, "requires": ["versioned-lib==2.0"], "remote_code": False}
    assert here.locked["apart"]["license_accepted"] is True
    here.teachers("pack", "apart", "-o", tmp_path / "apart.mmkd")
    there.teachers("add", tmp_path / "apart.mmkd", "--accept-license")
    shutil.rmtree(there.root / ".mmkd" / "runtimes")
    lock = there.lock
    assert there.teachers("sync").startswith("environment apart versioned-lib==2.0, for apart")
    assert there.lock == lock
    found = next((there.root / ".mmkd" / "runtimes" / "apart").rglob("versioned_lib/__init__.py"))
    assert found.read_text() == "VERSION = 2.0"


def test_a_first_party_teacher_of_an_installed_wheel_is_locked_for_every_machine(tmp_path):
    """No checkout anywhere: mmkd is installed from its wheel, and another machine has it at another place."""
    import open_clip
    import torch

    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    here, there = (Machine(tmp_path / name, next(tmp_path.glob("mmkd-*.whl"))) for name in ("here", "there"))
    vision = {"image_size": 224, "layers": 1, "width": 16, "head_width": 8, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    config = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(open_clip.CLIP(**config).state_dict(), weights / "open_clip_pytorch_model.bin")
    here.teachers("add", "quilt-net", "--weights", weights)
    assert here.locked["quilt-net"]["source"] == "registry"
    (there.root / "mmkd.lock").write_bytes(here.lock)
    assert "package mmkd-quilt-net 0.1.0 from registry, for quilt-net" in there.teachers("sync")
    assert there.lock == here.lock
    assert there.teachers("sync").startswith("nothing is missing")
    there.teachers("pack", "quilt-net", "-o", tmp_path / "quilt-net.mmkd")
    there.teachers("remove", "quilt-net", "--uninstall")
    (tmp_path / "registry.yaml").write_text("schema_version: 1\n")
    (there.root / "mmkd.lock").write_bytes(here.lock)
    elsewhere = there.mmkd("teachers", "sync", MMKD_REGISTRY=str(tmp_path / "registry.yaml"))
    assert elsewhere.returncode == 2
    assert "it came from a folder beside the registry, and the registry here names none" in elsewhere.stderr
