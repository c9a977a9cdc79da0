"""What goes to the hub, and what does not. A stand-in for the hub keeps what it is sent; no network is reached."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from mmkd_core.contract import LicenseInfo
from mmkd_core.errors import ReleaseError
from mmkd_core.student import export
from mmkd_core.student.card import model_card
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.export import export_folder, write_sums
from mmkd_core.student.model import Student
from mmkd_core.student.parity import Parity
from mmkd_core.student.push import planned, push

MIT = LicenseInfo(code="MIT", weights="MIT", commercial_use=True)
UNKNOWN = LicenseInfo(code="MIT", weights="LicenseRef-unknown", commercial_use=False)
ND = LicenseInfo(code="MIT", weights="CC-BY-ND-4.0", commercial_use=True, derivatives=False)
REPO = "me/my-student"


class Hub:
    """Repositories by name: whether private, and their files."""

    def __init__(self) -> None:
        self.repos: dict[str, tuple[bool, dict[str, bytes]]] = {}
        self.messages: list[str] = []

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> SimpleNamespace:
        assert exist_ok
        self.repos.setdefault(repo, (private, {".gitattributes": b""}))
        return SimpleNamespace(repo_id=repo)

    def repo_info(self, repo: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.repos[repo][0])

    def list_repo_files(self, repo: str) -> list[str]:
        return list(self.repos[repo][1])

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> SimpleNamespace:
        self.repos[repo_id][1].update({path.name: path.read_bytes() for path in folder_path.iterdir()})
        self.messages.append(commit_message)
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Somebody is online and has a token."""
    found = Hub()
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: found)
    return found


