from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost, Registry, arrival, installer, read_lock
from mmkd_core.plugins.lifecycle import Choices, add
from mmkd_core.plugins.lock import Lock
from mmkd_core.plugins.removal import remove

DATA = Path(__file__).parents[2] / "data" / "plugins"
EMPTY = Registry(schema_version=1)
STANZA = {
    "package": "mmkd-good",
    "source": {"kind": "index"},
    "summary": "S",
    "domains": ["xray"],
    "license": {"weights": "CC-BY-4.0", "commercial_use": True},
    "status": "verified",
    "maintainers": ["me"],
}


def add_here(target, lock, *, registry=EMPTY, **options):
    """With the plugins of this process: starting a fresh interpreter takes seconds."""
    return add(target, lock, registry=registry, host=PluginHost.discover(), **options)


def registry(**changes) -> Registry:
    return Registry.model_validate({"schema_version": 1, "teachers": {"good": STANZA | changes}})


class Lines:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def task(self, *_):
        raise AssertionError


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / "project" / "mmkd.lock"


@pytest.fixture
def fake_install(tmp_path, monkeypatch):
    """Unpack what would be installed; fresh interpreters see it, this one does not."""
    calls = []

    def install(target, requires=None, wheels=None, source=None):
        calls.append((target, requires))
        site = tmp_path / "fresh"
        if target.endswith(".whl"):
            zipfile.ZipFile(target).extractall(site)
        monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    monkeypatch.setattr(installer, "install", install)
    return calls


@pytest.fixture
def no_install(monkeypatch):
    def install(*_):
        raise AssertionError("something was installed")

    monkeypatch.setattr(installer, "uninstall", install)

    monkeypatch.setattr(installer, "install", install)


@pytest.mark.usefixtures("no_install")
def test_an_installed_teacher_is_checked_and_locked(installed, lock):
    installed("good")
    progress = Lines()
    (teacher,) = add_here("good", lock, progress=progress)
    assert read_lock(lock).teachers == {"good": teacher}
    assert (teacher.package, teacher.version, teacher.source) == ("mmkd-good", "1.0", "installed")
    assert teacher.weights[0].files["seed.txt"].startswith("10159baf262b43a92d95db59dae1f72c")
    assert progress.lines == ["good: weights verified", "good: smoke check passed"]
    before = lock.read_bytes()
    add_here("good", lock)
    assert lock.read_bytes() == before
    add_here("good-small", lock)
    assert sorted(read_lock(lock).teachers) == ["good", "good-small"]


@pytest.mark.usefixtures("no_install")
def test_a_plugins_name_adds_all_its_teachers(lock, installed):
    installed("good")

    host = PluginHost.discover()
    small = host.teacher("good-small").model_copy(update={"name": "pair-a"})
    big = small.model_copy(update={"name": "pair-b"})
    from mmkd_good import mmkd_load_teacher

    from mmkd_core.contract import hookimpl

    class Pair:
        @hookimpl
        def mmkd_teachers(self):
            return [big, small]

        @hookimpl
        def mmkd_load_teacher(self, spec, weights, device):
            return mmkd_load_teacher(spec, weights, device)

    added = add("pair", lock, registry=EMPTY, host=PluginHost.offering({"pair": Pair()}))
    assert [teacher.name for teacher in added] == ["pair-a", "pair-b"]


def test_a_wheel_is_installed_examined_in_fresh_interpreters_and_locked(wheel, fake_install, lock):
    progress = Lines()
    file = wheel("good", requires=("numpy>=1",))
    added = add(str(file), lock, registry=EMPTY, progress=progress)
    assert fake_install == [(str(file), ("numpy>=1",))]
    assert [teacher.name for teacher in added] == ["good", "good-small"]
    assert {teacher.source for teacher in added} == {"installed"}  # nothing was noted by an installer
    assert sorted(read_lock(lock).teachers) == ["good", "good-small"]
    assert progress.lines[0] == f"{file}: installed mmkd-good"


def test_a_wheel_that_turns_out_broken_leaves_the_lock(wheel, fake_install, lock):
    with pytest.raises(PluginError) as caught:
        add(str(wheel("typo_hook")), lock, registry=EMPTY)
    assert "was not added, at step discover: plugin typo-hook (mmkd-typo-hook 1.0) is broken: " in str(caught.value)
    assert not lock.exists()


