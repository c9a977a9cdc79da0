"""Four small specialists for the phantom data: the teachers that `mmkd quickstart` integrates.

Each folder beside this file is one teacher as `mmkd export teacher ... --into` wrote it; how they were trained is
in ``training/`` of this package's source.
"""

from __future__ import annotations

from pathlib import Path

from mmkd_core.contract import TeacherSpec, hookimpl

TEACHERS = ("eye", "radio", "sono", "tissue")


@hookimpl
def mmkd_teachers() -> list[TeacherSpec]:
    """Declare the specialists."""
    here = Path(__file__).parent
    return [TeacherSpec.model_validate_json((here / name / "teacher.json").read_text()) for name in TEACHERS]
