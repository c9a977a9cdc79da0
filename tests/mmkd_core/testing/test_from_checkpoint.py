"""`mmkd teachers new NAME --from DIR`: a spec that says what the checkpoint's own files say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmkd_core.cli import app
from mmkd_core.contract import CLIP_MEAN, CLIP_STD
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost
from mmkd_core.plugins.conformance import Subject, run_all
from mmkd_core.testing.from_checkpoint import filled
from mmkd_core.testing.tiny import write_tiny_weights


def rewritten(file: Path, change) -> None:
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))


@pytest.fixture(params=["open_clip", "transformers"])
def begun(request, tmp_path, monkeypatch):
    """The command's answer for tiny weights whose images are squashed, bilinear, with another mean; the package."""
    family = request.param
    folder = tmp_path / "weights of mine"
    write_tiny_weights(family, folder)
    if family == "open_clip":
        other = {"mean": [0.5, 0.4, 0.3], "interpolation": "bilinear", "resize_mode": "squash"}
        rewritten(folder / "open_clip_config.json", lambda facts: facts["preprocess_cfg"].update(other))
    else:
        other = {"image_mean": [0.5, 0.4, 0.3], "resample": 2, "size": {"height": 32, "width": 32}}
        other["do_center_crop"] = False
        rewritten(folder / "preprocessor_config.json", lambda facts: facts.update(other))
    monkeypatch.chdir(tmp_path)
    name = f"begun-{family.replace('_', '-')}"
    done = CliRunner().invoke(app, ["teachers", "new", name, "--from", str(folder)])
    assert done.exit_code == 0, done.stderr
    monkeypatch.syspath_prepend(str(tmp_path / f"mmkd-{name}" / "src"))
    return family, folder, done.stdout, importlib.import_module(f"mmkd_{name.replace('-', '_')}")


def test_the_spec_says_what_the_files_say(begun):
    family, folder, _, module = begun
    (spec,) = module.mmkd_teachers()
    image, text = spec.image, spec.text
    assert (spec.family, spec.embed_dim, text.context_length, text.tokenizer) == (family, 16, 32, "hf")
    assert (image.size, image.resize, image.interpolation) == (32, "squash", "bilinear")
    assert (image.mean, image.std) == ((0.5, 0.4, 0.3), CLIP_STD)
    assert image.convert == {"open_clip": "after", "transformers": "before"}[family]
    assert spec.arch == {"activation": {"open_clip": "gelu", "transformers": "quick_gelu"}[family]}
    assert spec.logit_scale == pytest.approx(14.28, abs=0.02)
    assert spec.weights[0].location == str(folder)
    assert spec.pinned
    assert (spec.license.weights, spec.license.commercial_use) == ("LicenseRef-unknown", None)


def test_it_passes_every_check_at_once(begun):
    _, _, _, module = begun
    host = PluginHost.offering({module.SPEC.name: module})
    found = list(run_all(Subject(module.SPEC, lambda: host.load(module.SPEC)), "full"))
    assert [(one.name, one.reason) for one in found if one.status == "failed"] == []
    assert {"configuration", "learnt-scale", "files"} <= {one.name for one in found if one.status == "passed"}


def test_every_fact_names_its_file_and_the_rest_is_to_be_filled_in(begun):
    family, _, said, module = begun
    lines = Path(module.__file__).read_text().splitlines()
    image = {"open_clip": "open_clip_config.json", "transformers": "preprocessor_config.json"}[family]
    assert f"        mean=(0.5, 0.4, 0.3),  # {image}" in lines
    scale = {"open_clip": "open_clip_model.safetensors", "transformers": "model.safetensors"}[family]
    assert any(line.startswith("    logit_scale=14.2") and line.endswith(f"  # {scale}") for line in lines)
    assert said.count("# CHANGE") == 5  # where others get the weights, title, summary, domains, licence


