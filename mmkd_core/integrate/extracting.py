"""Features of a workspace: who is asked, for what, and which images had to be left out.

Images that cannot be read are listed in ``.mmkd/skipped.json``, and ``Workspace.corpus`` leaves their samples out, so
that nothing after extraction meets a sample without features.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from feature_store import FeatureStore
from mmkd_core.contract import Teacher
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError, PluginError, WorkspaceError
from mmkd_core.extract import ExtractConfig, Extraction, Job, extract
from mmkd_core.extract.features import Skipped, Work
from mmkd_core.extract.on_ray import cluster, extract_on_ray
from mmkd_core.extract.plan import Plan, plan
from mmkd_core.integrate.features import corpus_texts, locked_specs, open_store
from mmkd_core.integrate.workspace import Workspace, write_json
from mmkd_core.plugins import PluginHost, read_lock
from mmkd_core.plugins.opening import open_teacher
from mmkd_core.plugins.smoke import smoke
from mmkd_core.progress import Progress


def run_extract(
    workspace: Workspace,
    progress: Progress | None = None,
    config: ExtractConfig | None = None,
    engine: str = "local",
) -> Extraction:
    """Features of every locked teacher for every image and text of the corpus; only what is missing.

    Args:
        config: other settings than the workspace's.
        engine: "ray" spreads the work over a cluster whose machines all see the workspace under the same path.

    Raises:
        DataError: too many images cannot be read.
        PluginError: no teacher is in use, or Ray is not installed.
        WorkspaceError: something is missing, and the workspace reads a sealed generation.
    """
    corpus, config = workspace.corpus(whole=True), config or workspace.config.extract
    if workspace.config.features:
        done = _looked_up(workspace, corpus, config)
    elif engine == "ray":
        with cluster() as machines, FeatureStore.open(workspace.store, "w") as store:
            jobs = locked_jobs(workspace, machines.device)
            done = extract_on_ray(machines, corpus, corpus_texts(corpus), jobs, store, progress, config)
    else:
        jobs = locked_jobs(workspace, device())
        with FeatureStore.open(workspace.store, "w") as store:
            done = extract(corpus, corpus_texts(corpus), jobs, store, progress, config)
    _note_skipped(workspace, done)
    return done


def plan_extract(workspace: Workspace) -> Plan:
    """What ``run_extract`` would do; nothing is written."""
    jobs, corpus = locked_jobs(workspace, device()), workspace.corpus(whole=True)
    if not workspace.store.exists() and not workspace.config.features:
        return plan(corpus, corpus_texts(corpus), jobs, None, workspace.config.extract)
    with open_store(workspace) as store:
        return plan(corpus, corpus_texts(corpus), jobs, store, workspace.config.extract)


def _looked_up(workspace: Workspace, corpus: Corpus, config: ExtractConfig) -> Extraction:
    """Nothing is extracted into a sealed generation; this sees that everything is there, but for unreadable images."""
    jobs, texts = locked_jobs(workspace, "cpu"), corpus_texts(corpus)
    with open_store(workspace) as store:
        work = Work.of(corpus, texts, store)
        missing = {job.spec.name: work.missing(store, job.spec.fingerprint) for job in jobs}
    nothing = dict.fromkeys(missing, 0)
    skipped = Skipped(corpus, len(work.index), config.max_bad)
    for place in np.flatnonzero(np.any([images for images, _ in missing.values()], axis=0)):
        try:
            corpus.open(int(work.index[place]))
        except DataError as error:
            skipped.add(int(work.index[place]), error)
            continue
        break  # it could have been extracted
    else:
        if not any(captions.any() for _, captions in missing.values()):
            return Extraction(nothing, dict(nothing), skipped=skipped.found)
    counts = [
        f"{name}: {images.sum():,} images and {captions.sum():,} texts"
        for name, (images, captions) in missing.items()
        if images.any() or captions.any()
    ]
    raise WorkspaceError(
        f"features are missing ({'; '.join(counts)}), and mmkd.yaml reads a sealed generation, which is never written",
        where=str(workspace.store),
        next=f"Extract them where it was sealed and seal again; or leave `features` empty in mmkd.yaml, then "
        f"`mmkd store merge {workspace.store}` and `mmkd extract`",
    )


def device() -> str:
    """Where teachers compute: the first GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def locked_jobs(workspace: Workspace, device: str) -> list[Job]:
    """One job for each locked teacher, each of which can be sent to another process.

    Raises:
        PluginError: there is none, or one is not installed, broken, or changed since it was locked.
    """
    specs = locked_specs(workspace, PluginHost.discover())
    if not specs:
        raise PluginError("no teacher is in use", where=str(workspace.lock_file), next="Run `mmkd teachers add NAME`")
    root = workspace.root.absolute()
    return [Job(spec, partial(load_locked, root, name, device), device) for name, spec in specs.items()]


def load_locked(root: Path, name: str, device: str) -> Teacher:
    """Load and try a teacher that the lock in folder ``root`` names.

    Raises:
        PluginError: it cannot be loaded, or does not do what its spec says.
    """
    workspace = Workspace.open(root)
    host = PluginHost.discover()
    spec = locked_specs(workspace, host)[name]
    locked = read_lock(workspace.lock_file).teachers[name]
    return smoke(spec, partial(open_teacher, host, spec, locked, root, device))


def _note_skipped(workspace: Workspace, done: Extraction) -> None:
    """Replace the list: every image that is still missing was tried again, unless a teacher failed on the way."""
    kept = workspace.skipped() if done.failed else {}
    found = {name: {"image": image, "reason": reason} for name, (image, reason) in done.skipped.items()}
    if kept or found or workspace.skipped():
        write_json(workspace.skipped_file, kept | found)
