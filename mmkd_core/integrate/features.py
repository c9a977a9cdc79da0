"""From names to arrays: which texts a corpus needs, and a teacher's features of samples, classes and bank.

The one place where corpus, store and plugins meet; ``trust``, ``evaluate`` and ``distill`` get plain arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from feature_store import FeatureStore
from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource
from mmkd_core.data.manifest import Corpus, text_id
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.sources import Mask, Source
from mmkd_core.errors import PluginError, WorkspaceError
from mmkd_core.evaluate.zero_shot import class_texts, embedded_classes
from mmkd_core.files import sha256_of
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import PluginHost, load_registry, locked_spec, read_lock
from mmkd_core.trust import TeacherView, unit

Array = np.ndarray[Any, np.dtype[np.float32]]


def corpus_texts(corpus: Corpus) -> list[str]:
    """Every distinct text whose features are needed: captions, then sentences of classes."""
    return list(dict.fromkeys([*corpus.texts, *class_texts(corpus)]))


def locked_specs(workspace: Workspace, host: PluginHost) -> dict[str, TeacherSpec]:
    """Specs of the teachers in ``mmkd.lock``, in alphabetical order.

    Raises:
        PluginError: one of them is not installed, broken, or changed since it was locked.
    """
    lock = read_lock(workspace.lock_file)
    registry = load_registry()
    return {name: locked_spec(lock, host.teacher(name, registry)) for name in sorted(lock.teachers)}


def open_store(workspace: Workspace) -> FeatureStore:
    """The workspace's features, for reading: its own store, or what ``mmkd.yaml`` names, which is never written.

    Raises:
        PluginError: nothing was extracted yet.
        WorkspaceError: what ``mmkd.yaml`` names holds no features.
    """
    if workspace.config.features and not (workspace.store / "data.mdb").exists():
        raise WorkspaceError(
            "mmkd.yaml reads features from a folder that holds none",
            where=str(workspace.store),
            next="Name one that `mmkd store seal` made, or leave `features` empty for a store of the workspace's own",
        )
    if not workspace.store.exists():
        raise PluginError("no features were extracted yet", where=str(workspace.store), next="Run `mmkd extract`")
    return FeatureStore.open(workspace.store)


_WHOLE: set[Path] = set()
"""Stores that were read through in this process."""


def whole_store(workspace: Workspace) -> FeatureStore:
    """``open_store``, after every byte was compared with its digest, once per process.

    Raises:
        PluginError: nothing was extracted yet.
        WorkspaceError: part of the features is damaged, or ``mmkd.yaml`` names a folder that holds none.
    """
    store, path = open_store(workspace), workspace.store.resolve()
    if path not in _WHOLE:
        if damages := store.verify():
            store.close()
            more = f", and {len(damages) - 1} more" if len(damages) > 1 else ""
            raise WorkspaceError(
                f"stored features are damaged: {damages[0]}{more}",
                where=str(workspace.store),
                next="Run `mmkd store repair`, which drops what is damaged and extracts it again"
                if not workspace.config.features
                else "Restore the generation from a copy",
            )
        _WHOLE.add(path)
    return store


@dataclass(frozen=True)
class Features:
    """Features of one teacher over a corpus, gathered from the store when asked for."""

    spec: TeacherSpec
    corpus: Corpus
    store: FeatureStore

    @cached_property
    def image_rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(N,) rows of the samples' images."""
        return self._rows("image", [str(name) for name in self.corpus.image_id])

    @cached_property
    def text_rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(M,) rows of all captions, in the order of ``Corpus.texts``."""
        return self._rows("text", [str(name) for name in self.corpus.text_ids])

    def images(self, index: Any = slice(None)) -> Array:
        """Raw image features of samples."""
        return self.store.gather(self.spec.fingerprint, "image", self.image_rows[index])

    def captions(self) -> Array:
        """Raw features of all captions, in the order of ``Corpus.texts``."""
        return self.store.gather(self.spec.fingerprint, "text", self.text_rows)

    def texts(self, texts: tuple[str, ...]) -> Array:
        """Raw features of any texts that were extracted."""
        return self.store.gather(self.spec.fingerprint, "text", self._rows("text", [text_id(text) for text in texts]))

    def classes(self) -> dict[str, Array]:
        """Class embeddings by domain, as ``zero_shot`` needs them."""
        return embedded_classes(self.corpus, self.texts)

    def view(self) -> TeacherView:
        """What the trust rule needs; of several captions it sees the first."""
        claims = {domain: claim.score for domain, claim in self.spec.trust.items() if "accuracy" in claim.metric}
        return TeacherView(
            self.spec.name,
            self.spec.domains,
            claims,
            self.spec.logit_scale,
            self.images(),
            self.captions()[: len(self.corpus)],
            self.classes(),
            self.spec.provenance.images,
        )

    def source(self, bank: Bank, mask: Mask, *, heads: bool = True, factor: float = 1.0) -> Source:
        """What distillation needs."""
        texts = {domain: torch.from_numpy(unit(self.texts(rows))) for domain, rows in bank.texts.items()}
        return Source(
            self.spec.name,
            self.store,
            self.spec.fingerprint,
            self.image_rows,
            self.text_rows,
            texts,
            self.spec.logit_scale,
            mask,
            heads,
            factor,
        )

    def _rows(self, tower: str, ids: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        rows = self.store.rows(tower, ids)
        if (rows < 0).any() or self.store.missing(self.spec.fingerprint, tower, rows).any():
            raise PluginError(
                f"features of {self.spec.name} are not complete for this corpus", next="Run `mmkd extract`"
            )
        return rows


def release_spec(release: Release, logit_scale: float, domains: tuple[str, ...]) -> TeacherSpec:
    """A release as a teacher: an old student can be asked for features like any other."""
    files = {
        name.removeprefix("student/"): digest
        for name, digest in release.facts["files"].items()
        if name.startswith("student/")
    }
    shape: Mapping[str, Any] = release.facts["student"]
    return TeacherSpec(
        name=f"student-{release.id}",
        title=f"student@{release.id}",
        summary=f"Release {release.id} of this workspace",
        family="open_clip",
        weights=(WeightSource(role="model", kind="path", location=str(release.student.absolute()), files=files),),
        image=ImageSpec(size=shape["size"], resize=shape["resize"], mean=shape["mean"], std=shape["std"]),
        text=TextSpec(tokenizer="hf", context_length=shape["context_length"]),
        embed_dim=shape["embed_dim"],
        logit_scale=logit_scale,
        domains=domains,
        license=LicenseInfo(**release.facts["license"]),
    )


def weights_digest(folder: Path) -> str:
    """sha256 of a student's weights: part of the identity of all that is made from it."""
    return sha256_of(folder / "open_clip_model.safetensors")