def test_a_folder_goes_to_the_installer(fake_install, lock):
    with pytest.raises(PluginError, match="at step discover: package mmkd-good was installed but offers no plugin"):
        add(str(DATA / "good"), lock, registry=EMPTY)
    assert fake_install == [(str(DATA / "good"), ())]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({"kind": "index"}, "mmkd-good>=0.1,!=0.3"),
        ({"kind": "git", "url": "https://x/y", "commit": "a" * 40}, f"git+https://x/y@{'a' * 40}"),
        (
            {"kind": "wheel", "url": "https://x/y.whl", "sha256": "b" * 64},
            f"mmkd-good @ https://x/y.whl#sha256={'b' * 64}",
        ),
        ({"kind": "path", "path": str(DATA / "good")}, str(DATA / "good")),
    ],
)
def test_a_name_of_the_registry_is_installed_from_its_source(monkeypatch, lock, source, target):
    def refuse(target, *_):
        raise PluginError(f"asked for {target}")

    def checkout(url, ref, folder):
        shutil.copytree(DATA / "good", folder)
        return ref

    monkeypatch.setattr(installer, "install", refuse)
    monkeypatch.setattr(installer, "checkout", checkout)
    known = registry(source=source, requires=">=0.1", yanked={"0.3": "wrong weights"})
    with pytest.raises(PluginError) as caught:
        add("good", lock, registry=known)
    assert caught.value.what == f"good was not added, at step install: asked for {target}"


@pytest.mark.usefixtures("no_install")
@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("godo", {}, "godo was not added, at step resolve: no teacher is called 'godo'. Did you mean good?"),
        ("gone.whl", {}, "at step resolve: there is no such wheel file (gone.whl)"),
        ("good", {"plugin_api": 2}, "it is written for plugin API 2, this mmkd has 1. Fetch a newer mmkd"),
        ("good", {"source": {"kind": "bundled"}}, "it comes with mmkd-good but is not offered by this installation"),
        (
            "good",
            {"license": {"weights": "CC-BY-NC-4.0", "commercial_use": False}},
            "the licence of its weights (CC-BY-NC-4.0) does not allow commercial use. If you agree, run `mmkd",
        ),
    ],
)
def test_what_cannot_be_resolved_installs_nothing(lock, target, changes, message):
    with pytest.raises(PluginError) as caught:
        add(target, lock, registry=registry(**changes), host=PluginHost.offering({}))
    assert message in str(caught.value)
    assert not lock.exists()


@pytest.mark.usefixtures("no_install")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": "other"}, "it comes from mmkd-good, the registry says other"),
        ({"requires": ">=2"}, "mmkd-good 1.0 is installed, the registry requires >=2"),
        ({"yanked": {"1.0": "wrong weights"}}, "version 1.0 of mmkd-good was withdrawn: wrong weights"),
        ({"domains": ["ct"]}, "its domains: the plugin says ['xray'], the registry says ['ct']"),
        (
            {"license": {"weights": "MIT", "commercial_use": True}},
            "its licence of the weights: the plugin says CC-BY-4.0, the registry says MIT",
        ),
    ],
)
def test_the_registry_must_be_true(installed, lock, changes, message):
    installed("good")
    with pytest.raises(PluginError) as caught:
        add_here("good", lock, registry=registry(**changes))
    assert str(caught.value).startswith(f"good was not added, at step validate: {message}")
    assert not lock.exists()


@pytest.mark.usefixtures("no_install")
def test_a_licence_without_commercial_use_needs_agreement(installed, lock):
    installed("good")
    import mmkd_good

    spec = mmkd_good.SPEC
    bound = spec.model_copy(update={"license": spec.license.model_copy(update={"commercial_use": False})})
    mmkd_good.SPEC = bound
    try:
        with pytest.raises(PluginError, match=r"\(CC-BY-4.0\) does not allow commercial use"):
            add_here("good", lock)
        assert add_here("good", lock, choices=Choices(accept_license=True))[0].license.commercial_use is False
        assert read_lock(lock).teachers["good"].license_accepted
    finally:
        mmkd_good.SPEC = spec


@pytest.mark.parametrize(
    ("step", "function"), [("weights", "lifecycle.weights.resolve"), ("smoke check", "fresh.smoke")]
)
def test_any_failure_leaves_the_lock_as_it_was(installed, lock, monkeypatch, step, function):
    installed("good")
    add_here("good", lock)
    before = lock.read_bytes()

    def fail(*_):
        raise PluginError("it went wrong", where="here")

    monkeypatch.setattr(f"mmkd_core.plugins.{function}", fail)
    with pytest.raises(PluginError) as caught:
        add_here("good-small", lock)
    assert str(caught.value) == (
        f"good-small was not added, at step {step}: it went wrong (here). "
        "When that is mended, run `mmkd teachers add good-small` again"
    )
    assert lock.read_bytes() == before


def test_a_damaged_lock_stops_at_once(lock):
    lock.parent.mkdir()
    lock.write_text("{")
    with pytest.raises(PluginError, match="the lock is damaged"):
        add("good", lock, registry=EMPTY)
    assert lock.read_text() == "{"


@pytest.mark.usefixtures("no_install")
def test_remove_takes_one_out(installed, lock):
    installed("good")
    add_here("good", lock)
    add_here("good-small", lock)
    assert remove("good", lock).name == "good"
    assert sorted(read_lock(lock).teachers) == ["good-small"]
    with pytest.raises(PluginError, match=r"teacher 'good' is not locked. Run `mmkd teachers list`"):
        remove("good", lock)
    remove("good-small", lock)
    assert read_lock(lock) == Lock()


