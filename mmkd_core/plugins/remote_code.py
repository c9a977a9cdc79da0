"""Code that a configuration among a teacher's files names, for a library to run.

open_clip 3.3 and transformers both execute what a configuration asks for (``trust_remote_code``, ``auto_map``), whoever
wrote it. So configurations are looked at before a loader is: a teacher in mmkd's own environment is refused, whatever
its loader would do; an isolated one needs the user's agreement, which the lock keeps.

Does not: see code that a plugin runs on its own account. That is the plugin's, and installing it was agreed to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError

_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_object_supply")


def keys(config: Any) -> Iterator[str]:
    """The settings, at any depth of a configuration, that ask for code to be run."""
    if isinstance(config, dict):
        for key, inner in config.items():
            if key in _KEYS and inner:
                yield key
            yield from keys(inner)
    elif isinstance(config, list):
        for inner in config:
            yield from keys(inner)


def named(spec: TeacherSpec, folders: Mapping[str, Path]) -> list[tuple[Path, str]]:
    """Each declared configuration that names code, with the first setting that does.

    Args:
        spec: the teacher.
        folders: role to verified folder.
    """
    found = []
    for source in spec.weights:
        for name in sorted(file for file in source.files if file.endswith("config.json")):
            path = folders[source.role] / name
            key = next(keys(_read(path)), "")
            if key:
                found.append((path, key))
    return found


def refuse(spec: TeacherSpec, folders: Mapping[str, Path]) -> None:
    """Raise PluginError if a configuration among the files names code."""
    for path, key in named(spec, folders):
        raise refusal(spec, path, key)


def refusal(spec: TeacherSpec, path: Path, key: str) -> PluginError:
    """What is said about one configuration that names code."""
    agree = f"Run `mmkd teachers add {spec.name}` and agree to it"
    return PluginError(
        f"{path.name} of teacher {spec.name} asks for remote code with {key!r}, which is refused",
        where=str(path),
        next=agree if spec.isolation else "Write the loading code into the plugin's mmkd_load_teacher instead",
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # no configuration; whoever loads it will say so
