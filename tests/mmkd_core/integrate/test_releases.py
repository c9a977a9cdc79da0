"""Releases on disk: what is damaged is refused, what was cut off is passed over, CURRENT names one or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmkd_core.errors import ReleaseError
from mmkd_core.files import forget_hashes
from mmkd_core.integrate import releases
from mmkd_core.integrate.inputs import write_record
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Config, Workspace

FILES = {
    "student/open_clip_model.safetensors": b"weights" * 500,
    "student/open_clip_config.json": b"{}",
    "heads.safetensors": b"heads",
    "heads.json": b"{}",
    "trust/radio.npz": b"trust",
    "replay.json": b"{}",
    "predictions.parquet": b"predictions",
    "embeddings.safetensors": b"embeddings",
    "mmkd.yaml": b"name: student",
    "mmkd.lock": b"{}",
    "gate.yaml": b"seed: 0",
    "log.jsonl": b"",
}


def made(workspace: Workspace, parent: str | None = None) -> Release:
    """A release of a few bytes."""
    for name, data in FILES.items():
        path = workspace.root / "staging" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    facts = {"identity": f"after {parent}", "parent": parent, "teachers": ("radio",), "new": ["radio"]}
    return releases.commit(workspace, workspace.root / "staging", facts)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """0001, in use, and 0002."""
    workspace = Workspace.create(tmp_path / "ws", Config())
    made(workspace)
    made(workspace, "0001")
    releases.promote(workspace, "0001", "first")
    return workspace


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    if not data:
        path.write_bytes(b"x")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    forget_hashes()


def test_a_release_says_what_it_was_made_with(workspace):
    found = releases.release(workspace, "0002")
    assert (found.id, found.parent, found.teachers) == ("0002", "0001", ["radio"])
    assert sorted(found.facts["files"]) == sorted(FILES)
    assert found.predictions.read_bytes() == b"predictions"
    assert found.student == found.folder / "student"
    assert found.trust("radio") == found.folder / "trust/radio.npz"
    assert found.trust("sono") is None


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_flipped_bit_in_any_file_keeps_a_release_from_use(workspace, name):
    flip(workspace.releases / "0002" / name)
    with pytest.raises(ReleaseError, match=f"release 0002 is damaged: {name} is changed"):
        releases.promote(workspace, "0002", "passed")
    assert releases.current(workspace).id == "0001"
    with pytest.raises(ReleaseError, match="is changed"):
        releases.release(workspace, "0002").file(name)


@pytest.mark.parametrize(
    ("part", "ask"),
    [
        ("student/open_clip_config.json", lambda r: r.student),
        ("student/open_clip_model.safetensors", lambda r: r.student),
        ("heads.json", lambda r: r.heads),
        ("heads.safetensors", lambda r: r.heads),
        ("predictions.parquet", lambda r: r.predictions),
        ("embeddings.safetensors", lambda r: r.embeddings),
        ("trust/radio.npz", lambda r: r.trust("radio")),
    ],
)
def test_parts_are_checked_where_they_are_asked_for(workspace, part, ask):
    flip(workspace.releases / "0001" / part)
    with pytest.raises(ReleaseError, match=f"release 0001 is damaged: {part} is changed"):
        ask(releases.current(workspace))
    (workspace.releases / "0001" / part).unlink()
    with pytest.raises(ReleaseError, match=f"release 0001 is damaged: {part} is missing"):
        ask(releases.current(workspace))


def test_a_release_that_is_damaged_already_cannot_be_rolled_back_to(workspace):
    releases.promote(workspace, "0002", "passed")
    (workspace.releases / "0001" / "heads.safetensors").unlink()
    with pytest.raises(ReleaseError, match=r"0001 is damaged: heads.safetensors is missing"):
        releases.promote(workspace, "0001", "first")
    assert releases.current(workspace).id == "0002"


def test_every_byte_of_release_json_counts(workspace):
    path = workspace.releases / "0001" / "release.json"
    facts = json.loads(path.read_text())
    for changed in ({**facts, "parent": "0002"}, {**facts, "files": {}}, {**facts, "more": 1}, {}, [], None):
        path.write_text(json.dumps(changed))
        with pytest.raises(ReleaseError, match=r"release 0001 is .*damaged: release\.json"):
            releases.release(workspace, "0001")
    for raw in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'"text"'):
        path.write_bytes(raw)
        with pytest.raises(ReleaseError, match=r"release 0001 is damaged: release\.json"):
            releases.all_releases(workspace)


def test_a_release_under_another_number_is_refused(workspace):
    (workspace.releases / "0002").rename(workspace.releases / "0007")
    with pytest.raises(ReleaseError, match="release 0002 was renamed to 0007"):
        releases.release(workspace, "0007")


def test_a_release_of_another_version_of_mmkd_is_named_as_such(workspace):
    facts = releases.release(workspace, "0001").facts
    write_record(workspace.releases / "0001" / "release.json", {**facts, "schema": "mmkd.release/v99"})
    with pytest.raises(ReleaseError, match=r"'mmkd\.release/v99', this mmkd reads"):
        releases.release(workspace, "0001")


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"0001\n0002\n", b"../0001", b"0" * 5000, "²".encode()])
def test_a_pointer_that_names_no_release_is_refused_and_can_be_mended(workspace, raw):
    (workspace.releases / "CURRENT").write_bytes(raw)
    with pytest.raises(ReleaseError, match=r"CURRENT does not name a release .*mmkd releases rollback.*0001, 0002"):
        releases.current(workspace)
    assert releases.promote(workspace, "0002", "passed").id == releases.current(workspace).id == "0002"


def test_folders_that_were_cut_off_are_passed_over(workspace):
    (workspace.releases / "0003").mkdir()
    (workspace.releases / "0004" / "student").mkdir(parents=True)
    assert [found.id for found in releases.all_releases(workspace)] == ["0001", "0002"]
    assert [folder.name for folder in releases.cut_off(workspace)] == ["0003", "0004"]
    with pytest.raises(ReleaseError, match=r"there is no release '0003' .*There are 0001, 0002"):
        releases.release(workspace, "0003")
    assert made(workspace, "0002").id == "0003"
