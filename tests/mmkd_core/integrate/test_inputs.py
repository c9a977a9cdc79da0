"""Results and what they were made from: what changed since is named, what is damaged is refused or made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_store.errors import StoreError
from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import ReleaseError, WorkspaceError
from mmkd_core.files import forget_hashes
from mmkd_core.integrate import features, releases
from mmkd_core.integrate.doctoring import diagnose
from mmkd_core.integrate.inputs import changes, read_record, require_same, write_record
from mmkd_core.integrate.measuring import run_audit
from mmkd_core.integrate.stage_one import has_stage_one, pretrained, stage_one, stage_one_facts
from mmkd_core.integrate.student_data import run_pretrain
from mmkd_core.integrate.summary import summarise_workspace
from mmkd_core.integrate.teaching import run_distill, run_incremental, trust_beside
from mmkd_core.integrate.workspace import Config, Workspace, read_config
from mmkd_core.progress import Silent
from mmkd_core.report import write_report
from mmkd_core.trust import TeacherTrust


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def workspace(arrived) -> Workspace:
    return arrived()


def edited(workspace: Workspace, **sections: object) -> Workspace:
    """The workspace after somebody edited mmkd.yaml: ``seed=7``, ``student={"embed_dim": 8}``."""
    facts = workspace.config.model_dump(mode="json", by_alias=True)
    for name, value in sections.items():
        facts[name] = {**facts[name], **value} if isinstance(value, dict) else value
    (workspace.root / "mmkd.yaml").write_text(Config.model_validate(facts).dump())
    return Workspace.open(workspace.root)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    forget_hashes()


def shortened(workspace: Workspace) -> Workspace:
    """The workspace with a sample less."""
    corpus = workspace.corpus()
    corpus.take(range(1, len(corpus))).save(workspace.root / workspace.config.data)
    return Workspace.open(workspace.root)


# --- naming what changed --------------------------------------------------------------------------


def test_changes_are_named_with_both_values_and_hashes_are_not_spelt_out():
    was = {"seed": 0, "student": {"embed_dim": 16, "start": {}}, "corpus": "a" * 32, "captions": "own", "old": 1}
    now = {"seed": 7, "student": {"embed_dim": 16, "start": {}}, "corpus": "b" * 32, "captions": "", "new": None}
    assert list(changes(was, now)) == [
        "seed was 0, is 7",
        "corpus changed",
        "captions was own, is empty",
        "old was 1, is not given",
        "new was not given, is null",
    ]
    assert list(changes(was, {**was, "student": {"start": {}, "embed_dim": 16}})) == []
    assert list(changes({"domains": ("ct",)}, {"domains": ["ct"]})) == []


def test_of_many_changes_the_first_are_named():
    was, now = ({f"s{i}": value for i in range(9)} for value in (1, 2))
    with pytest.raises(
        WorkspaceError, match=r"x was made from other inputs: s0 was 1, is 2; .*s3 was 1, is 2 and 5 more"
    ):
        require_same(was, now, "x", "Do it")
    require_same(was, was, "x", "Do it")


def test_a_record_that_is_not_as_it_was_written_is_refused(tmp_path):
    path = tmp_path / "made.json"
    assert read_record(path, "x", "Do it") is None
    write_record(path, {"a": (1, 2), "b": {"c": None}})
    assert read_record(path, "x", "Do it") == {"a": [1, 2], "b": {"c": None}}
    good = path.read_bytes()
    for raw in (good.replace(b"2", b"3"), good[:-4], b"", b"[]", b"null", b"\xff", b"{}", b"[" * 99999):
        path.write_bytes(raw)
        with pytest.raises(WorkspaceError, match=r"x is .*damaged"):
            read_record(path, "x", "Do it")


# --- stage 1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"student": {"embed_dim": 8}}, "student.embed_dim was 16, is 8"),
        ({"student": {"image_size": 64}}, "student.image_size was 32, is 64"),
        ({"seed": 7}, "seed was 0, is 7"),
        ({"pretrain": {"lr": 0.5}}, "pretrain.lr was 0.002, is 0.5"),
    ],
)
def test_stage_one_of_other_settings_is_refused_by_name_and_made_again(workspace, sections, named):
    changed = edited(workspace, **sections)
    with pytest.raises(ReleaseError) as caught:
        run_distill(changed)
    assert f"stage 1 was made from other inputs: {named}. Run `mmkd pretrain`" in str(caught.value)
    run_pretrain(changed, changed.config.pretrain)
    assert stage_one(changed)


def test_stage_one_of_another_corpus_is_refused(workspace):
    with pytest.raises(ReleaseError, match="stage 1 was made from other inputs: corpus changed"):
        stage_one(shortened(workspace))


def test_settings_of_later_steps_do_not_matter_to_stage_one(workspace):
    assert stage_one(edited(workspace, distill={"lr": 0.5}, trust={"threshold": 0.5}, name="other"))


def test_what_was_chosen_for_one_run_holds_and_stands_in_the_release(workspace):
    """``mmkd pretrain --steps 3`` is a choice; mmkd.yaml still says 6 and did not change."""
    run_pretrain(workspace, workspace.config.pretrain.model_copy(update={"steps": 3}))
    assert stage_one_facts(workspace)["pretrain"]["steps"] == 3
    made = run_distill(workspace).release
    assert read_config(made.file("mmkd.yaml")).pretrain.steps == 3
    assert workspace.config.pretrain.steps == 6


def test_a_student_does_not_start_from_a_damaged_release(workspace):
    changed = edited(workspace, student={"start": {"image": "releases/0001/student"}})
    weights = workspace.root / "releases/0001/student/open_clip_model.safetensors"
    flip(weights)
    with pytest.raises(ReleaseError, match=r"release 0001 is damaged: student/open_clip_model\.safetensors is changed"):
        run_pretrain(changed, changed.config.pretrain)


def test_the_doctor_says_what_is_stale_damaged_or_cut_off(workspace):
    def found(now: Workspace) -> dict[str, tuple[str, str]]:
        checks = [check for check in diagnose(now.root) if check.name in ("stage 1", "releases")]
        return {f"{check.name} {check.state}": (check.found, check.fix) for check in checks}

    assert set(found(workspace)) == {"stage 1 ok", "releases ok"}
    (workspace.releases / "0002").mkdir()
    told = found(edited(workspace, seed=7))
    assert told["stage 1 warning"][0] == "stage 1 was made from other inputs: seed was 0, is 7"
    assert "mmkd pretrain" in told["stage 1 warning"][1]
    assert told["releases warning"][0].startswith("0002 has no release.json: a copy that was cut off")
    flip(workspace.releases / "0001" / "replay.json")
    assert "release 0001 is damaged: replay.json is changed" in found(workspace)["releases problem"][0]


def test_what_an_option_chose_may_be_written_into_the_settings_afterwards(workspace):
    """``mmkd pretrain --steps 3``, then ``steps: 3`` in mmkd.yaml: one look at it is enough, nothing is trained."""
    run_pretrain(workspace, workspace.config.pretrain.model_copy(update={"steps": 3}))
    changed = edited(workspace, pretrain={"steps": 3})
    assert not has_stage_one(changed)
    with pytest.raises(ReleaseError, match=r"pretrain\.steps was 6, is 3"):
        stage_one(changed)
    assert not run_pretrain(changed, changed.config.pretrain)[1]["trained"]
    assert has_stage_one(changed)
    assert stage_one(changed)


def test_a_damaged_stage_one_is_refused_and_made_again_as_it_was(workspace):
    folder = stage_one(workspace)
    names = sorted(path.name for path in folder.iterdir())
    assert "open_clip_model.safetensors" in names
    for name in names:
        good = (folder / name).read_bytes()
        flip(folder / name)
        with pytest.raises(ReleaseError, match=f"the stage-1 student is damaged: {name} is changed"):
            run_distill(workspace)
        heard = Heard()
        _, facts = run_pretrain(workspace, workspace.config.pretrain, progress=heard)
        assert facts["trained"]
        assert any(f"{name} is changed; it is made again" in line for line in heard.lines)
        assert (folder / name).read_bytes() == good
    assert not run_pretrain(workspace, workspace.config.pretrain)[1]["trained"]


def test_a_damaged_record_of_stage_one_is_refused_and_made_again(workspace):
    flip(workspace.runs / "pretrain" / "done.json")
    with pytest.raises(ReleaseError, match="stage 1 is damaged"):
        stage_one(workspace)
    assert run_pretrain(workspace, workspace.config.pretrain)[1]["trained"]
    assert stage_one(workspace)


def test_a_student_beside_the_workspace_is_checked_before_it_leaves(workspace):
    out = workspace.root / "radio"
    run_pretrain(workspace, workspace.config.pretrain.model_copy(update={"steps": 2}), out)
    assert pretrained(out)["steps"] == 2
    flip(out / "open_clip_model.safetensors")
    with pytest.raises(ReleaseError, match=r"damaged: open_clip_model\.safetensors is changed"):
        pretrained(out)
    assert pretrained(workspace.root / "from-elsewhere") == {}


@pytest.mark.parametrize("raw", [None, b"", b"short"])
def test_patients_are_never_named_without_a_secret(workspace, raw):
    """A kill or a full disk leaves the file empty or cut; a whole secret stays."""
    path = workspace.state / "salt"
    if raw is not None:
        path.write_bytes(raw)
    salt = workspace.salt()
    assert len(salt) == 32
    assert path.read_bytes() == salt == workspace.salt()
    assert path.stat().st_mode & 0o777 == 0o600


# --- releases -------------------------------------------------------------------------------------


def test_a_student_of_another_shape_is_not_built_on_a_release(workspace):
    changed = edited(workspace, student={"image_size": 64})
    with pytest.raises(ReleaseError) as caught:
        run_incremental(changed)
    assert "release 0001 was made from other inputs: student.image_size was 32, is 64. Put mmkd.yaml back" in str(
        caught.value
    )
    assert [found.id for found in releases.all_releases(workspace)] == ["0001"]


def test_a_release_says_what_it_was_made_from_and_is_made_once(workspace):
    first = releases.release(workspace, "0001").facts["inputs"]
    corpus = workspace.corpus()
    assert first["corpus"] == corpus.fingerprint
    assert set(first["teachers"]) == set(first["trust"]) == {"phantom-eye", "phantom-radio"}
    assert (first["seed"], first["settings"]["steps"], first["parent"]) == (0, 6, None)
    made = run_incremental(workspace)
    assert made.release.facts["inputs"]["parent"] == releases.release(workspace, "0001").digest
    assert set(made.release.facts["inputs"]["trust"]) == {"phantom-eye", "phantom-radio", "phantom-sono"}
    assert not run_incremental(workspace).made


def test_another_mask_makes_another_release(workspace, monkeypatch):
    """One sample more that a teacher may teach, and nothing else."""
    path = releases.release(workspace, "0001").file("trust/phantom-radio.npz")
    trust = TeacherTrust.load(path)
    mask = trust.mask.copy()
    mask[mask.argmin()] = True
    other = TeacherTrust(trust.teacher, mask, trust.domains, trust.config, trust.corpus)
    assert other.digest != trust.digest
    first = run_incremental(workspace).release
    real = trust_beside

    def changed(*args, **kwargs):
        return {**real(*args, **kwargs), "phantom-radio": other}

    monkeypatch.setattr("mmkd_core.integrate.teaching.trust_beside", changed)
    second = run_incremental(workspace)
    assert second.made
    assert second.release.id != first.id


def test_trust_of_another_corpus_is_decided_again(workspace):
    parent = releases.release(workspace, "0001")
    kept = trust_beside(workspace, parent)["phantom-radio"]
    assert kept.digest == TeacherTrust.load(parent.file("trust/phantom-radio.npz")).digest
    changed = shortened(workspace)
    again = trust_beside(changed, parent)["phantom-radio"]
    assert again.corpus == Corpus.load(changed.root / changed.config.data).fingerprint != kept.corpus
    assert len(again.mask) == len(kept.mask) - 1


def test_a_candidate_is_audited_on_whole_files_only(workspace):
    """Whatever an audit reads of either release: predictions, embeddings, heads, the gate of the candidate."""
    made = run_incremental(workspace).release
    parts = ("predictions.parquet", "embeddings.safetensors", "heads.safetensors", "heads.json")
    for found, names in ((made, (*parts, "gate.yaml")), (releases.release(workspace, "0001"), parts)):
        for name in names:
            good = (found.folder / name).read_bytes()
            flip(found.folder / name)
            with pytest.raises(ReleaseError, match=f"release {found.id} is damaged: {name} is changed"):
                run_audit(workspace)
            (found.folder / name).write_bytes(good)
    forget_hashes()
    assert run_audit(workspace)


def test_nothing_is_built_on_a_parent_with_one_flipped_bit(workspace):
    parent = releases.release(workspace, "0001")
    made = run_incremental(workspace).release
    names = ("student/open_clip_model.safetensors", "student/open_clip_config.json", "heads.safetensors",
             "trust/phantom-eye.npz")  # fmt: skip
    for name in names:
        good = (parent.folder / name).read_bytes()
        flip(parent.folder / name)
        changed = edited(workspace, incremental={"steps": 5})
        with pytest.raises(ReleaseError, match=f"release 0001 is damaged: {name} is changed"):
            run_incremental(changed)
        assert [found.id for found in releases.all_releases(workspace)] == ["0001", made.id]
        (parent.folder / name).write_bytes(good)
        forget_hashes()


def test_a_report_names_figures_of_other_data_and_leaves_out_a_stage_one_that_no_release_came_from(workspace):
    assert summarise_workspace(workspace)["remarks"] == []
    run_pretrain(workspace, workspace.config.pretrain.model_copy(update={"steps": 2}))
    facts = summarise_workspace(workspace)
    assert facts["remarks"] == ["stage 1 is left out: release 0001 was not made from the stage 1 that is there now"]
    assert "stage_1" not in facts
    page = write_report(facts, {}, workspace.root / "report.html").read_text()
    assert "stage 1 is left out: release 0001 was not made from" in page
    changed = shortened(workspace)
    heard = Heard()
    told = summarise_workspace(changed, heard)["remarks"][0]
    assert told == "figures of 0001 are of the data that there was then; the corpus changed since"
    assert told in heard.lines


def test_damaged_features_teach_nothing(workspace):
    data = workspace.store / "data.mdb"
    raw = bytearray(data.read_bytes())
    middle = len(raw) // 2 // 4096 * 4096
    raw[middle : middle + 16384] = bytes(16384)
    data.write_bytes(raw)
    features._WHOLE.clear()
    try:
        with pytest.raises((WorkspaceError, StoreError), match=r"damaged.*(repair|again)"):
            run_incremental(workspace)
    finally:
        features._WHOLE.clear()
    assert [found.id for found in releases.all_releases(workspace)] == ["0001"]
