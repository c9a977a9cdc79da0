"""A teacher's verified folder, seen with suspicion: only declared files are read, and none may ask for remote code.

Configurations are read here before open_clip or transformers read them, and refused if they name code
(``remote_code``): also those that lie in a folder without being declared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins import remote_code

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "config.json",
)
_TOKENIZERS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
_CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def folder_for(role: str, weights: Mapping[str, Path]) -> Path:
    """The folder of ``role`` or, where there is none of its own, of the model."""
    return weights.get(role, weights["model"])


def tokenizer_folder(spec: TeacherSpec, weights: Mapping[str, Path]) -> Path:
    """Where the tokenizer lies: in a folder of its own, beside the text tower, or beside the model.

    Raises:
        PluginError: no source declares one, a file would be read that nobody declared, or one asks for remote code.
    """
    for role in ("tokenizer", "text_tower", "model"):
        source = next((source for source in spec.weights if source.role == role), None)
        if source and any(set(needed) <= set(source.files) for needed in _TOKENIZERS):
            refuse_undeclared(spec, weights, weights[role])
            check_configs(spec, weights[role])
            return weights[role]
    raise PluginError(
        f"teacher {spec.name} needs a tokenizer, and its weights declare neither tokenizer.json nor vocab.txt "
        "nor vocab.json with merges.txt",
        next="Add the files to the spec, to a source with role tokenizer if they lie elsewhere",
    )


def require(spec: TeacherSpec, weights: Mapping[str, Path], folder: Path, *names: str) -> None:
    """Refuse a folder in which a needed file is missing or was not declared, and hence not verified."""
    declared = _declared(spec, weights, folder)
    for name in names:
        if name not in declared:
            raise PluginError(
                f"teacher {spec.name} needs {name}, which its weights do not declare",
                where=str(folder),
                next="Add the file and its sha256 to the spec's files",
            )


def refuse_undeclared(spec: TeacherSpec, weights: Mapping[str, Path], folder: Path) -> None:
    """Refuse tokenizer and configuration files that transformers would read although nobody verified them."""
    declared = _declared(spec, weights, folder)
    for name in TOKENIZER_FILES:
        if name not in declared and (folder / name).exists():
            raise PluginError(
                f"{name} of teacher {spec.name} would be read but its weights do not declare it",
                where=str(folder),
                next="Add the file and its sha256 to the spec's files",
            )


def read_config(spec: TeacherSpec, file: Path) -> dict[str, Any]:
    """Read one JSON configuration that asks for no remote code.

    Raises:
        PluginError: it is no JSON object, or it asks for remote code.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(f"{file.name} of teacher {spec.name} cannot be read: {error}", where=str(file)) from error
    if not isinstance(config, dict):
        raise PluginError(f"{file.name} of teacher {spec.name} is no JSON object", where=str(file))
    for key in remote_code.keys(config):
        raise remote_code.refusal(spec, file, key)
    return config


def check_configs(spec: TeacherSpec, folder: Path) -> None:
    """Refuse remote code in every configuration that lies in the folder."""
    for file in sorted(folder.glob("*config.json")):
        read_config(spec, file)


def checkpoint(spec: TeacherSpec, folder: Path, preferred: str) -> Path:
    """The declared file with the weights: ``preferred``, else the index of a split one, else the only safetensors, else
    the only pickle."""
    files = next(source.files for source in spec.weights if source.role == "model")
    if preferred in files:
        return folder / preferred
    for suffixes in ((".index.json",), _CHECKPOINT_SUFFIXES[:1], _CHECKPOINT_SUFFIXES[1:]):
        found = sorted(name for name in files if name.endswith(suffixes))
        if len(found) == 1:
            return folder / found[0]
        if found:
            raise PluginError(
                f"teacher {spec.name} declares several checkpoints: {', '.join(found)}; keep one",
                next="If they are parts of one, declare their *.index.json as well",
            )
    raise PluginError(f"teacher {spec.name} declares no checkpoint", next=f"Add {preferred} to the spec's files")


def refuse_arch(spec: TeacherSpec, *known: str) -> None:
    """A setting in ``arch`` that the family does not read would be ignored in silence: refuse it."""
    strange = sorted(set(spec.arch) - set(known))
    if strange:
        raise PluginError(
            f"teacher {spec.name} sets arch {', '.join(strange)}, which family {spec.family} does not read",
            next=f"Known are {', '.join(known)}" if known else "Leave arch empty: the configuration lies in its folder",
        )


def _declared(spec: TeacherSpec, weights: Mapping[str, Path], folder: Path) -> set[str]:
    return {name for source in spec.weights if weights[source.role] == folder for name in source.files}
