"""A workspace that reads teachers' features from a sealed generation: every step works, and nothing writes there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from feature_store import FeatureStore
from mmkd_core.data.manifest import Corpus, image_id, sample_id
from tests.e2e.test_bad_input import TINY, _installed, contents, done, mmkd, refusal, site

__all__ = ["_installed", "site"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a teacher and its features."""
    root = tmp_path_factory.mktemp("made")
    (root / "mine.yaml").write_text(yaml.safe_dump(TINY | {"incremental": {"steps": 1, "batch_size": 8, "keep": 0.5}}))
    done("init", root / "ws", "--config", root / "mine.yaml")
    data = ("--train", 4, "--val", 4, "--test", 2, "--domains", "xray,ct")
    for command in (("data", "phantom", *data), ("teachers", "add", "good"), ("extract",)):
        done(*command, "-w", root / "ws")
    return root / "ws"


@pytest.fixture
def ws(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ws"))


def move(ws: Path) -> Path:
    """Seal the features, throw the store away and have the generation read."""
    generation = ws.parent / "shared" / "generation"
    generation.parent.mkdir()
    done("store", "seal", generation, "-w", ws)
    shutil.rmtree(ws / ".mmkd" / "features")
    name_features(ws, generation)
    return generation


def name_features(ws: Path, folder: Path | str) -> None:
    config = yaml.safe_load((ws / "mmkd.yaml").read_text())
    (ws / "mmkd.yaml").write_text(yaml.safe_dump(config | {"features": str(folder)}))


@pytest.mark.slow
def test_the_whole_way_reads_a_generation(ws: Path) -> None:
    for command in (("pretrain",), ("distill",), ("teachers", "add", "good-small"), ("extract",)):
        done(*command, "-w", ws)
    generation = move(ws)
    before = contents(generation)
    assert "nothing was missing" in done("extract", "-w", ws).stdout
    assert "nothing is missing" in done("extract", "--dry-run", "-w", ws).stdout
    assert json.loads(done("eval", "zero-shot", "good-small", "-w", ws, "--json").stdout)["model"] == "good-small"
    rows = json.loads(mmkd("audit", "trust", "--sweep", "-w", ws, "--json").stdout)["rows"]
    assert {row["teacher"] for row in rows} == {"good", "good-small"}
    done("teachers", "forecast", "good-small", "-w", ws)
    release = json.loads(done("distill", "--incremental", "-w", ws, "--json").stdout)
    assert (release["release"], release["made"]) == ("0002", True)
    assert mmkd("audit", "forgetting", "-w", ws).exit_code == 3  # of two test images in each domain
    done("report", "-w", ws)
    assert "sound" in done("store", "verify", "-w", ws).stdout
    assert contents(generation) == before
    assert sorted(path.name for path in generation.iterdir()) == ["data.mdb", "manifest.json"]  # not even a lock
    with FeatureStore.open(ws / ".mmkd" / "features") as store:  # the parent's features are of this workspace
        assert {table.facts["teacher"] for table in store.tables()} == {"student-0001"}


def test_what_is_missing_in_a_generation_is_told_and_how_to_get_it(ws: Path) -> None:
    generation = move(ws)
    image = sorted((ws / "data" / "images").rglob("*.png"))[0]
    replace_image(ws, image)
    before = contents(ws, generation)
    assert refusal("extract", "-w", ws) == (
        "features are missing (good: 1 images and 0 texts), and mmkd.yaml reads a sealed generation, "
        f"which is never written ({generation}). Extract them where it was sealed and seal again; "
        f"or leave `features` empty in mmkd.yaml, then `mmkd store merge {generation} -w {ws}` "
        f"and `mmkd extract -w {ws}`"
    )
    for command in (("store", "gc"), ("store", "repair"), ("store", "compact"), ("store", "merge", generation)):
        assert refusal(*command, "-w", ws).startswith("this generation is sealed and is never written again")
    assert contents(ws, generation) == before
    name_features(ws, "")
    done("store", "merge", generation, "-w", ws)
    told = json.loads(done("extract", "-w", ws, "--json").stdout)
    assert told["images"] == {"good": 1}


def replace_image(ws: Path, image: Path) -> None:
    """Put another image in its place, in the corpus as well."""
    picture = Image.new("L", (16, 16), 77)
    picture.save(image)
    corpus = Corpus.load(ws / "data")
    (place,) = [i for i in range(len(corpus)) if corpus.path(i) == image]
    corpus.image_id[place] = image_id(picture)
    corpus.sample_id[place] = sample_id(str(corpus.image_id[place]), str(corpus.caption[place]))
    corpus.save(ws / "data")


def test_images_that_could_not_be_read_are_not_missing(ws: Path) -> None:
    move(ws)
    image = sorted((ws / "data" / "images").rglob("*.png"))[0]
    replace_image(ws, image)
    image.write_bytes(b"nothing")
    assert "1 of 20 images cannot be read so far, at most 1 % may be left out" in refusal("extract", "-w", ws)
    told = json.loads(done("extract", "--max-bad", "10%", "-w", ws, "--json").stdout)
    assert len(told["skipped"]) == 1
    assert mmkd("audit", "trust", "-w", ws).exit_code == 0  # no teacher claims anything: no verdict


def test_a_folder_without_features_is_refused(ws: Path) -> None:
    generation = move(ws)
    after = (
        f"Name one that `mmkd store seal -w {ws}` made, or leave `features` empty for a store of the workspace's own"
    )
    (ws / "empty").mkdir()
    for folder in ("gone", "empty"):
        name_features(ws, folder)
        before = contents(ws, generation)
        for command in (("extract",), ("extract", "--dry-run"), ("audit", "trust"), ("report",)):
            assert refusal(*command, "-w", ws) == (
                f"mmkd.yaml reads features from a folder that holds none ({ws / folder}). {after}"
            )
        assert contents(ws, generation) == before


def test_the_live_store_of_another_workspace_is_read_and_not_written(ws: Path, tmp_path: Path) -> None:
    live = tmp_path / "live"
    (ws / ".mmkd" / "features").rename(live)
    name_features(ws, live)
    before = (live / "data.mdb").read_bytes()
    assert "nothing was missing" in done("extract", "-w", ws).stdout
    assert mmkd("audit", "trust", "-w", ws).exit_code == 0  # no teacher claims anything: no verdict
    assert (live / "data.mdb").read_bytes() == before
