"""DICOM files and NIfTI slices: explicit windows and slices, and nothing that names a patient."""

from __future__ import annotations

import csv
import logging
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmkd_core.data.importers import ImportOptions, import_data
from mmkd_core.data.issues import Issue
from mmkd_core.data.volumes import hashed, windowed
from mmkd_core.errors import DataError

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

PATIENT = "SMITH-1953-04-17"
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 16  # 0 to 1008


def write_dicom(path: Path, pixels: np.ndarray = RAMP, **facts: object) -> Path:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientID, data.PatientName = PATIENT, "Smith^John"
    data.Rows, data.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    if pixels.ndim == 3 and not colour:
        data.NumberOfFrames = len(pixels)
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit = data.BitsAllocated, data.BitsAllocated - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in facts.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def manifest(folder: Path, *rows: dict[str, object]) -> Path:
    whole = [{"domain": "ct", "caption": f"a scan {i}", "split": "train", **row} for i, row in enumerate(rows)]
    columns = list(dict.fromkeys(name for row in whole for name in row))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(whole)
    return folder / "manifest.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is named after a patient, as they are."""
    path = tmp_path / PATIENT
    path.mkdir()
    return path


def imported(folder: Path, *rows: dict[str, object], **options: object):
    return import_data(manifest(folder, *rows), folder.parent / "out", ImportOptions(salt=lambda: b"salt", **options))


def grey(corpus, i: int = 0) -> np.ndarray:
    return np.asarray(corpus.open(i))


def test_the_window_of_the_manifest_that_of_the_file_and_the_full_one(folder):
    write_dicom(folder / "a.dcm", WindowCenter=512, WindowWidth=1024)
    corpus, _ = imported(
        folder,
        {"image": "a.dcm", "window": "100.5/201"},
        {"image": "a.dcm", "window": ""},
        {"image": "a.dcm", "window": "full"},
    )
    # By hand, after PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
    assert grey(corpus, 0).ravel()[:4].tolist() == [0, 20, 41, 61]  # 16/200*255 = 20.4, 40.8, 61.2
    assert grey(corpus, 0).ravel()[13:].tolist() == [255] * 51
    assert grey(corpus, 1).ravel()[[0, 32, 63]].tolist() == [0, 128, 251]  # 512/1023*255 = 127.6, 1008/1023*255 = 251.3
    assert grey(corpus, 2).ravel()[[0, 63]].tolist() == [0, 255]


def test_values_are_rescaled_before_they_are_windowed(folder):
    write_dicom(folder / "a.dcm", RescaleSlope="2", RescaleIntercept="-1000")
    corpus, _ = imported(folder, {"image": "a.dcm", "window": "-998/5"})
    assert grey(corpus).ravel()[:3].tolist() == [32, 255, 255]  # ((-1000 + 998.5) / 4 + 0.5) * 255 = 31.9


def test_monochrome1_is_turned_round(folder):
    write_dicom(folder / "a.dcm")
    write_dicom(folder / "b.dcm", PhotometricInterpretation="MONOCHROME1")
    corpus, _ = imported(folder, *({"image": f"{name}.dcm", "window": "512/1024"} for name in "ab"))
    assert (grey(corpus, 0) == 255 - grey(corpus, 1)).all()
    assert grey(corpus, 0)[0, 0] == 0


def test_signed_pixels(folder):
    write_dicom(folder / "a.dcm", RAMP.astype(np.int16) - 500)
    corpus, _ = imported(folder, {"image": "a.dcm", "window": "full"})
    assert grey(corpus).ravel()[[0, 63]].tolist() == [0, 255]


def test_eight_bits_and_colours_need_no_window(folder):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colours = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    write_dicom(folder / "a.dcm", pixels)
    write_dicom(folder / "b.dcm", colours)
    corpus, _ = imported(folder, {"image": "a.dcm"}, {"image": "b.dcm"})
    assert (grey(corpus, 0) == pixels).all()
    assert (grey(corpus, 1) == colours).all()


def test_frames_are_chosen(folder):
    write_dicom(folder / "a.dcm", np.stack([RAMP, RAMP[::-1]]), WindowCenter=512, WindowWidth=1024)
    corpus, _ = imported(folder, {"image": "a.dcm", "slice": 0}, {"image": "a.dcm", "slice": 1})
    assert (grey(corpus, 0) == grey(corpus, 1)[::-1]).all()


