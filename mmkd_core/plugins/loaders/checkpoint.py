"""Published checkpoints, in whatever container they come, made to fit a model that a maintained library builds.

    read      safetensors, or a torch file: bare, under ``state_dict`` or ``model``, with ``module.`` before each name;
              or the index (``*.index.json``) of a checkpoint that was split into several of either
    renamed   the names of a fork turned into those of the library
    fit       copied into the model: every name must be there, and nothing may be left over

A torch file is a pickle, and a pickle can hold code. It is read with ``weights_only=True``; training scripts leave
single numbers of numpy in it (a best score), and those are skipped without building them. Anything else is refused.

Does not: guess. A key that is missing or unexpected is an error unless the caller names it.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError

_NUMPY_NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
_POSITION_IDS = re.compile(r"(^|\.)embeddings\.position_ids$")
_SHOWN = 12


class _Skipped:
    """Stands for a number of numpy in a pickle: takes its description and forgets it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read(spec: TeacherSpec, file: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name.

    Raises:
        PluginError: the file is damaged, holds code, or is no table of tensors; or a part that its index names is not
            declared, or holds other tensors than the index says.
    """
    if file.name.endswith(".index.json"):
        return _read_split(spec, file)
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise PluginError(f"checkpoint of teacher {spec.name} is damaged: {error}", where=str(file)) from error
    table = _read_torch(spec, file)
    if isinstance(table, dict):
        table = next((table[key] for key in ("state_dict", "model") if isinstance(table.get(key), dict)), table)
    if not isinstance(table, dict) or not table or not all(isinstance(value, Tensor) for value in table.values()):
        raise PluginError(f"checkpoint of teacher {spec.name} is no table of tensors", where=str(file))
    return {str(name).removeprefix("module."): value for name, value in table.items()}


def read_tensor(spec: TeacherSpec, file: Path) -> Tensor:
    """The one tensor that a torch file holds; raises PluginError like ``read``."""
    tensor = _read_torch(spec, file)
    if not isinstance(tensor, Tensor):
        raise PluginError(f"{file.name} of teacher {spec.name} is not one tensor", where=str(file))
    return tensor.detach()


def renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """The same tensors, each with the first of these beginnings that its name has replaced by the other."""
    names: dict[str, Tensor] = {}
    for name, value in state.items():
        old = next((old for old in prefixes if name.startswith(old)), "")
        new = prefixes.get(old, "") + name.removeprefix(old)
        if new in names:
            raise PluginError(f"two of its weights would be called {new}")
        names[new] = value
    return names


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def without_position_ids(spec: TeacherSpec, state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Drop ``...embeddings.position_ids``, which older transformers saved and newer ones (``own``) do not hold.

    Raises:
        PluginError: it does not count 0, 1, 2, ..., so that dropping it would change the model.
    """
    kept = dict(state)
    for name in [name for name in state if _POSITION_IDS.search(name) and name not in own]:
        ids = kept.pop(name).flatten()
        if not torch.equal(ids, torch.arange(len(ids), dtype=ids.dtype)):
            raise PluginError(f"{name} of teacher {spec.name} does not count from 0, so it cannot be left out")
    return kept


def fit(
    spec: TeacherSpec, model: nn.Module, state: Mapping[str, Tensor], file: Path, *, ignore: Iterable[str] = ()
) -> None:
    """Copy a checkpoint into a model; half precision becomes the model's own on the way.

    Args:
        spec: whose weights they are, for messages.
        model: built by a library, with any weights.
        state: what ``read`` gave, under the model's names.
        file: where it came from, for messages.
        ignore: names that may be in the checkpoint and are not used, each for a reason that the caller knows.

    Raises:
        PluginError: one sentence with all names that are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    unused = set(ignore) - set(own)
    state = {name: value for name, value in without_position_ids(spec, state, own).items() if name not in unused}
    for scalar in ("logit_scale", "logit_bias"):  # stored with or without an axis of length one
        if scalar in state and scalar in own and state[scalar].numel() == own[scalar].numel() == 1:
            state[scalar] = state[scalar].reshape(own[scalar].shape)
    complain(
        spec,
        file,
        missing=set(own) - set(state),
        unexpected=set(state) - set(own),
        of_another_shape={name for name in set(own) & set(state) if own[name].shape != state[name].shape},
    )
    model.load_state_dict(state, strict=True)


def complain(spec: TeacherSpec, file: Path, **problems: Iterable[str]) -> None:
    """Raise one PluginError that lists all names under each kind of problem, if there are any."""
    found = [
        f"{len(names)} {problem.replace('_', ' ')} ({', '.join(names[:_SHOWN])}{', ...' if names[_SHOWN:] else ''})"
        for problem, names in ((problem, sorted(map(str, names))) for problem, names in problems.items())
        if names
    ]
    if found:
        raise PluginError(f"weights of teacher {spec.name} do not fit its model: {'; '.join(found)}", where=str(file))


def _read_split(spec: TeacherSpec, index: Path) -> dict[str, Tensor]:
    try:
        places: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        parts = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PluginError(
            f"{index.name} of teacher {spec.name} is no index of a checkpoint", where=str(index)
        ) from error
    declared = {name for source in spec.weights if source.role == "model" for name in source.files}
    complain(spec, index, undeclared=set(parts) - declared)
    state: dict[str, Tensor] = {}
    for part_name in parts:
        state |= read(spec, index.parent / part_name)
    named = {name.removeprefix("module.") for name in places}
    complain(spec, index, missing=named - set(state), unexpected=set(state) - named)
    return state


def _read_torch(spec: TeacherSpec, file: Path) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "mmap": zipfile.is_zipfile(file)}  # leaves optimisers unread
    skipped = [(_Skipped, name) for name in _NUMPY_NUMBERS]
    try:
        with torch.serialization.safe_globals(skipped):  # type: ignore[arg-type]
            return torch.load(file, weights_only=True, **options)
    except Exception as error:  # pickle's, zipfile's and torch's own
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise PluginError(
                f"checkpoint of teacher {spec.name} holds code ({code[1]}) beside its tensors, which is refused",
                where=str(file),
                next="Ask its authors for safetensors, or convert it in a place where running it does no harm",
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise PluginError(
            f"checkpoint of teacher {spec.name} cannot be read: {type(error).__name__}: {reason}", where=str(file)
        ) from error
