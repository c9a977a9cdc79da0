"""Features of a workspace: who is asked, for what, and which images had to be left out.

Images that cannot be read are listed in ``.mmkd/skipped.json``, and ``Workspace.corpus`` leaves their samples out, so
that nothing after extraction meets a sample without features.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from feature_store import FeatureStore
from mmkd_core.contract import Teacher
from mmkd_core.errors import PluginError
from mmkd_core.extract import ExtractConfig, Extraction, Job, extract
from mmkd_core.extract.on_ray import cluster, extract_on_ray
from mmkd_core.extract.plan import Plan, plan
from mmkd_core.integrate.features import corpus_texts, locked_specs
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
    """
    corpus, config = workspace.corpus(whole=True), config or workspace.config.extract
    if engine == "ray":
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
    if not workspace.store.exists():
        return plan(corpus, corpus_texts(corpus), jobs, None, workspace.config.extract)
    with FeatureStore.open(workspace.store) as store:
        return plan(corpus, corpus_texts(corpus), jobs, store, workspace.config.extract)


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
