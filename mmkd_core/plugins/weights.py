"""From declared sources to verified local folders. The only module that touches the network.

Every declared file is hashed before a loader sees its folder. Hashes are remembered for the life of the process per
path, size and time of modification, so that loading a teacher twice reads its weights once for this.

Does not: copy files. Weights in a package stay in the package, those of the hub in the hub's cache.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.util
from pathlib import Path

from mmkd_core.contract import TeacherSpec, WeightSource
from mmkd_core.errors import PluginError


def resolve(spec: TeacherSpec) -> dict[str, Path]:
    """Role to local folder, for all sources of one teacher, each declared file verified.

    Raises:
        PluginError: a package, folder or file is missing, cannot be fetched, or has another sha256 than declared.
    """
    return {source.role: _verified(source, spec.name) for source in spec.weights}


def fetch(spec: TeacherSpec) -> None:
    """Bring what lies on the hub into the local cache and verify it; other kinds are already here."""
    for source in spec.weights:
        if source.kind == "hf":
            _verified(source, spec.name)


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex, remembered as long as its size and time of modification stay."""
    status = path.stat()
    return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(source: WeightSource, teacher: str) -> Path:
    folder = {"package": _in_package, "path": _in_folder, "hf": _on_hub}[source.kind](source, teacher)
    for name, expected in source.files.items():
        file = folder / name
        if not file.is_file():
            raise PluginError(
                f"{source.role} file {name} of teacher {teacher} is missing",
                where=str(folder),
                next=f"Install the package that provides {teacher} again",
            )
        found = sha256_of(file)
        if found != expected:
            raise PluginError(
                f"{source.role} file {name} of teacher {teacher} is not the declared one: "
                f"sha256 expected {expected}, found {found}",
                where=str(file),
                next="Do not use it; remove the file and add the teacher again",
            )
    return folder


def _in_package(source: WeightSource, teacher: str) -> Path:
    package, _, inside = source.location.partition(":")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    for parent in (found.submodule_search_locations or []) if found else []:
        if (Path(parent) / inside).is_dir():
            return Path(parent, inside)
    raise PluginError(
        f"{source.role} of teacher {teacher} should lie in package {source.location}, which is not there",
        next=f"Install the package that provides {teacher} again",
    )


def _in_folder(source: WeightSource, teacher: str) -> Path:
    folder = Path(source.location)
    if not folder.is_dir():
        raise PluginError(f"{source.role} of teacher {teacher} should lie in {folder}, which is no folder")
    return folder


def _on_hub(source: WeightSource, teacher: str) -> Path:
    """The cached snapshot if it is complete, so that a cached teacher needs no network; else a download."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    patterns = [glob.escape(name) for name in sorted(source.files)]
    where = f"{source.location} at {source.revision}"
    try:
        cached = Path(
            snapshot_download(source.location, revision=source.revision, allow_patterns=patterns, local_files_only=True)
        )
        if all((cached / name).is_file() for name in source.files):
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(source.location, revision=source.revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise PluginError(
            f"the weights of teacher {teacher} are gated",
            where=where,
            next=f"Accept the terms at https://huggingface.co/{source.location}, then run `hf auth login`",
        ) from error
    except Exception as error:  # the hub client raises its own, httpx's and the system's errors
        reason = str(error).strip().partition("\n")[0]
        raise PluginError(
            f"the weights of teacher {teacher} cannot be fetched: {type(error).__name__}: {reason}",
            where=where,
            next=f"Check the connection (and HF_HUB_OFFLINE), then run `mmkd teachers add {teacher}` again",
        ) from error
