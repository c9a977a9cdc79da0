"""DICOM files and slices of NIfTI volumes become 8-bit PNGs when a manifest that names them is imported.

Nothing is guessed: a manifest says which slice (column ``slice``) and which window (column ``window``); a window that
the DICOM file itself proposes is taken where the manifest has none. MONOCHROME1 is turned round, so that bright is
bright. Deeper images without a window are refused.

Who the patient is stays out: no path, header value or library message of such a file reaches names, errors or logs.
Group ids are hashed with a salt that stays in the workspace. Pixels with writing in them (BurnedInAnnotation) are
refused.

Does not: resample voxels that are no squares, or read several volumes of one file.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmkd_core.data.issues import ImportLog, Problems
from mmkd_core.data.pngs import keep_png
from mmkd_core.data.tables import Row, Table
from mmkd_core.errors import DataError

DICOM, NIFTI = (".dcm", ".dicom"), (".nii", ".nii.gz")
Pixels = tuple[NDArray[np.uint8], str | None]
"""An image (H, W) or (H, W, 3), and who the patient is if the file says so."""

Salt = Callable[[], bytes]
PLANES = ("sagittal", "coronal", "axial")
_SLICE = re.compile(r"(sagittal|coronal|axial)[ :](\d+)")


def converted(table: Table, out_root: Path, salt: Salt, log: ImportLog, max_bad: int = 0) -> Table:
    """Replace DICOM and NIfTI images of a table by PNGs below ``out_root/images``.

    Args:
        table: as read from a manifest.
        out_root: folder of the new corpus.
        salt: gives the secret of the workspace; the same patient gets the same group id under the same secret.
        log: is told what was left out.
        max_bad: how many may be left out because they cannot be read.

    Returns:
        The table, with ids of the PNGs.

    Raises:
        DataError: more than that cannot be read, or a library for them is not installed.
    """
    rows: list[Row] = []
    ids: dict[Path, str] = {}
    kinds = [_kind(row.image) for row in table.rows]
    secret = salt() if DICOM in kinds else None  # then group ids are patients
    bad = Problems()
    for row, kind in zip(table.rows, kinds, strict=True):
        place = f"{table.path.name}, {row.where}"
        try:
            changed = _converted(row, kind, Path(out_root) / "images", ids)
        except DataError as error:
            if "is not installed" in error.what:
                raise DataError(error.what, where=place, next=error.next) from None
            bad.add(DataError(error.what, where=place, next=error.next))
            continue
        if secret is not None and changed.group_id is not None:
            changed = replace(changed, group_id=hashed(changed.group_id, secret))
        rows.append(changed)
    bad.allow(max_bad if rows else 0, table.path.name, log)
    return replace(table, rows=rows, ids={**table.ids, **ids})


def new_salt() -> bytes:
    """A secret that nobody keeps: group ids cannot be traced back, and the same patient is another one next time."""
    return os.urandom(32)


def hashed(identifier: str, salt: bytes) -> str:
    """A name for a patient that cannot be traced back without the salt (BLAKE2b, keyed)."""
    return "patient-" + blake2b(identifier.encode(), key=salt[:64], digest_size=12).hexdigest()


def windowed(values: NDArray[Any], centre: float, width: float) -> NDArray[np.uint8]:
    """Map values to 0..255 by DICOM's linear window (PS3.3 C.11.2.1.2.1).

    Args:
        values: (H, W), after rescaling (HU for CT).
        centre: value that becomes grey.
        width: at least 1; everything outside is black or white. What is no number is black: where a scanner or a tool
            measured nothing.
    """
    known = np.nan_to_num(values.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    scaled = ((known - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5) * 255
    grey: NDArray[np.uint8] = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return grey


def _kind(path: Path) -> tuple[str, ...]:
    """DICOM, NIFTI or neither: by the suffix, and of a file without one (as archives write them) by its content."""
    name = path.name.lower()
    if not path.suffix.strip(".0123456789") and path.is_file():
        with path.open("rb") as file:
            return DICOM if file.read(132)[128:] == b"DICM" else ()
    return next((kind for kind in (DICOM, NIFTI) if name.endswith(kind)), ())


def _converted(row: Row, kind: tuple[str, ...], folder: Path, ids: dict[Path, str]) -> Row:
    if not kind:
        if row.window or row.slice:
            raise DataError("window and slice are for DICOM and NIfTI images", next="Leave them empty.")
        return row
    if not row.image.is_file():
        raise DataError("no such image file", next="Relative paths start at the folder of the manifest.")
    read = _dicom if kind == DICOM else _nifti
    pixels, patient = _quietly(partial(read, row))
    name, path = keep_png(Image.fromarray(pixels), folder)
    ids[path] = name
    return replace(row, image=path, window=None, slice=None, group_id=row.group_id or patient)


def _quietly(work: Callable[[], Pixels]) -> Pixels:
    """Do it without what the libraries say: their warnings and errors quote headers and paths."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"the image cannot be read ({type(error).__name__})", next="Mend or remove the row.") from None


