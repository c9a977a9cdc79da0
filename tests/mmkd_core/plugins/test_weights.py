from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmkd_core.contract import WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.files import sha256_of
from mmkd_core.plugins import downloads, weights

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
    assert sha256_of(file) == sha256_of(file) == digest(b"one")
    assert len(reads) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert sha256_of(file) == digest(b"two")


class Hub:
    """Stands for ``snapshot_download``: holds what is cached and what the hub has."""

    def __init__(self, cached: Path | None, remote: Path | Exception) -> None:
        self.cached, self.remote, self.calls = cached, remote, []

    def __call__(self, repo, *, revision, allow_patterns, local_files_only=False, repo_type=None):
        from huggingface_hub.errors import LocalEntryNotFoundError

        self.calls.append((repo, revision, allow_patterns, local_files_only))
        self.repo_type = repo_type
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


def test_the_commit_and_the_hashes_that_are_found_first_are_pinned(hub_spec, tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "w[1]").write_bytes(b"x")
    (snapshot / "vocab.txt").write_bytes(b"v")
    declared = with_source(hub_spec, revision=None, files={"w[1]": None}, optional=["vocab.txt", "tokenizer.json"])
    hub = Hub(None, snapshot)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    with pytest.raises(
        PluginError, match=r"the weights of teacher good are not pinned: .*Run `mmkd teachers add good`"
    ):
        weights.resolve(declared)
    pinned = weights.pin(declared)
    assert pinned.weights[0].revision == COMMIT
    assert pinned.weights[0].files == {"w[1]": digest(b"x"), "vocab.txt": digest(b"v")}
    assert hub.calls == [("org/repo", None, ["tokenizer.json", "vocab.txt", "w[[]1]"], False)]
    hub.cached = snapshot
    assert weights.resolve(pinned) == {"model": snapshot}
    (snapshot / "w[1]").write_bytes(b"changed")
    with pytest.raises(PluginError, match=r"model file w\[1\] of teacher good is not the declared one"):
        weights.resolve(pinned)


def test_a_data_set_repository_is_asked_for_as_such(hub_spec, tmp_path, monkeypatch):
    hub = Hub(None, tmp_path / "full")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    weights.resolve(with_source(hub_spec, kind="hf-dataset"))
    assert hub.repo_type == "dataset"


@pytest.fixture
def web(tmp_path, monkeypatch):
    """What https would answer, by address; and every address that was asked for."""
    monkeypatch.setenv("MMKD_CACHE", str(tmp_path / "cache"))
    served, asked = {}, []

    def answer(location):
        asked.append(location)
        return io.BytesIO(served[location])

    monkeypatch.setattr(downloads, "_open_url", answer)
    served["asked"] = asked
    return served


