"""What a checkpoint's own configuration says, against what a spec declares: both values are named where they differ."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mmkd_core.contract import CLIP_MEAN, CLIP_STD, ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost
from mmkd_core.plugins.conformance import Subject, run_all
from mmkd_core.plugins.loaders import stated
from mmkd_core.testing.tiny import CONTEXT, DIM, SIZE, write_tiny_weights


def spec_of(folder: Path, family: str, **changes) -> TeacherSpec:
    """What is true of the tiny weights in a folder, but for what is changed."""
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
    image = {"size": SIZE, "mean": CLIP_MEAN, "std": CLIP_STD, **changes.pop("image", {})}
    facts = {"embed_dim": DIM, "logit_scale": 1 / 0.07, "arch": {}, "context": CONTEXT, **changes}
    return TeacherSpec(
        name="tiny", title="Tiny", summary="Knows nothing", family=family, arch=facts["arch"], domains=("xray",),
        weights=(WeightSource(role="model", kind="path", location=str(folder), files=files),),
        image=ImageSpec(**image), text=TextSpec(tokenizer="hf", context_length=facts["context"]),
        embed_dim=facts["embed_dim"], logit_scale=facts["logit_scale"],
        license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    )  # fmt: skip


@pytest.fixture(params=["open_clip", "transformers"])
def tiny(request, tmp_path):
    write_tiny_weights(request.param, tmp_path / "weights")
    return tmp_path / "weights", request.param


def checked(spec: TeacherSpec) -> dict[str, tuple[str, str]]:
    host = PluginHost.offering({})
    found = run_all(Subject(spec, lambda: host.load(spec)), "standard")
    return {one.name: (one.status, one.reason) for one in found}


def test_what_is_declared_as_the_configuration_says_passes(tiny):
    folder, family = tiny
    name = {"open_clip": "gelu", "transformers": "quick_gelu"}[family]
    found = checked(spec_of(folder, family, arch={"activation": name}))
    assert {one: reason for one, (status, reason) in found.items() if status == "failed"} == {}
    assert found["configuration"] == found["learnt-scale"] == ("passed", "")


IMAGE = {"open_clip": "open_clip_config.json", "transformers": "preprocessor_config.json"}
MODEL = {"open_clip": "open_clip_config.json", "transformers": "config.json"}


@pytest.mark.parametrize(
    ("changes", "file", "says"),
    [
        ({"image": {"mean": (0.5, 0.5, 0.5)}}, IMAGE, "mean: the spec declares (0.5, 0.5, 0.5), {} says (0.481455, 0."),
        ({"image": {"std": (0.2, 0.2, 0.2)}}, IMAGE, "std: the spec declares (0.2, 0.2, 0.2), {} says (0.26863, 0.26"),
        ({"image": {"resize": "squash"}}, IMAGE, "resize mode: the spec declares squash, {} says shortest"),
        ({"image": {"interpolation": "bilinear"}}, IMAGE, "interpolation: the spec declares bilinear, {} says bicubic"),
        ({"image": {"size": 64}}, MODEL, "image size: the spec declares 64, {} says 32"),
        ({"context": 16}, MODEL, "context length: the spec declares 16, {} says 32"),
        ({"embed_dim": 8}, MODEL, "embedding dimension: the spec declares 8, {} says 16"),
        ({"arch": {"activation": "silu"}}, MODEL, "activation: the spec declares silu, {} says "),
    ],
)  # fmt: skip
def test_a_difference_fails_and_both_values_are_named(tiny, changes, file, says):
    folder, family = tiny
    status, reason = checked(spec_of(folder, family, **changes))["configuration"]
    assert status == "failed"
    assert says.format(file[family]) in reason


def test_every_fact_that_a_spec_can_declare_is_said_by_both_layouts(tiny):
    folder, family = tiny
    spec = spec_of(folder, family)
    assert {fact.what for fact in stated.stated(spec, {"model": folder})} == set(stated.DECLARED)


def test_a_learnt_scale_that_the_spec_does_not_declare_is_named(tiny):
    folder, family = tiny
    found = checked(spec_of(folder, family, logit_scale=100))
    status, reason = found["learnt-scale"]
    assert status == "failed"
    assert reason.startswith("logit scale: the spec declares 100, the weights say 14.2")
    assert found["configuration"][0] == "passed"


def test_an_activation_in_the_spec_is_what_the_loader_finds(tiny):
    folder, family = tiny
    spec = spec_of(folder, family, arch={"activation": "silu"})
    with pytest.raises(PluginError, match=r"activation of teacher tiny: the spec says silu, .*config.json says "):
        PluginHost.offering({}).load(spec)


def rewritten(file: Path, change) -> None:
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


def test_quick_gelu_in_the_configuration_is_read(tmp_path):
    write_tiny_weights("open_clip", tmp_path / "w")
    rewritten(tmp_path / "w/open_clip_config.json", lambda facts: facts["model_cfg"].update(quick_gelu=True))
    spec = spec_of(tmp_path / "w", "open_clip", arch={"activation": "gelu"})
    found = list(stated.differences(spec, stated.stated(spec, {"model": tmp_path / "w"})))
    assert found == ["activation: the spec declares gelu, open_clip_config.json says quick_gelu"]


PROCESSORS = [
    ({"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 2}, (224, "shortest", "bilinear")),
    ({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
     (224, "shortest", None)),
    ({"size": {"height": 448, "width": 448}, "resample": 3}, (448, "squash", "bicubic")),
    ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
     (224, "resize to 256, then crop", None)),
    ({"size": {"height": 8, "width": 9}, "resample": 0}, ("8 x 9", "squash", "Pillow's filter 0")),
]  # fmt: skip


@pytest.mark.parametrize(("processor", "expected"), PROCESSORS)
def test_image_processors_old_and_new(tmp_path, processor, expected):
    write_tiny_weights("transformers", tmp_path / "w")
    (tmp_path / "w/preprocessor_config.json").write_text(json.dumps(processor))
    spec = spec_of(tmp_path / "w", "transformers")
    facts = stated.stated(spec, {"model": tmp_path / "w"})
    found = {fact.what: fact.value for fact in facts if fact.file == "preprocessor_config.json"}
    assert tuple(found.get(what) for what in ("image size", "resize mode", "interpolation")) == expected


def test_a_configuration_that_nobody_declared_is_compared_too(tmp_path):
    write_tiny_weights("transformers", tmp_path / "w")
    spec = spec_of(tmp_path / "w", "transformers", image={"mean": (0.5, 0.5, 0.5)})
    files = {name: digest for name, digest in spec.weights[0].files.items() if name != "preprocessor_config.json"}
    spec = spec.model_copy(update={"weights": (spec.weights[0].model_copy(update={"files": files}),)})
    status, reason = checked(spec)["configuration"]
    assert status == "failed"
    assert reason.startswith("mean: the spec declares (0.5, 0.5, 0.5), preprocessor_config.json says")


def test_a_checkpoint_without_a_configuration_says_nothing(tmp_path):
    write_tiny_weights("open_clip", tmp_path / "w")
    (tmp_path / "w/open_clip_config.json").unlink()
    assert stated.stated(spec_of(tmp_path / "w", "open_clip"), {"model": tmp_path / "w"}) == []


@pytest.mark.parametrize("damage", ['{"model_cfg": [1]}', '{"preprocess_cfg": {"mean": ["a"]}}', "[]", "{"])
def test_a_configuration_that_makes_no_sense_is_a_sentence(tmp_path, damage):
    write_tiny_weights("open_clip", tmp_path / "w")
    (tmp_path / "w/open_clip_config.json").write_text(damage)
    with pytest.raises(PluginError, match=r"^open_clip_config.json of teacher tiny "):
        stated.stated(spec_of(tmp_path / "w", "open_clip"), {"model": tmp_path / "w"})
