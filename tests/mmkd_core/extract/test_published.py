"""The folder that the paper's authors publish: a made one of the same layout, and the real demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from feature_store import FeatureStore
from mmkd_core.data.manifest import image_id, text_id
from mmkd_core.errors import DataError
from mmkd_core.extract.published import import_published

DIMS = {"BMCA": 6, "PLIP": 4}


def vector(name: str, teacher: str, tower: str, kind: str) -> torch.Tensor:
    seed = sum(map(ord, name + teacher + tower + kind))
    return torch.randn(DIMS[teacher] if kind == "raw" else 5, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Four pairs; PLIP is trusted for every other one, and the last one has no image."""
    root, lines = tmp_path / "published", []
    for number in range(4):
        name = f"{number:032x}"
        home = root / "features" / "data_1" / name
        home.mkdir(parents=True)
        teachers = ["BMCA", "PLIP"] if number % 2 else ["BMCA"]
        for kind, file in (("raw", "clips_output.pt"), ("aligned", "clips_project_output.pt")):
            keys = [(teacher, tower) for teacher in teachers for tower in ("img", "txt")]
            torch.save({f"{t}_{w}": vector(name, t, w, kind) for t, w in keys}, home / file)
        if number < 3:
            Image.new("RGB", (5, 4), (number, 9, 9)).save(home / "picture.png")
        path = f"features/data_1/{name}/picture.png"
        facts = {"folderid": "data_1", "id": name, "imgpath": path, "txt": f"text {number}"}
        lines.append(facts | {"available_clips": teachers})
    (root / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with FeatureStore.open(tmp_path / "store", "w") as store:
        yield store


def home(published: Path, number: int) -> Path:
    return published / "features" / "data_1" / f"{number:032x}"


def test_raw_and_aligned_features_are_tables_of_their_own(published: Path, store: FeatureStore) -> None:
    done = import_published(published, store)
    assert (done.pairs, done.skipped) == (4, [])
    tables = {(t.table, t.tower): (t.rows, t.dim, t.dtype) for t in store.tables()}
    assert tables == {
        (f"mmkd-clip/{teacher}/{kind}", tower): (rows, DIMS[teacher] if kind == "raw" else 5, "float32")
        for teacher, rows in (("BMCA", 4), ("PLIP", 2))
        for kind in ("raw", "aligned")
        for tower in ("image", "text")
    }
    facts = {t.table: t.facts for t in store.tables()}["mmkd-clip/PLIP/raw"]
    assert facts == {"teacher": "PLIP", "source": "mmkd-clip", "kind": "raw", "unit_norm": True}
    images = [image_id(Image.new("RGB", (5, 4), (n, 9, 9))) for n in range(3)] + [f"mmkd-clip/{3:032x}"]
    rows, texts = store.rows("image", images), store.rows("text", [text_id(f"text {n}") for n in range(4)])
    assert rows.min() >= 0 <= texts.min()
    for n in range(4):
        got = store.gather("mmkd-clip/BMCA/raw", "image", rows[n : n + 1])[0]
        np.testing.assert_array_equal(got, vector(f"{n:032x}", "BMCA", "img", "raw").numpy())
        got = store.gather("mmkd-clip/BMCA/aligned", "text", texts[n : n + 1])[0]
        np.testing.assert_array_equal(got, vector(f"{n:032x}", "BMCA", "txt", "aligned").numpy())
    assert store.missing("mmkd-clip/PLIP/raw", "image", rows).tolist() == [True, False, True, False]
    trusted = [teachers for _, _, teachers in done.trusted]
    assert trusted == [["BMCA"], ["BMCA", "PLIP"], ["BMCA"], ["BMCA", "PLIP"]]
    assert [image for image, _, _ in done.trusted] == images


def test_a_second_import_puts_nothing(published: Path, store: FeatureStore) -> None:
    import_published(published, store)
    before = store.info()
    assert set(import_published(published, store).features.values()) == {0}
    assert store.info() == before


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_damaged_and_missing_pairs_are_listed_and_skipped(
    published: Path, store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    (home(published, 0) / "clips_output.pt").write_bytes(b"no torch file")
    (home(published, 1) / "clips_project_output.pt").unlink()
    torch.save({"BMCA_img": Evil()}, home(published, 2) / "clips_output.pt")
    with (published / "meta.jsonl").open("a") as file:
        file.write('not json\n{"id": "x"}\n')
        file.write('{"folderid": "../..", "id": "out", "txt": "t", "available_clips": ["BMCA"]}\n')
    done = import_published(published, store)
    assert done.pairs == 1
    assert [name[-1] for name, _ in done.skipped] == ["0", "1", "2", "?", "x", "t"]
    assert "outside of the published one" in done.skipped[-1][1]
    assert "unpickled" not in capsys.readouterr().out
    assert store.tables()[0].rows == 1


def test_a_pair_with_a_missing_or_broken_vector_is_left_out_as_a_whole(published: Path, store: FeatureStore) -> None:
    for number, change in ((0, {"BMCA_txt": None}), (1, {"PLIP_img": torch.tensor([float("nan")] * 4)})):
        file = home(published, number) / "clips_output.pt"
        held = torch.load(file, weights_only=True) | change
        torch.save({key: value for key, value in held.items() if value is not None}, file)
    done = import_published(published, store)
    assert [reason for _, reason in done.skipped] == [
        "ValueError: clips_output.pt lacks BMCA_txt",
        "ValueError: PLIP_img of clips_output.pt is no vector of finite numbers",
    ]
    assert {table.rows for table in store.tables() if "BMCA" in table.table} == {2}


def test_a_folder_of_something_else_says_so(tmp_path: Path, store: FeatureStore) -> None:
    with pytest.raises(DataError, match=r"meta\.jsonl is missing or cannot be read"):
        import_published(tmp_path, store)
    (tmp_path / "meta.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match="no pair could be read: a: KeyError"):
        import_published(tmp_path, store)


@pytest.mark.shared_data
def test_the_real_demo(shared_data: Path, store: FeatureStore) -> None:
    done = import_published(shared_data / "mmkd-clip-demo", store)
    assert (done.pairs, done.skipped) == (8, [])
    assert sum(len(teachers) for _, _, teachers in done.trusted) == 44
    rows = {t.table: t.rows for t in store.tables() if t.tower == "image"}
    counts = {"BMCA": 8, "BiomedCLIP": 8, "QuiltNet": 8, "GenMedClip": 8, "UniMedCLIP": 6, "PLIP": 3, "PUBMEDCLIP": 2}
    assert rows == {f"mmkd-clip/{t}/{k}": n for t, n in (counts | {"PMCCLIP": 1}).items() for k in ("raw", "aligned")}
    for table in store.tables():
        features = store.gather(table.table, table.tower, store.present(table.table, table.tower))
        norms = np.linalg.norm(features, axis=1)
        assert features.shape[1] == (768 if table.table in ("mmkd-clip/BMCA/raw", "mmkd-clip/PMCCLIP/raw") else 512)
        assert bool(np.abs(norms - 1).max() < 1e-3) == table.table.endswith("raw")
    assert store.verify() == []


def test_captions_are_read_as_an_import_reads_them(published: Path, store: FeatureStore) -> None:
    lines = [json.loads(line) for line in (published / "meta.jsonl").read_text().splitlines()]
    lines[0]["txt"] = float("nan")  # as pandas writes that there is none
    lines[1]["txt"] = " text\u2028of two lines "
    text = "\ufeff" + "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (published / "meta.jsonl").write_text(text, encoding="utf-8")
    done = import_published(published, store)
    assert (done.pairs, done.skipped) == (3, [(f"{0:032x}", "ValueError: it has no caption")])
    assert done.trusted[0][1] == text_id("text\u2028of two lines")
