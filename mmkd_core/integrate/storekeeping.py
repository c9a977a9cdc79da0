"""The store as part of a workspace: what is reachable, what looks odd, what is repaired and extracted again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from feature_store import VIEWS, FeatureStore, Repair
from feature_store.collecting import Garbage
from feature_store.doctor import Finding, examine
from feature_store.keeping import gc, repair
from mmkd_core.data.manifest import text_id
from mmkd_core.errors import WorkspaceError
from mmkd_core.extract.features import Extraction
from mmkd_core.extract.published import SOURCE, Published, import_published
from mmkd_core.integrate import releases
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.features import corpus_texts, open_store
from mmkd_core.integrate.unlearning import withdrawn
from mmkd_core.integrate.workspace import LOCK, Workspace, write_json
from mmkd_core.plugins import read_lock
from mmkd_core.progress import Progress


@dataclass(frozen=True)
class Repaired:
    """What a repair took away, and what was extracted again (None: nothing was, or was asked for)."""

    repairs: list[Repair]
    extraction: Extraction | None = field(default=None)


def reachable(workspace: Workspace, store: FeatureStore) -> set[str]:
    """Tables that something still refers to: the lock, the lock of any release, a release as teacher, an import.

    Of a teacher that was withdrawn no release needs features any more, and none of a student that learnt from it.
    """
    gone = set(withdrawn(workspace))
    found = releases.all_releases(workspace)
    locks = [workspace.lock_file, *(release.file(LOCK) for release in found)]
    fingerprints = {
        teacher.fingerprint
        for lock in locks
        if lock.exists()
        for teacher in read_lock(lock).teachers.values()
        if teacher.name not in gone
    }
    students = {f"student-{release.id}" for release in found if not gone & set(release.teachers)}
    for table in store.tables():
        if table.facts.get("teacher") in students or table.facts.get("source") == SOURCE or table.table == VIEWS:
            fingerprints.add(table.table)
    return fingerprints


def run_gc(workspace: Workspace, dry_run: bool) -> Garbage:
    """Drop features that nothing refers to.

    Raises:
        WorkspaceError: there is no lock, so that everything would go.
    """
    if not workspace.lock_file.exists():
        raise WorkspaceError(
            "there is no mmkd.lock, so nothing says which features are needed",
            where=str(workspace.lock_file),
            next="Run `mmkd teachers add NAME`, or remove the whole store yourself",
        )
    open_store(workspace).close()
    with FeatureStore.open(workspace.store, "r" if dry_run else "w") as store:
        return gc(store, reachable(workspace, store), dry_run=dry_run)


def run_repair(workspace: Workspace, extract: bool, progress: Progress | None = None) -> Repaired:
    """Drop what is damaged; with ``extract`` ask the locked teachers for exactly that again."""
    open_store(workspace).close()
    with FeatureStore.open(workspace.store, "w") as store:
        repairs = repair(store)
    if not repairs or not extract:
        return Repaired(repairs)
    return Repaired(repairs, run_extract(workspace, progress))


def run_doctor(workspace: Workspace) -> list[Finding]:
    """Everything odd about the workspace's features, the worst first."""
    with open_store(workspace) as store:
        found = [*examine(store), *_fingerprints(workspace, store), *_samples(workspace, store)]
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _fingerprints(workspace: Workspace, store: FeatureStore) -> list[Finding]:
    names = {table.table: str(table.facts.get("teacher", "")) for table in store.tables()}
    own = {table.table for table in store.tables() if table.facts.get("source") != SOURCE and table.table != VIEWS}
    several = Counter(name for table, name in names.items() if name and table in own)
    found = [
        Finding("warning", f"features of {name} exist under {count} fingerprints", "mmkd.lock", "Run `mmkd store gc`")
        for name, count in sorted(several.items())
        if count > 1
    ]
    for table in sorted(own - reachable(workspace, store)):
        what = f"features of {names[table] or 'an unknown teacher'} belong to no teacher in use and to no release"
        found.append(Finding("note", what, f"table {table}", "Run `mmkd store gc` to drop them"))
    return found


def _samples(workspace: Workspace, store: FeatureStore) -> list[Finding]:
    corpus = workspace.corpus()
    due = {"image": {str(name) for name in corpus.image_id}, "text": {text_id(text) for text in corpus_texts(corpus)}}
    found = []
    for tower, needed in due.items():
        held = {str(name) for name in store.ids(tower)}
        if held - needed:
            what = f"{len(held - needed)} of {len(held)} {tower}s in the store stand for no sample of the corpus"
            found.append(Finding("note", what, f"tower {tower}", "They do no harm; a new store would be smaller"))
        if needed - held:
            what = f"{len(needed - held)} of {len(needed)} {tower}s of the corpus were never extracted"
            found.append(Finding("warning", what, f"tower {tower}", "Run `mmkd extract`"))
    return found


def run_import_published(
    workspace: Workspace, folder: Path, progress: Progress | None = None
) -> tuple[Published, Path]:
    """What the authors of MMKD-CLIP publish: features into the store, trusted sets into a file beside it."""
    with FeatureStore.open(workspace.store, "w") as store:
        done = import_published(folder, store, progress)
    path = workspace.published_trust
    pairs = [{"image_id": image, "text_id": text, "teachers": names} for image, text, names in done.trusted]
    write_json(path, {"source": SOURCE, "pairs": pairs})
    return done, path
