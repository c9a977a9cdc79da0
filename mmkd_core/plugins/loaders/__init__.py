"""The built-in plugin: loads the families ``open_clip`` and ``transformers`` from a verified local folder.

With it a typical teacher plugin is a spec and no code. open_clip, transformers and torch are imported when the first
teacher is loaded, not before.
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