def test_what_no_file_says_is_marked(tmp_path):
    write_tiny_weights("open_clip", tmp_path / "w")
    rewritten(tmp_path / "w/open_clip_config.json", lambda facts: facts.pop("preprocess_cfg"))
    found = filled("my-clip", tmp_path / "w")
    assert (found.spec.image.mean, found.spec.image.size) == (CLIP_MEAN, 32)
    assert not {"mean", "std", "resize mode", "interpolation"} & set(found.origin)
    done = CliRunner().invoke(app, ["teachers", "new", "my-clip", str(tmp_path / "p"), "--from", str(tmp_path / "w")])
    assert "# CHANGE: no file says the mean" in done.stdout


def test_what_a_spec_has_no_word_for_is_marked(tmp_path):
    write_tiny_weights("transformers", tmp_path / "w")
    rewritten(tmp_path / "w/preprocessor_config.json", lambda facts: facts.update(size={"shortest_edge": 40}))
    found = filled("my-clip", tmp_path / "w")
    assert found.unsaid == {"resize mode": "resize to 40, then crop"}
    done = CliRunner().invoke(app, ["teachers", "new", "my-clip", str(tmp_path / "p"), "--from", str(tmp_path / "w")])
    assert "# CHANGE: resize mode is 'resize to 40, then crop': a spec has no word for it" in done.stdout


def test_open_clips_own_tokenizer(tmp_path):
    write_tiny_weights("open_clip", tmp_path / "w")
    rewritten(tmp_path / "w/open_clip_config.json", lambda f: f["model_cfg"]["text_cfg"].pop("hf_tokenizer_name"))
    assert filled("my-clip", tmp_path / "w").spec.text.tokenizer == "open_clip"


def test_a_text_tower_of_the_hub_is_named_as_a_source(tmp_path, monkeypatch):
    """As BiomedCLIP's folder: the configuration names the tower, whose own configuration lies elsewhere."""
    write_tiny_weights("open_clip", tmp_path / "w")
    tower = {"hf_model_name": "org/bert", "hf_tokenizer_name": "org/bert", "context_length": 256}
    rewritten(tmp_path / "w/open_clip_config.json", lambda facts: facts["model_cfg"].update(text_cfg=tower))
    target = tmp_path / "p"
    done = CliRunner().invoke(app, ["teachers", "new", "my-tower", str(target), "--from", str(tmp_path / "w")])
    assert "CHANGE: revision=... of the text tower" in done.stdout
    monkeypatch.syspath_prepend(str(target / "src"))
    model, text = importlib.import_module("mmkd_my_tower").SPEC.weights
    assert (model.role, text.role, text.kind, text.location) == ("model", "text_tower", "hf", "org/bert")
    assert "config.json" in text.files
    assert importlib.import_module("mmkd_my_tower").SPEC.text.context_length == 256


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: (w / "open_clip_config.json").unlink(), "has neither open_clip_config.json nor config.json"),
        (lambda w: (w / "open_clip_model.safetensors").unlink(), "the folder has no checkpoint"),
        (lambda w: (w / "open_clip_config.json").write_text("["), "open_clip_config.json of teacher my-clip cannot be"),
        (lambda w: (w / "open_clip_model.safetensors").write_bytes(b"x"), "checkpoint of teacher my-clip is damaged"),
        (
            lambda w: rewritten(w / "open_clip_config.json", lambda f: f["model_cfg"].update(embed_dim=-1)),
            "makes no spec",
        ),
        (
            lambda w: rewritten(w / "tokenizer_config.json", lambda f: f.update(auto_map={"A": "b"})),
            "asks for remote code",
        ),
    ],
)
def test_a_folder_that_is_none_leaves_nothing_behind(tmp_path, spoil, says):
    write_tiny_weights("open_clip", tmp_path / "w")
    spoil(tmp_path / "w")
    done = CliRunner().invoke(app, ["teachers", "new", "my-clip", str(tmp_path / "p"), "--from", str(tmp_path / "w")])
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())
    assert not (tmp_path / "p").exists()


def test_a_family_that_the_folder_is_not_of(tmp_path):
    write_tiny_weights("transformers", tmp_path / "w")
    from mmkd_core.testing.scaffold import new_plugin

    with pytest.raises(PluginError, match="the checkpoint is of family transformers, not open_clip"):
        new_plugin("my-clip", tmp_path / "p", family="open_clip", weights=tmp_path / "w")