@pytest.mark.parametrize(
    ("facts", "row", "words"),
    [
        ({}, {}, ["more than 8 bits per channel and no window", "as 40/400"]),
        ({}, {"window": "400"}, ["there is no window '400'"]),
        ({}, {"window": "40/0"}, ["there is no window '40/0'"]),
        ({"NumberOfFrames": 1}, {"slice": "4", "window": "full"}, ["slice '4' is none of them"]),
        ({"NumberOfFrames": 1}, {"slice": "²", "window": "full"}, ["slice '²' is none of them"]),
        ({"BurnedInAnnotation": "YES"}, {"window": "full"}, ["writing in its pixels"]),
        ({"VOILUTFunction": "SIGMOID", "WindowCenter": 5, "WindowWidth": 9}, {}, ["no window"]),
        ({"PixelData": b"short"}, {"window": "full"}, ["cannot be read ("]),
    ],
)
def test_what_is_not_said_is_refused_without_a_name(folder, facts, row, words, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    write_dicom(folder / f"{PATIENT}.dcm", **facts)
    with pytest.raises(DataError) as caught:
        imported(folder, {"image": f"{PATIENT}.dcm", **row})
    told = "".join(traceback.format_exception(caught.value))
    for word in (*words, "manifest.csv, line 2"):
        assert word in str(caught.value)
    printed = capfd.readouterr()
    sentence = str(caught.value)
    for text in (sentence, caplog.text, printed.out, printed.err):
        assert PATIENT not in text
        assert "Smith" not in text
    assert "pydicom" not in told.split("DataError")[-1]


def test_no_identifier_reaches_the_corpus(folder):
    write_dicom(folder / f"{PATIENT}.dcm", WindowCenter=512, WindowWidth=1024)
    write_dicom(folder / "other.dcm", RAMP[::-1], PatientID="other", WindowCenter=512, WindowWidth=1024)
    (folder / "broken.dcm").write_bytes(b"DICM " + PATIENT.encode() * 50)
    rows = [{"image": f"{PATIENT}.dcm"}, {"image": f"{PATIENT}.dcm"}, {"image": "other.dcm"}, {"image": "broken.dcm"}]
    corpus, report = imported(folder, *rows, max_bad=1)
    out = folder.parent / "out"
    for path in out.rglob("*"):
        assert PATIENT not in path.name
        if path.is_file():
            assert PATIENT.encode() not in path.read_bytes()
            assert b"Smith" not in path.read_bytes()
    assert report.left_out == (Issue("the image cannot be read (InvalidDicomError)", 1, ("manifest.csv, line 5",)),)
    assert corpus.group_id[0] == corpus.group_id[1] == hashed(PATIENT, b"salt") != corpus.group_id[2]
    assert hashed(PATIENT, b"salt") != hashed(PATIENT, b"pepper")


def test_group_ids_of_a_manifest_of_dicom_files_are_hashed_as_well(folder):
    write_dicom(folder / "a.dcm", WindowCenter=512, WindowWidth=1024)
    Image.new("L", (3, 3)).save(folder / "b.png")
    rows = [{"image": "a.dcm", "group_id": ""}, {"image": "b.png", "group_id": PATIENT}]
    corpus, _ = imported(folder, *rows)
    assert list(corpus.group_id) == [hashed(PATIENT, b"salt")] * 2


def test_a_plain_image_has_no_window(folder):
    Image.new("L", (3, 3)).save(folder / "b.png")
    with pytest.raises(DataError, match="window and slice are for DICOM and NIfTI images"):
        imported(folder, {"image": "b.png", "window": "full"})


def test_slices_of_a_volume_lie_as_radiologists_see_them(folder):
    volume = np.zeros((4, 5, 6), np.uint8)
    volume[3, 4, 5] = 255  # right, front, top
    volume[0, 0, 0] = 100  # left, back, bottom
    flipped = nibabel.Nifti1Image(volume[::-1], np.diag([-1.0, 1, 1, 1]) @ np.eye(4))  # stored from right to left
    nibabel.save(flipped, folder / "v.nii.gz")
    slices = ["axial 5", "axial 0", "coronal:4", "sagittal 3"]
    corpus, _ = imported(folder, *({"image": "v.nii.gz", "slice": name} for name in slices))
    top, bottom, front, right = (grey(corpus, i) for i in range(4))
    assert top.shape == (5, 4)
    assert top[0, 0] == 255  # above is the front, on the left the patient's right
    assert bottom[-1, -1] == 100
    assert front.shape == (6, 4)
    assert front[0, 0] == 255
    assert right.shape == (6, 5)
    assert right[0, 0] == 255


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, ["the row says not which slice", "sagittal 0 to 3, coronal 0 to 4, axial 0 to 5"]),
        ({"slice": "axial 6"}, ["slice 'axial 6' is none of the volume's"]),
        ({"slice": "7"}, ["slice '7' is none of the volume's"]),
        ({"slice": "axial 2"}, ["more than 8 bits per channel and no window"]),
    ],
)
def test_slices_and_windows_of_volumes_are_explicit(folder, row, words):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), folder / "v.nii")
    with pytest.raises(DataError) as caught:
        imported(folder, {"image": "v.nii", **row})
    for word in words:
        assert word in str(caught.value)
    assert PATIENT not in str(caught.value)


