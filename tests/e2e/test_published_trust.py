"""`trust: {rule: published}`: exactly the teachers that the authors of MMKD-CLIP list per sample."""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mmkd_core.data.manifest import Corpus
from mmkd_core.trust import PublishedTrust, TeacherTrust
from mmkd_core.trust.published import NAMES
from tests.e2e.test_bad_input import TINY, _installed, done, mmkd, refusal, site, write_dist_info

__all__ = ["_installed", "site"]
PLUGIN = '''"""A teacher with the name of a published one; what it answers does not matter here."""

import mmkd_good
from mmkd_core.contract import hookimpl

SPEC = mmkd_good.SPEC.model_copy(update={"name": "plip", "arch": {"name": "plip"}})


@hookimpl
def mmkd_teachers():
    return [SPEC]


@hookimpl
def mmkd_load_teacher(spec, weights, device):
    from mmkd_good.model import LinearTeacher

    return LinearTeacher(spec, 1, device)
'''


@pytest.fixture(scope="module", autouse=True)
def _plip(site: Path, _installed: None) -> Iterator[None]:
    """A plugin called as one of the paper's teachers is."""
    (site / "mmkd_test_plip.py").write_text(PLUGIN)
    write_dist_info(site, "mmkd-plip", "[mmkd.v1]\nplip = mmkd_test_plip\n")
    importlib.invalidate_caches()
    yield
    sys.modules.pop("mmkd_test_plip", None)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Ten pairs: PLIP is listed for every other one, BMCA for all."""
    root, lines = tmp_path / "published", []
    for number in range(10):
        name = f"{number:032x}"
        home = root / "features" / "data_1" / name
        home.mkdir(parents=True)
        teachers = ["BMCA"] + ["PLIP"] * (number % 2 == 0)
        vectors = {f"{t}_{tower}": torch.full((4,), number + 1.0) for t in teachers for tower in ("img", "txt")}
        for file in ("clips_output.pt", "clips_project_output.pt"):
            torch.save(vectors, home / file)
        Image.new("RGB", (8, 8), (20 * number, 9, 9)).save(home / "picture.png")
        facts = {"folderid": "data_1", "id": name, "imgpath": f"features/data_1/{name}/picture.png"}
        lines.append(facts | {"txt": f"text {number}", "available_clips": teachers})
    (root / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "meta.jsonl").read_text().splitlines()]


def manifest(folder: Path, out: Path, split: Callable[[int], str]) -> Path:
    """A manifest of the published pairs, in another order, with one sample of our own between them."""
    Image.new("RGB", (8, 8), (1, 2, 250)).save(out.with_name("own.png"))
    rows = [
        {"image": os.path.relpath(folder / meta["imgpath"], out.parent), "caption": meta["txt"], "split": split(i)}
        for i, meta in enumerate(entries(folder))
    ]
    rows.insert(1, {"image": "own.png", "caption": "our own", "split": "train"})
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "caption", "split", "domain", "group_id"])
        writer.writeheader()
        for i, row in enumerate(reversed(rows)):
            writer.writerow(row | {"domain": "pathology", "group_id": f"g{i}"})
    return out


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Call with a manifest: a workspace under the rule, with the features of two teachers."""
    (tmp_path / "registry.yaml").write_text("schema_version: 1\nteachers: {}\n")  # ours says more about plip
    monkeypatch.setenv("MMKD_REGISTRY", str(tmp_path / "registry.yaml"))

    def make(table: Path) -> Path:
        ws = tmp_path / "ws"
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TINY))
        done("init", ws, "--config", tmp_path / "mine.yaml", "--trust", "published")
        done("data", "import", table, "-w", ws)
        for name in ("good", "plip"):
            done("teachers", "add", name, "-w", ws)
        done("extract", "-w", ws)
        return ws

    return make


def listed_in(ws: Path, folder: Path, theirs: str) -> set[str]:
    """Captions of train samples for which the authors list a teacher; captions are all different."""
    corpus = Corpus.load(ws / "data")
    train = {str(corpus.caption[i]) for i in corpus.where(split="train")}
    return {meta["txt"] for meta in entries(folder) if theirs in meta["available_clips"]} & train


