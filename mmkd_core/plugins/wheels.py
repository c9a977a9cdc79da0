"""Wheels: written file by file with fixed dates, and made again from what is installed.

An installed package records its files and their hashes (RECORD), which is all that a wheel is. So a package can be
taken to a machine without a network although nobody kept the wheel that it came from.

Does not: build from source (``installer.build``).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import stat
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

from mmkd_core.errors import PluginError

_MADE_BY_INSTALLERS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"}
_INFO = ".dist-info"


def write_wheel(path: Path, files: Mapping[str, bytes], info: str) -> Path:
    """Write ``files`` and their RECORD as a wheel; the same files give the same bytes.

    Args:
        path: where to; its name must be a wheel's.
        files: by their path inside.
        info: folder of the metadata, ``NAME-VERSION.dist-info``.
    """
    rows = [f"{_quoted(name)},sha256={digest(data)},{len(data)}\n" for name, data in sorted(files.items())]
    record = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    partial = path.with_suffix(".tmp")
    with zipfile.ZipFile(partial, "w") as archive:
        for name, data in [*sorted(files.items()), (f"{info}/RECORD", record)]:
            member = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED  # a ZipInfo does not take it from the archive
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, data)
    os.replace(partial, path)
    return path


def repack(distribution: Distribution, folder: Path) -> Path:
    """Write the wheel of an installed package into ``folder``.

    Raises:
        PluginError: it was not installed from a wheel, is editable, or its files were changed since.
    """
    files: dict[str, bytes] = {}
    info = ""
    made = _scripts(distribution)
    for name, expected in _recorded(distribution):
        path = PurePosixPath(name)
        if _INFO in path.parts[0] and len(path.parts) > 1:
            info = path.parts[0]
        if path.suffix == ".pyc" or (path.parent.suffix == _INFO and path.name in _MADE_BY_INSTALLERS):
            continue
        inside = _inside(distribution, name, made)
        if inside is None:
            continue
        data = _read(distribution, name)
        if expected and digest(data) != expected:
            raise _cannot(distribution, f"{name} was changed since it was installed")
        files[inside] = data
    if not info or f"{info}/WHEEL" not in files:
        raise _cannot(distribution, "it was not installed from a wheel")
    if any(name.endswith(".pth") for name in files):
        raise _cannot(distribution, "it is an editable installation")
    tags = _tag(files[f"{info}/WHEEL"].decode("utf-8", "replace"))
    return write_wheel(folder / f"{info.removesuffix(_INFO)}-{tags}.whl", files, info)


def digest(data: bytes) -> str:
    """sha256 as RECORD writes it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _recorded(distribution: Distribution) -> list[tuple[str, str]]:
    """Path relative to site-packages and sha256 (empty where it has none) of every installed file."""
    text = distribution.read_text("RECORD")
    if not text:
        raise _cannot(distribution, "it has no RECORD of its files")
    return [
        (row[0], row[1].partition("=")[2] if row[1].startswith("sha256=") else "")
        for row in csv.reader(io.StringIO(text))
        if row
    ]


def _inside(distribution: Distribution, name: str, scripts: set[str]) -> str | None:
    """Where a file lies in the wheel; None for a script that installers make from the entry points."""
    if not name.startswith("../") and not os.path.isabs(name):
        return name
    prefix, path = Path(sys.prefix).resolve(), Path(str(distribution.locate_file(name))).resolve()
    if path.stem in scripts or path.name in scripts:
        return None
    if not path.is_relative_to(prefix) or path.parent.name in ("bin", "Scripts"):
        raise _cannot(distribution, f"it has put {path} outside of site-packages")
    version = f"{distribution.name.replace('-', '_')}-{distribution.version}"
    return f"{version}.data/data/{path.relative_to(prefix).as_posix()}"


def _scripts(distribution: Distribution) -> set[str]:
    groups = ("console_scripts", "gui_scripts")
    return {point.name for point in distribution.entry_points if point.group in groups}


def _read(distribution: Distribution, name: str) -> bytes:
    try:
        return Path(str(distribution.locate_file(name))).read_bytes()
    except OSError as error:
        raise _cannot(distribution, f"{name} cannot be read: {error.strerror}") from error


def _tag(text: str) -> str:
    """``py3-none-any`` out of WHEEL's lines; several tags are pressed into one, part by part."""
    tags = [line.partition(":")[2].strip().split("-") for line in text.splitlines() if line.startswith("Tag:")]
    parts = zip(*[tag for tag in tags if len(tag) == 3], strict=False)
    pressed = "-".join(".".join(dict.fromkeys(part)) for part in parts) or "py3-none-any"
    build = re.search(r"^Build:\s*(\S+)", text, re.MULTILINE)
    return f"{build[1]}-{pressed}" if build else pressed


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


def _cannot(distribution: Distribution, reason: str) -> PluginError:
    return PluginError(f"no wheel can be made of the installed {distribution.name} {distribution.version}: {reason}")
