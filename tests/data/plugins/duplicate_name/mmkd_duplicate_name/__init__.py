"""Claims a name that the plugin ``good`` has."""

from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource, hookimpl

SPEC = TeacherSpec(
    name="good-small",
    title="Another",
    summary="Has the name of another plugin's teacher",
    family="tiny-linear",
    weights=(WeightSource(role="model", kind="package", location="mmkd_duplicate_name", files={"x": "0" * 64}),),
    image=ImageSpec(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    text=TextSpec(tokenizer="open_clip", context_length=16),
    embed_dim=4,
    logit_scale=10.0,
    domains=("xray",),
    license=LicenseInfo(code="Apache-2.0", weights="CC-BY-4.0", commercial_use=True),
)


@hookimpl
def mmkd_teachers():
    return [SPEC]
