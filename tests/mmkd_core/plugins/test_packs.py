from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from mmkd_core.contract import hookimpl
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost, Registry
from mmkd_core.plugins.lifecycle import add
from mmkd_core.plugins.packs import pack
from mmkd_core.plugins.unpacking import read_manifest, unpacked

EMPTY = Registry(schema_version=1)


@pytest.fixture
def packed(installed, wheel, tmp_path, monkeypatch) -> Path:
    """A pack of a teacher whose weights lie in a folder, beside its package's wheel."""
    installed("good")
    import mmkd_good

    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "seed.txt").write_bytes((Path(mmkd_good.__file__).parent / "weights" / "seed.txt").read_bytes())
    source = mmkd_good.SPEC.weights[0].model_copy(update={"kind": "path", "location": str(folder)})
    spec = mmkd_good.SPEC.model_copy(update={"weights": (source,)})

    class Plugin:
        mmkd_load_teacher = staticmethod(mmkd_good.mmkd_load_teacher)

        @hookimpl
        def mmkd_teachers(self):
            return [spec]

    host = PluginHost.offering({"good": Plugin()})
    lock = tmp_path / "here" / "mmkd.lock"
    (entry,) = add("good", lock, registry=EMPTY, host=host)
    file = wheel("good")
    found = entry.model_copy(update={"package": "mmkd-good", "source": f"wheel+{file.as_uri()}"})
    from mmkd_core.plugins.lock import change_lock

    change_lock(lock, lambda old: old.having(found))
    pack("good", lock.parent, tmp_path / "good.mmkd", host)
    return tmp_path / "good.mmkd"


def changed(path: Path, change) -> Path:
    """The pack with its members (a dictionary of bytes) changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = change(members) or members
    target = path.with_name("changed.mmkd")
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def manifest_with(members: dict[str, bytes], **extra) -> None:
    facts = json.loads(members["manifest.json"])
    facts["members"] |= extra
    members["manifest.json"] = json.dumps(facts).encode()


def test_what_is_in_it(packed):
    manifest = read_manifest(packed)
    assert sorted(manifest.members) == ["weights/good/model/seed.txt", "wheels/mmkd_good-1.0-py3-none-any.whl"]
    assert manifest.wheel == "wheels/mmkd_good-1.0-py3-none-any.whl"
    assert manifest.teachers[0].source == "wheel+./mmkd_good-1.0-py3-none-any.whl"  # nothing of the other machine


def test_its_files_are_laid_out_and_found(packed, tmp_path):
    with unpacked(packed, tmp_path / "there") as found:
        assert found.package.name == "mmkd-good"
        (source,) = found.sources["good"]
        assert source.kind == "path"
        assert Path(source.location, "seed.txt").is_file()
        assert Path(source.location).is_relative_to(tmp_path / "there" / ".mmkd" / "weights")
    kept = sorted(path.name for path in (tmp_path / "there").rglob("*") if path.is_file())
    assert kept == ["mmkd_good-1.0-py3-none-any.whl", "seed.txt"]


def test_an_error_inside_removes_what_was_laid_out(packed, tmp_path):
    with pytest.raises(PluginError, match="later"), unpacked(packed, tmp_path / "there"):
        raise PluginError("later")
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: {**m, "weights/good/model/seed.txt": b"8", "wheels/mmkd_good-1.0-py3-none-any.whl": b"x"},
            "weights/good/model/seed.txt is damaged; wheels/mmkd_good-1.0-py3-none-any.whl is damaged",
        ),
        (
            lambda m: {n: d for n, d in m.items() if not n.startswith("weights")},
            "weights/good/model/seed.txt is missing",
        ),
        (lambda m: {**m, "wheels/extra.whl": b"x"}, "wheels/extra.whl is not in its manifest"),
        (lambda m: {**m, "../../evil.py": b"x"}, "../../evil.py is not in its manifest"),
    ],
)
def test_what_is_damaged_is_named_member_by_member(packed, tmp_path, change, message):
    with pytest.raises(PluginError) as caught, unpacked(changed(packed, change), tmp_path / "there"):
        pytest.fail("it was unpacked")
    assert str(caught.value) == (
        f"the pack is damaged: {message} ({tmp_path / 'changed.mmkd'}). Copy it again; nothing was installed"
    )
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "name",
    ["../../evil.py", "/tmp/evil.py", "wheels/../../evil.py", "wheels\\..\\evil.py", "wheels/./a", "C:/evil.py",
     "other/a", "wheels"],
)  # fmt: skip
def test_no_member_is_written_outside(packed, tmp_path, name):
    def slip(members):
        members[name] = b"x"
        manifest_with(
            members, **{name: {"sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "size": 1}}
        )

    bad = changed(packed, slip)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PluginError, match="would be written outside"), unpacked(bad, tmp_path / "there"):
        pytest.fail("it was unpacked")
    assert sorted(path for path in tmp_path.iterdir() if path.name != "there") == before
    assert not list(tmp_path.rglob("evil*"))


def test_a_byte_that_changed_on_the_way(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[data.index(b"mmkd_good/__init__.py")] ^= 1  # inside the wheel
    packed.write_bytes(data)
    with (
        pytest.raises(PluginError, match=r"mmkd_good-1\.0-py3-none-any\.whl is damaged"),
        unpacked(packed, tmp_path / "there"),
    ):
        pytest.fail("it was unpacked")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 2, "the pack has format 2, this mmkd reads 1 .*Fetch a newer mmkd"),
        ("plugin_api", 2, "the pack is for plugin API 2, this mmkd has 1"),
        ("wheel", None, "the pack's manifest is damaged at wheel"),
        ("wheel", "wheels/other.whl", "wheels/other.whl is named by it and not in it"),
    ],
)
def test_a_manifest_that_does_not_fit(packed, tmp_path, field, value, message):
    def change(members):
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | {field: value}).encode()

    with pytest.raises(PluginError, match=message), unpacked(changed(packed, change), tmp_path / "there"):
        pytest.fail("it was unpacked")


def test_what_is_not_there(tmp_path):
    with pytest.raises(PluginError, match=r"there is no such pack \(.*gone.mmkd\)"):
        read_manifest(tmp_path / "gone.mmkd")
