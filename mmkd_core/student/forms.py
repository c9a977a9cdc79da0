"""The forms in which a student leaves: one table, from which commands, cards and uploads read. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """A folder for one library.

    Attributes:
        name: of the command.
        library: that loads it, as model cards name it.
        load: the line that loads it from a folder.
        hub: the line that loads it from the hub.
        example: a folder, for the help.
        says: what is written, for the help.
    """

    name: str
    library: str
    load: str
    hub: str
    example: str
    says: str


OPEN_CLIP = Form(
    "open-clip",
    "open_clip",
    "open_clip.create_model_and_transforms('local-dir:{}')",
    "open_clip.create_model_and_transforms('hf-hub:{}')",
    "student",
    "Write a folder that open_clip loads with one line, offline; compared with the student in a fresh process.",
)
TRANSFORMERS = Form(
    "transformers",
    "transformers",
    "transformers.AutoModel.from_pretrained('{}')",
    "transformers.AutoModel.from_pretrained('{}')",
    "student-hf",
    "Write a folder that transformers loads with AutoModel; not every student fits.",
)
ONNX = Form(
    "onnx",
    "onnxruntime",
    "onnxruntime.InferenceSession('{}/image.onnx')",
    "huggingface_hub.snapshot_download('{}')",
    "student-onnx",
    "Write both towers as ONNX (image.onnx, text.onnx) with the tokenizer and what a program must know.",
)
FORMS = {form.name: form for form in (OPEN_CLIP, TRANSFORMERS, ONNX)}
