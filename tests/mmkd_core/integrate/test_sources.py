"""Which sources an integration learns from, with whose mask and when, and that its release says what was done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.replay import MixedBatches
from mmkd_core.distill.sources import Source
from mmkd_core.integrate import distillation, releases
from mmkd_core.integrate.distillation import Distillation
from mmkd_core.integrate.releases import Release
from mmkd_core.integrate.teaching import run_distill, run_incremental, run_trust
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.student.batches import Rows
from mmkd_core.trust import TeacherTrust

STEPS = 6


@dataclass
class Run:
    """What training was given, and what came of it."""

    sources: dict[str, Source] = field(default_factory=dict)
    batches: Callable[[int], Rows] = np.flatnonzero
    release: Release | None = None

    @property
    def rows(self) -> list[set[int]]:
        """Of each step."""
        return [set(self.batches(step).tolist()) for step in range(STEPS)]


@contextmanager
def watching() -> Iterator[Run]:
    """Look on at the real training."""
    run, real = Run(), distillation.distill

    def distill(student: Any, sources: Any, samples: Any, bank: Any, batches: Any, *rest: Any, **options: Any) -> Any:
        run.sources, run.batches = {source.name: source for source in sources}, batches
        return real(student, sources, samples, bank, batches, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "distill", distill)
        yield run


def integrate(workspace: Workspace) -> Run:
    with watching() as run:
        run.release = run_incremental(workspace).release
    return run


@pytest.fixture(scope="module")
def whole(arrived: Callable[..., Workspace]) -> tuple[Workspace, Run]:
    """An integration as it is by default, with one earlier teacher at a time."""
    workspace = arrived(at_once=1)
    return workspace, integrate(workspace)


def trusted(workspace: Workspace, teacher: str, release: str = "") -> np.ndarray:
    folder = workspace.releases / release / "trust" if release else workspace.trust
    return TeacherTrust.load(folder / f"{teacher}.npz").mask


def names(corpus: Corpus, mask: np.ndarray) -> set[str]:
    return {str(name) for name in corpus.sample_id[mask]}


def test_newcomer_earlier_teachers_and_the_parent_teach_each_with_its_own_mask(whole: tuple[Workspace, Run]) -> None:
    workspace, run = whole
    corpus = workspace.corpus()
    assert list(run.sources) == ["phantom-sono", "phantom-eye", "phantom-radio", "student-0001"]
    new = trusted(workspace, "phantom-sono")
    assert set(corpus.domain[new]) >= {"mri"}
    for teacher, domain in (("phantom-eye", "fundus"), ("phantom-radio", "ct")):
        mask = run.sources[teacher].mask
        assert np.array_equal(mask, trusted(workspace, teacher, "0001")), teacher
        assert mask[(corpus.domain == domain) & (corpus.split == "train")].all(), teacher
        assert (corpus.split[mask] == "train").all()
    assert np.array_equal(run.sources["phantom-sono"].mask, new)
    # The parent: what no newcomer teaches, except what it only guessed in domains that are a newcomer's now.
    parent, train = run.sources["student-0001"], corpus.split == "train"
    own = np.any([trusted(workspace, name, "0001") for name in ("phantom-eye", "phantom-radio")], axis=0)
    assert np.array_equal(parent.mask, train & ~new & ((corpus.domain != "mri") | own))
    assert set(corpus.domain[parent.mask]) >= {"ct", "fundus", "pathology"}
    assert (parent.heads, parent.factor) == (False, workspace.config.incremental.parent)
    assert all(run.sources[name].heads for name in run.sources if name.startswith("phantom"))
    fingerprints = {name: source.table for name, source in run.sources.items()}
    assert len(set(fingerprints.values())) == 4, "each reads its own features"


def test_earlier_teachers_take_turns_and_the_others_always_teach(whole: tuple[Workspace, Run]) -> None:
    _, run = whole
    turns = {name: [source.teaches(step) for step in range(STEPS)] for name, source in run.sources.items()}
    assert all(turns["phantom-sono"])
    assert all(turns["student-0001"])
    eye, radio = turns["phantom-eye"], turns["phantom-radio"]
    for step in range(0, STEPS, 2):  # one cycle: each of the two once
        assert sorted(eye[step : step + 2]) == sorted(radio[step : step + 2]) == [False, True]
        assert eye[step] is not radio[step]
    for step, rows in enumerate(run.rows):  # replayed rows of a teacher come where it has its turn
        fresh = {row for row in rows if run.sources["phantom-sono"].mask[row]}
        own = {name: {row for row in rows - fresh if run.sources[name].mask[row]} for name in turns}
        assert own["phantom-eye"] or own["phantom-radio"]
        for name in ("phantom-eye", "phantom-radio"):
            other = "phantom-radio" if name == "phantom-eye" else "phantom-eye"
            if not turns[name][step]:
                assert own[name] <= own[other], "without its turn none of its rows comes"


def test_replayed_are_the_rows_that_were_drawn(whole: tuple[Workspace, Run]) -> None:
    workspace, run = whole
    assert run.release
    corpus, new = workspace.corpus(), run.sources["phantom-sono"].mask
    drawn = set.union(*run.rows)
    old = {str(corpus.sample_id[row]) for row in drawn if not new[row]}
    replayed = json.loads((run.release.folder / "replay.json").read_text())
    listed = {sample for samples in replayed.values() for sample in samples}
    assert old, "a run without replay shows nothing"
    assert listed == old
    assert run.release.facts["replayed"] == len(old) < (~new & (corpus.split == "train")).sum()
    assert {key.partition("/")[0] for key in replayed} == {"phantom-eye", "phantom-radio", ""}


def test_every_row_of_an_integration_is_a_training_row(whole: tuple[Workspace, Run]) -> None:
    workspace, run = whole
    split = workspace.corpus().split
    assert set(split[sorted(set.union(*run.rows))]) == {"train"}
    assert all(set(split[source.mask]) == {"train"} for source in run.sources.values())


def test_the_parent_gives_up_what_it_guessed_where_a_newcomer_teaches_a_part(arrived: Callable[..., Workspace]) -> None:
    """The newcomer is trusted with half of mri: of the other half the parent keeps what an earlier teacher taught."""
    workspace = arrived()
    corpus, parent = workspace.corpus(), releases.current(workspace)
    assert parent
    trust = run_trust(workspace)
    mri = np.flatnonzero((corpus.domain == "mri") & (corpus.split == "train"))
    half = np.isin(np.arange(len(corpus)), mri[::2])
    part = replace(trust["phantom-sono"].domains["mri"], trusted=False, admitted=int(half.sum()))
    domains = {**trust["phantom-sono"].domains, "mri": part}
    trust["phantom-sono"] = replace(trust["phantom-sono"], mask=half, domains=domains)
    earlier = np.isin(np.arange(len(corpus)), mri[1:4])  # one of them is not the newcomer's
    trust["phantom-eye"] = replace(trust["phantom-eye"], mask=(trust["phantom-eye"].mask & ~half) | earlier)
    trust["phantom-radio"] = replace(trust["phantom-radio"], mask=(corpus.domain == "ct") & (corpus.split == "train"))
    config = workspace.config.incremental
    job = Distillation(workspace, config, parent.student, parent, trust, None)
    batches = MixedBatches(np.flatnonzero(half), job.replay(config, ["phantom-sono"]), 16, 0.5, 1, 0)
    with watching() as run:
        job.run(["phantom-sono"], batches, "integrate")
    kept = run.sources["student-0001"].mask[mri]
    taught = (trust["phantom-eye"].mask | trust["phantom-radio"].mask)[mri]
    assert kept.any()
    assert not kept.all()
    assert kept.tolist() == [place % 2 == 1 and bool(taught[place]) for place in range(len(mri))]


def test_a_run_that_draws_no_earlier_row_says_so(arrived: Callable[..., Workspace]) -> None:
    run = integrate(arrived(replay=0.0))
    assert run.release
    assert all(run.sources["phantom-sono"].mask[list(rows)].all() for rows in run.rows)
    assert run.release.facts["replayed"] == 0
    assert json.loads((run.release.folder / "replay.json").read_text()) == {}


def test_lessons_count_the_samples_that_each_source_taught(whole: tuple[Workspace, Run]) -> None:
    _, run = whole
    assert run.release
    taught: dict[str, set[int]] = {name: set() for name in run.sources}
    for step, rows in enumerate(run.rows):
        for name, source in run.sources.items():
            taught[name] |= {row for row in rows if source.mask[row] and source.teaches(step)}
    assert run.release.facts["lessons"] == {name: len(rows) for name, rows in taught.items()}
    assert all(taught.values())


def test_without_the_parents_relation_the_parent_is_no_source(arrived: Callable[..., Workspace]) -> None:
    run = integrate(arrived(parent=0.0))
    assert run.release
    assert list(run.sources) == ["phantom-sono", "phantom-eye", "phantom-radio"]
    assert set(run.release.facts["lessons"]) == {"phantom-sono", "phantom-eye", "phantom-radio"}


def test_a_first_distillation_has_its_teachers_and_nothing_to_replay(arrived: Callable[..., Workspace]) -> None:
    workspace = arrived()
    with watching() as run:
        release = run_distill(workspace).release
    assert list(run.sources) == ["phantom-eye", "phantom-radio", "phantom-sono"]
    assert all(source.teaches(0) and source.teaches(1) for source in run.sources.values())
    corpus = workspace.corpus()
    assert set(corpus.split[sorted(set.union(*run.rows))]) == {"train"}
    assert all(set(corpus.split[source.mask]) == {"train"} for source in run.sources.values())
    assert release.facts["replayed"] == 0
    assert set(release.facts["lessons"]) == set(run.sources)
    assert json.loads((release.folder / "replay.json").read_text()) == {}
