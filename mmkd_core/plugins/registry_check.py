"""May this ``registry.yaml`` follow that one? The rules of a pull request that touches the registry.

    python -m mmkd_core.plugins.registry_check OLD NEW

says what is wrong and exits with 1, or says nothing and exits with 0. The registry is append-only: what somebody may
have installed stays findable, and a bad version is yanked with its reason, not removed.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

from mmkd_core.errors import PluginError
from mmkd_core.plugins.registry import Registry, RegistryEntry, WheelSource, load_registry

FACTS = ("plugin_api", "domains", "license")
"""What a stanza says about the versions that it offers: other facts need another version."""


def problems(old: Registry, new: Registry) -> list[str]:
    """Every broken rule, one sentence each, by teacher."""
    found = [
        f"{name}: is removed; say `status: deprecated` instead" for name in old.teachers if name not in new.teachers
    ]
    names = list(new.teachers)
    for before, after in pairwise(names):
        if before > after:
            found.append(f"{after}: must stand before {before}; names are sorted")
    for name, entry in new.teachers.items():
        found += [f"{name}: {problem}" for problem in _alone(name, entry)]
        if name in old.teachers:
            found += [f"{name}: {problem}" for problem in _changed(old.teachers[name], entry)]
    return sorted(found)


def _alone(name: str, entry: RegistryEntry) -> list[str]:
    """Rules for one stanza by itself."""
    found = []
    terms = entry.license
    open_terms = (
        terms.commercial_use and terms.derivatives and not terms.gated and not terms.weights.startswith("LicenseRef-")
    )
    if not open_terms and not terms.url:
        found.append(f"licence {terms.weights} needs `url`, where its terms can be read")
    found += [f"version {v} is yanked without a reason" for v, reason in entry.yanked.items() if not reason.strip()]
    if entry.source.kind == "index" and not entry.requires:
        found.append("a package of an index needs `requires`, the range of versions that was tested")
    return found


def _changed(old: RegistryEntry, new: RegistryEntry) -> list[str]:
    """Rules for a stanza that was there before."""
    found = []
    if old.package != new.package:
        found.append(f"package {old.package} may not become {new.package}; add a teacher of another name")
    for version, reason in old.yanked.items():
        if new.yanked.get(version) != reason:
            found.append(f"the yank of {version} may be neither removed nor reworded")
    before, after = old.source, new.source
    wheels = isinstance(before, WheelSource) and isinstance(after, WheelSource) and before.url == after.url
    if wheels and before != after:
        found.append("the wheel has another sha256 at the same url; publish a new version")
    same = old.source == new.source and old.requires == new.requires
    if same and new.source.kind not in ("bundled", "path"):  # these lie in this repository and change with it
        edited = [fact for fact in FACTS if getattr(old, fact) != getattr(new, fact) and not _only_url(fact, old, new)]
        if edited:
            found.append(
                f"{', '.join(edited)} changed in place; they belong to a version: change source or requires too"
            )
    return found


def _only_url(fact: str, old: RegistryEntry, new: RegistryEntry) -> bool:
    """Where the terms are written may be added or mended."""
    return fact == "license" and old.license.model_copy(update={"url": new.license.url}) == new.license


def main(arguments: list[str]) -> str | int:
    """What the process exits with: 0, or the problems, which Python writes to stderr, exiting with 1."""
    if len(arguments) != 2:
        return "usage: python -m mmkd_core.plugins.registry_check OLD NEW"
    try:
        old, new = (load_registry(Path(argument)) for argument in arguments)
    except PluginError as error:
        return str(error)
    return "\n".join(problems(old, new)) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
