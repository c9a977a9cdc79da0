"""Does an exported folder give what the student gives? Asked in a fresh process that knows nothing of mmkd.

A wrong activation, context length or normalisation loads without a complaint, so every export is compared on fixed
texts and images before its folder gets its name: token ids and pixels must be equal, embeddings equal up to rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from mmkd_core.data.images import to_square
from mmkd_core.errors import ReleaseError
from mmkd_core.student.model import Student

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
TEXTS = (
    "a chest x-ray showing a nodule in the left upper lobe",
    "H&E STAINED SLIDE OF ADENOCARCINOMA",
    "",
    "T2 weighted MRI, 1.5 T, slice 42",
    "Ödem der Netzhaut — 視網膜",
    "fundus photograph with microaneurysms and hard exudates " * 40,
    "the",
    "optical coherence tomography\nof the macula",
)
"""Long, empty, upper case, numbers, other alphabets, several lines."""
CLOSE, APART = 1 - 1e-6, 1e-5
"""Lowest cosine and largest difference of unit-norm embeddings in float32."""
_READ = """
import json, os, sys
import numpy as np
from PIL import Image
folder, given, out = sys.argv[1:]
data = np.load(given, allow_pickle=False)
texts = [str(text) for text in data["texts"]]
images = [Image.fromarray(data[f"image{i}"]).convert(str(mode)) for i, mode in enumerate(data["modes"])]
"""
_WRITE = """
found = {"tokens": tokens, "pixels": pixels, "image": image, "text": text, "alone": alone, "scale": scale}
np.savez(out, **{name: np.asarray(value) for name, value in found.items()})
"""
OPEN_CLIP = (
    _READ
    + """
import open_clip, torch
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
tokens = open_clip.get_tokenizer("local-dir:" + folder)(texts)
pixels, own = torch.stack([preprocess(image) for image in images]), torch.from_numpy(data["pixels"])
model.eval()
with torch.inference_mode():
    image, text = model.encode_image(own, normalize=True), model.encode_text(tokens, normalize=True)
    alone, scale = model.encode_image(own[:1], normalize=True), model.logit_scale.exp().item()
"""
    + _WRITE
)
TRANSFORMERS = (
    _READ
    + """
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(folder).eval()
words = AutoTokenizer.from_pretrained(folder)(texts, padding="max_length", truncation=True, return_tensors="pt")
tokens, own = words["input_ids"], torch.from_numpy(data["pixels"])
pixels = AutoImageProcessor.from_pretrained(folder)([image.convert("RGB") for image in images], return_tensors="pt")
pixels = pixels["pixel_values"]

def unit(answer):
    return torch.nn.functional.normalize(getattr(answer, "pooler_output", answer), dim=-1)

with torch.inference_mode():
    image, alone = unit(model.get_image_features(own)), unit(model.get_image_features(own[:1]))
    text = unit(model.get_text_features(input_ids=tokens, attention_mask=words["attention_mask"]))
    scale = model.logit_scale.exp().item()
"""
    + _WRITE
)
ONNX = (
    _READ
    + """
import onnxruntime
from tokenizers import Tokenizer
facts = json.load(open(os.path.join(folder, "onnx.json")))
reader = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
tokens = np.array([item.ids for item in reader.encode_batch(texts)], np.int64)
pixels, scale = data["pixels"], facts["logit_scale"]

def ask(tower, batch):
    session = onnxruntime.InferenceSession(os.path.join(folder, tower + ".onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {facts[tower]["input"]: batch})[0]

image, text, alone = ask("image", pixels), ask("text", tokens), ask("image", pixels[:1])
"""
    + _WRITE
)
GREY_LEVEL = 1 / 255
"""Transformers resizes with another library than open_clip: pixels may differ by one grey level."""


@dataclass(frozen=True)
class Parity:
    """How far an export is from its student, where it is not equal.

    Attributes:
        cosine: the lowest of all embeddings.
        difference: the largest of any entry of an embedding.
        logit_scale: relative difference.
    """

    cosine: float
    difference: float
    logit_scale: float


def check(student: Student, folder: Path, script: str = OPEN_CLIP) -> Parity:
    """Load ``folder`` by ``script`` in a fresh process, offline and in another directory, and compare.

    Raises:
        ReleaseError: it does not load, or says something else than the student.
    """
    with TemporaryDirectory() as work:
        images = _images(exact=script is not TRANSFORMERS)
        resize = student.preprocess["resize_mode"]
        squares = np.stack([np.asarray(to_square(image, student.pixels, resize)) for image in images])
        given, out = Path(work, "given.npz"), Path(work, "out.npz")
        inputs: dict[str, Any] = {f"image{i}": np.asarray(image) for i, image in enumerate(images)}
        inputs |= {"texts": np.array(TEXTS), "modes": np.array([image.mode for image in images])}
        np.savez(given, **inputs, pixels=student.prepare(squares).numpy())
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        command = [sys.executable, "-I", "-W", "ignore", "-c", script, str(folder.absolute()), str(given), str(out)]
        done = subprocess.run(command, cwd=work, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ReleaseError(f"the exported folder does not load: {last}", where=str(folder), next=_NEXT)
        with np.load(out, allow_pickle=False) as found:
            return _compared(student, squares, dict(found), exact=script is not TRANSFORMERS)


_NEXT = "Nothing was written. Please report this"


def _compared(student: Student, squares: Pixels, found: dict[str, Any], exact: bool) -> Parity:
    if not np.array_equal(student.tokenize(TEXTS).numpy(), found["tokens"]):
        raise ReleaseError("the export makes other tokens of the same texts", next=_NEXT)
    apart = float(np.abs(student.prepare(squares).numpy() - found["pixels"]).max())
    if apart > (APART if exact else 1.01 * GREY_LEVEL / min(student.preprocess["std"])):
        raise ReleaseError(f"the export makes other pixels of the same images (by {apart:.2g})", next=_NEXT)
    own = {"image": student.embed_images(squares), "text": student.embed_texts(TEXTS)}
    own["alone"] = own["image"][:1]
    cosine = min(float((own[name] * found[name]).sum(axis=1).min()) for name in own)
    difference = max(float(np.abs(own[name] - found[name]).max()) for name in own)
    scale = abs(float(found["scale"]) / student.logit_scale - 1)
    if cosine < CLOSE or difference > APART or scale > 1e-6:
        what = (
            f"the export gives other embeddings (cosine {cosine:.7f}, difference {difference:.1e}, scale {scale:.1e})"
        )
        raise ReleaseError(what, next=_NEXT)
    return Parity(cosine, difference, scale)


def _images(exact: bool) -> list[Image.Image]:
    """Grey, colour, with transparency, odd shapes, tiny; or only shapes that leave an even margin to crop.

    Transformers rounds an odd margin down and torchvision to the nearest even number: a crop is then moved by a pixel.
    """
    rng = np.random.default_rng(7)
    shapes: tuple[tuple[int, ...], ...] = ((64, 64), (128, 64, 3), (96, 192, 3), (32, 32, 3))
    if exact:
        shapes = ((64, 64), (97, 64, 3), (50, 80, 4), (33, 200, 3), (300, 17, 3), (2, 3, 3))
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
