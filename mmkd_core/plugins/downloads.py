"""Files that lie elsewhere: in repositories of the hub, or behind https. The only module that touches the network.

What the hub has stays in the hub's own cache. What comes by https lies under ``MMKD_CACHE`` (by default
``~/.cache/mmkd``); of an archive only the declared files are unpacked.

Does not: check what came. That is ``weights``'s task.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from mmkd_core.contract import WeightSource
from mmkd_core.errors import DataError, PluginError
from mmkd_core.files import sha256_of
from mmkd_core.plugins.scratch import scratch

HUB = ("hf", "hf-dataset")
REMOTE = (*HUB, "url")
"""Kinds of source that must be fetched."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
DOWNLOAD_LIMIT_S = 60
"""How long a download may stand still."""


def fetched(source: WeightSource, teacher: str) -> Path:
    """The local folder of a remote source, downloaded first if a needed file is not in it.

    Raises:
        PluginError: it cannot be fetched, is gated, or the archive does not hold the declared files.
    """
    return _on_hub(source, teacher) if source.kind in HUB else _downloaded(source, teacher)


def at_newest_commit(source: WeightSource) -> WeightSource:
    """The source with a commit: that of a hub repository as it is now, if its plugin named none and the hub answers."""
    if source.kind not in HUB or source.revision is not None:
        return source
    from huggingface_hub import HfApi

    try:
        commit = HfApi().repo_info(source.location, **_repo_type(source)).sha
    except Exception:  # whatever the reason, it is not known; fetching will say why, or take what is cached
        return source
    return source.model_copy(update={"revision": commit})


def is_here(source: WeightSource) -> bool:
    """Whether every needed file is in a cache of this machine, so that little or nothing is left to download."""
    folder = _cached(source)
    return folder is not None and all((folder / name).is_file() for name in source.files)


def size(sources: Sequence[WeightSource]) -> int | None:
    """Bytes that fetching would take, as hub and servers say; None if one does not say."""
    try:
        return sum(_size_on_hub(source) if source.kind in HUB else _size_of(source.location) for source in sources)
    except Exception:  # whatever the reason, it is not known; fetching will say why
        return None


def place(source: WeightSource, folder: Path) -> None:
    """Put files of a remote source where fetching would have put them, so that no network is asked for them again."""
    target = _snapshot(source, source.revision or "main") if source.kind in HUB else _download_folder(source)
    for name in source.files:
        file = target / name
        if file.is_file() and sha256_of(file) == source.files[name]:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "wb") as out, (folder / name).open("rb") as data:
            shutil.copyfileobj(data, out, 1 << 20)
        os.replace(partial, file)


def dataset(repo: str, revision: str) -> tuple[Path, str]:
    """The parquet files and the card of a data set of the hub: their folder, and the commit that it is.

    Args:
        repo: ``owner/name``.
        revision: a commit, or a branch or tag, which is resolved to the commit that it names now.

    Raises:
        DataError: there is no such data set or revision, it is gated, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        commit = revision if _COMMIT.fullmatch(revision) else HfApi().dataset_info(repo, revision=revision).sha
        wanted = ["*.parquet", "README.md"]
        folder = snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns=wanted)
    except GatedRepoError as error:
        mend = f"Accept the terms at https://huggingface.co/datasets/{repo}, then run `hf auth login`"
        raise DataError("the data set is gated", where=f"{repo} at {revision}", next=mend) from error
    except Exception as error:  # the hub client raises its own, httpx's and the system's errors
        reason = str(error).strip().partition("\n")[0]
        mend = "Check name, revision and connection (and HF_HUB_OFFLINE), or give a folder with the parquet files."
        what = f"the data set cannot be fetched: {type(error).__name__}: {reason}"
        raise DataError(what, where=f"{repo} at {revision}", next=mend) from error
    return Path(folder), str(commit)


def _on_hub(source: WeightSource, teacher: str) -> Path:
    """The cached snapshot if it is complete, so that a cached teacher needs no network; else a download.

    Without a commit the hub is asked which one is the newest; where it cannot be reached, the cached one counts.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    names = [*source.files, *source.optional]
    options: dict[str, Any] = {"revision": source.revision, "allow_patterns": [glob.escape(n) for n in sorted(names)]}
    options |= _repo_type(source)
    where = f"{source.location} at {source.revision or 'its newest commit'}"
    if source.revision and not source.optional:
        try:
            cached = Path(snapshot_download(source.location, **options, local_files_only=True))
            if all((cached / name).is_file() for name in source.files):
                return cached
        except LocalEntryNotFoundError:
            pass
    try:
        return Path(snapshot_download(source.location, **options))
    except GatedRepoError as error:
        raise PluginError(
            f"the weights of teacher {teacher} are gated",
            where=where,
            next=f"Accept the terms at https://huggingface.co/{source.location}, then run `hf auth login`",
        ) from error
    except Exception as error:  # the hub client raises its own, httpx's and the system's errors
        raise _unreachable(teacher, where, error) from error


