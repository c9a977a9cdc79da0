from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd_core.data.check import check
from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.manifest import SPLITS, Corpus
from mmkd_core.data.medmnist_sets import FLAGS
from mmkd_core.errors import DataError

Arrays = dict[str, NDArray[np.generic]]


def arrays(classes: int, colour: bool, seed: int = 0) -> Arrays:
    """Return arrays like MedMNIST's: 2 images per class and split."""
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    for split in SPLITS:
        shape = (2 * classes, 28, 28, 3) if colour else (2 * classes, 28, 28)
        made[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        made[f"{split}_labels"] = np.arange(2 * classes, dtype=np.uint8)[:, None] % classes
    return made


def save(path: Path, values: Arrays) -> Path:
    np.savez_compressed(path, **values)  # type: ignore[arg-type]
    return path


def test_pixels_labels_and_splits_come_through(tmp_path: Path) -> None:
    values = arrays(9, colour=True)
    corpus, report = import_data(save(tmp_path / "pathmnist.npz", values), tmp_path / "out")
    assert corpus.domains == ["pathology"]
    assert corpus.classes("pathology") == list(FLAGS["pathmnist"][1]), "class order is the published one"
    for split in SPLITS:
        rows = corpus.where(split)
        assert np.array_equal(np.stack([np.asarray(corpus.open(i)) for i in rows]), values[f"{split}_images"])
        labels = [corpus.classes("pathology").index(corpus.label[i]) for i in rows]
        assert labels == values[f"{split}_labels"][:, 0].tolist()
    assert corpus.image[0].startswith("images/pathmnist/"), "images that the import wrote move with the corpus"
    assert check(Corpus.load(tmp_path / "out")).ok
    assert report.notes == ("MedMNIST names no patients: every image is its own group, so intervals may be too narrow",)
    assert report.groups == report.samples == 54


def test_a_folder_of_sets_shares_domains(tmp_path: Path) -> None:
    save(tmp_path / "bloodmnist_64.npz", arrays(8, colour=True))
    save(tmp_path / "tissuemnist.npz", arrays(8, colour=False, seed=1))
    save(tmp_path / "my_set.npz", arrays(2, colour=False, seed=2))
    corpus, report = import_data(tmp_path, tmp_path / "out")
    assert corpus.classes("microscopy") == [*FLAGS["bloodmnist"][1], *FLAGS["tissuemnist"][1]]
    assert corpus.classes("my-set") == ["class 0", "class 1"]
    assert report.domains == {"microscopy": 96, "my-set": 12}
    assert corpus.open(int(corpus.where(domains=["my-set"])[0])).mode == "L"


def test_several_findings_an_image_are_a_multi_label_domain(tmp_path: Path) -> None:
    values = arrays(2, colour=False)
    for split in SPLITS:
        values[f"{split}_labels"] = np.zeros((4, 14), np.uint8)
        values[f"{split}_labels"][1, [0, 13]] = values[f"{split}_labels"][2, 13] = 1
    corpus, _ = import_data(save(tmp_path / "chestmnist.npz", values), tmp_path / "out")
    assert corpus.multilabel("xray")
    assert corpus.classes("xray") == ["atelectasis", "hernia"], "classes that no image has are none"
    assert list(corpus.labels[corpus.where("val")]) == [(), ("atelectasis", "hernia"), ("hernia",), ()]
    assert check(Corpus.load(tmp_path / "out")).ok


def test_a_second_run_writes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "octmnist.npz", arrays(4, colour=False))
    first, _ = import_data(path, tmp_path / "out")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "images").rglob("*.png")}
    second, _ = import_data(path, tmp_path / "out")
    assert second.fingerprint == first.fingerprint
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "images").rglob("*.*")}
    assert len(times) == 24


def test_repeated_images_are_kept_once_in_the_later_split(tmp_path: Path) -> None:
    values = arrays(2, colour=False)
    values["val_images"][1] = values["train_images"][0]
    values["test_images"][3] = values["train_images"][0]
    values["train_images"][2] = values["train_images"][1]
    corpus, report = import_data(save(tmp_path / "pneumoniamnist.npz", values), tmp_path / "out")
    assert report.splits == {"train": 2, "val": 3, "test": 4}
    (copies,) = report.left_out
    assert (copies.what, copies.count) == ("copies (test was kept before val before train)", 3)
    assert copies.examples[0] == "train_images[0], of test_images[3]"
    assert report.rows == 12
    (differ,) = report.issues
    assert differ.what == "images with different labels in two rows"
    assert len(set(corpus.image_id)) == 9


