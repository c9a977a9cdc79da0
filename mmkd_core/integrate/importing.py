"""Images come into a workspace: once, by its seed and secret, looked at with its student and its trust rule in mind."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mmkd_core.data.enough import Minimum
from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.manifest import MANIFEST, Corpus
from mmkd_core.data.report import ImportReport, longer_captions, small_probe
from mmkd_core.errors import DataError
from mmkd_core.integrate.workspace import Workspace


def import_corpus(workspace: Workspace, path: Path, options: ImportOptions) -> tuple[Corpus, ImportReport]:
    """Import the data that a workspace shall work with; seed, secret and what is looked at are the workspace's.

    The caller holds the workspace (``writing``).

    Raises:
        DataError: it has data already, or those that come cannot be imported (``data.importers``).
    """
    config, target = workspace.config, workspace.root / workspace.config.data
    if (target / MANIFEST).exists():
        mend = "Make another workspace with `mmkd init DIR`, or remove that folder"
        raise DataError("the workspace has its data already", where=str(target), next=mend)
    trust = config.trust
    looks = (
        partial(longer_captions, context=config.student.text.context_length),
        partial(small_probe, minimum=Minimum(trust.samples, trust.patients, trust.per_class)),
    )
    how = replace(options, seed=config.seed, salt=workspace.salt, looks=(*options.looks, *looks))
    return import_data(path, target, how)
