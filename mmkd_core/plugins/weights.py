"""From declared sources to verified local folders.

Every declared file is hashed (``hashing``) before a loader sees its folder. A source whose plugin leaves commit or
hashes open is measured once (``pin``), which ``mmkd.lock`` keeps.

Does not: copy files, or reach the network (``downloads``). Weights in a package stay in the package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from mmkd_core.contract import TeacherSpec, WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.files import sha256_of
from mmkd_core.plugins import downloads


def resolve(spec: TeacherSpec) -> dict[str, Path]:
    """Role to local folder, for all sources of one teacher, each declared file verified.

    Raises:
        PluginError: a package, folder or file is missing, cannot be fetched, or has another sha256 than declared; or
            the spec leaves a hash open, which only ``pin`` may fill in.
    """
    if not spec.pinned:
        raise PluginError(
            f"the weights of teacher {spec.name} are not pinned: its plugin declares no sha256 for some of its files",
            next=f"Run `mmkd teachers add {spec.name}`, which fetches them once and writes their sha256 into mmkd.lock",
        )
    return {source.role: _verified(source, spec.name) for source in spec.weights}


def pin(spec: TeacherSpec, sources: Sequence[WeightSource] | None = None) -> TeacherSpec:
    """The spec with commit and sha256 of every file, as they are found now. What is declared is held to that.

    Args:
        sources: where the files lie; by default where the spec says.

    Raises:
        PluginError: like ``resolve``; or ``sources`` are not those of this teacher.
    """
    found = [_pinned(source, spec.name) for source in sources or spec.weights]
    try:
        return spec.resolved(found)
    except ValueError as error:
        raise PluginError(f"these weights are not those of teacher {spec.name}: {error}") from error


def fetch(spec: TeacherSpec) -> None:
    """Bring what lies elsewhere into the local cache and verify it; other kinds are already here."""
    for source in spec.weights:
        if source.kind in downloads.REMOTE:
            _verified(source, spec.name)


def to_fetch(sources: Sequence[WeightSource]) -> list[WeightSource]:
    """Those sources that are not on this machine yet and would be downloaded."""
    return [source for source in sources if source.kind in downloads.REMOTE and not downloads.is_here(source)]


def given(spec: TeacherSpec, path: Path) -> tuple[WeightSource, ...]:
    """The teacher's sources, those whose files lie under ``path`` turned into kind ``path``.

    A sha256 that the spec leaves open becomes that of the file as it is now.

    Args:
        path: a folder with the declared files, or with a folder per role (``model``, ``tokenizer``); or the one file.

    Raises:
        PluginError: it holds the files of no source. Their hashes are checked later, as always.
    """
    folder = path.parent if path.is_file() else path
    found = [_lying_in(source, folder) for source in spec.weights]
    if tuple(found) == spec.weights:
        wanted = "; ".join(f"{source.role}: {', '.join(sorted(source.files))}" for source in spec.weights)
        raise PluginError(
            f"the weights of teacher {spec.name} are not there",
            where=str(path),
            next=f"It needs {wanted}",
        )
    return tuple(found)


def _verified(source: WeightSource, teacher: str) -> Path:
    folder = _folder(source, teacher)
    for name, expected in source.files.items():
        _check(source, teacher, folder / name, expected)
    return folder


def _check(source: WeightSource, teacher: str, file: Path, expected: str | None) -> str:
    """The file's sha256, which must be ``expected`` where that is known."""
    name = file.name
    if not file.is_file():
        raise PluginError(
            f"{source.role} file {name} of teacher {teacher} is missing",
            where=str(file.parent),
            next=f"Install the package that provides {teacher} again",
        )
    found = sha256_of(file)
    if expected not in (None, found):
        raise PluginError(
            f"{source.role} file {name} of teacher {teacher} is not the declared one: "
            f"sha256 expected {expected}, found {found}",
            where=str(file),
            next="Do not use it; remove the file and add the teacher again",
        )
    return found


def _pinned(source: WeightSource, teacher: str) -> WeightSource:
    """The source with nothing left open; it is fetched for that if something is."""
    on_hub = source.kind in downloads.HUB
    if source.pinned and (source.revision or not on_hub):
        return source
    folder = _folder(source, teacher)
    files = {name: _check(source, teacher, folder / name, expected) for name, expected in source.files.items()}
    files |= _optional(source, folder)
    commit = folder.name if on_hub else None  # .../snapshots/<commit>
    return source.model_copy(update={"files": files, "optional": (), "revision": commit})


def _lying_in(source: WeightSource, folder: Path) -> WeightSource:
    """The source as kind ``path`` if its files lie in ``folder`` or in its role's folder there; else itself."""
    for place in (folder / source.role, folder):
        if all((place / name).is_file() for name in source.files):
            files: dict[str, str | None] = {
                name: expected or sha256_of(place / name) for name, expected in source.files.items()
            }
            files |= _optional(source, place)
            return WeightSource(role=source.role, kind="path", location=str(place.resolve()), files=files)
    return source


def _optional(source: WeightSource, folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in source.optional if (folder / name).is_file()}


def _folder(source: WeightSource, teacher: str) -> Path:
    if source.kind in downloads.REMOTE:
        return downloads.fetched(source, teacher)
    if source.kind == "manual":
        raise PluginError(
            f"the weights of teacher {teacher} lie on a web page, from which only a person can download them",
            where=source.location,
            next=f"Save them as {', '.join(source.files)}, then run `mmkd teachers add {teacher} --weights FOLDER`",
        )
    return _in_package(source, teacher) if source.kind == "package" else _in_folder(source, teacher)


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