HOG = "self.spec = spec\n        hoard = bytearray(b'x') * (2 << 30)\n        import time; time.sleep(600)"


@pytest.mark.parametrize(
    ("body", "limits", "message"),
    [
        (HOG, {"CHECK_MEMORY": 1 << 30}, "the check used more than 1.0 GiB of memory and was stopped"),
        ("import time; time.sleep(600)", {"CHECK_LIMIT_S": 8.0}, "the check took more than 8 s and was stopped"),
    ],
)
def test_a_hog_and_a_hang_are_ended(tmp_path, wheel, fake_install, lock, monkeypatch, body, limits, message):
    folder = tmp_path / "bad"
    shutil.copytree(DATA / "good", folder, ignore=shutil.ignore_patterns("__pycache__"))
    model = folder / "mmkd_good" / "model.py"
    model.write_text(model.read_text().replace("self.spec = spec", body))
    file = wheel(folder)
    for name, value in limits.items():
        monkeypatch.setattr(arrival, name, value)
    with pytest.raises(PluginError) as caught:
        add(str(file), lock, registry=EMPTY)
    assert str(caught.value).startswith(f"{file} was not added, at step smoke check: {message}.")
    assert not lock.exists()


@pytest.mark.usefixtures("no_install")
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "it needs your agreement: it installs mmkd-good from mmkd-good of the package index, whose code runs "
               "here with your rights; it downloads 4.0 GiB of weights. Run `mmkd teachers add good` in a terminal"),
        (False, "good was not added, at step agreement: you did not agree. Nothing was changed"),
    ],
)  # fmt: skip
def test_what_needs_agreement_is_shown_and_asked(lock, answer, message):
    offers = []

    def agree(offer):
        offers.append(offer)
        return answer

    stanza = registry(status="community", download=4 << 30)
    with pytest.raises(PluginError) as caught:
        add("good", lock, registry=stanza, host=PluginHost.offering({}), choices=Choices(agree=agree))
    assert message in str(caught.value)
    assert offers[0].facts == (
        ("package", "mmkd-good"),
        ("source", "mmkd-good of the package index"),
        ("licence", "CC-BY-4.0"),
        ("status", "community"),
        ("download", "4.0 GiB"),
    )


@pytest.mark.usefixtures("no_install")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "git+http://x/y@1",
            "this is no address of a repository (git+http://x/y@1). Write git+https://host/name@commit, or git+/folder",
        ),
        ("./not-there", "there is no such folder (./not-there)"),
        ("https://x/y-1-py3-none-any.whl", "a wheel is not fetched from an address (https://x/y-1-py3-none-any.whl)"),
        ("git+file:///x/--upload-pack=evil@-x", "'-x' is no address and no reference of a repository"),
        ("gone.mmkd", "there is no such pack (gone.mmkd)"),
        ("surely-not-there", "no teacher is called 'surely-not-there'"),
    ],
)
def test_targets_that_are_nothing(lock, target, message):
    with pytest.raises(PluginError) as caught:
        add(target, lock, registry=EMPTY, host=PluginHost.offering({}))
    assert message in str(caught.value)


def test_a_name_of_the_index_needs_agreement(lock):
    with pytest.raises(
        PluginError, match=r"it installs mmkd-far==1.2 from mmkd-far==1.2 of the package index|mmkd-far from"
    ):
        add("mmkd-far==1.2", lock, registry=EMPTY, host=PluginHost.offering({}))


@pytest.mark.usefixtures("no_install")
def test_weights_that_the_user_has(installed, lock, tmp_path):
    installed("good")
    import mmkd_good

    folder = tmp_path / "mine"
    (folder / "model").mkdir(parents=True)
    with pytest.raises(
        PluginError, match=r"the weights of teacher good are not there \(.*mine\). It needs model: seed.txt"
    ):
        add_here("good", lock, choices=Choices(weights=folder))
    (folder / "model" / "seed.txt").write_text("another")
    with pytest.raises(
        PluginError, match=r"at step weights: model file seed\.txt of teacher good is not the declared one"
    ):
        add_here("good", lock, choices=Choices(weights=folder))
    assert not lock.exists()
    shutil.copy(Path(mmkd_good.__file__).parent / "weights" / "seed.txt", folder / "model")
    (entry,) = add_here("good", lock, choices=Choices(weights=folder))
    assert (entry.weights[0].kind, entry.weights[0].location) == ("path", str(folder / "model"))
    assert entry.fingerprint == mmkd_good.SPEC.fingerprint
    (by_file,) = add_here("good", lock, choices=Choices(weights=folder / "model" / "seed.txt"))
    assert by_file == entry


@pytest.mark.usefixtures("no_install")
def test_a_package_that_is_needed_is_not_uninstalled(installed, lock):
    installed("good")
    add_here("good", lock)
    add_here("good-small", lock)
    before = lock.read_bytes()
    with pytest.raises(PluginError, match="package mmkd-good is not removed: teachers in use need it: good-small"):
        remove("good", lock, uninstall=True)
    assert lock.read_bytes() == before
