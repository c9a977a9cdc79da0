"""A whole plugin with a family of its own: two tiny linear teachers whose weights come from a seed in a file."""

from __future__ import annotations

from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource, hookimpl

SPEC = TeacherSpec(
    name="good",
    title="Good",
    summary="A linear map of pixels and of letters",
    family="tiny-linear",
    weights=(
        WeightSource(
            role="model",
            kind="package",
            location="mmkd_good:weights",
            files={"seed.txt": "10159baf262b43a92d95db59dae1f72c645127301661e0a3ce4e38b295a97c58"},
        ),
    ),
    image=ImageSpec(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    text=TextSpec(tokenizer="open_clip", context_length=16),
    embed_dim=4,
    logit_scale=10.0,
    domains=("xray",),
    license=LicenseInfo(code="Apache-2.0", weights="CC-BY-4.0", commercial_use=True),
)
SMALL = SPEC.model_copy(update={"name": "good-small", "title": "Good, small"})


@hookimpl
def mmkd_teachers():
    yield SPEC
    yield SMALL


@hookimpl
def mmkd_load_teacher(spec, weights, device):
    if spec.family != "tiny-linear":
        return None
    from mmkd_good.model import LinearTeacher

    return LinearTeacher(spec, int((weights["model"] / "seed.txt").read_text()), device)
