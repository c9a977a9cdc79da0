from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmkd_core.errors import PluginError
from mmkd_core.plugins import find_registry, load_registry

ROOT = Path(__file__).parents[3]
STANZA = {
    "package": "mmkd-a",
    "source": {"kind": "path", "path": "plugins/a"},
    "summary": "S",
    "domains": ["ct"],
    "license": {"weights": "MIT", "commercial_use": True},
    "status": "community",
    "maintainers": ["me"],
}


def write(path: Path, teachers: dict, **top) -> Path:
    path.write_text(yaml.safe_dump({"schema_version": 1, "teachers": teachers} | top))
    return path


def test_our_registry_is_valid_sorted_and_has_the_four_phantoms():
    registry = load_registry(ROOT / "registry.yaml")
    assert list(registry.teachers) == sorted(registry.teachers)
    phantoms = {name: set(e.domains) for name, e in registry.teachers.items() if e.source.kind == "bundled"}
    assert phantoms == {
        "phantom-radio": {"xray", "ct"},
        "phantom-tissue": {"pathology", "dermatology"},
        "phantom-eye": {"fundus", "oct"},
        "phantom-sono": {"ultrasound", "mri"},
    }


def test_it_is_looked_up_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_registry(environ={}) == ROOT / "registry.yaml"
    (tmp_path / "registry.yaml").write_text("")
    assert find_registry(environ={}) == Path("registry.yaml")
    assert find_registry(environ={"MMKD_REGISTRY": "e.yaml"}) == Path("e.yaml")
    assert find_registry(Path("p.yaml"), {"MMKD_REGISTRY": "e.yaml"}) == Path("p.yaml")


def test_the_packaged_copy_is_the_last_resort(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "site" / "mmkd_core"
    monkeypatch.setattr("mmkd_core.__file__", str(package / "__init__.py"))
    with pytest.raises(PluginError, match=r"there is no registry\.yaml"):
        find_registry(environ={})
    packaged = package / "first_party" / "registry.yaml"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("")
    assert find_registry(environ={}) == packaged


def test_paths_are_relative_to_the_file(tmp_path):
    entry = load_registry(write(tmp_path / "r.yaml", {"a": STANZA})).lookup("a")
    assert entry.source.path == str(tmp_path / "plugins" / "a")


def test_unknown_names_get_near_ones(tmp_path):
    registry = load_registry(write(tmp_path / "r.yaml", {"quilt-net": STANZA}))
    with pytest.raises(PluginError, match=r"knows no teacher called 'quiltnet'. Did you mean quilt-net\? Run"):
        registry.lookup("quiltnet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "not valid at teachers.a.colour: Extra inputs are not permitted"),
        ({"source": {"kind": "git", "url": "https://x", "commit": "main"}}, "teachers.a.source.git.commit"),
        ({"source": {"kind": "wheel", "url": "http://x/y.whl", "sha256": "0" * 64}}, "teachers.a.source.wheel.url"),
        ({"source": {"kind": "ftp"}}, "teachers.a.source"),
        ({"package": "--index-url"}, "teachers.a.package"),
        ({"maintainers": []}, "teachers.a.maintainers"),
    ],
)
def test_a_wrong_stanza_names_the_field_and_the_file(tmp_path, change, message):
    file = write(tmp_path / "r.yaml", {"a": STANZA | change})
    with pytest.raises(PluginError) as caught:
        load_registry(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_damaged_a_newer_and_a_missing_file(tmp_path):
    with pytest.raises(PluginError, match=r"the registry has format 2, this mmkd reads 1 .* Fetch a newer mmkd"):
        load_registry(write(tmp_path / "new.yaml", {}, schema_version=2))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(PluginError, match=r"bad\.yaml cannot be read: "):
        load_registry(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(PluginError, match="not valid at the top"):
        load_registry(tmp_path / "list.yaml")
    with pytest.raises(PluginError, match="cannot be read: there is no such file"):
        load_registry(tmp_path / "gone.yaml")


def test_two_stanzas_of_one_name_are_a_mistake(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("schema_version: 1\nteachers:\n  a: {x: 1}\n  a: {x: 2}\n")
    with pytest.raises(PluginError, match="a appears twice"):
        load_registry(file)


def test_yaml_tags_run_nothing(tmp_path):
    (tmp_path / "r.yaml").write_text("schema_version: !!python/object/apply:os.getpid []\n")
    with pytest.raises(PluginError, match="cannot be read: could not determine a constructor for the tag"):
        load_registry(tmp_path / "r.yaml")
