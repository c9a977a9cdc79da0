"""Starting weights of a student: from a file or folder of open_clip, MetaCLIP or an earlier release, or a BERT's.

Names are brought into open_clip's form and position embeddings to the student's size by open_clip's own functions.
Nothing is unpickled: safetensors, or torch files with ``weights_only=True``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd_core.contract import LicenseInfo
from mmkd_core.errors import ReleaseError
from mmkd_core.files import sha256_of
from mmkd_core.plugins.licences import UNKNOWN, forbids
from mmkd_core.student.config import StartConfig
from mmkd_core.student.model import Student
from mmkd_core.student.tokenizer import has_tokenizer
from mmkd_core.student.towers import is_bert

FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""What a folder is searched for, in this order."""
TOWERS = {"image": "visual.", "text": "text."}
UNUSED = ("pooler.", "cls.")
"""Parts of a BERT that a text tower does without: what it was trained with. Some read it through its pooler."""
SHOWN = 5


def weights_file(path: Path) -> Path:
    """The file of weights that ``path`` is or holds.

    Raises:
        ReleaseError: there is none.
    """
    found = next((path / name for name in FILES if (path / name).is_file()), path)
    if not found.is_file():
        raise ReleaseError(
            "there are no weights to start from",
            where=str(path),
            next=f"Give a file, or a folder with one of {', '.join(FILES)}; it is `start` under student in mmkd.yaml",
        )
    return found


def digests(start: StartConfig, root: Path) -> dict[str, dict[str, str]]:
    """By tower, path and sha256 of the weights that it starts from; towers that start at random are left out."""
    found = {}
    for tower in TOWERS:
        if given := getattr(start, tower):
            found[tower] = {"path": given, "sha256": sha256_of(weights_file(root / given))}
    return found


def licences(start: StartConfig, root: Path) -> dict[str, LicenseInfo]:
    """By tower the licence of the weights that it starts from: as configured, else as the folder says, else unknown."""
    given = {tower: getattr(start, tower) for tower in TOWERS if getattr(start, tower)}
    return {tower: _named(start.license) if start.license else _of_folder(root / path) for tower, path in given.items()}


def _of_folder(path: Path) -> LicenseInfo:
    """What an exported folder, a release or the model card of a hub says of its licence."""
    folder = path if path.is_dir() else path.parent
    for file in (folder / "mmkd.json", folder / "release.json", folder.parent / "release.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return LicenseInfo.model_validate(json.loads(file.read_text(encoding="utf-8"))["license"])
    with suppress(OSError, UnicodeDecodeError):
        card = re.match(r"---\n(.*?)\n---\n", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        if card and (found := re.search(r"^license:\s*([\w.-]+)\s*$", card[1], re.MULTILINE)):
            return _named(found[1])
    return UNKNOWN


def _named(name: str) -> LicenseInfo:
    """A licence by its SPDX identifier, or by the small letters that hubs write it in."""
    if name.lower() in ("other", "unknown"):
        return UNKNOWN
    spdx = {"mit": "MIT", "apache-2.0": "Apache-2.0"}.get(name, name.upper() if name.startswith("cc") else name)
    license = LicenseInfo(code=spdx, weights=spdx, commercial_use=True)
    forbidden = forbids(license)  # which reads it off the name
    allowed = {"commercial_use": "commercial use" not in forbidden, "derivatives": "derivatives" not in forbidden}
    return license.model_copy(update=allowed)


def tokenizer_beside(start: StartConfig, root: Path) -> Path | None:
    """The folder that the text tower starts from, if it holds a tokenizer: its ids are those that the weights know."""
    folder = root / start.text if start.text else None
    return folder if folder is not None and has_tokenizer(folder) else None


def load_start(student: Student, start: StartConfig, root: Path) -> None:
    """Overwrite the towers of ``student`` that have a start; of both from one place, the logit scale too.

    Raises:
        ReleaseError: a file is missing, holds something else than weights, or its weights do not fit.
    """
    for tower, prefix in TOWERS.items():
        if not (given := getattr(start, tower)):
            continue
        file = weights_file(root / given)
        state = _fitted(student, _renamed(student, _read(file), tower), tower, file)
        wanted = {name: value for name, value in student.model.state_dict().items() if name.startswith(prefix)}
        # A BERT comes without the projection into the common space, which is learnt, and some without their pooler.
        missing = {name for name in set(wanted) - set(state) if not _is_learnt(student, name)}
        part = {name: value for name, value in state.items() if name.startswith(prefix)}
        other = {name for name in set(part) & set(wanted) if part[name].shape != wanted[name].shape}
        _complain(file, tower, missing=missing, unexpected=set(part) - set(wanted), of_another_shape=other)
        if start.image == start.text and "logit_scale" in state:
            part["logit_scale"] = state["logit_scale"].reshape(())
        student.model.load_state_dict({name: value.float() for name, value in part.items()}, strict=False)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        table: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of safetensors, pickle, zipfile and torch
        reason = str(error).strip().partition("\n")[0]
        raise ReleaseError(f"these weights cannot be read: {reason}", where=str(file)) from error
    if isinstance(table, dict):
        table = next((table[key] for key in ("state_dict", "model") if isinstance(table.get(key), dict)), table)
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise ReleaseError("this file holds no table of weights", where=str(file))
    return {str(name).removeprefix("module."): value for name, value in table.items()}


def _renamed(student: Student, state: dict[str, Tensor], tower: str) -> dict[str, Tensor]:
    """Names of open_clip, of its older releases or of a BERT alone, as the student has them."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    if tower == "text" and is_bert(student.model.text) and not any(name.startswith("text.") for name in state):
        plain = {name.removeprefix("bert."): value for name, value in state.items()}
        ours = student.model.state_dict()
        state = {
            f"text.transformer.{name}": value
            for name, value in plain.items()
            if not name.startswith(UNUSED) or f"text.transformer.{name}" in ours
        }
    else:
        state = convert_to_custom_text_state_dict(convert_state_dict(student.model, state))
    return {name: value for name, value in state.items() if not re.search(r"\.embeddings\.position_ids$", name)}


def _fitted(student: Student, state: dict[str, Tensor], tower: str, file: Path) -> dict[str, Tensor]:
    """Position embeddings of another length, resized as open_clip does it."""
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    if tower == "image":
        resize_pos_embed(state, student.model)
    elif not is_bert(student.model.text):
        try:
            resize_text_pos_embed(state, student.model)
        except AssertionError as error:
            raise ReleaseError(
                f"the text tower to start from has another width than the student's: {error}",
                where=str(file),
                next="Set width, heads and layers under text, or start the `image` tower only",
            ) from error
    return state


def _is_learnt(student: Student, name: str) -> bool:
    return is_bert(student.model.text) and name.startswith(("text.proj.", "text.transformer.pooler."))


def _complain(file: Path, tower: str, **problems: Iterable[str]) -> None:
    found = []
    for problem, names in ((problem, sorted(names)) for problem, names in problems.items() if names):
        more = ", ..." if len(names) > SHOWN else ""
        found.append(f"{len(names)} {problem.replace('_', ' ')} ({', '.join(names[:SHOWN])}{more})")
    if found:
        raise ReleaseError(
            f"the weights to start from do not fit the student's {tower} tower: {'; '.join(found)}",
            where=str(file),
            next=f"Set the student's shape to theirs, or take {tower} out of `start` in mmkd.yaml",
        )