def taught(ws: Path, name: str) -> set[str]:
    """Captions of the samples that a teacher teaches, as decided."""
    corpus, trust = Corpus.load(ws / "data"), TeacherTrust.load(ws / ".mmkd" / "trust" / f"{name}.npz")
    return {str(caption) for caption in corpus.caption[trust.mask]}


def test_a_teacher_teaches_exactly_what_it_is_listed_for(
    published: Path, tmp_path: Path, workspace: Callable[[Path], Path]
) -> None:
    table = manifest(published, tmp_path / "table.csv", lambda i: "test" if i in (4, 5) else "train")
    ws = workspace(table)
    assert refusal("audit", "trust", "-w", ws) == (
        f"there is no published list of trusted teachers ({ws / '.mmkd' / 'mmkd-clip-trusted.json'}). "
        f"Run `mmkd store import mmkd-clip DIR -w {ws}`, or choose another rule under trust in mmkd.yaml"
    )
    done("store", "import", "mmkd-clip", published, "-w", ws)
    rows = json.loads(mmkd("audit", "trust", "-w", ws, "--json").stdout)["rows"]
    assert {row["teacher"]: (row["admitted"], row["of"]) for row in rows} == {"good": (0, 9), "plip": (4, 9)}
    assert {row["teacher"]: row["reason"] for row in rows}["plip"] == "the paper's authors list it for 4 of 9"
    assert taught(ws, "plip") == {"text 0", "text 2", "text 6", "text 8"} == listed_in(ws, published, "PLIP")
    assert taught(ws, "good") == set()
    path = ws / ".mmkd" / "mmkd-clip-trusted.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({"pairs": [pair | {"image_id": "0" * 32} for pair in facts["pairs"][:1]]}))
    assert refusal("audit", "trust", "-w", ws) == (
        "none of the 9 training samples is in the published list of 1 pairs. "
        "Its images and captions must be those of the corpus, unchanged"
    )


def test_a_pair_that_comes_twice_and_names_in_any_case(tmp_path: Path) -> None:
    pairs = [("i", "t", ["plip", "SomeCLIP"]), ("i", "t", ["PMCCLIP"]), ("j", "t", ["BiomedClip"])]
    facts = {"pairs": [dict(zip(("image_id", "text_id", "teachers"), pair, strict=True)) for pair in pairs]}
    (tmp_path / "list.json").write_text(json.dumps(facts))
    found = PublishedTrust.load(tmp_path / "list.json").teachers
    assert found == {("i", "t"): {"plip", "SomeCLIP", "pmc-clip"}, ("j", "t"): {"biomed-clip"}}


@pytest.mark.parametrize("text", ["", "[]", '{"pairs": [{}]}', '{"pairs": 3}'])
def test_a_damaged_list(tmp_path: Path, text: str) -> None:
    from mmkd_core.errors import TrustError

    (tmp_path / "list.json").write_text(text)
    with pytest.raises(TrustError, match="the list of trusted teachers cannot be read"):
        PublishedTrust.load(tmp_path / "list.json")


def test_the_papers_names_are_those_of_the_registry() -> None:
    from mmkd_core.plugins import load_registry

    assert set(NAMES.values()) <= set(load_registry().teachers)
    assert len(set(NAMES.values())) == 9


def test_quickstart_has_no_list(tmp_path: Path) -> None:
    assert "has no published list" in refusal("quickstart", tmp_path / "q", "--trust", "published", "--smoke")
    assert not (tmp_path / "q").exists()


@pytest.mark.shared_data
def test_the_real_demo(shared_data: Path, tmp_path: Path, workspace: Callable[[Path], Path]) -> None:
    folder = shared_data / "mmkd-clip-demo"
    ws = workspace(manifest(folder, tmp_path / "table.csv", lambda i: "train"))
    done("store", "import", "mmkd-clip", folder, "-w", ws)
    rows = json.loads(mmkd("audit", "trust", "-w", ws, "--json").stdout)["rows"]
    assert {row["teacher"]: (row["admitted"], row["of"]) for row in rows} == {"good": (0, 9), "plip": (3, 9)}
    assert taught(ws, "plip") == listed_in(ws, folder, "PLIP")
    assert set(NAMES) >= {name for meta in entries(folder) for name in meta["available_clips"]}
