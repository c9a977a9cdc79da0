"""What to type where a package is missing or too old. mmkd is on no index, so its own name is nothing to install.

What an extra of mmkd needs is read from mmkd's own metadata, so that the advice names the libraries that were tested.
"""

from __future__ import annotations

import shlex
from importlib import metadata

from packaging.requirements import Requirement

NEWER = "Fetch a newer mmkd into its folder, and run `pip install -e .` there"


def install(extra: str) -> str:
    """The sentence that gets the libraries of one of mmkd's extras: Run `pip install 'pydicom>=3'`."""
    found = libraries(extra)
    if not found:  # run from a checkout that was never installed
        return f"Run `pip install -e '.[{extra}]'` in the folder of mmkd"
    return f"Run `{pip(found)}`"


def pip(requirements: list[str]) -> str:
    """The command that installs them."""
    return f"pip install {' '.join(map(shlex.quote, requirements))}"


def libraries(extra: str) -> list[str]:
    """The requirements of an extra, as pip takes them; empty if mmkd is not installed or has no such extra."""
    try:
        lines = metadata.requires("mmkd") or []
    except metadata.PackageNotFoundError:
        return []
    return [plain(needed) for needed in map(Requirement, lines) if _belongs(needed, extra)]


def plain(needed: Requirement) -> str:
    """A requirement without its marker."""
    extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
    return f"{needed.name}{extras}{needed.specifier}"


def _belongs(needed: Requirement, extra: str) -> bool:
    marker = needed.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
