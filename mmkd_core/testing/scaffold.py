"""A new plugin package, rendered from templates: it passes its own tests at once, and says what to fill in.

mmkd-NAME/
  pyproject.toml  README.md  LICENSE
  src/mmkd_NAME/__init__.py     the spec: at most 30 lines, no loading code
  src/mmkd_NAME/weights/        tiny random weights, to be replaced
  tests/test_conformance.py     every check of mmkd, by one decorator

From the folder of a checkpoint (``from_checkpoint``) the spec is filled in instead, and names the weights there.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import get_args

from mmkd_core.contract import NAME_PATTERN
from mmkd_core.errors import PluginError
from mmkd_core.plugins import load_registry
from mmkd_core.testing import tiny
from mmkd_core.testing.from_checkpoint import Filled, filled, lines, sources

FILES = {
    "pyproject.toml": "pyproject.toml.tmpl",
    "README.md": "README.md.tmpl",
    "src/{package}/__init__.py": "module.py.tmpl",
    "tests/test_conformance.py": "test_conformance.py.tmpl",
}
FROM_CHECKPOINT = {
    **FILES,
    "README.md": "FROM_CHECKPOINT.md.tmpl",
    "src/{package}/__init__.py": "from_checkpoint.py.tmpl",
}
LICENSES = ("Apache-2.0", "MIT")


def new_plugin(
    name: str,
    folder: Path | None = None,
    *,
    family: str | None = None,
    license: str = "Apache-2.0",
    weights: Path | None = None,
) -> Path:
    """Write a plugin package; returns its folder.

    Args:
        name: of the teacher, e.g. ``my-clip``.
        folder: where to write; ``mmkd-NAME`` in the current folder if left out. It must not exist, or be empty.
        family: ``open_clip`` (if left out) or ``transformers``; a checkpoint's folder says it by itself.
        license: of the package's code, one of ``LICENSES``.
        weights: the folder of a checkpoint from which the spec is filled in.

    Raises:
        PluginError: the name cannot be one or is taken, the folder holds something, family or licence is unknown, or
            the checkpoint is none that mmkd loads by itself.
    """
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > 64:
        raise PluginError(
            f"{name!r} cannot be the name of a teacher", next="Use small letters, digits and single hyphens: my-clip"
        )
    taken = load_registry().teachers.get(name)
    if taken is not None:
        raise PluginError(
            f"the registry has a teacher called {name!r} already, in package {taken.package}",
            next=f"Choose another name, or run `mmkd teachers add {name}` to use that one",
        )
    known_families = get_args(tiny.Family)
    for what, value, known in (("family", family or "open_clip", known_families), ("licence", license, LICENSES)):
        if value not in known:
            raise PluginError(f"{what} {value!r} is none of {', '.join(known)}", next="Choose one of them")
    target = folder or Path(f"mmkd-{name}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PluginError("the folder is not empty", where=str(target), next="Choose another folder")
    begun = filled(name, weights) if weights is not None else None
    if begun and family not in (None, begun.spec.family):
        raise PluginError(f"the checkpoint is of family {begun.spec.family}, not {family}", next="Leave out --family")
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.absolute().parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        _write(partial, name, family or "open_clip", license, begun)
        partial.chmod(0o755)  # mkdtemp makes it private
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _write(root: Path, name: str, family: str, license: str, begun: Filled | None) -> None:
    package = f"mmkd_{name.replace('-', '_')}"
    words = _common(name, package, license) | (_filled(begun) if begun else _tiny(root, package, family))
    for path, template in {**(FROM_CHECKPOINT if begun else FILES), "LICENSE": f"{license}.tmpl"}.items():
        target = root / path.format(package=package)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = files("mmkd_core.testing").joinpath("templates", template).read_text("utf-8")
        target.write_text(Template(text).substitute(words), encoding="utf-8")


def _common(name: str, package: str, license: str) -> dict[str, str]:
    return {
        "name": name,
        "package": package,
        "function": package.removeprefix("mmkd_"),
        "title": name.replace("-", " ").title(),
        "license": license,
        "year": str(datetime.date.today().year),
    }


def _filled(begun: Filled) -> dict[str, str]:
    """What a checkpoint says, as source."""
    source = begun.spec.weights[0]
    return {
        "family": begun.spec.family,
        "location": json.dumps(source.location, ensure_ascii=False),
        "files": _hashes(source.files),
        "sources": sources(begun),
        "hub": ", hub" if begun.spec.weights[1:] else "",
        "facts": "\n".join(f"{code}  # {comment}" for code, comment in lines(begun)),
    }


def _tiny(root: Path, package: str, family: str) -> dict[str, str]:
    """Tiny weights, written into the package, and what a spec says of them."""
    weights = root / "src" / package / "weights"
    names = tiny.write_tiny_weights("open_clip" if family == "open_clip" else "transformers", weights)
    return {
        "family": family,
        "files": _hashes({file: hashlib.sha256((weights / file).read_bytes()).hexdigest() for file in names}),
        "size": str(tiny.SIZE),
        "context": str(tiny.CONTEXT),
        "dim": str(tiny.DIM),
        "logit_scale": str(tiny.LOGIT_SCALE),
    }


def _hashes(found: Mapping[str, str | None]) -> str:
    return "\n".join(f'        "{file}": "{digest}",' for file, digest in found.items())
