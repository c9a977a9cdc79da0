"""Configurations that name code: refused in mmkd's own environment whatever the loader does, agreed to in another."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.contract import ImageSpec, Isolation, LicenseInfo, TeacherSpec, TextSpec, WeightSource, hookimpl
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost, read_lock, remote_code
from mmkd_core.plugins.lifecycle import Choices, add
from mmkd_core.plugins.opening import open_teacher
from mmkd_core.plugins.registry import Registry

AUTO_MAP = {"model_type": "strange", "text": [{"auto_map": {"AutoModel": "modeling_strange.Model"}}]}
WORKER = """
import array

def floats(rows):
    flat = [float(value) for row in rows for value in row]
    return memoryview(array.array("f", flat)).cast("B").cast("f", (len(rows), len(rows[0])))

class Teacher:
    def preprocess(self, pixels):
        values = array.array("f", [pixels[0, 0, c] / 255 for c in range(3) for _ in range(4)])
        return memoryview(values).cast("B").cast("f", (3, 2, 2))
    def tokenize(self, texts):
        return memoryview(array.array("q", [len(t) for t in texts])).cast("B").cast("q", (len(texts), 1))
    def encode_image(self, images):
        return floats([(images[i, 0, 0, 0] * 3, images[i, 1, 0, 0] * 3) for i in range(images.shape[0])])
    def encode_text(self, tokens):
        return floats([(3, tokens[i, 0]) for i in range(tokens.shape[0])])

def load(spec, weights, device):
    return Teacher()
"""


class Plugin:
    """Declares one teacher, and would load it without a look at its files."""

    def __init__(self, spec: TeacherSpec) -> None:
        self.spec, self.asked = spec, 0

    @hookimpl
    def mmkd_teachers(self):
        return [self.spec]

    @hookimpl
    def mmkd_load_teacher(self):
        self.asked += 1
        return self


@pytest.fixture
def spec_of(tmp_path, monkeypatch):
    """Call with a configuration and fields of the spec: a teacher with that configuration among its files."""
    package = tmp_path / "path" / "mmkd_strange"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(str(package.parent))

    def make(config: object, **changes) -> TeacherSpec:
        folder = tmp_path / "weights"
        folder.mkdir(exist_ok=True)
        text = json.dumps(config).encode()
        (folder / "config.json").write_bytes(text)
        files = {"config.json": hashlib.sha256(text).hexdigest()}
        fields = {
            "name": "strange", "title": "Strange", "summary": "Its repository holds code", "family": "strange",
            "weights": (WeightSource(role="model", kind="path", location=str(folder), files=files),),
            "image": ImageSpec(size=2, mean=(0, 0, 0), std=(1, 1, 1)),
            "text": TextSpec(tokenizer="hf", context_length=4), "embed_dim": 2, "logit_scale": 10, "domains": ("ct",),
            "license": LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
        }  # fmt: skip
        return TeacherSpec(**fields | changes)

    return make


@pytest.mark.parametrize("config", [AUTO_MAP, {"tokenizer_kwargs": {"trust_remote_code": True}}])
def test_no_loader_is_asked_in_our_own_environment(spec_of, config):
    plugin = Plugin(spec_of(config))
    with pytest.raises(PluginError, match=r"config\.json of teacher strange asks for remote code with .* is refused"):
        PluginHost.offering({"strange": plugin}).load(plugin.spec)
    assert plugin.asked == 0
    harmless = Plugin(spec_of({"trust_remote_code": False, "auto_map": None}))
    assert PluginHost.offering({"strange": harmless}).load(harmless.spec) is harmless


def test_an_isolated_teacher_may_if_the_user_agrees(spec_of, tmp_path):
    isolated = {"runtime": "isolated", "isolation": Isolation(worker="mmkd_strange.worker:load")}
    spec = spec_of(AUTO_MAP, **isolated)
    host, lock = PluginHost.offering({"strange": Plugin(spec)}), tmp_path / "ws" / "mmkd.lock"
    lock.parent.mkdir()
    facts = {"registry": Registry(schema_version=1), "host": host}
    need = r"it may run code that its files name, in its own environment: config\.json \(auto_map\)"
    with pytest.raises(PluginError, match=f"strange was not added, at step weights: it needs your agreement: {need}"):
        add("strange", lock, **facts)
    with pytest.raises(PluginError, match="you did not agree"):
        add("strange", lock, **facts, choices=Choices(agree=lambda offer: not offer.needs))
    assert not lock.exists()
    shown = []
    (locked,) = add("strange", lock, **facts, choices=Choices(agree=lambda offer: shown.append(offer) or True))
    assert ("remote code", "config.json (auto_map)") in [fact for offer in shown for fact in offer.facts]
    assert read_lock(lock).teachers["strange"].runtime.remote_code
    open_teacher(host, spec, locked, lock.parent).close()
    unasked = locked.model_copy(update={"runtime": locked.runtime.model_copy(update={"remote_code": False})})
    with pytest.raises(PluginError, match=r"is refused .* Run `mmkd teachers add strange` and agree to it"):
        open_teacher(host, spec, unasked, lock.parent)
    (plain,) = add(
        "strange", lock, **{**facts, "host": PluginHost.offering({"strange": Plugin(spec_of({}, **isolated))})}
    )
    assert not plain.runtime.remote_code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.lists(st.integers(0, 2) | st.text(max_size=3), max_size=6), st.sampled_from(remote_code._KEYS))
def test_it_is_found_at_any_depth_and_nowhere_else(inner, path, key):
    assert list(remote_code.keys(inner)) == []
    config: object = {key: "code.Model", "beside": inner}
    for step in path:
        config = {step: config} if isinstance(step, str) else [inner] * step + [config]
    assert list(remote_code.keys(config)) == [key]