def _size_on_hub(source: WeightSource) -> int:
    from huggingface_hub import HfApi

    names = sorted([*source.files, *source.optional])  # a name that the repository does not have is left out
    listed = HfApi().get_paths_info(source.location, names, revision=source.revision, **_repo_type(source))
    return sum(entry.size for entry in listed)


def _repo_type(source: WeightSource) -> dict[str, str]:
    return {"repo_type": "dataset"} if source.kind == "hf-dataset" else {}


def _cached(source: WeightSource) -> Path | None:
    """The folder where its files lie if they are here."""
    if source.kind not in HUB:
        return _download_folder(source)
    if source.revision is not None:
        return _snapshot(source, source.revision)
    try:
        commit = (_snapshot(source, "").parent / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return _snapshot(source, commit)


def _snapshot(source: WeightSource, commit: str) -> Path:
    """Folder of one commit in the hub's cache."""
    from huggingface_hub import constants

    kind = "datasets" if source.kind == "hf-dataset" else "models"
    return Path(constants.HF_HUB_CACHE, f"{kind}--{source.location.replace('/', '--')}", "snapshots", commit)


def _downloaded(source: WeightSource, teacher: str) -> Path:
    """The folder in our cache; filled first if a needed file is not in it."""
    folder = _download_folder(source)
    if all((folder / name).is_file() for name in source.files):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with scratch(".download-", folder) as work:
        file = work / "file"
        try:
            with _open_url(source.location) as answer, open(file, "wb") as target:
                shutil.copyfileobj(answer, target, 1 << 20)
        except (OSError, ValueError) as error:
            raise _unreachable(teacher, source.location, error) from error
        if source.location.endswith(".zip"):
            _unpack(source, teacher, file, folder)
        else:
            (only,) = source.files
            _put(file, folder / only)
    return folder


def _open_url(location: str) -> IO[bytes]:
    from urllib.request import urlopen

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise OSError("HF_HUB_OFFLINE forbids downloads")
    answer: IO[bytes] = urlopen(location, timeout=DOWNLOAD_LIMIT_S)
    return answer


def _size_of(location: str) -> int:
    """What the server says before it sends the first byte."""
    with _open_url(location) as answer:
        return int(getattr(answer, "headers")["Content-Length"])  # noqa: B009


def _unpack(source: WeightSource, teacher: str, archive: Path, folder: Path) -> None:
    """Take the declared files out, wherever in the archive they lie, and nothing else."""
    try:
        with zipfile.ZipFile(archive) as members:
            for name in [*source.files, *source.optional]:
                found = [m for m in members.namelist() if m == name or m.endswith(f"/{name}")]
                if len(found) == 1:
                    unpacked = archive.with_name("member")
                    with members.open(found[0]) as inside, open(unpacked, "wb") as target:
                        shutil.copyfileobj(inside, target, 1 << 20)
                    _put(unpacked, folder / name)
                elif name in source.files:
                    many = f"holds {len(found)} files" if found else "holds no file"
                    raise PluginError(f"the archive of teacher {teacher} {many} called {name}", where=source.location)
    except zipfile.BadZipFile as error:
        raise PluginError(f"the archive of teacher {teacher} is damaged: {error}", where=source.location) from error


def _put(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, target)


def _download_folder(source: WeightSource) -> Path:
    """Where what comes by https lies."""
    cache = Path(os.environ.get("MMKD_CACHE") or Path.home() / ".cache" / "mmkd")
    return cache / "downloads" / hashlib.sha256(source.location.encode()).hexdigest()[:32]


def _unreachable(teacher: str, where: str, error: Exception) -> PluginError:
    reason = str(error).strip().partition("\n")[0]
    return PluginError(
        f"the weights of teacher {teacher} cannot be fetched: {type(error).__name__}: {reason}",
        where=where,
        next=f"Check the connection (and HF_HUB_OFFLINE), then run `mmkd teachers add {teacher}` again",
    )
