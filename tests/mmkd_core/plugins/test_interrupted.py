"""SIGKILL of `mmkd teachers add`: what it left is found by the next command that installs, taken back, and said."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkd_core.plugins import installer, undo
from mmkd_core.plugins.scratch import scratch
from tests.mmkd_core.plugins.test_lifecycle import Lines
from tests.mmkd_core.plugins.test_real_environment import Machine, good_files, write_project

# --- temporary folders ----------------------------------------------------------------------------------------------


def test_a_folder_of_a_dead_process_is_removed_and_one_in_use_stays(tmp_path, monkeypatch):
    code = """
import sys, os
from pathlib import Path
from mmkd_core.plugins.scratch import scratch
with scratch("mmkd-x-", Path(sys.argv[1])) as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    with scratch("mmkd-x-", tmp_path) as ours, scratch("mmkd-y-", tmp_path):
        assert list(ours.iterdir()) == []
        assert (folder / "file").exists()
        process.kill()
        process.communicate()
        assert (folder / "file").exists()
    (tmp_path / "mmkd-x-of-a-user").mkdir()
    with scratch("mmkd-x-", tmp_path) as ours:
        assert sorted(tmp_path.iterdir()) == sorted([ours.parent, tmp_path / "mmkd-x-of-a-user"])
    assert [path.name for path in tmp_path.iterdir()] == ["mmkd-x-of-a-user"]


# --- the journal, without an installer ------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment whose packages are what a dictionary says, and that is changed by changing it."""
    packages = {"kept": "1.0", "replaced": "1.0"}
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setattr(undo, "_packages", lambda: dict(packages))
    monkeypatch.setattr(undo, "_needed_by", lambda package: {package, "helper"})
    monkeypatch.setattr(undo, "_backup", lambda package, folder: Path(folder, "old.whl"))
    monkeypatch.setattr(installer, "uninstall", packages.pop)
    monkeypatch.setattr(installer, "install", lambda target, requires: None)

    def restore(name, target, index):
        assert index or Path(target).parent == undo._home()
        packages[name] = "1.0"

    monkeypatch.setattr(installer, "restore", restore)
    return packages


def killed(package, lock, change):
    """What a process leaves that is killed in the middle."""
    work = undo.undone_on_failure(package, lock)
    work.__enter__()
    change()
    left = {path.name: path.read_bytes() for path in undo._home().iterdir()}
    work.__exit__(None, None, None)
    assert undo.unfinished() is None
    undo._home().mkdir(parents=True)
    for name, data in left.items():
        (undo._home() / name).write_bytes(data)


@pytest.mark.parametrize(
    ("package", "after", "told"),
    [
        ("new", {"new": "2.0", "helper": "3.0"}, "was taken back: helper 3.0 was removed, new 2.0 was removed"),
        ("replaced", {"replaced": "2.0"}, "was taken back: replaced 1.0 was put back"),
        ("new", {}, "was taken back: nothing was left of it"),
    ],
)
def test_what_a_kill_left_is_taken_back_once(environment, tmp_path, package, after, told):
    before, progress = dict(environment), Lines()
    killed(package, tmp_path / "mmkd.lock", lambda: environment.update(after))
    assert undo.unfinished().package == package
    undo.take_back_unfinished(progress)
    assert environment == before
    assert progress.lines == [f"an earlier installation of {package} was interrupted; it {told}"]
    assert undo.unfinished() is None
    undo.take_back_unfinished(progress)
    assert len(progress.lines) == 1


def test_what_somebody_else_installed_after_the_kill_stays(environment, tmp_path):
    progress = Lines()
    killed("new", tmp_path / "mmkd.lock", lambda: environment.update(new="2.0", helper="3.0"))
    environment |= {"by-hand": "1.0", "kept": "1.1"}
    undo.take_back_unfinished(progress)
    assert environment == {"kept": "1.1", "replaced": "1.0", "by-hand": "1.0"}


def test_what_a_package_needs_is_known_from_what_is_installed():
    assert undo._needed_by("pytest") >= {"pytest", "iniconfig"}
    assert "pluggy" not in undo._needed_by("pytest")  # mmkd needs it too, and no plugin changes it
    assert undo._needed_by("not-here") == {"not-here"}