def _dicom(row: Row) -> Pixels:
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
    except ImportError:
        raise _absent("pydicom") from None
    data = pydicom.dcmread(row.image)
    if str(data.get("BurnedInAnnotation", "")).upper() == "YES":
        what = "the image has writing in its pixels (BurnedInAnnotation), which may name the patient"
        raise DataError(what, next="Remove the writing, or the row.")
    frame = _frame(row, int(data.get("NumberOfFrames") or 1))
    pixels = pixel_array(data, index=frame)  # colours come as RGB
    patient = str(data.get("PatientID") or "").strip() or None
    if data.get("SamplesPerPixel", 1) == 3:
        return _eight_bit(pixels), patient
    if data.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(pixels, data)
        return (colours >> 8 if colours.dtype.itemsize > 1 else colours).astype(np.uint8), patient
    values = apply_modality_lut(pixels, data)
    window = _window(row.window, values) or _own_window(data)
    if window is None:
        shallow = int(data.BitsStored) <= 8
        grey = _eight_bit(pixels) if shallow else _refused()
    else:
        grey = windowed(values, *window)
    return (255 - grey if data.PhotometricInterpretation == "MONOCHROME1" else grey), patient


def _frame(row: Row, frames: int) -> int:
    if frames == 1 and row.slice is None:
        return 0
    if row.slice is None or not row.slice.isdecimal() or int(row.slice) >= frames:
        what = f"the file has {frames} frames; slice {row.slice!r} is none of them" if row.slice else (
            f"the file has {frames} frames and the row says not which"
        )  # fmt: skip
        raise DataError(what, next=f"Write a number from 0 to {frames - 1} into the column slice.")
    return int(row.slice)


def _own_window(data: Any) -> tuple[float, float] | None:
    """The first linear window that the file proposes."""
    centre, width = data.get("WindowCenter"), data.get("WindowWidth")
    if centre is None or width is None or str(data.get("VOILUTFunction", "LINEAR")).upper() == "SIGMOID":
        return None
    first = [float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
             for value in (centre, width)]  # fmt: skip
    return (first[0], first[1]) if first[1] >= 1 else None


def _nifti(row: Row) -> Pixels:
    volume = _volume(str(row.image), row.image.stat().st_mtime_ns)
    chosen = _SLICE.fullmatch((row.slice or "").lower())
    sizes = ", ".join(f"{plane} 0 to {size - 1}" for plane, size in zip(PLANES, volume.shape, strict=True))
    if not chosen or int(chosen[2]) >= volume.shape[PLANES.index(chosen[1])]:
        what = f"slice {row.slice!r} is none of the volume's" if row.slice else "the row says not which slice"
        raise DataError(what, next=f"Write one into the column slice: {sizes}.")
    plane = np.take(volume, int(chosen[2]), axis=PLANES.index(chosen[1]))
    # Axes run to the right, the front and the top; pictures have the patient's right on the left, front and top above.
    values = plane.T[::-1, ::-1]
    window = _window(row.window, values)
    if window is not None:
        return windowed(values, *window), None
    return (np.ascontiguousarray(values) if values.dtype == np.uint8 else _refused()), None


@lru_cache(maxsize=1)
def _volume(path: str, modified: int) -> NDArray[Any]:
    """(X, Y, Z) in the orientation RAS+; the last one is kept, because manifests list slice after slice."""
    try:
        import nibabel
    except ImportError:
        raise _absent("nibabel") from None
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values: NDArray[Any] = np.asanyarray(image.dataobj)
    if values.ndim > 3 and values.shape[3:] == (1,) * (values.ndim - 3):
        values = values.reshape(values.shape[:3])
    if values.ndim != 3:
        raise DataError(f"the volume has {values.ndim} dimensions, not 3", next="Split the file.")
    return values


def _window(text: str | None, values: NDArray[Any]) -> tuple[float, float] | None:
    """Centre and width from ``40/400`` or ``full``, which is all that the image holds."""
    if text is None:
        return None
    if text.lower() == "full":
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise DataError("the image holds no number at all", next="Choose another slice, or remove the row.")
        low, high = float(finite.min()), float(finite.max())
        return (low + high + 1) / 2, high - low + 1
    try:
        centre, width = (float(part) for part in text.split("/"))
    except ValueError:
        centre, width = math.nan, 0.0
    if not (math.isfinite(centre) and math.isfinite(width) and width >= 1):
        raise DataError(f"there is no window {text!r}", next="Write centre/width, as 40/400, or full.")
    return centre, width


def _eight_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return pixels if pixels.dtype == np.uint8 else _refused()


def _refused() -> NDArray[np.uint8]:
    what = "the image has more than 8 bits per channel and no window"
    raise DataError(what, next="Write centre/width (as 40/400) or full into the column window.")


def _absent(library: str) -> DataError:
    return DataError(f"{library} is not installed", next=f"Run `pip install {library}`.")
