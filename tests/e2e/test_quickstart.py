"""The installed command, end to end, in its smallest size: the summary, its determinism, and survival of SIGKILL."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TASKS = ("zero-shot", "linear-probe", "retrieval", "vqa", "survival", "diagnosis")
COMMAND = [sys.executable, "-m", "mmkd_core", "quickstart", "--smoke", "--json"]


def run(folder: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, str(folder), *extra], capture_output=True, text=True, timeout=600, check=False)


def without_timings(summary: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in summary.items() if key != "seconds"}
    del kept["integration"]["cost_ratio"]["seconds"]
    return kept


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "ws"
    result = run(folder)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["schema"] == "mmkd.summary/v1"
    return folder


def test_summary_has_what_the_issue_names(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    domains = set(summary["data"]["domains"])
    assert len(domains) >= 6
    for teacher in summary["teachers"].values():
        assert set(teacher["auc"]) == domains
        assert 0 <= teacher["mean_auc"] <= 1
    assert set(summary["releases"]) == {"0001", "0002"}
    integration = summary["integration"]
    assert integration["teacher"] == "phantom-sono"
    assert set(integration["gain"]) == {"mri", "ultrasound"}
    for entry in integration["forgetting"].values():
        assert {"delta", "lower", "upper", "n", "groups", "verdict"} <= set(entry)
    assert integration["verdict"] == "INCONCLUSIVE", "forty test images in a domain cannot show more"
    assert {row["verdict"] for row in integration["open"]} == {"INCONCLUSIVE"}
    assert {"steps", "seconds"} <= set(integration["cost_ratio"])
    assert summary["store"]["rows"] > 0
    assert summary["store"]["bytes"] > 0
    assert summary["store"]["bytes_raw"] > 0


def test_report_is_one_self_contained_file(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "phantom-sono" in page
    assert "<svg" in page
    assert 'src="http' not in page
    assert "<script" not in page


def test_figures_can_be_recomputed_from_predictions(finished: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq
    from scipy.special import softmax
    from sklearn.metrics import roc_auc_score

    summary = json.loads((finished / "summary.json").read_text())
    table = pq.read_table(finished / "releases" / "0001" / "predictions.parquet").to_pydict()
    domain = np.array(table["domain"])
    for name, auc in summary["releases"]["0001"]["auc"].items():
        labels = [label for label, where in zip(table["label"], domain == name, strict=True) if where]
        scores = softmax([row for row, where in zip(table["logits"], domain == name, strict=True) if where], axis=1)
        classes = summary["data"]["domains"][name]["labels"]
        per_class = [
            roc_auc_score([label == c for label in labels], scores[:, i])
            for i, c in enumerate(classes)
            if 0 < labels.count(c) < len(labels)
        ]
        assert auc == pytest.approx(np.mean(per_class), abs=1e-6)


def mmkd(folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "mmkd_core", *words, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
    assert result.returncode == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def test_six_tasks_of_students_teachers_and_their_ensemble(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(finished, folder)
    made = mmkd(folder, "data", "phantom-sets")
    assert {task for found in made["sets"] for task in found["tasks"]} == set(TASKS)
    found = mmkd(folder, "eval", "set", "evals/phantom-xray", "0001")["figures"]
    found += mmkd(folder, "eval", "set", "evals/phantom-xray-vqa", "ensemble")["figures"]
    assert len({figure["protocol"] for figure in found}) == 7, "six tasks, of which one has two protocols"
    assert all(figure["status"] == "ok" or figure["status"].startswith("undefined: ") for figure in found)
    again = mmkd(folder, "eval", "set", "evals/phantom-xray", "phantom-radio", "--task", "zero-shot")
    assert [(folder / path).is_file() for path in again["wrote"]] == [True]
    rows = mmkd(folder, "audit", "balance")["rows"]
    assert sum(row["gradient"] for row in rows) == pytest.approx(1)
    assert sum(row["pairs"] for row in rows) >= sum(row["taught"] for row in rows) > 0
    paired = mmkd(folder, "compare", "evals/phantom-xray", "phantom-radio", "0001", "--task", "zero-shot")
    change = next(figure["interval"] for figure in paired["figures"] if figure["metric"].startswith("macro AUC"))
    assert change["estimate"] > 0.2, "the radiology specialist is far above a student of a few steps"


def test_a_report_of_one_release_knows_nothing_of_what_came_after(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(finished, folder)
    whole = json.loads((finished / "summary.json").read_text())
    first, second = mmkd(folder, "report", "0001"), mmkd(folder, "report", "0002")
    assert set(first["teachers"]) == set(whole["releases"]["0001"]["teachers"]) < set(second["teachers"])
    assert set(first["releases"]) == {"0001"}
    assert "integration" not in first
    assert second["integration"]["verdict"] == whole["integration"]["verdict"]
    for name, facts in first["releases"].items():
        assert {key: facts[key] for key in facts if key != "current"} == {
            key: value for key, value in whole["releases"][name].items() if key != "current"
        }
    assert "phantom-sono" not in (folder / "report-0001.html").read_text()
    wrong = subprocess.run(
        [sys.executable, "-m", "mmkd_core", "report", "0007", "-w", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2
    assert "there is no release and no study '0007'" in wrong.stderr
    assert "There are releases 0001, 0002" in wrong.stderr


def test_a_study_runs_its_cells_once_and_writes_table_figure_and_words(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(finished, folder)
    found = mmkd(folder, "study", "staging", "--seeds", "1")
    assert [row["cell"] for row in found["rows"]] == ["with-stage-1", "without"]
    assert all(0 < row["mean"]["mean"] < 1 for row in found["rows"])
    assert found["words"].startswith("Does the student need to read captions first? With 1 seed")
    table, figure, _ = (folder / path for path in found["wrote"])
    assert "| without |" in table.read_text()
    assert figure.read_text().startswith("<svg")
    assert mmkd(folder, "report", "staging")["rows"] == found["rows"]
    assert "no stage 1, as many steps in all" in (folder / "report-staging.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("open_clip_model.safetensors")}
    assert mmkd(folder, "study", "staging", "--seeds", "1")["rows"] == found["rows"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("open_clip_model.safetensors")} == before


def test_an_order_is_integrated_one_teacher_at_a_time(finished: Path, tmp_path: Path) -> None:
    from mmkd_core.integrate import studying
    from mmkd_core.study.cells import Cell

    folder, study = tmp_path / "ws", tmp_path / "ws" / ".mmkd" / "studies" / "order"
    shutil.copytree(finished, folder)
    order = ("phantom-sono", "phantom-eye", "phantom-radio")
    studying._stage_one(folder, study, 0)
    found = studying._run(folder, study, Cell("order-1", order=order), 0)
    releases = sorted((study / "seed-0" / "order-1" / "releases").glob("0*"))
    taught = [json.loads((release / "release.json").read_text())["teachers"] for release in releases]
    assert taught == [list(order[:1]), list(order[:2]), list(order)]
    assert found.counts["forgetting"] >= 0
    assert set(found.auc) == set(json.loads((finished / "summary.json").read_text())["data"]["domains"])


def test_a_second_run_computes_nothing_and_says_the_same(finished: Path) -> None:
    before = json.loads((finished / "summary.json").read_text())
    weights = (finished / "releases/0002/student/open_clip_model.safetensors").stat().st_mtime_ns
    features = (finished / ".mmkd/features/data.mdb").read_bytes()
    result = run(finished)
    assert result.returncode == 0, result.stderr
    assert without_timings(json.loads((finished / "summary.json").read_text())) == without_timings(before)
    assert (finished / "releases/0002/student/open_clip_model.safetensors").stat().st_mtime_ns == weights
    assert (finished / ".mmkd/features/data.mdb").read_bytes() == features


def test_killed_between_a_release_and_the_pointer_to_it(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    shutil.copytree(finished, folder)
    lock = json.loads((folder / "mmkd.lock").read_text())
    del lock["teachers"]["phantom-sono"]
    (folder / "mmkd.lock").write_text(json.dumps(lock))
    shutil.rmtree(folder / "releases" / "0002")
    shutil.rmtree(folder / ".mmkd" / "audits")
    (folder / "releases" / "CURRENT").unlink()
    result = run(folder)
    assert result.returncode == 0, result.stderr
    ours, theirs = (json.loads((where / "summary.json").read_text()) for where in (folder, finished))
    assert without_timings(ours) == without_timings(theirs)


def test_killed_again_and_again_it_ends_with_the_same_summary(finished: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as something new lies on disk, again and again; nothing of the finished run is shared."""
    folder = tmp_path / "ws"
    for pattern in ("mmkd.lock", ".mmkd/runs/pretrain/log.jsonl", "releases/0001/release.json", "releases/0002"):
        process = subprocess.Popen(
            [*COMMAND, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while not (folder / pattern).exists() and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, f"it ended before there was {pattern}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert run(folder).returncode == 0
    ours = json.loads((folder / "summary.json").read_text())
    theirs = json.loads((finished / "summary.json").read_text())
    assert without_timings(ours) == without_timings(theirs)


def test_an_audit_leaves_a_page_xml_and_json_and_a_chain_has_every_name_for_forgetting(finished: Path) -> None:
    from xml.etree import ElementTree

    audits = finished / ".mmkd" / "audits"
    facts = json.loads((audits / "0002-against-0001.json").read_text())
    found = {(row["family"], row["metric"]) for row in facts["comparisons"]}
    assert {("zero-shot", "auc"), ("retrieval", "R@10"), ("fidelity", "cosine"), ("flips", "negative")} <= found
    cases = ElementTree.parse(audits / "0002-against-0001.xml").getroot().findall("testsuite/testcase")
    assert len(cases) == len(facts["comparisons"]) + len(facts["undefined"])
    page = (audits / "0002-against-0001.html").read_text()
    assert facts["gate"]["hash"] in page
    assert 'src="http' not in page
    corpus_train = set(map(str, _train_ids(finished)))
    assert set(facts["replay_first"]) <= corpus_train
    command = [sys.executable, "-m", "mmkd_core", "audit", "forgetting", "--chain", "--json", "-w", str(finished)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    chain = json.loads(result.stdout)
    assert result.returncode == chain["exit_code"], result.stderr
    tables = {(table["family"], table["metric"]): table for table in chain["tables"]}
    assert {("zero-shot", "auc"), ("retrieval", "R@10"), ("fidelity", "cosine"), ("flips", "negative")} <= set(tables)
    assert {("fidelity", "agreement"), ("calibration", "ece"), ("calibration", "brier")} <= set(tables)
    for table in tables.values():
        assert set(table["figures"]) == {"acc", "bwt", "fwt", "forgetting_max_last", "forgetting_first_last"}
    new = [name for name, release in tables["fidelity", "cosine"]["learnt"].items() if release == "0002"]
    assert new
    assert all(tables["fidelity", "cosine"]["matrix"]["0001"][name] is None for name in new)
    # against the release that learnt each part the tests are those of the audit of the two releases
    single = {(row["family"], row["metric"], row["part"]): row["delta"] for row in facts["comparisons"]}
    for row in chain["comparisons"]:
        assert row["delta"] == single[row["family"], row["metric"], row["part"]]
    assert chain["releases"] == ["0001", "0002"]


def _train_ids(folder: Path) -> list[str]:
    from mmkd_core.integrate.workspace import Workspace

    corpus = Workspace.open(folder).corpus()
    return list(corpus.sample_id[corpus.split == "train"])
