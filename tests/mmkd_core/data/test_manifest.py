from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmkd_core.data.manifest import COLUMNS, Corpus, image_id, sample_id, text_id
from mmkd_core.errors import DataError


def test_ids_are_what_their_definition_says() -> None:
    image = Image.new("L", (2, 1), 7)
    expected = "650b149016a2df8dc8d79d5e459de409"  # XXH3 of b"L 2x1\n\x07\x07"
    assert image_id(image) == expected
    assert text_id("œdème") == hashlib.blake2b("œdème".encode(), digest_size=16).hexdigest()
    assert sample_id(expected, "a") == hashlib.blake2b(f"{expected}\na".encode(), digest_size=16).hexdigest()


def test_image_id_tells_shapes_and_modes_apart_but_not_files(tmp_path: Path) -> None:
    flat = {image_id(Image.new("L", size)) for size in ((1, 4), (4, 1), (2, 2))}
    assert len(flat | {image_id(Image.new("RGBA", (1, 1)))}) == 4
    Image.new("RGB", (5, 5), (1, 2, 3)).save(tmp_path / "a.png", compress_level=0)
    Image.new("RGB", (5, 5), (1, 2, 3)).save(tmp_path / "b.bmp")
    assert image_id(Image.open(tmp_path / "a.png")) == image_id(Image.open(tmp_path / "b.bmp"))


def test_one_picture_is_one_image_however_its_channels_are_written() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8)
    colour = np.random.default_rng(1).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    opaque, half = np.full((5, 4), 255, np.uint8), np.full((5, 4), 254, np.uint8)
    name = image_id(Image.fromarray(grey))
    assert image_id(Image.fromarray(np.stack([grey] * 3, -1))) == name
    assert image_id(Image.fromarray(np.stack([grey] * 3 + [opaque], -1))) == name
    assert image_id(Image.fromarray(np.stack([grey] * 3 + [half], -1))) != name
    tinted = np.stack([grey] * 3, -1)
    tinted[4, 3, 2] ^= 1  # one pixel, of the last row, has a colour
    assert image_id(Image.fromarray(tinted)) != name
    name = image_id(Image.fromarray(colour))
    assert image_id(Image.fromarray(np.dstack([colour, opaque]))) == name
    assert image_id(Image.fromarray(np.dstack([colour, half]))) != name


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_sample_id_is_a_function_of_image_and_caption(a: tuple[str, str], b: tuple[str, str]) -> None:
    ids = [sample_id(text_id(image), caption) for image, caption in (a, b)]
    assert (ids[0] == ids[1]) == (a == b)


def test_a_corpus_comes_back_as_it_was_saved(corpus: Corpus) -> None:
    label = corpus.label.copy()
    label[1] = None
    corpus = replace(corpus, label=label).save(corpus.root)
    again = Corpus.load(corpus.root)
    for name in COLUMNS:
        assert list(getattr(again, name)) == list(getattr(corpus, name)), name
        assert getattr(again, name).dtype == object
    assert again.prompts == corpus.prompts
    assert again.label[1] is None
    assert again.classes("mri") == ["finding 1", "finding 0"], "class order is the order of the prompts"
    assert again.classes("ct") == []
    assert again.domains == ["mri", "xray"]
    assert again.fingerprint == corpus.fingerprint


def test_saving_elsewhere_leaves_images_where_they_are(corpus: Corpus, tmp_path: Path) -> None:
    moved = corpus.save(tmp_path / "other")
    assert moved.image[3] == str(corpus.root / "images" / "3.png")
    assert Corpus.load(tmp_path / "other").open(3).size == (12, 10)
    assert moved.fingerprint == corpus.fingerprint
    inside = moved.save(corpus.root)
    assert inside.image[3] == "images/3.png"


def test_where_and_take(corpus: Corpus) -> None:
    assert corpus.where("val").tolist() == [4, 5, 6, 7]
    assert corpus.where("val", ["mri"]).tolist() == [5, 7]
    assert corpus.where(domains={"xray"}).dtype == np.int64
    assert corpus.where("test", []).tolist() == []
    part = corpus.take(np.array([5, 0]))
    assert list(part.caption) == ["caption 5", "caption 0"]
    assert part.prompts == corpus.prompts
    assert list(corpus.take(corpus.split == "val").caption) == [f"caption {k}" for k in (4, 5, 6, 7)]
    assert len(corpus.take([])) == 0


@pytest.mark.parametrize("name", ["more_captions", "domain", "label", "labels", "group_id", "split"])
def test_fingerprint_sees_every_column(corpus: Corpus, name: str) -> None:
    column = getattr(corpus, name).copy()
    column[2] = {"split": "test", "labels": ("a",), "more_captions": ("a",)}.get(name, "other")
    assert replace(corpus, **{name: column}).fingerprint != corpus.fingerprint


def test_fingerprint_sees_order_nulls_and_prompts(corpus: Corpus) -> None:
    none, empty = corpus.label.copy(), corpus.label.copy()
    none[1], empty[1] = None, ""
    prompts = {domain: dict(reversed(classes.items())) for domain, classes in corpus.prompts.items()}
    others = [
        corpus.take(np.arange(12)[::-1]),
        replace(corpus, label=empty),
        replace(corpus, label=none),
        replace(corpus, prompts=prompts),
    ]
    assert len({corpus.fingerprint, *(other.fingerprint for other in others)}) == 5


