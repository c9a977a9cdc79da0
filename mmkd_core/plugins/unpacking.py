"""Reads packs (``packs``): compares every member with the manifest, then lays the files where they stay.

Does not: trust any byte of the file. What is damaged is named member by member, and nothing is written outside.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from pydantic import ValidationError

from mmkd_core import advice
from mmkd_core.contract import PLUGIN_API, WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.plugins import downloads
from mmkd_core.plugins.lock import STATE
from mmkd_core.plugins.packages import Package, read_package
from mmkd_core.plugins.packs import FORMAT, MANIFEST, Manifest, Member, packages_of, runtime_wheels
from mmkd_core.plugins.scratch import scratch
from mmkd_core.settings import first_fault

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Unpacked:
    """A pack whose files are on disk, verified."""

    package: Package
    wheels: Path
    teachers: tuple[str, ...]
    sources: dict[str, tuple[WeightSource, ...]]
    """Teacher to where its weights lie now."""


def read_manifest(path: Path) -> Manifest:
    """What a pack says about itself; its members are not looked at.

    Raises:
        PluginError: it is no pack, is damaged, or was written by a newer mmkd or for another plugin API.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            raw = json.loads(archive.read(MANIFEST))
    except FileNotFoundError:
        raise PluginError("there is no such pack", where=str(path)) from None
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # zipfile and zlib raise most things on bytes that are no zip
        raise PluginError("this is no pack that can be read", where=str(path), next="Copy it again") from error
    if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise PluginError(
            f"the pack has format {raw['format']}, this mmkd reads {FORMAT}", where=str(path), next=advice.NEWER
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        key, what = first_fault(error)
        raise PluginError(f"the pack's manifest is damaged at {key or 'the top'}: {what}", where=str(path)) from None
    if manifest.plugin_api != PLUGIN_API:
        what = f"the pack is for plugin API {manifest.plugin_api}, this mmkd has {PLUGIN_API}"
        raise PluginError(what, where=str(path), next="Get a pack for this mmkd")
    return manifest


@contextmanager
def unpacked(path: Path, root: Path) -> Iterator[Unpacked]:
    """Verify a pack and lay its files where they stay; on an error inside, those that are new are removed.

    Wheels go to ``.mmkd/packages`` beside the lock, so that ``sync`` finds them; weights to the cache
    where a download would have put them, else to ``.mmkd/weights``.

    Raises:
        PluginError: names every member that is damaged, missing, not listed, or would land outside.
    """
    manifest = read_manifest(path)
    home = root / STATE
    home.mkdir(parents=True, exist_ok=True)
    with scratch("unpack-", home) as folder:
        _extract(path, manifest, folder)
        made: list[Path] = []
        try:
            wheels = _keep(folder / "wheels", packages_of(root), made)
            for teacher in manifest.teachers:
                _keep(folder / "runtimes" / teacher.name, runtime_wheels(root, teacher.name), made)
            sources = {
                t.name: tuple(_placed(s, t.name, folder, root, made) for s in t.weights) for t in manifest.teachers
            }
            package = read_package(wheels / PurePosixPath(manifest.wheel).name)
            yield Unpacked(package, wheels, tuple(teacher.name for teacher in manifest.teachers), sources)
        except BaseException:
            for file in made:
                file.unlink(missing_ok=True)
            raise


def _extract(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write every member under ``folder``, or raise with the list of all that is wrong."""
    wrong = []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        wrong += [f"{name} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
        wrong += [f"{name} is not in its manifest" for name in sorted(set(names) - set(manifest.members) - {MANIFEST})]
        for name, member in manifest.members.items():
            if not _is_plain(name):
                wrong.append(f"{name} would be written outside")
            elif name not in names:
                wrong.append(f"{name} is missing")
            elif not _copied(archive, name, folder / name, member):
                wrong.append(f"{name} is damaged")
    named = {manifest.wheel} | {
        f"weights/{teacher.name}/{source.role}/{file}"
        for teacher in manifest.teachers
        for source in teacher.weights
        if source.kind != "package"
        for file in source.files
    }
    wrong += [f"{name} is named by it and not in it" for name in sorted(named - set(manifest.members))]
    if wrong:
        raise PluginError(
            f"the pack is damaged: {'; '.join(wrong)}", where=str(path), next="Copy it again; nothing was installed"
        )


def _copied(archive: zipfile.ZipFile, name: str, target: Path, member: Member) -> bool:
    """Extract one member; False if it is not what the manifest says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(name) as data, target.open("wb") as out:
            return _hash_into(data, out, member.size) == member.sha256
    except (MemoryError, KeyboardInterrupt):
        raise
    except OSError as error:
        if error.errno is not None:  # of the disk, not of the zip
            raise
        return False
    except Exception:  # zlib, struct and zipfile have errors of their own
        return False


def _hash_into(data: IO[bytes], out: BinaryIO, size: int) -> str:
    found, written = hashlib.sha256(), 0
    while part := data.read(_CHUNK):
        written += len(part)
        if written > size:
            return ""  # a small zip that would fill the disk
        found.update(part)
        out.write(part)
    return found.hexdigest()


def _is_plain(name: str) -> bool:
    """Whether a member stays inside, wherever it is extracted."""
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and str(path) == name
    return (
        inside
        and len(path.parts) > 1
        and path.parts[0] in ("wheels", "runtimes", "weights")
        and not any(c in name for c in "\\:\0")
    )


def _keep(folder: Path, target: Path, made: list[Path]) -> Path:
    """Move files to where they stay."""
    for file in sorted(folder.glob("*")) if folder.is_dir() else []:
        place = target / file.name
        target.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            made.append(place)
        file.replace(place)
    return target


def _placed(source: WeightSource, teacher: str, scratch: Path, root: Path, made: list[Path]) -> WeightSource:
    """Lay the files of one source where they stay; returns the source that finds them there."""
    folder = scratch / "weights" / teacher / source.role
    if source.kind == "package":
        return source
    if source.kind in downloads.REMOTE:
        downloads.place(source, folder)
        return source
    target = (root / STATE / "weights" / teacher / source.role).resolve()
    for name in source.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if not (target / name).exists():
            made.append(target / name)
        (folder / name).replace(target / name)
    return source.model_copy(update={"kind": "path", "location": str(target), "revision": None})