def test_a_replaced_package_that_is_gone_altogether_is_put_back(environment, tmp_path):
    before, progress = dict(environment), Lines()
    killed("replaced", tmp_path / "mmkd.lock", lambda: environment.pop("replaced"))
    undo.take_back_unfinished(progress)
    assert environment == before
    assert "replaced 1.0 was put back" in progress.lines[0]


def test_an_installation_that_the_lock_names_is_finished(environment, tmp_path, monkeypatch):
    from types import SimpleNamespace

    progress, teacher = Lines(), SimpleNamespace(package="New", version="2.0")
    monkeypatch.setattr(undo, "read_lock", lambda path: SimpleNamespace(teachers={"new": teacher}))
    killed("new", tmp_path / "mmkd.lock", lambda: environment.update(new="2.0"))
    undo.take_back_unfinished(progress)
    assert environment["new"] == "2.0"
    assert progress.lines == ["an earlier installation of new was interrupted; it is complete and in use"]


# --- the command ----------------------------------------------------------------------------------------------------


class Killing(Machine):
    """A machine whose temporary files lie in a folder of its own."""

    def command(self, *arguments, **environ):
        temporary = self.root.parent / "tmp"
        temporary.mkdir(exist_ok=True)
        return super().command(*arguments, TMPDIR=str(temporary), **environ)

    def kill(self, target, after: float | str) -> bool:
        """Kill an `add` after so many seconds, or at this line; returns whether it was still running."""
        command = self.command("teachers", "add", target, "-w", self.root)
        process = subprocess.Popen(**command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        if isinstance(after, str):
            while after not in process.stderr.readline():
                assert process.poll() is None
        else:
            time.sleep(after)
        process.kill()
        process.communicate()
        return process.returncode < 0

    @property
    def temporary(self) -> list[str]:
        """What was left, but for the file that keeps installers apart."""
        return [path.name for path in (self.root.parent / "tmp").glob("mmkd-*") if path.suffix != ".guard"]


@pytest.mark.slow
def test_an_add_that_is_killed_late_is_taken_back_by_the_next_one(tmp_path):
    machine = Killing(tmp_path)
    first = write_project(tmp_path / "a", "mmkd-good", "1.0", good_files(), (), "good")
    second = write_project(tmp_path / "b", "mmkd-good", "2.0", good_files(), (), "good")
    assert machine.kill(first, "installed mmkd-good")
    assert machine.packages
    assert machine.temporary
    checks = json.loads(machine.mmkd("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "installation"]
    assert (found["state"], found["fix"]) == ("warning", "mmkd teachers sync")
    again = machine.mmkd("teachers", "add", first)
    assert "an earlier installation of mmkd-good was interrupted; it was taken back: mmkd-good 1.0 was removed" in (
        again.stderr
    )
    assert list(machine.locked) == ["good", "good-small"]
    assert machine.temporary == []
    lock = machine.lock
    assert machine.kill(second, "installed mmkd-good")
    assert "mmkd-good 1.0 was put back" in machine.mmkd("teachers", "sync").stderr
    assert machine.lock == lock
    assert machine.teachers("sync").startswith("nothing is missing")
    assert machine.temporary == []


@pytest.mark.slow
def test_killed_at_random_moments_the_next_add_succeeds(tmp_path):
    calm, machine, moment = Killing(tmp_path / "calm"), Killing(tmp_path / "killed"), random.Random(0)
    project = write_project(tmp_path / "p", "mmkd-good", "1.0", good_files(), (), "good")
    said = calm.command("teachers", "add", project, "-w", calm.root)
    lines = subprocess.run(**said, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, check=True).stderr.splitlines()
    for line in lines[:-1]:
        assert machine.kill(project, line.rpartition(": ")[2])
    for _ in range(3):  # anywhere, which may be after its end on a fast machine
        machine.kill(project, moment.uniform(1.0, 8.0))
    machine.teachers("add", project)
    assert (machine.packages, machine.locked.keys()) == (calm.packages, calm.locked.keys())
    assert machine.temporary == []
