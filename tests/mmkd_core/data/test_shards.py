"""Webdataset shards: read in place, by tables of contents."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmkd_core.data.decode import decode
from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.manifest import Corpus, image_id
from mmkd_core.data.shards import read_member
from mmkd_core.errors import DataError


def picture(i: int) -> Image.Image:
    return Image.new("L", (6, 5), 10 * i)


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def sample(i: int, **facts: object) -> dict[str, bytes]:
    """One sample; ``caption=None`` leaves the .txt out."""
    caption = facts.pop("caption", f"caption {i}")
    whole = {"domain": "xray", "group_id": f"p{i}", **facts}
    parts = {f"{i:06d}.png": encoded(picture(i)), f"{i:06d}.json": json.dumps(whole).encode()}
    return parts | ({} if caption is None else {f"{i:06d}.txt": str(caption).encode()})


def test_a_folder_of_shards_is_imported_and_nothing_is_unpacked(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "a-0000.tar", {**sample(0, split="train"), **sample(1, split="val")})
    write_shard(folder / "a-0001.tar", sample(2, split="test", label="pneumonia", caption=None))
    corpus, report = import_data(folder, tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in sorted((tmp_path / "out").rglob("*"))] == [
        "import.json",
        "manifest.parquet",
        "prompts.yaml",
    ]
    assert list(corpus.caption[:2]) == ["caption 0", "caption 1"]
    assert list(corpus.split) == ["train", "val", "test"]
    assert list(corpus.group_id) == ["p0", "p1", "p2"]
    assert corpus.label[2] == "pneumonia"
    assert (report.rows, report.samples, report.left_out, report.issues) == (3, 3, (), ())
    again = Corpus.load(tmp_path / "out")
    for i in range(3):
        assert image_id(again.open(i)) == corpus.image_id[i] == image_id(picture(i))
        assert again.path(i).name == f"{i:06d}.png"


def test_names_in_folders_suffixes_in_capitals_and_other_members(tmp_path):
    members = {
        "./train/x.one.JPG": encoded(picture(3), "jpeg"),
        "./train/x.one.json": b"{}",  # of a sample without an image's suffix of its own: see below
        "readme": b"not a sample",
    }
    shard = write_shard(tmp_path / "s.tar", members)
    with pytest.raises(DataError, match="no image"):  # ".one.jpg" is no suffix of an image
        import_data(shard, tmp_path / "out")
    facts = json.dumps({"domain": "ct", "caption": "from json"}).encode()
    members = {"./train/x.JPG": encoded(picture(3), "jpeg"), "./train/x.json": facts, "readme": b""}
    corpus, _ = import_data(write_shard(tmp_path / "t.tar", members), tmp_path / "out")
    assert list(corpus.caption) == ["from json"]
    assert corpus.open(0).size == (6, 5)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.txt": b"a", "1.json": b'{"domain": "ct"}'}, ["the sample has no image", "s.tar, sample 1"]),
        ({**sample(1), "000001.jpg": b"x"}, ["the sample has 2 images", "sample 000001"]),
        (sample(1, domain=""), ["no domain", 'Write it into the .json: {"domain": "xray"}']),
        (sample(1, domain=None, modality="ct"), ["no domain", "Rename 'modality' to 'domain'"]),
        (sample(1, Split="test"), ["columns that would not be read: 'Split'", "Rename 'Split' to 'split'"]),
        (sample(1, caption=None), ["the label and caption is missing", "sample 000001"]),
        ({**sample(1), "000001.json": b"{"}, ["the .json cannot be read", "sample 000001"]),
        ({**sample(1), "000001.json": b"[]"}, ["the .json is not a JSON object"]),
        ({**sample(1), "000001.txt": b"\xff\xfe"}, ["not UTF-8"]),
        ({**sample(1), "000001.png": b"nonsense"}, ["not an image", "000001.png"]),
        ({"readme": b"x"}, ["the shards hold no samples"]),
    ],
)
def test_what_is_wrong_with_a_sample_is_named(tmp_path, members, words):
    shard = write_shard(tmp_path / "s.tar", members)
    with pytest.raises(DataError) as caught:
        import_data(shard, tmp_path / "out")
    for word in words:
        assert word in str(caught.value)


def test_compressed_and_damaged_shards_are_refused(tmp_path):
    shard = write_shard(tmp_path / "s.tar", sample(1))
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(DataError, match="compressed"):
        import_data(tmp_path / "s.tar.gz", tmp_path / "out")
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="cannot be read"):
        import_data(tmp_path / "b.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_that_changes_or_goes_away_is_noticed(tmp_path):
    shard = write_shard(tmp_path / "s.tar", {**sample(1), **sample(2)})
    corpus, _ = import_data(shard, tmp_path / "out")
    write_shard(shard, sample(2))
    with pytest.raises(DataError, match=r"no such image in the shard .*000001\.png"):
        corpus.open(0)
    assert image_id(corpus.open(1)) == image_id(picture(2))
    shard.unlink()
    with pytest.raises(DataError, match="no such image file"):
        corpus.open(0)


def test_a_folder_that_is_called_like_a_shard_is_a_folder(tmp_path):
    (tmp_path / "x.tar").mkdir()
    picture(4).save(tmp_path / "x.tar" / "a.png")
    assert image_id(decode(tmp_path / "x.tar" / "a.png")) == image_id(picture(4))


NAMES = st.from_regex(r"[a-z]{1,120}(/[a-z]{1,20})?", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6))
def test_every_member_is_read_as_it_was_written(tmp_path_factory, members):
    shard = write_shard(tmp_path_factory.mktemp("shard") / "s.tar", members)
    for name, data in members.items():
        assert read_member(shard / name) == data


def test_keys_that_stand_twice_are_refused(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for _ in range(2):
            for name, data in sample(1).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match=r"3 members stand twice in the shard, the first is 000001.png.*key of its own"):
        import_data(tmp_path / "s.tar", tmp_path / "out")


def test_shards_that_end_too_early_or_too_late_are_refused(tmp_path):
    whole = write_shard(tmp_path / "whole.tar", {**sample(1), **sample(2)})
    with tarfile.open(whole) as archive:
        second = archive.getmembers()[3].offset
        after = archive.getmembers()[-1]
    end = after.offset_data + (after.size + 511) // 512 * 512
    data = whole.read_bytes()
    for cut in (data[:second], data[:end], data[: end + 100], data[:second] + b"x" * 512 + data[second:]):
        (tmp_path / "s.tar").write_bytes(cut)
        with pytest.raises(DataError, match=r"the mark at its end is missing|cannot be read"):
            import_data(tmp_path / "s.tar", tmp_path / "out")
    (tmp_path / "s.tar").write_bytes(data + data)
    with pytest.raises(DataError, match="the shard goes on behind the mark at its end"):
        import_data(tmp_path / "s.tar", tmp_path / "out")
    (tmp_path / "s.tar").write_bytes(data[: end + 512])
    assert len(import_data(tmp_path / "s.tar", tmp_path / "out")[0]) == 2, "one block of zeros is an end"


def test_captions_of_text_and_json_and_the_domain_of_the_option(tmp_path):
    members = {
        **sample(1, domain=None, caption="\ufeffone\n two"),
        **sample(2, domain="X-Ray", caption="one", status="success"),
        "000003.png": encoded(picture(3)),
        "000003.json": json.dumps({"caption": ["from", "json"], "key": "000003"}).encode(),
        "000003.cls": b"1",
    }
    members["000002.json"] = members["000002.json"].replace(b"{", b'{"caption": "two", ', 1)
    shard = write_shard(tmp_path / "s.tar", members)
    corpus, report = import_data(shard, tmp_path / "a", ImportOptions(domain="xray", caption_lines=True))
    assert [corpus.captions(i) for i in range(3)] == [("one", "two"), ("one", "two"), ("from", "json")]
    assert corpus.domains == ["xray"]
    assert [(issue.what, issue.count) for issue in report.left_out] == [(".cls members, which are not read", 1)]
    assert import_data(shard, tmp_path / "b", ImportOptions(domain="xray"))[0].captions(0) == ("one two",)
    with pytest.raises(DataError, match=r"the sample's domain is 'X-Ray', --domain says 'ct'.*sample 000002"):
        import_data(shard, tmp_path / "c", ImportOptions(domain="ct"))


def test_findings_of_a_shard_are_those_of_any_table(tmp_path):
    corpus, _ = import_data(write_shard(tmp_path / "s.tar", {**sample(1, labels=["b", "a"]), **sample(2, label="a|b")}),
                            tmp_path / "out")  # fmt: skip
    assert list(corpus.labels) == [("a", "b")] * 2
    one = write_shard(tmp_path / "t.tar", {**sample(3, mass=1, edema=0), **sample(4, mass=1, edema=1)})
    corpus, _ = import_data(one, tmp_path / "hot", ImportOptions(labels_from=("mass", "edema")))
    assert list(corpus.labels) == [("mass",), ("mass", "edema")]