@pytest.fixture
def radiographs(tmp_path: Path) -> Corpus:
    """Make five radiographs with findings and an OCT scan with a class; three have further captions."""
    findings = [("edema", "mass"), (), None, ("mass",), ("edema",), None]
    more = [("b", "c"), (), ("b",), (), ("d",), ()]
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"{i:032x}",
            "caption": f"caption {i}",
            "more_captions": more[i],
            "domain": "oct" if i == 5 else "xray",
            "label": "drusen" if i == 5 else None,
            "labels": findings[i],
            "group_id": f"p{i}",
            "split": "train",
        }
        for i in range(6)
    ]
    classes = {"xray": {"edema": ("e",), "mass": ("m",)}, "oct": {"drusen": ("d",)}}
    return Corpus.build(tmp_path / "radiographs", rows, classes)


def test_findings_and_further_captions_come_back(radiographs: Corpus) -> None:
    for corpus in (radiographs, Corpus.load(radiographs.save(radiographs.root).root)):
        assert list(corpus.labels) == [("edema", "mass"), (), None, ("mass",), ("edema",), None]
        assert list(corpus.more_captions) == [("b", "c"), (), ("b",), (), ("d",), ()]
        assert corpus.captions(0) == ("caption 0", "b", "c")
        assert corpus.captions(1) == ("caption 1",)
        assert corpus.labelled.tolist() == [True, True, False, True, True, True]
        assert [corpus.multilabel(domain) for domain in ("xray", "oct", "mri")] == [True, False, False]
        assert corpus.fingerprint == radiographs.fingerprint
    table = pq.read_schema(radiographs.root / "manifest.parquet")
    assert [str(table.field(name).type) for name in ("labels", "more_captions")] == ["list<element: string>"] * 2


def test_findings_as_a_table(radiographs: Corpus) -> None:
    there = radiographs.findings(np.array([3, 0, 1, 2, 4]), "xray")
    assert there.dtype == bool
    assert there.astype(int).tolist() == [[0, 1], [1, 1], [0, 0], [0, 0], [1, 0]]
    assert radiographs.findings(np.array([], np.int64), "xray").shape == (0, 2)


def test_further_captions_make_another_sample() -> None:
    assert sample_id("i", "a") == "5e950f224588aed46baf78af1be856c3"
    names = [sample_id("i", *c) for c in (("a",), ("a", "b"), ("b", "a"), ("ab",), ("a\nb",), ("a", "b", "c"))]
    assert len(set(names)) == 6


def test_fingerprint_tells_findings_apart(radiographs: Corpus) -> None:
    def changed(value: object) -> str:
        column = radiographs.labels.copy()
        column[0] = value
        return replace(radiographs, labels=column).fingerprint

    assert len({radiographs.fingerprint, *map(changed, (None, (), ("edema",), ("edemamass",)))}) == 5


def test_a_corpus_is_consistent(corpus: Corpus) -> None:
    with pytest.raises(DataError, match="columns of a corpus differ in length"):
        replace(corpus, label=corpus.label[:3])
    with pytest.raises(DataError, match=r"unknown split 'dev'. Use train, val, test\."):
        replace(corpus, split=np.array(["dev"] * 12, dtype=object))


def test_loading_what_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no such folder \(.*gone\). Make a corpus with `mmkd data import PATH` or `mmkd"
    ):
        Corpus.load(tmp_path / "gone")
    with pytest.raises(DataError, match=r"not a corpus: it has no manifest.parquet .*`mmkd data phantom`"):
        Corpus.load(tmp_path)


def test_loading_other_versions_and_damage(corpus: Corpus) -> None:
    path = corpus.root / "manifest.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"mmkd.corpus": b"7"}), path)
    with pytest.raises(DataError, match=r"version 7, this mmkd reads 2 .*`pip install -e .`"):
        Corpus.load(corpus.root)
    pq.write_table(table.replace_schema_metadata({b"mmkd.corpus": b"1"}), path)
    with pytest.raises(DataError, match=r"version 1, this mmkd reads 2 .*Make a corpus with `mmkd data import PATH`"):
        Corpus.load(corpus.root)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DataError, match="not written by mmkd"):
        Corpus.load(corpus.root)
    pq.write_table(table.drop_columns(["split", "label"]), path)
    with pytest.raises(DataError, match="lacks label, split"):
        Corpus.load(corpus.root)
    path.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(DataError, match=r"the manifest cannot be read: .*manifest.parquet"):
        Corpus.load(corpus.root)


@pytest.mark.parametrize("text", ["- a", "xray: [a]", "xray: {a: b}", "xray: {a: [[1]]}", "xray: {a: [' ']}"])
def test_prompts_that_are_no_prompts(corpus: Corpus, text: str) -> None:
    (corpus.root / "prompts.yaml").write_text(text)
    with pytest.raises(DataError, match=r"the prompts cannot be read: a mapping domain -> label -> sentences"):
        Corpus.load(corpus.root)


@pytest.mark.parametrize("text", ["{", "\x00", "xray: {a: [b], a: [c]}"])
def test_prompts_that_are_no_yaml(corpus: Corpus, text: str) -> None:
    (corpus.root / "prompts.yaml").write_text(text)
    with pytest.raises(DataError, match=r"prompts.yaml cannot be read: "):
        Corpus.load(corpus.root)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1, unique=True)
)
def test_any_label_survives_yaml(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    root = tmp_path_factory.mktemp("labels")
    prompts = {"xray": {label: (f"an image of {label}",) for label in labels}}
    Corpus.build(root, [], prompts).save(root)
    assert Corpus.load(root).prompts == prompts
    assert Corpus.load(root).classes("xray") == labels


def test_a_failed_save_leaves_the_old_corpus(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in corpus.root.iterdir() if path.is_file()}
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        corpus.take([1, 2]).save(corpus.root)
    after = {path.name: path.read_bytes() for path in corpus.root.iterdir() if path.is_file()}
    assert after == before


def test_the_module_imports_neither_torch_nor_pyarrow() -> None:
    code = "import sys, mmkd_core.data.manifest; print([m for m in ('torch', 'pyarrow', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