def test_findings_that_two_copies_do_not_share_are_named(tmp_path: Path) -> None:
    values = arrays(2, colour=False)
    values["test_images"][0] = values["train_images"][0]
    for split in ("train", "val", "test"):
        values[f"{split}_labels"] = np.tile([[0, 1]], (len(values[f"{split}_images"]), 1))
    values["test_labels"][0] = [1, 1]
    _, report = import_data(save(tmp_path / "own.npz", values), tmp_path / "out", ImportOptions(domain="xray"))
    (told,) = [issue.examples for issue in report.issues if issue.what == "images with different labels in two rows"]
    assert told == ("train_images[0] 'class 1', test_images[0] 'class 0|class 1'",)


def refused(tmp_path: Path, values: Arrays, name: str = "pneumoniamnist.npz") -> str:
    save(tmp_path / name, values)
    with pytest.raises(DataError) as caught:
        import_data(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    return str(caught.value)


def test_what_is_refused(tmp_path: Path) -> None:
    good = arrays(2, colour=False)
    many = {**good, "train_labels": np.zeros((4, 14), dtype=np.uint8)}
    text = refused(tmp_path, many, "chestmnist.npz")
    assert text.startswith("the splits differ in labels per image: train 14, val 1, test 1 (chestmnist.npz)")
    volumes = {**good, "train_images": np.zeros((4, 28, 28, 28), dtype=np.uint8)}
    assert "train_images are uint8 of shape (4, 28, 28, 28), not uint8 of N x H x W" in refused(tmp_path, volumes)
    floats = {**good, "val_images": np.zeros((4, 28, 28))}
    assert "val_images are float64" in refused(tmp_path, floats)
    assert "label 5 is beyond the 2 classes" in refused(tmp_path, {**good, "test_labels": np.full((4, 1), 5)})
    assert "negative label" in refused(tmp_path, {**good, "test_labels": np.full((4, 1), -1)})
    assert "train has 4 images and 3 labels" in refused(tmp_path, {**good, "train_labels": np.zeros((3, 1), np.uint8)})
    short = {name: value for name, value in good.items() if not name.startswith("val")}
    assert refused(tmp_path, short).startswith("the file has no val_images, val_labels; it has test_images, ")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    values = {**arrays(2, colour=False), "train_labels": np.array([[Bomb()]], dtype=object)}
    assert "Python objects" in refused(tmp_path, values)
    assert not (tmp_path / "exploded").exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = save(tmp_path / "breastmnist.npz", arrays(2, colour=False))
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:500] + bytes(200) + whole[700:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"the file is damaged: .*\(breastmnist.npz\)\. Download it again\."):
            import_data(path, tmp_path / "out")
    with zipfile.ZipFile(path, "w") as archive:
        for split in SPLITS:
            archive.writestr(f"{split}_images.npy", b"no array")
            archive.writestr(f"{split}_labels.npy", b"no array")
    with pytest.raises(DataError, match="the file is damaged"):
        import_data(path, tmp_path / "out")


def test_one_set_in_two_sizes(tmp_path: Path) -> None:
    for name in ("octmnist.npz", "octmnist_128.npz"):
        save(tmp_path / name, arrays(4, colour=False))
    with pytest.raises(DataError, match=r"octmnist is there twice: octmnist.npz and octmnist_128.npz .*keep one size"):
        import_data(tmp_path, tmp_path / "out")


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.npz file"):
        import_data(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"no such file or folder \(.*x.npz\)"):
        import_data(tmp_path / "x.npz", tmp_path / "out")


def test_the_published_sets() -> None:
    assert {flag: len(names) for flag, (_, names) in FLAGS.items()} == {
        "pathmnist": 9, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5, "breastmnist": 2,
        "bloodmnist": 8, "tissuemnist": 8, "organamnist": 11, "organcmnist": 11, "organsmnist": 11,
    }  # fmt: skip