@pytest.fixture
def write(built: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Call for a finished folder; whether it says the same as the student is tested elsewhere."""
    monkeypatch.setattr(export, "check", lambda *_: Parity(1.0, 0.0, 0.0))

    def make(license: LicenseInfo = MIT, student: Student = built, **licenses: LicenseInfo) -> Path:
        folder, load = tmp_path / "out", "open_clip.create_model_and_transforms('local-dir:out')"
        card = model_card("Student 0001", "Distilled", license, licenses, load)
        terms = {name: found.model_dump(mode="json") for name, found in licenses.items()}
        facts = {"student": "0001", "load": load, "license": license.model_dump(mode="json"), "licenses": terms}
        export_folder(student, folder, "open-clip", card, facts)
        return folder

    return make


def test_all_files_and_nothing_else_go_to_a_private_repository(hub: Hub, write: Callable[..., Path]) -> None:
    folder = write()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    upload = planned(folder, REPO)
    assert push(folder, upload) == "https://hub.example/me/my-student/commit/1"
    private, files = hub.repos[REPO]
    assert private
    assert set(files) - {".gitattributes"} == set(before) == set(upload.files)
    assert upload.files == {name: len(data) for name, data in files.items() if name != ".gitattributes"}
    assert files["open_clip_model.safetensors"] == before["open_clip_model.safetensors"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "what is here stays as it was"
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert hub.messages == ["Student 0001, by mmkd push"]


def test_what_is_sent_calls_itself_by_its_name_on_the_hub(hub: Hub, write: Callable[..., Path]) -> None:
    bert = StudentConfig(
        vision="vit-tiny", image_size=32, embed_dim=16, text=TextConfig(tower="bert", layers=1, width=32, heads=2)
    )
    folder = write(student=Student.build(bert, ["a nodule"], 0))
    here = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert here["hf_model_name"] == str(folder.absolute())
    push(folder, planned(folder, REPO))
    files = hub.repos[REPO][1]
    text = json.loads(files["open_clip_config.json"])["model_cfg"]["text_cfg"]
    assert (text["hf_model_name"], text["hf_tokenizer_name"]) == (REPO, REPO)
    assert b"hf-hub:me/my-student" in files["README.md"]
    assert b"local-dir" not in files["README.md"]
    assert not any(str(folder.parent).encode() in data for data in files.values()), "no path of this machine"
    sums = dict(reversed(line.split("  ")) for line in files["SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files.items()
        if name not in ("SHA256SUMS", ".gitattributes")
    }
    assert Student.load(folder).model_config["text_cfg"]["hf_model_name"] == "."


def changed(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def missing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def added(folder: Path) -> None:
    (folder / "patients.csv").write_text("DOE^JANE")


def hidden(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "patients.csv").write_text("DOE^JANE")


def unchecked(folder: Path) -> None:
    facts = json.loads((folder / "mmkd.json").read_text())
    (folder / "mmkd.json").write_text(json.dumps({**facts, "parity": None}))
    write_sums(folder)


def without_sums(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()


def without_card(folder: Path) -> None:
    (folder / "README.md").unlink()
    write_sums(folder)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (changed, "tokenizer.json is changed"),
        (missing, "tokenizer.json is missing"),
        (added, r"patients.csv is not in SHA256SUMS"),
        (hidden, r"more/patients.csv is not in SHA256SUMS"),
        (unchecked, "not compared with its student"),
        (without_sums, "no finished export"),
        (without_card, "no model card"),
        (shutil.rmtree, "no finished export"),
    ],
)
def test_a_folder_that_is_not_finished_is_refused(
    harm: Callable[[Path], None], says: str, write: Callable[..., Path]
) -> None:
    folder = write()
    harm(folder)
    with pytest.raises(ReleaseError, match=says):
        planned(folder, REPO)


@pytest.mark.parametrize(
    ("license", "says"), [(UNKNOWN, "is not known \\(plip\\)"), (ND, "CC-BY-ND-4.0 does not allow .* \\(plip\\)")]
)
def test_a_licence_that_stands_against_it_must_be_agreed_to(
    license: LicenseInfo, says: str, hub: Hub, write: Callable[..., Path]
) -> None:
    folder = write(license, plip=license, quilt=MIT)
    with pytest.raises(ReleaseError, match=says):
        planned(folder, REPO)
    assert planned(folder, REPO, accepted=True).license == license


def test_a_public_repository_only_if_asked_for(hub: Hub, write: Callable[..., Path]) -> None:
    folder = write()
    hub.repos[REPO] = (False, {})
    with pytest.raises(ReleaseError, match="is there already, and public"):
        push(folder, planned(folder, REPO))
    assert hub.repos[REPO] == (False, {})
    push(folder, planned(folder, REPO, public=True))
    assert "README.md" in hub.repos[REPO][1]


def test_other_files_beside_the_student_are_not_joined(hub: Hub, write: Callable[..., Path]) -> None:
    folder = write()
    hub.repos[REPO] = (True, {"pytorch_model.bin": b"pickle", ".gitattributes": b""})
    with pytest.raises(ReleaseError, match=r"holds other files.*pytorch_model\.bin"):
        push(folder, planned(folder, REPO))
    assert not hub.messages


def test_an_update_of_the_same_files_goes_through(hub: Hub, write: Callable[..., Path]) -> None:
    folder = write()
    push(folder, planned(folder, REPO))
    push(folder, planned(folder, REPO))
    assert len(hub.messages) == 2


def test_offline_without_token_or_refused_is_a_sentence(
    hub: Hub, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write()
    upload = planned(folder, REPO)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    with pytest.raises(ReleaseError, match="HF_HUB_OFFLINE forbids"):
        push(folder, upload)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ReleaseError, match=r"no token of the hub here\. Run `hf auth login`"):
        push(folder, upload)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("403 Forbidden\nmore")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(ReleaseError, match="the hub did not take it: OSError: 403 Forbidden") as found:
        push(folder, upload)
    assert "hf_secret" not in str(found.value)


@pytest.mark.parametrize("name", ["me x", "a/b/c", "", "-me/x", "me/x.git", "student"])
def test_what_cannot_be_a_name_is_a_sentence(name: str, write: Callable[..., Path]) -> None:
    with pytest.raises(ReleaseError, match="cannot be the name of a repository"):
        planned(write(), name)
