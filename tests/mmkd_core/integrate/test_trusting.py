"""Trust with the real steps: from what it is decided, when again, what is recorded, and what an integration says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkd_core.cli.export import _origin
from mmkd_core.contract import Provenance, TeacherSpec
from mmkd_core.data.importers import import_data
from mmkd_core.errors import PluginError
from mmkd_core.integrate import releases, teaching
from mmkd_core.integrate.extracting import run_extract
from mmkd_core.integrate.features import locked_specs
from mmkd_core.integrate.student_data import run_pretrain, some_images
from mmkd_core.integrate.summary import summarise_workspace
from mmkd_core.integrate.teaching import decided_here, earn_trust, run_distill, run_trust
from mmkd_core.integrate.transaction import run_integrate
from mmkd_core.integrate.trusting import run_trust_audit
from mmkd_core.integrate.workspace import Workspace
from mmkd_core.plugins import PluginHost
from mmkd_core.plugins.lifecycle import add
from mmkd_core.trust import TrustConfig
from tests.mmkd_core.integrate.conftest import TINY

RADIO = "phantom-radio"
LABELS = ("normal", "nodule", "effusion")


def under(workspace: Workspace, **trust: object) -> Workspace:
    """The same workspace under other settings of trust."""
    config = workspace.config.model_copy(update={"trust": replace(workspace.config.trust, **trust)})
    (workspace.root / "mmkd.yaml").write_text(config.dump())
    return Workspace.open(workspace.root)


def noise(folder: Path, rows: int, labelled: bool = True, val: int | None = None) -> Workspace:
    """A workspace with images of noise, each of a patient of its own; half, or ``val``, of them validation images."""
    (folder / "in").mkdir(parents=True)
    rng, table = np.random.default_rng(0), []
    for i in range(rows):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "in" / f"{i}.png")
        said = {"label": LABELS[i % 3]} if labelled else {"caption": f"radiograph {i} of a patient"}
        split = "val" if (i < val if val is not None else i % 2) else "train"
        table.append({"image": f"{i}.png", "domain": "xray", "group_id": f"p{i}", "split": split, **said})
    manifest = folder / "in" / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in table))
    workspace = Workspace.create(folder / "ws", TINY)
    import_data(manifest, workspace.root / TINY.data)
    return workspace


def test_what_a_release_learnt_from_keeps_its_trust_until_something_changes(arrived: Callable[..., Workspace]) -> None:
    workspace = arrived()
    kept = run_trust(workspace)
    assert decided_here(workspace)[1] == []
    in_use = releases.current(workspace)
    assert in_use is not None
    other = under(workspace, threshold=0.95)
    found, stale = decided_here(other)
    assert (found, set(stale)) == ({}, set(kept))
    again = run_trust(other)
    assert all(trust.config["threshold"] == 0.95 for trust in again.values())
    assert all(again[name].digest != kept[name].digest for name in kept)
    assert decided_here(other)[1] == []


def test_another_corpus_gets_another_trust(arrived: Callable[..., Workspace]) -> None:
    workspace = arrived()
    before = run_trust(workspace)
    corpus = workspace.corpus()
    fewer = np.flatnonzero((corpus.split != "train") | (np.arange(len(corpus)) % 2 == 0))
    corpus.take(fewer).save(workspace.root / workspace.config.data)
    assert set(decided_here(workspace)[1]) == set(before)
    after = run_trust(workspace)
    assert all(len(trust.mask) == len(fewer) for trust in after.values())
    assert all(after[name].corpus != before[name].corpus for name in before)


def test_the_summary_tells_the_rule_that_was_used_and_what_is_open(arrived: Callable[..., Workspace]) -> None:
    workspace = arrived()
    run_trust(workspace)
    facts = summarise_workspace(workspace)["trust"]
    assert [entry["says"] for entry in facts["sentences"]] == [TrustConfig().sentence]
    assert (facts["undecided"], sorted(facts["teachers"])) == ([], ["phantom-eye", RADIO, "phantom-sono"])
    facts = summarise_workspace(under(workspace, rule="none"))["trust"]
    assert (facts["sentences"], len(facts["undecided"])) == ([], 3)


def test_a_teacher_that_was_made_from_these_images_is_not_measured_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation split has six images, so training patients are asked; but not by what knows them."""
    workspace = noise(tmp_path, 60, val=6)
    add(RADIO, workspace.lock_file)
    run_extract(workspace).require()
    found = run_trust(workspace)[RADIO].domains["xray"]
    assert (found.status, found.probe, found.n) == ("not better than chance", "train", 54)
    assert run_trust(under(workspace, probe="val"))[RADIO].domains["xray"].status == "not measured"
    corpus = workspace.corpus()
    images = tuple(some_images(corpus, corpus.where("train")))

    def known(asked: Workspace, host: PluginHost) -> dict[str, TeacherSpec]:
        provenance = Provenance(images=images)
        return {n: spec.model_copy(update={"provenance": provenance}) for n, spec in locked_specs(asked, host).items()}

    monkeypatch.setattr(teaching, "locked_specs", known)
    found = run_trust(Workspace.open(workspace.root))[RADIO].domains["xray"]
    assert (found.status, found.probe) == ("not measured", "val")
    trust = run_trust(under(workspace, probe="train"))[RADIO]
    assert trust.domains["xray"].reason.startswith(
        "not measured: 6 labelled images of 6 patients, 20 of 5 are needed, "
    )
    assert "it was made from the training images" in trust.domains["xray"].reason


