"""The life of a store through its commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from feature_store import FeatureStore


@pytest.fixture
def ws(mmkd, installed, with_data) -> Path:
    installed("good")
    for command in (("teachers", "add", "good"), ("extract",)):
        done = mmkd(*command, "-w", with_data)
        assert done.exit_code == 0, done.stderr
    return with_data


@pytest.fixture
def answer(mmkd, ws):
    def run(*arguments: object, code: int = 0, root: Path = ws) -> dict:
        done = mmkd("store", *map(str, arguments), "-w", root, "--json")
        assert done.exit_code == code, done.stderr
        return json.loads(done.stdout)

    return run


def damage(ws: Path) -> int:
    """Change a stored feature; returns the number of rows of its part."""
    file = ws / ".mmkd" / "features" / "data.mdb"
    with FeatureStore.open(file.parent) as store:
        (table,) = [table for table in store.tables() if table.tower == "image"]
        features = store.gather(table.table, "image", range(3)).astype(table.dtype)
    data = bytearray(file.read_bytes())
    place = data.index(features[1].tobytes())
    data[place + 3] ^= 8
    file.write_bytes(data)
    return table.rows


def test_damage_is_found_and_only_that_is_extracted_again(ws, answer, mmkd):
    before = answer("info")
    rows = damage(ws)
    found = answer("verify", code=1)
    assert (found["sound"], found["next"]) == (False, f"mmkd store repair -w {ws}")
    (entry,) = found["damages"]
    assert entry["reason"] == "does not match its digest"
    done = answer("repair")
    assert (done["images"], done["texts"]) == ({"good": rows}, {"good": 0})
    assert answer("verify")["sound"] is True
    after = answer("info")
    assert [t["rows"] for t in after["tables"]] == [t["rows"] for t in before["tables"]]
    assert answer("repair")["repairs"] == []
    damage(ws)
    assert answer("repair", "--drop-only")["next"] == f"mmkd extract -w {ws}"
    assert mmkd("extract", "-w", ws).exit_code == 0
    assert answer("info")["rows"] == after["rows"]


def test_a_generation_is_sealed_and_verified(ws, answer, mmkd):
    first, second = answer("seal"), answer("seal")
    assert (first["number"], second["number"], second["parent"]) == (1, 2, first["root"])
    folder = ws / ".mmkd" / "generations" / "0001"
    assert first["wrote"] == [str(folder)]
    assert answer("verify", folder, "--root", first["root"])["sound"] is True
    assert answer("verify", folder, "--root", second["root"], code=1)["sound"] is False
    assert answer("info", folder)["rows"] == answer("info")["rows"]
    done = mmkd("store", "merge", folder, "-w", ws, "--json")
    assert json.loads(done.stdout)["added"] == 0


def test_what_no_lock_reaches_is_collected_and_the_room_given_back(ws, answer, mmkd):
    with FeatureStore.open(ws / ".mmkd" / "features", "w") as store:
        store.put("old", "image", range(20), store.gather(store.tables()[0].table, "image", range(20)))
        store.describe("old", teacher="good")
    whats = [finding["what"] for finding in answer("doctor")["findings"]]
    assert "features of good exist under 2 fingerprints" in whats
    assert "features of good belong to no teacher in use and to no release" in whats
    rows = answer("info")["rows"]
    planned = answer("gc", "--dry-run")
    assert answer("info")["rows"] == rows
    assert planned["bytes"] > 0
    assert [entry[:3] for entry in planned["tables"]] == [["old", "image", 20]]
    done = answer("gc")
    assert (done["tables"], done["bytes"]) == (planned["tables"], planned["bytes"])
    assert answer("info")["rows"] == rows - 20
    sizes = answer("compact", "--dry-run")
    assert answer("compact")["after"] <= sizes["after"] <= sizes["before"]
    assert answer("verify")["sound"] is True
    assert not any("fingerprint" in finding["what"] for finding in answer("doctor")["findings"])
    (ws / "mmkd.lock").unlink()
    refused = mmkd("store", "gc", "-w", ws)
    assert refused.exit_code == 2
    assert "there is no mmkd.lock, so nothing says which features are needed" in refused.stderr


@pytest.mark.parametrize("kind", ["safetensors", "parquet"])
def test_features_go_out_and_come_back(ws, answer, mmkd, tmp_path, kind):
    rows = answer("info")["rows"]
    assert answer("export", tmp_path / "out", "--format", kind)["rows"] == rows
    shutil.move(ws / ".mmkd" / "features", tmp_path / "old")
    assert answer("import", tmp_path / "out")["added"] == rows
    done = mmkd("extract", "-w", ws, "--json")
    assert json.loads(done.stdout)["images"] == {"good": 0}
    assert answer("merge", tmp_path / "old")["same"] == rows
    with FeatureStore.open(tmp_path / "old", "w") as store:
        table = store.tables()[0].table
        store.put(table, "image", [0], store.gather(table, "image", [1]))
    assert answer("merge", tmp_path / "old", code=1)["conflicts"] == 1
    assert mmkd("store", "import", "other", tmp_path, "-w", ws).exit_code == 2
