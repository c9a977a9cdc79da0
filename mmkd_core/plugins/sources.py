"""What ``mmkd teachers add TARGET`` means: where the package comes from, and how the lock writes that down.

    NAME                    a stanza of registry.yaml
    folder                  with a pyproject.toml
    FILE.whl                a wheel; FILE.mmkd is a pack (``packs``)
    git+https://...@REF     a repository, pinned to the commit that REF means now; also https://..., git+/folder@REF,
                            and a folder that is a bare repository
    mmkd-NAME, pypi:NAME    a distribution of the package index, with or without a version (mmkd-x==1.2)

Does not: install anything. A repository is fetched to be looked at, because what it holds is shown first.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from mmkd_core import advice
from mmkd_core.contract import PLUGIN_API
from mmkd_core.errors import PluginError
from mmkd_core.plugins import installer
from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.names import canonical
from mmkd_core.plugins.packages import Package, read_package
from mmkd_core.plugins.registry import GitSource, IndexSource, PathSource, Registry, RegistryEntry, WheelSource

_GIT = re.compile(
    r"^git\+(?P<url>(https|ssh|file)://[^@#]*(?:@[^@#/]+/[^@#]*)?)(@(?P<ref>[^#]+))?(#subdirectory=(?P<inside>.+))?$"
)
CORE = "mmkd"
REGISTRY = "registry"
"""The lock's word for a folder beside the registry: every machine's mmkd has one, each at another place."""


@dataclass(frozen=True)
class Found:
    """A package that is to be installed.

    Args:
        package: what to install.
        origin: where it comes from, for people.
        code: whether agreeing is needed because its code comes from outside and nobody has vouched for it here.
        entry: its stanza in the registry.
        teacher: the one teacher that is meant; empty for all of the package.
    """

    package: Package
    origin: str
    code: bool
    entry: RegistryEntry | None = None
    teacher: str = ""


def find(target: str, registry: Registry, host: PluginHost, scratch: Path) -> Found:
    """The package that ``target`` names.

    Raises:
        PluginError: nothing of that name (with the nearest names), withdrawn, for another plugin API, or damaged.
    """
    path = Path(target)
    if target.startswith(("https://", "http://")) and target.endswith(".whl"):
        raise PluginError("a wheel is not fetched from an address", where=target, next="Download it, then add the file")
    if target.startswith(("git+", "https://")):
        return _in_git(target, scratch)
    if (path / "HEAD").is_file() and not (path / "pyproject.toml").exists():
        return _in_git(f"git+{path.resolve()}", scratch)
    if target.endswith(".whl") or path.is_dir():
        if not path.exists():
            raise PluginError("there is no such wheel file", where=target)
        return Found(read_package(path), str(path), code=False)
    if target in registry.teachers:
        return _in_registry(target, registry.teachers[target], host, scratch)
    if target.startswith(("pypi:", "mmkd-")) and _requirement(target) is not None:
        wanted = target.removeprefix("pypi:")
        name = Requirement(wanted).name
        return Found(Package(name, wanted, None), f"{wanted} of the package index", code=True)
    if "/" in target:
        raise PluginError("there is no such folder", where=target)
    host.teacher(target, registry)  # raises: it says why nobody offers it, and which names are near
    raise AssertionError(target)


def source_of(package: str, listed: str = "") -> str:
    """The lock's word for where an installed package came from, read from what its installer wrote down (PEP 610).

    Args:
        package: the distribution.
        listed: kind of its source in the registry, for what carries no note of its own.
    """
    if canonical(package) == CORE:
        return "bundled"
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # the latter for a plugin without a package
        return "installed"
    note: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    url = note.get("url", "")
    if "vcs_info" in note:
        inside = f"#subdirectory={note['subdirectory']}" if note.get("subdirectory") else ""
        return f"git+{url}@{note['vcs_info'].get('commit_id', '')}{inside}"
    if "archive_info" in note:
        info = note["archive_info"]
        sha256 = info.get("hashes", {}).get("sha256") or info.get("hash", "").removeprefix("sha256=")
        return f"wheel+{url}{f'#sha256={sha256}' if sha256 else ''}"
    if "dir_info" in note:
        return f"folder+{url}"
    if distribution.read_text("INSTALLER"):
        return "index"
    return listed if listed == "index" else "installed"


def is_editable(package: str) -> bool:
    """Whether a developer installed it in place (``pip install -e``)."""
    try:
        note = json.loads(importlib.metadata.distribution(package).read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        return False
    return bool(note.get("dir_info", {}).get("editable"))


def portable(source: str, package: str, folder: Path, entry: RegistryEntry | None) -> str:
    """A source as the lock keeps it: so that it means the same on another machine, where that can be.

    Args:
        source: what ``source_of`` says.
        package: the distribution.
        folder: the lock's; what lies in it is written relative to it, so that both can be moved.
        entry: the teacher's stanza in the registry.
    """
    beside = entry is not None and isinstance(entry.source, PathSource) and not is_editable(package)
    if beside and source == f"folder+{registry_folder(entry).resolve().as_uri()}":
        return REGISTRY
    return source.replace(f"+{folder.resolve().as_uri()}/", "+./", 1)


def registry_folder(entry: RegistryEntry | None) -> Path:
    """The folder that a stanza names.

    Raises:
        PluginError: there is no such stanza, or its package comes from elsewhere.
    """
    if entry is None or not isinstance(entry.source, PathSource):
        raise PluginError(
            "it came from a folder beside the registry, and the registry here names none",
            next="Name the other registry with MMKD_REGISTRY, or add the teacher again",
        )
    return Path(entry.source.path)


def local_path(source: str, folder: Path) -> Path | None:
    """The file or folder that a source of the lock names; None if it names none on this machine."""
    kind, _, rest = source.partition("+")
    url = rest.partition("#")[0]
    if kind not in ("wheel", "folder"):
        return None
    if url.startswith("./"):
        return folder / unquote(url)
    return Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None


def _in_registry(name: str, entry: RegistryEntry, host: PluginHost, scratch: Path) -> Found:
    if entry.plugin_api != PLUGIN_API:
        raise PluginError(
            f"it is written for plugin API {entry.plugin_api}, this mmkd has {PLUGIN_API}", next=advice.NEWER
        )
    trusted = entry.status == "verified"
    match entry.source:
        case PathSource(path=path):
            return Found(read_package(Path(path)), path, False, entry, name)
        case IndexSource():
            excluded = [f"!={version}" for version in sorted(entry.yanked)]
            ranges = ",".join([*filter(None, [entry.requires]), *excluded])
            package = Package(entry.package, f"{entry.package}{ranges}", None)
            return Found(package, f"{entry.package} of the package index", not trusted, entry, name)
        case GitSource(url=url, commit=commit):
            found = _in_git(f"git+{url}@{commit}", scratch)
            return Found(found.package, found.origin, not trusted, entry, name)
        case WheelSource(url=url, sha256=sha256):
            package = Package(entry.package, f"{entry.package} @ {url}#sha256={sha256}", None)
            return Found(package, url, not trusted, entry, name)
    broken = [
        r for r in host.records() if r.status != "loaded" and canonical(r.distribution) == canonical(entry.package)
    ]
    reason = f": plugin {broken[0].provider} is {broken[0].status}: {broken[0].error}" if broken else ""
    raise PluginError(
        f"it comes with {entry.package} but is not offered by this installation{reason}",
        next="Install mmkd again, or run `mmkd teachers list` to see all plugins",
    )


def _in_git(target: str, scratch: Path) -> Found:
    """Fetch, look inside, and name the commit: what was looked at is what will be installed."""
    address = target.removeprefix("git+")
    match = _GIT.match(f"git+file://{address}" if address.startswith("/") else f"git+{address}")
    if match is None:
        raise PluginError(
            "this is no address of a repository",
            where=target,
            next="Write git+https://host/name@commit, or git+/folder@commit",
        )
    inside = match["inside"] or ""
    commit = installer.checkout(match["url"], match["ref"] or "", scratch / "repository")
    folder = (scratch / "repository" / inside).resolve()
    if not folder.is_relative_to((scratch / "repository").resolve()):
        raise PluginError("the subdirectory lies outside of the repository", where=target)
    read = read_package(folder)
    pinned = f"git+{match['url']}@{commit}{f'#subdirectory={inside}' if inside else ''}"
    return Found(Package(read.name, pinned, read.requires, folder), pinned, code=True)


def _requirement(target: str) -> Requirement | None:
    try:
        return Requirement(target.removeprefix("pypi:"))
    except InvalidRequirement:
        return None
