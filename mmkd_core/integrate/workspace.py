"""The workspace: one folder that holds a student's whole life.

mmkd.yaml     configuration (this module)
mmkd.lock     teachers in use (plugins.lock)
gate.yaml     what counts as forgetting (audit.gate)
data/         corpora made or imported here
releases/     immutable releases; CURRENT names the one in use
.mmkd/        features, trust, runs, evaluations, audits: all can be made again
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Literal

import yaml
from pydantic import ConfigDict, Field

from mmkd_core.audit.gate import GATE, Gate, read_gate, write_gate
from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.config import DistillConfig, IncrementalConfig
from mmkd_core.errors import MmkdError, WorkspaceError
from mmkd_core.extract.config import ExtractConfig
from mmkd_core.files import NO_ROOM, replacing
from mmkd_core.settings import Seed, Settings, brief, read_yaml, validated
from mmkd_core.student.config import PretrainConfig, StudentConfig
from mmkd_core.trust import TrustConfig

SCHEMA = "mmkd/v1"
CONFIG, LOCK = "mmkd.yaml", "mmkd.lock"
SALT = 32
"""Bytes of a secret."""


class SpecialistConfig(Settings):
    """How specialists for real images are trained; see ``pretrain`` for the rest."""

    steps: int = Field(default=700, ge=1)


class Config(Settings):
    """``mmkd.yaml``. Unknown keys are refused, so that a typing error cannot pass for a setting."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    version: str = Field(default=SCHEMA, alias="schema")
    name: str = "student"
    seed: Seed = 0
    data: str = Field(default="data", description="folder of the corpus, relative to the workspace or absolute")
    features: str = Field(
        default="", description="a sealed generation, or the store of another workspace, to read; empty: its own"
    )
    log: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        default=(), description="who gets the losses of training beside log.jsonl"
    )
    student: StudentConfig = StudentConfig()
    extract: ExtractConfig = ExtractConfig()
    specialist: SpecialistConfig = SpecialistConfig()
    pretrain: PretrainConfig = PretrainConfig()
    distill: DistillConfig = DistillConfig()
    incremental: IncrementalConfig = IncrementalConfig()
    trust: TrustConfig = TrustConfig()

    def dump(self) -> str:
        """YAML with every setting, so that a reader sees what can be set."""
        facts = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)