def test_a_file_that_is_no_volume(folder):
    (folder / "v.nii").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the image cannot be read \(ImageFileError\) \(manifest.csv, line 2\)"):
        imported(folder, {"image": "v.nii", "slice": "axial 0"})


@given(
    st.lists(st.floats(-2000, 2000), min_size=2, max_size=20),
    st.floats(-1000, 1000),
    st.floats(1, 4000),
)
def test_a_window_keeps_the_order_and_ends_black_and_white(values, centre, width):
    ordered = windowed(np.array([sorted(values)]), centre, width).astype(int)
    assert (np.diff(ordered) >= 0).all()
    edges = windowed(np.array([[centre - width / 2 - 1, centre + width / 2 + 1]]), centre, width)
    assert edges.tolist() == [[0, 255]]


def test_what_is_no_number_is_black_and_does_not_spoil_the_window(folder):
    volume = np.linspace(50, 150, 4 * 5 * 6).reshape(4, 5, 6).astype(np.float32)
    volume[0] = np.nan
    volume[1, 0, 0] = np.inf
    volume[1, 1, 0] = -np.inf
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "v.nii")
    rows = [{"image": "v.nii", "slice": "axial 0", "window": window} for window in ("full", "100/50")]
    corpus, _ = imported(folder, *rows)
    for i in (0, 1):
        seen = grey(corpus, i)
        assert (seen[:, -1] == 0).all(), "NaN, at the patient's left"
        assert seen[-1, -2] == 255, "more than everything"
        assert seen[-2, -2] == 0, "less than everything"
        assert len(np.unique(seen)) > 5
    with pytest.raises(DataError, match="the image holds no number at all"):
        imported(folder, {"image": "v.nii", "slice": "sagittal 0", "window": "full"})


def test_dicom_files_without_a_suffix_are_known_by_their_content(folder):
    write_dicom(folder / "a.dcm", WindowCenter=512, WindowWidth=1024)
    (folder / "a.dcm").rename(folder / "1.2.840.7")
    (folder / "IM2").write_bytes((folder / "1.2.840.7").read_bytes())
    corpus, _ = imported(folder, {"image": "1.2.840.7"}, {"image": "IM2"})
    assert len(set(corpus.image_id)) == 1


def test_a_folder_of_dicom_files_with_captions_is_read(folder):
    write_dicom(folder / "a.dcm", WindowCenter=512, WindowWidth=1024)
    (folder / "a.txt").write_text("a slice")
    corpus, report = import_data(folder, folder.parent / "out", ImportOptions(domain="ct", salt=lambda: b"salt"))
    assert list(corpus.group_id) == [hashed(PATIENT, b"salt")]
    assert not any("its own group" in line for line in report.notes)
    assert PATIENT not in str(report)
    dicom, text = folder / f"{PATIENT}.dcm", folder / f"{PATIENT}.txt"  # such files are called after their patients
    (folder / "a.dcm").rename(dicom)
    for harm in (lambda: None, lambda: text.write_text(" "), lambda: text.write_bytes(b"\xff")):
        harm()
        for domain in ("ct", None):
            with pytest.raises(DataError) as caught:
                import_data(folder, folder.parent / "no", ImportOptions(domain=domain))
            assert PATIENT not in str(caught.value)


def test_all_images_that_cannot_be_read_are_named_at_once(folder):
    for name in ("a", "b"):
        (folder / f"{name}.nii").write_bytes(b"nothing")
    write_dicom(folder / "c.dcm")
    with pytest.raises(DataError) as caught:
        imported(folder, *({"image": f"{name}"} for name in ("a.nii", "b.nii", "c.dcm")))
    text = str(caught.value)
    assert text.startswith("3 problems: the image cannot be read (ImageFileError): 2 (manifest.csv, line 2; ")
    assert "more than 8 bits per channel and no window: 1 (manifest.csv, line 4)" in text