def archive(**members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return data.getvalue()


URL = "https://example.org/model.zip"


def test_the_declared_files_of_an_archive_are_unpacked_once_and_no_others(spec, web, tmp_path):
    web[URL] = archive(w=b"x", evil__setup=b"code")
    declared = with_source(spec, kind="url", location=URL, files={"w": None}, optional=["setup", "gone"])
    pinned = weights.pin(declared)
    assert pinned.weights[0].files == {"w": digest(b"x"), "setup": digest(b"code")}
    folder = weights.resolve(pinned)["model"]
    assert folder.is_relative_to(tmp_path / "cache")
    assert sorted(p.name for p in folder.iterdir()) == ["setup", "w"]
    assert web["asked"] == [URL]
    (folder / "w").write_bytes(b"y")
    with pytest.raises(PluginError, match="is not the declared one"):
        weights.resolve(pinned)


def test_a_single_file_is_downloaded(spec, web):
    web["https://example.org/w.pt"] = b"x"
    source = with_source(spec, kind="url", location="https://example.org/w.pt", files={"w.pt": digest(b"x")})
    assert (weights.resolve(source)["model"] / "w.pt").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no archive", "the archive of teacher good is damaged"),
        (archive(v=b""), "the archive of teacher good holds no file called w"),
        (archive(a__w=b"", b__w=b""), "the archive of teacher good holds 2 files called w"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be(spec, web, data, message):
    web[URL] = data
    with pytest.raises(PluginError, match=message):
        weights.pin(with_source(spec, kind="url", location=URL, files={"w": None}))


def test_nothing_is_downloaded_offline(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("MMKD_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PluginError, match=r"cannot be fetched: OSError: HF_HUB_OFFLINE forbids downloads"):
        weights.pin(with_source(spec, kind="url", location=URL, files={"w": None}))


def test_files_given_by_hand_stand_for_a_source_and_fill_in_what_it_leaves_open(hub_spec, tmp_path):
    declared = with_source(hub_spec, files={"w[1]": digest(b"x"), "v": None}, optional=["vocab.txt", "gone.txt"])
    folder = tmp_path / "full"
    with pytest.raises(
        PluginError, match=rf"weights of teacher good are not there \({tmp_path}\). It needs model: v, w"
    ):
        weights.given(declared, tmp_path)
    (folder / "v").write_bytes(b"v")
    (folder / "vocab.txt").write_bytes(b"words")
    for path in (folder, folder / "v"):
        (source,) = weights.given(declared, path)
        assert (source.kind, source.location, source.revision) == ("path", str(folder), None)
        assert source.files == {"w[1]": digest(b"x"), "v": digest(b"v"), "vocab.txt": digest(b"words")}
    pinned = weights.pin(declared, [source])
    assert weights.resolve(pinned) == {"model": folder}
    with pytest.raises(PluginError, match="these weights are not those of teacher good: its model weights are not"):
        weights.pin(with_source(hub_spec, files={"w[1]": digest(b"other")}), [source])


def test_the_fingerprint_does_not_depend_on_where_the_declared_files_came_from(hub_spec, tmp_path):
    (source,) = weights.given(hub_spec, tmp_path / "full")
    assert weights.pin(hub_spec, [source]).fingerprint == hub_spec.fingerprint
    (tmp_path / "full" / "w[1]").write_bytes(b"y")
    (source,) = weights.given(hub_spec, tmp_path / "full")
    with pytest.raises(PluginError, match=r"model file w\[1\] of teacher good is not the declared one"):
        weights.resolve(weights.pin(hub_spec, [source]))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MMKD_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "hf", "location": "org/repo", "revision": COMMIT},
        {"kind": "hf-dataset", "location": "org/repo", "revision": COMMIT},
        {"kind": "url", "location": URL},
    ],
)
def test_what_a_pack_brings_is_found_where_a_download_would_have_put_it(spec, tmp_path, changes):
    (tmp_path / "w").write_bytes(b"x")
    source = with_source(spec, files={"w": digest(b"x")}, **changes)
    assert weights.to_fetch(source.weights) == list(source.weights)
    downloads.place(source.weights[0], tmp_path)
    assert weights.to_fetch(source.weights) == []
    placed = weights.resolve(source)["model"] / "w"  # offline: tests/conftest.py sees to it
    before = placed.stat().st_mtime_ns
    downloads.place(source.weights[0], tmp_path)
    assert placed.stat().st_mtime_ns == before
    placed.write_bytes(b"damaged")
    downloads.place(source.weights[0], tmp_path)
    assert placed.read_bytes() == b"x"


@pytest.mark.usefixtures("cache")
def test_a_source_without_a_commit_is_here_if_the_cached_branch_has_its_files(spec, tmp_path):
    source = with_source(spec, kind="hf", location="org/repo", files={"w": None}, optional=["gone"]).weights[0]
    assert not downloads.is_here(source)
    refs = tmp_path / "hub" / "models--org--repo" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    assert not downloads.is_here(source)
    snapshot = refs.parent / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "w").write_bytes(b"x")
    assert downloads.is_here(source)
    assert downloads.at_newest_commit(source) == source  # offline the hub does not say


class Api:
    """Stands for ``HfApi``."""

    def repo_info(self, repo, *, repo_type=None):
        return SimpleNamespace(sha=COMMIT if repo_type == "dataset" else COMMIT[::-1])

    def get_paths_info(self, repo, paths, *, revision, repo_type=None):
        assert (repo, revision, repo_type) == ("org/repo", COMMIT, "dataset")
        return [SimpleNamespace(size=len(path)) for path in paths if path != "gone"]


def test_the_size_of_a_download_is_asked_of_hub_and_server(spec, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    hub = with_source(spec, kind="hf-dataset", location="org/repo", files={"four": None}, optional=["gone", "opt"])
    (hub,) = hub.weights
    hub = downloads.at_newest_commit(hub)
    assert hub.revision == COMMIT
    assert downloads.at_newest_commit(hub.model_copy(update={"revision": "a" * 40})).revision == "a" * 40
    (web,) = with_source(spec, kind="url", location=URL, files={"w": None}).weights
    assert downloads.size([hub]) == len("four") + len("opt")
    assert downloads.size([hub, web]) is None  # offline
    answer = io.BytesIO(b"")
    answer.headers = {"Content-Length": "100"}
    monkeypatch.setattr(downloads, "_open_url", lambda location: answer)
    assert downloads.size([hub, web]) == 107