def test_labels_at_random_refute_a_claim_and_nothing_is_distilled(tmp_path: Path) -> None:
    workspace = noise(tmp_path, 120)
    done = run_integrate(workspace, RADIO)
    assert (done.verdict, done.release, done.nowhere) == (None, None, True)
    assert list(done.steps) == ["add", "extract", "trust"]
    assert done.steps["trust"].startswith(f"{RADIO} may teach nothing; overclaimed in xray (claims 94.0 %, measured ")
    assert "not better than chance in xray" in done.steps["trust"]
    assert releases.all_releases(workspace) == []
    facts = run_trust_audit(workspace, swept=False)
    assert (facts["verdict"], facts["exit_code"]) == ("FAIL", 1)
    assert facts["rows"][0]["finding"] == "overclaimed"


def test_the_way_out_of_no_trust_never_appeals_to_a_claim_that_was_measured() -> None:
    assert "claim" not in earn_trust([("not better than chance", 0.94), ("measured", None)])
    assert "take another one" in earn_trust([("not better than chance", 0.94)])
    assert "claim" not in earn_trust([("not measured", None), ("measured", 0.94)])
    assert "rule: claimed" in earn_trust([("measured", None), ("not measured", 0.94)])


def test_without_labels_a_claim_teaches_by_a_persons_choice_alone(tmp_path: Path) -> None:
    workspace = noise(tmp_path, 60, labelled=False)
    add(RADIO, workspace.lock_file)
    run_extract(workspace).require()
    trust = run_trust(workspace)[RADIO]
    assert (trust.mask.sum(), trust.domains["xray"].status) == (0, "not measured")
    run_pretrain(workspace, workspace.config.pretrain)
    with pytest.raises(PluginError, match=rf"{RADIO} may teach nothing \(xray: not measured: no labelled images; "):
        run_distill(workspace)
    done = run_integrate(under(workspace, rule="claimed"), RADIO)
    assert done.release is not None
    assert "on its claim alone, unverified, in xray" in done.steps["trust"]
    assert done.release.facts["claimed"] == {RADIO: {"xray": 0.94}}
    assert f"{RADIO} taught xray (94.0 %) on its authors' claim alone: nothing was measured there." in _origin(
        done.release, workspace.corpus()
    )
