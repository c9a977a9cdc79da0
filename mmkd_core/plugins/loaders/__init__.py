"""The built-in plugin: loads the families ``open_clip`` and ``transformers`` from a verified local folder.

With it a typical teacher plugin is a spec and no code. A plugin with a model of its own may use the parts: in
``checkpoint`` any container is read and no weight may be missing, ``towers`` builds single transformers models and
pairs them, ``flair`` is a layout that two teachers share, ``sentencepiece`` reads that library's models without it,
``folder`` looks at configurations and tokenizers with suspicion, ``preprocess`` is the image pipeline.

open_clip, transformers and torch are imported when the first teacher is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_core.contract.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmkd_core.contract import Teacher, TeacherSpec


@hookimpl
def mmkd_load_teacher(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> Teacher | None:
    """Build a teacher of a built-in family; None for any other."""
    if spec.family == "open_clip":
        from mmkd_core.plugins.loaders import open_clip

        return open_clip.load(spec, weights, device)
    if spec.family == "transformers":
        from mmkd_core.plugins.loaders import transformers

        return transformers.load(spec, weights, device)
    return None