class Workspace:
    """Paths, configuration and the lock of one workspace."""

    def __init__(self, root: Path, config: Config) -> None:
        self.root, self.config = root, config
        self.state = root / ".mmkd"
        self.lock_file = root / LOCK
        self.releases = root / "releases"
        self.own_store = self.state / "features"
        self.store = root / config.features if config.features else self.own_store
        self.trust = self.state / "trust"
        self.published_trust = self.state / "mmkd-clip-trusted.json"
        self.runs = self.state / "runs"
        self.evaluations = self.state / "evaluations"
        self.audits = self.state / "audits"
        self.skipped_file = self.state / "skipped.json"

    @classmethod
    def create(cls, root: Path, config: Config) -> Workspace:
        """Make a workspace; one that exists with the same configuration is opened.

        Raises:
            WorkspaceError: the folder holds another workspace.
        """
        path = root / CONFIG
        if path.exists():
            found = cls.open(root)
            if found.config != config:
                raise WorkspaceError(
                    "the folder is a workspace with other settings",
                    where=str(path),
                    next="Choose another folder, or edit its mmkd.yaml",
                )
            return found
        (root / ".mmkd").mkdir(parents=True, exist_ok=True)
        (root / "releases").mkdir(exist_ok=True)
        if not (root / GATE).exists():
            write_gate(root / GATE, Gate())
        with replacing(path) as file:
            file.write(config.dump().encode())
        return cls.open(root)

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """Open the workspace in ``root``.

        Raises:
            WorkspaceError: no workspace there, of another version, or with settings that do not exist.
        """
        path = root / CONFIG
        if not path.is_file():
            raise WorkspaceError(
                f"this folder is no workspace: it has no {CONFIG}", where=str(root.absolute()), next="Run `mmkd init`"
            )
        return cls(root, read_config(path))

    def corpus(self, *, whole: bool = False) -> Corpus:
        """The corpus that ``mmkd.yaml`` names, without the samples whose image extraction could not read.

        Args:
            whole: with those samples.
        """
        corpus = Corpus.load(self.root / self.config.data)
        if whole or not (skipped := self.skipped()):
            return corpus
        return corpus.take([i for i, name in enumerate(corpus.image_id) if name not in skipped])

    def skipped(self) -> dict[str, Any]:
        """Images that extraction could not read, by id: path and reason."""
        return read_facts(self.skipped_file)

    def gate(self) -> Gate:
        """What counts as forgetting: ``gate.yaml``, or the default where there is none."""
        return read_gate(self.root / GATE)

    def salt(self) -> bytes:
        """A secret of this workspace: patients' names are hashed with it. Who has both can trace them back."""
        path = self.state / "salt"
        if not path.exists() or path.stat().st_size < SALT:  # a kill or a full disk left it empty: no secret at all
            with replacing(path, private=True) as file:
                file.write(os.urandom(SALT))
        return path.read_bytes()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the workspace: one process changes it at a time. The kernel drops the hold of a process that dies.

        Raises:
            WorkspaceError: another process holds it, or the disk is full while it is held.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "in-use").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceError(
                    f"the workspace is in use by process {holder_of(file)}",
                    where=str(self.root.absolute()),
                    next="Wait until it has finished, or stop it; nothing was changed",
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            with plain_disk_errors(self.root):
                yield


def holder_of(held: IO[str], patience: float = 2.0) -> str:
    """The number of the process that holds this file; who has just taken it has not written its own there yet."""
    until = time.monotonic() + patience
    while True:
        held.seek(0)
        named = held.read().strip()
        if running(named) or time.monotonic() > until:
            return named or "unknown"
        time.sleep(0.01)


def running(number: str) -> bool:
    """Whether a number is that of a process which lives."""
    try:
        os.kill(int(number), 0)
    except PermissionError:  # another user's
        return True
    except (ValueError, ProcessLookupError):
        return False
    return True


@contextmanager
def plain_disk_errors(root: Path) -> Iterator[None]:
    """Turn a full disk into a sentence. What was finished before stays, so the same command goes on from there."""
    try:
        yield
    except OSError as error:
        if isinstance(error, MmkdError) or error.errno not in NO_ROOM:
            raise
        raise WorkspaceError(
            "the disk is full; what was finished is kept",
            where=str(root.absolute()),
            next="Make room and run the same command again",
        ) from error


def trust_audit_file(workspace: Workspace) -> Path:
    """The JSON file of the last audit of trust; the page lies beside it."""
    return workspace.audits / "trust.json"


def read_config(path: Path) -> Config:
    """Read and check ``mmkd.yaml``, which exists.

    Raises:
        WorkspaceError: names the first key that is wrong.
    """
    raw = read_yaml(path, "Mend the file", WorkspaceError)
    if isinstance(raw, dict):
        found = raw.get("schema", SCHEMA)
        if found != SCHEMA:
            raise WorkspaceError(
                f"the workspace is of version {brief(repr(found))}, this mmkd reads {SCHEMA!r}",
                where=str(path),
                next="Use the mmkd that made it, or make a new workspace in another folder",
            )
        if "audit" in raw:
            what = "setting audit: margins, confidence, resamples and seed of audits are in gate.yaml now"
            raise WorkspaceError(what, where=str(path), next="Take the section out of mmkd.yaml")
    return validated(Config, raw, path, WorkspaceError)


def identity(*parts: Any) -> str:
    """32 hex digits over JSON-able facts: two runs with the same identity give the same result."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def write_json(path: Path, facts: Any) -> None:
    """Write JSON atomically, with sorted keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())


def read_facts(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no file.

    Raises:
        WorkspaceError: the file is not whole, or holds something else.
    """
    facts = read_json(path)
    if facts is None:
        return {}
    if not isinstance(facts, dict):
        what = f"{path.name} is damaged: it holds a {type(facts).__name__} where names with values are due"
        raise WorkspaceError(what, where=str(path), next="Restore it from a copy, or remove it")
    return facts


def read_json(path: Path) -> Any:
    """Read JSON; None if there is no file.

    Raises:
        WorkspaceError: the file is not whole.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        next = "Restore it from a copy, or remove it"
        raise WorkspaceError(f"{path.name} is damaged: it is no JSON", where=str(path), next=next) from error
