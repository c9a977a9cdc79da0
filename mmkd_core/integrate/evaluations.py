"""Evaluations on disk: outcomes of a model on a set, kept with what both were, and read back only for these.

.mmkd/evaluations/0001/SET/zero-shot-1.parquet        outcomes of one protocol
.mmkd/evaluations/0001/SET/zero-shot-1.parquet.json   its inputs and its hash
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mmkd_core.data.eval_sets import EvalSet
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.evaluate.outcomes import Outcomes
from mmkd_core.files import require, sha256_of
from mmkd_core.integrate import releases
from mmkd_core.integrate.features import locked_specs
from mmkd_core.integrate.inputs import digest, read_record, require_same, write_record
from mmkd_core.integrate.measuring import STAGE_ONE
from mmkd_core.integrate.stage_one import WEIGHTS, stage_one
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import PluginHost

ENSEMBLE = "ensemble"


def keep_outcomes(workspace: Workspace, found: EvalSet, model: str, corpus: Corpus, one: Outcomes) -> Path:
    """Write outcomes of a model on a set; return the file.

    Args:
        corpus: the rows of the set with the ids of their images.
    """
    path = folder_of(workspace, found, model) / f"{one.protocol.removeprefix('mmkd/').replace('@', '-')}.parquet"
    one.save(path)
    inputs = {**_inputs(workspace, found, model), "images": corpus.fingerprint}
    write_record(_record(path), {"inputs": inputs, "files": {path.name: sha256_of(path)}})
    return path


def kept_outcomes(
    workspace: Workspace, found: EvalSet, first: str, second: str, task: str | None = None
) -> list[tuple[Outcomes, Outcomes]]:
    """Outcomes of two models that were evaluated on a set, protocol by protocol.

    Raises:
        DataError: they were not both evaluated there, the set or a model changed since, or a file is damaged.
    """
    folders = [folder_of(workspace, found, model) for model in (first, second)]
    names = [{path.name for path in folder.glob("*.parquet")} for folder in folders]
    both = sorted(name for name in names[0] & names[1] if task is None or name.startswith(task))
    if not both:
        lacking = first if not names[0] else second
        what = f"{lacking} was not evaluated on {found.task.name}"
        raise DataError(what, next=f"Run `mmkd eval set {_typed(found)} {lacking}`")
    pairs = []
    for name in both:
        (one, seen), (other, shown) = (_read(workspace, found, model, name) for model in (first, second))
        if seen["images"] != shown["images"]:
            what = f"images of {found.task.name} changed between the evaluations of {first} and of {second}"
            raise DataError(what, where=name, next=f"Run `mmkd eval set {_typed(found)} MODEL` again for both")
        pairs.append((one, other))
    return pairs


def folder_of(workspace: Workspace, found: EvalSet, model: str) -> Path:
    """Under the number of a release: ``current`` is another one tomorrow."""
    release = releases.named(workspace, model)
    return workspace.evaluations / (release.id if release else model) / found.task.name


def _typed(found: EvalSet) -> str:
    """The folder of a set as it is typed, whatever its name holds."""
    return shlex.quote(str(found.folder))


def _read(workspace: Workspace, found: EvalSet, model: str, name: str) -> tuple[Outcomes, dict[str, Any]]:
    path, of = folder_of(workspace, found, model) / name, f"the evaluation of {model} on {found.task.name}"
    again = f"Run `mmkd eval set {_typed(found)} {model}` again"
    record = read_record(_record(path), of, again, DataError)
    if record is None:
        raise DataError(f"{of} has no record of what it is of", where=str(path), next=again)
    now = {**_inputs(workspace, found, model), "images": record["inputs"]["images"]}
    require_same(record["inputs"], now, of, again, DataError)
    return Outcomes.load(require(path.parent, record["files"], name, of, again, DataError)), record["inputs"]


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _inputs(workspace: Workspace, found: EvalSet, model: str) -> dict[str, Any]:
    """The set as it is, but for the pixels of its images; the model; and the seed of what is drawn."""
    rows = {name: list(map(str, column)) for name, column in found.columns.items()}
    return {
        "task.yaml": digest(found.task.model_dump(mode="json")),
        "prompts": digest(found.prompts),
        "rows": digest(rows),
        "model": _model(workspace, model),
        "seed": workspace.config.seed,
    }


def _model(workspace: Workspace, model: str) -> dict[str, str]:
    if release := releases.named(workspace, model):
        return {f"release {release.id}": release.digest}
    if model == STAGE_ONE:
        return {"stage 1": sha256_of(stage_one(workspace) / WEIGHTS)}
    specs = locked_specs(workspace, PluginHost.discover())
    return {name: spec.fingerprint for name, spec in specs.items() if model in (ENSEMBLE, name)}
