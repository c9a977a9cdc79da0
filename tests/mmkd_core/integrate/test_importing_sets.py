"""From where an evaluation set comes: the hub at a commit, MedMNIST, folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from mmkd_core.data.options import Reading
from mmkd_core.errors import DataError
from mmkd_core.integrate.importing_sets import import_set

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: bytes) -> list[tuple[Any, ...]]:
    """A hub with one data set, whose main is at COMMIT; what it was asked."""
    folder, asked = tmp_path / "hub" / "snapshots" / COMMIT, list[tuple[Any, ...]]()
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist([{"image": {"bytes": pixels, "path": "x.png"}, "caption": "a scan"}])
    pq.write_table(table, folder / "test-00000-of-00001.parquet")

    class Api:
        def dataset_info(self, repo: str, revision: str) -> SimpleNamespace:
            asked.append(("info", repo, revision))
            if repo != "owner/Scans_1":
                raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
            return SimpleNamespace(sha=COMMIT)

    def snapshot(repo: str, **options: Any) -> str:
        asked.append(("snapshot", repo, options["repo_type"], options["revision"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


@pytest.fixture
def pixels() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (4, 4), 7).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_moving_revision_is_resolved_to_its_commit_which_is_recorded(hub: list[Any], tmp_path: Path) -> None:
    found, _ = import_set("hf:owner/Scans_1", tmp_path / "evals", None, "ct", Reading({}, revision="main"))
    assert hub == [("info", "owner/Scans_1", "main"), ("snapshot", "owner/Scans_1", "dataset", COMMIT)]
    assert found.folder == tmp_path / "evals" / "scans-1"
    assert found.task.revision == COMMIT
    assert found.task.source == "hf:owner/Scans_1"


def test_a_commit_is_not_asked_for(hub: list[Any], tmp_path: Path) -> None:
    found, _ = import_set("hf:owner/Scans_1", tmp_path / "evals", "mine", "ct", Reading({}, revision=COMMIT))
    assert hub == [("snapshot", "owner/Scans_1", "dataset", COMMIT)]
    assert found.task.revision == COMMIT


def test_what_the_hub_does_not_have_is_a_sentence(hub: list[Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data set cannot be fetched: RepositoryNotFoundError"):
        import_set("hf:owner/none", tmp_path, None, "ct", Reading({}, revision="main"))


@pytest.mark.parametrize(
    ("source", "how", "domain", "says"),
    [
        ("hf:owner/Scans_1", Reading({}), "ct", "which revision"),
        ("hf:owner/Scans_1", Reading({}, revision="main"), None, "--domain"),
        ("folder", Reading({}, revision="main"), "ct", "has no revision to choose"),
        ("nothing.npz", Reading({}), "ct", "no such file"),
        ("nothing", Reading({}), "ct", "no shard holds a sample"),
    ],
)
def test_what_is_missing_is_asked_for(tmp_path: Path, source: str, how: Reading, domain: str | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        import_set(source if source.startswith("hf:") else str(tmp_path / source), tmp_path, None, domain, how)
