from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mmkd_core.contract import WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.plugins import weights

COMMIT = "0123456789" * 4


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def spec(installed):
    installed("good")
    from mmkd_good import SPEC

    return SPEC


def with_source(spec, **changes):
    source = WeightSource.model_validate(spec.weights[0].model_dump() | changes)
    return spec.model_copy(update={"weights": (source,)})


def in_folder(spec, folder: Path, **files: bytes):
    return with_source(spec, kind="path", location=str(folder), files={n: digest(d) for n, d in files.items()})


def test_a_package_folder_stays_where_it_is(spec):
    import mmkd_good

    assert weights.resolve(spec) == {"model": Path(mmkd_good.__file__).parent / "weights"}


def test_a_missing_package_and_a_missing_folder_in_it(spec):
    for location in ("mmkd_nowhere:weights", "mmkd_good:nothing", "mmkd_good.model.x:y"):
        with pytest.raises(PluginError, match=f"should lie in package {location}, which is not there"):
            weights.resolve(with_source(spec, location=location))


def test_a_path_is_verified(spec, tmp_path):
    (tmp_path / "w").write_bytes(b"one")
    assert weights.resolve(in_folder(spec, tmp_path, w=b"one")) == {"model": tmp_path}
    with pytest.raises(PluginError) as caught:
        weights.resolve(in_folder(spec, tmp_path, w=b"two"))
    message = str(caught.value)
    assert "model file w of teacher good is not the declared one" in message
    assert f"sha256 expected {digest(b'two')}, found {digest(b'one')} ({tmp_path / 'w'})" in message


def test_a_missing_file_and_a_missing_folder(spec, tmp_path):
    with pytest.raises(PluginError, match="model file w of teacher good is missing"):
        weights.resolve(in_folder(spec, tmp_path, w=b""))
    with pytest.raises(PluginError, match="which is no folder"):
        weights.resolve(in_folder(spec, tmp_path / "gone", w=b""))


def test_hashes_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    file = tmp_path / "w"
    file.write_bytes(b"one")
    reads = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, name: reads.append(1) or real(f, name))
    assert weights.sha256_of(file) == weights.sha256_of(file) == digest(b"one")
    assert len(reads) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert weights.sha256_of(file) == digest(b"two")


class Hub:
    """Stands for ``snapshot_download``: holds what is cached and what the hub has."""

    def __init__(self, cached: Path | None, remote: Path | Exception) -> None:
        self.cached, self.remote, self.calls = cached, remote, []

    def __call__(self, repo, *, revision, allow_patterns, local_files_only=False):
        from huggingface_hub.errors import LocalEntryNotFoundError

        self.calls.append((repo, revision, allow_patterns, local_files_only))
        if local_files_only:
            if self.cached is None:
                raise LocalEntryNotFoundError("not cached")
            return str(self.cached)
        if isinstance(self.remote, Exception):
            raise self.remote
        return str(self.remote)


@pytest.fixture
def hub_spec(spec, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "w[1]").write_bytes(b"x")
    return with_source(spec, kind="hf", location="org/repo", revision=COMMIT, files={"w[1]": digest(b"x")})


def test_a_cached_snapshot_needs_no_network(hub_spec, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "full", OSError("no network"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert weights.resolve(hub_spec) == {"model": tmp_path / "full"}
    assert hub.calls == [("org/repo", COMMIT, ["w[[]1]"], True)]


def test_an_incomplete_snapshot_is_fetched(hub_spec, tmp_path, monkeypatch):
    (tmp_path / "half").mkdir()
    for cached in (tmp_path / "half", None):
        hub = Hub(cached, tmp_path / "full")
        monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
        assert weights.resolve(hub_spec) == {"model": tmp_path / "full"}
        assert [call[3] for call in hub.calls] == [True, False]


def test_no_network_and_nothing_cached_says_what_to_do(hub_spec, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(None, OSError("no route\nlong story")))
    with pytest.raises(PluginError) as caught:
        weights.resolve(hub_spec)
    assert str(caught.value) == (
        f"the weights of teacher good cannot be fetched: OSError: no route (org/repo at {COMMIT}). "
        "Check the connection (and HF_HUB_OFFLINE), then run `mmkd teachers add good` again"
    )
