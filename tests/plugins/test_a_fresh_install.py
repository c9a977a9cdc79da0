"""The whole way of a user who has nothing: registry, install, fresh interpreters without a network, lock, load."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost, Registry, RegistryEntry, installer, load_registry, locked_spec, read_lock
from mmkd_core.plugins.card import check
from mmkd_core.plugins.lifecycle import Choices, add

ROOT = Path(__file__).parents[2]
AGREED = Choices(agree=lambda _: True)
CONFIG = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 16, "head_width": 8, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Stands for pip: what an editable install of a folder leaves behind, seen by fresh interpreters only."""
    site = tmp_path / "site"

    def run(target, requires, *_):
        folder = Path(target)
        name = folder.name.replace("-", "_")
        info = site / f"{name}-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[mmkd.v1]\n{folder.name.removeprefix('mmkd-')} = {name}\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(folder / "src"), str(ROOT)]))

    monkeypatch.setattr(installer, "install", run)
    return site


SMALL_VISION = CONFIG["vision_cfg"] | {"image_size": 32, "patch_size": 16}


def write(folder, config=CONFIG):
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**config).state_dict(), folder / "open_clip_pytorch_model.bin")


@pytest.mark.slow
def test_quilt_net_from_the_registry(kit, plugin, install, monkeypatch):
    spec = plugin("quilt-net").SPEC
    registry = load_registry(ROOT / "registry.yaml")
    nobody = PluginHost.offering({})
    with pytest.raises(PluginError, match=r"quilt-net was not added, at step weights: .*cannot be fetched"):
        add("quilt-net", kit.lock, registry=registry, host=nobody, choices=AGREED)
    assert not kit.lock.exists()

    (install / "mmkd_quilt_net-0.1.0.dist-info" / "METADATA").unlink()
    (install / "mmkd_quilt_net-0.1.0.dist-info" / "entry_points.txt").unlink()
    (install / "mmkd_quilt_net-0.1.0.dist-info").rmdir()
    snapshot = kit.publish(spec.weights[0], write)
    (locked,) = add("quilt-net", kit.lock, registry=registry, host=nobody, choices=AGREED, progress=kit)
    assert (locked.package, locked.version, locked.source) == ("mmkd-quilt-net", "0.1.0", "installed")
    assert locked.weights[0].revision == snapshot.name == spec.weights[0].revision
    assert locked.weights[0].pinned
    assert locked.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert "quilt-net: its plugin declares no sha256 for some files; what comes now is trusted and locked" in kit.said

    monkeypatch.setattr(sys, "path", [str(install), *sys.path])
    host = PluginHost.discover(environ={"MMKD_PLUGINS": "quilt-net"})
    with pytest.raises(PluginError, match="the weights of teacher quilt-net are not pinned"):
        host.load(host.teacher("quilt-net"))
    teacher = host.load(locked_spec(read_lock(kit.lock), host.teacher("quilt-net")))
    assert teacher.encode_text(teacher.tokenize(["a slide"])).shape == (1, 512)
    assert teacher.spec.fingerprint == locked.fingerprint

    # As it is locked; and before it is added, where the scale of its spec is held against that of these weights.
    scale = "logit scale: the spec declares 100, the weights say 14.29"
    for lock, failed in ((kit.lock, []), (kit.lock.with_name("nothing.lock"), [("learnt-scale", scale)])):
        card = check("quilt-net", lock, full=True, host=host)
        assert [(one.name, one.reason) for one in card.checks if one.status == "failed"] == failed
        assert "files" in {one.name for one in card.checks if one.status == "passed"}
        assert card.fingerprint == locked.fingerprint
        assert card.weights_bytes == sum((snapshot / name).stat().st_size for name in locked.weights[0].files)
        assert (card.golden is None) == bool(failed)


def test_a_licence_must_be_agreed_to_before_anything_is_installed(kit, install):
    registry = load_registry(ROOT / "registry.yaml")
    assert isinstance(registry, Registry)
    refused = [name for name, entry in registry.teachers.items() if not entry.license.commercial_use]
    assert {"derm-lip", "unimed-clip", "plip", "med-clip", "pmc-clip"} <= set(refused)
    for name in refused:
        assert isinstance(registry.teachers[name], RegistryEntry)
        with pytest.raises(PluginError, match=f"run `mmkd teachers add {name} --accept-license`"):
            add(name, kit.lock, registry=registry, host=PluginHost.offering({}))
    assert not install.exists()


def test_weights_given_by_hand_are_measured_and_locked(kit, plugin, tmp_path):
    module = plugin("quilt-net")
    image = module.SPEC.image.model_copy(update={"size": 32})
    files = dict.fromkeys(module.SPEC.weights[0].files)
    source = module.SPEC.weights[0].model_copy(update={"files": files})
    spec = module.SPEC.model_copy(update={"image": image, "embed_dim": 8, "weights": (source,)})
    config = {"embed_dim": 8, "vision_cfg": SMALL_VISION, "text_cfg": CONFIG["text_cfg"]}
    folder = tmp_path / "from a stick"
    folder.mkdir()
    write(folder, config)
    kit.choices = Choices(weights=folder)
    teacher = kit.teacher(module, spec)
    (locked,) = read_lock(kit.lock).teachers["quilt-net"].weights
    assert (locked.kind, locked.location, locked.revision) == ("path", str(folder), None)
    assert locked.pinned
    kit.publish(source, lambda target: write(target, config))
    kit.choices = Choices()
    kit.lock.unlink()
    assert kit.teacher(module, spec).spec.fingerprint == teacher.spec.fingerprint  # the same bytes from the hub
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"swapped")
    kit.choices = Choices(weights=folder)
    kit.lock.unlink()
    with pytest.raises(PluginError, match="quilt-net was not added, at step smoke check"):
        kit.teacher(module, spec)


def test_no_weights_are_fetched_unless_the_user_agrees(kit, plugin):
    kit.choices = Choices(accept_license=True)
    needs = {
        "quilt-net": "it downloads an unknown amount of weights",
        "med-clip": "it downloads an unknown amount of weights",  # by https
        "pmc-clip": "it downloads an unknown amount of weights",  # a data set repository
    }
    for name, need in needs.items():
        with pytest.raises(
            PluginError, match=f"{name} was not added, at step weights: it needs your agreement: {need}"
        ):
            kit.teacher(plugin(name), plugin(name).SPEC)
    kit.choices = Choices(accept_license=True, agree=lambda _: False)
    with pytest.raises(PluginError, match=r"you did not agree\. Nothing was changed"):
        kit.teacher(plugin("med-clip"), plugin("med-clip").SPEC)
    assert not kit.lock.exists()
