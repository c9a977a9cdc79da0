"""Checkpoints as people publish them: containers, prefixes, leftovers of a training run, and what must be refused."""

from __future__ import annotations

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins.loaders import checkpoint, folder

SPEC = TeacherSpec.model_validate(
    {
        "name": "tiny",
        "title": "Tiny",
        "summary": "",
        "family": "open_clip",
        "weights": [{"role": "model", "kind": "hf", "location": "org/tiny", "files": {"w.pt": None}}],
        "image": {"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "text": {"tokenizer": "open_clip", "context_length": 8},
        "embed_dim": 4,
        "logit_scale": 10.0,
        "domains": ["xray"],
        "license": {"code": "MIT", "weights": "MIT", "commercial_use": True},
    }
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Linear(3, 2)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))


def state() -> dict[str, torch.Tensor]:
    return {"tower.weight": torch.randn(2, 3), "tower.bias": torch.randn(2), "logit_scale": torch.tensor(4.0)}


def test_every_container_holds_the_same(tmp_path):
    tensors = state()
    module = OrderedDict((f"module.{name}", value) for name, value in tensors.items())
    best = {"epoch": 3, "state_dict": module, "best": np.float64(0.9), "optimizer": {"state": {0: torch.ones(9)}}}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.bin")
    torch.save(best, tmp_path / "c.pt")
    torch.save(best, tmp_path / "d.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": tensors, "config": {"model": {"name": "clip"}}, "epoch": 15}, tmp_path / "e.tar")
    for name in ("a.safetensors", "b.bin", "c.pt", "d.pth", "e.tar"):
        found = checkpoint.read(SPEC, tmp_path / name)
        assert set(found) == set(tensors), name
        assert all(torch.equal(found[key], tensors[key]) for key in tensors), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.ones(1)}, "fn": print}, r"holds code \([\w.]*print\) beside its tensors, which is"),
        ({"state_dict": {"a": 1}}, "is no table of tensors"),
        ({}, "is no table of tensors"),
        (torch.ones(2), "is no table of tensors"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(PluginError, match=rf"checkpoint of teacher tiny {message}.*w\.pt"):
        checkpoint.read(SPEC, tmp_path / "w.pt")


@pytest.mark.parametrize(("name", "message"), [("w.pt", "cannot be read: "), ("w.safetensors", "is damaged: ")])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02.", bytes(range(64))])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, name, message, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PluginError, match=rf"checkpoint of teacher tiny {message}") as caught:
        checkpoint.read(SPEC, tmp_path / name)
    assert "\n" not in str(caught.value)


def write_split(folder, parts: dict[str, dict[str, torch.Tensor]], **weight_map: str) -> TeacherSpec:
    """A checkpoint in parts and its index, as transformers and accelerate write them; the spec that declares them."""
    for name, tensors in parts.items():
        save_file(tensors, folder / name) if name.endswith(".safetensors") else torch.save(tensors, folder / name)
    places = {key: name for name, tensors in parts.items() for key in tensors} | weight_map
    (folder / "w.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    source = SPEC.weights[0].model_copy(update={"files": dict.fromkeys(["w.index.json", *parts])})
    return SPEC.model_copy(update={"weights": (source,)})


@pytest.mark.parametrize("names", [("w-1.safetensors", "w-2.safetensors"), ("w-1.bin", "w-2.bin")])
def test_a_split_checkpoint_is_one(tmp_path, names):
    tensors = state()
    first = {"tower.weight": tensors["tower.weight"]}
    spec = write_split(tmp_path, {names[0]: first, names[1]: {k: v for k, v in tensors.items() if k not in first}})
    file = folder.checkpoint(spec, tmp_path, "w.safetensors")
    found = checkpoint.read(spec, file)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    checkpoint.fit(spec, Model(), found, file)


def test_parts_are_declared_and_hold_what_the_index_says(tmp_path):
    parts = {"w-1.bin": {"tower.weight": torch.ones(2, 3)}, "w-2.bin": {"tower.bias": torch.ones(2)}}
    spec = write_split(tmp_path, parts, logit_scale="w-2.bin")
    with pytest.raises(PluginError, match=r"1 missing \(logit_scale\)"):
        checkpoint.read(spec, tmp_path / "w.index.json")
    torch.save({"tower.bias": torch.ones(2), "extra": torch.ones(1)}, tmp_path / "w-2.bin")
    write_split(tmp_path, {"w-1.bin": parts["w-1.bin"]}, **{"tower.bias": "w-2.bin"})
    with pytest.raises(PluginError, match=r"1 unexpected \(extra\)"):
        checkpoint.read(spec, tmp_path / "w.index.json")
    write_split(tmp_path, parts, logit_scale="../elsewhere.bin")
    with pytest.raises(PluginError, match=r"1 undeclared \(\.\./elsewhere\.bin\)"):
        checkpoint.read(spec, tmp_path / "w.index.json")
    for text in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}'):
        (tmp_path / "w.index.json").write_text(text)
        with pytest.raises(PluginError, match=r"w\.index\.json of teacher tiny is no index of a checkpoint"):
            checkpoint.read(spec, tmp_path / "w.index.json")
    source = spec.weights[0].model_copy(update={"files": dict.fromkeys(parts)})
    with pytest.raises(PluginError, match=r"several checkpoints: w-1\.bin, w-2\.bin; .* declare their \*\.index\.json"):
        folder.checkpoint(spec.model_copy(update={"weights": (source,)}), tmp_path, "w.safetensors")


def test_a_single_tensor(tmp_path):
    torch.save(nn.Parameter(torch.eye(2)), tmp_path / "p.pth")
    assert torch.equal(checkpoint.read_tensor(SPEC, tmp_path / "p.pth"), torch.eye(2))
    torch.save({"a": torch.eye(2)}, tmp_path / "p.pth")
    with pytest.raises(PluginError, match=r"p.pth of teacher tiny is not one tensor"):
        checkpoint.read_tensor(SPEC, tmp_path / "p.pth")


def test_a_complete_checkpoint_fits_whatever_its_precision(tmp_path):
    model, tensors = Model(), {name: value.half() for name, value in state().items()}
    tensors["logit_scale"] = tensors["logit_scale"][None]
    tensors["text.embeddings.position_ids"] = torch.arange(5)[None]
    tensors["tower.unused"] = torch.ones(1)
    checkpoint.fit(SPEC, model, tensors, tmp_path, ignore=["tower.unused", "logit_scale", "gone"])
    assert model.tower.weight.dtype == torch.float32
    assert torch.equal(model.tower.weight, tensors["tower.weight"].float())
    assert model.logit_scale.item() == 4.0


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    tensors = state() | {"x": torch.ones(1), "y": torch.ones(1), "tower.weight": torch.ones(3, 3)}
    del tensors["tower.bias"]
    with pytest.raises(PluginError) as caught:
        checkpoint.fit(SPEC, Model(), tensors, tmp_path)
    assert str(caught.value) == (
        "weights of teacher tiny do not fit its model: 1 missing (tower.bias); 2 unexpected (x, y); "
        f"1 of another shape (tower.weight) ({tmp_path})."
    )


def test_a_long_list_is_cut_but_counted(tmp_path):
    tensors = state() | {f"x{i:02}": torch.ones(1) for i in range(20)}
    with pytest.raises(PluginError, match=r"20 unexpected \(x00, .*x11, \.\.\.\)"):
        checkpoint.fit(SPEC, Model(), tensors, tmp_path)


def test_position_ids_that_do_not_count_are_not_left_out():
    odd = {"text.embeddings.position_ids": torch.tensor([[0, 2, 1]])}
    with pytest.raises(PluginError, match=r"text.embeddings.position_ids of teacher tiny does not count from 0"):
        checkpoint.without_position_ids(SPEC, odd, ())
    assert checkpoint.without_position_ids(SPEC, odd, odd) == odd


@given(st.dictionaries(st.from_regex(r"[ab]\.[a-d]{1,3}", fullmatch=True), st.integers(), max_size=8))
def test_renaming_keeps_every_tensor(names):
    tensors = {name: torch.tensor(value % 100) for name, value in names.items()}
    found = checkpoint.renamed(tensors, {"a.": "text."})
    assert len(found) == len(tensors)
    assert checkpoint.part(found, "text.") == checkpoint.part(tensors, "a.")
    assert checkpoint.part(found, "b.") == checkpoint.part(tensors, "b.")
    assert checkpoint.renamed(tensors, {}) == tensors


def test_renaming_merges_nothing():
    with pytest.raises(PluginError, match=r"two of its weights would be called text.a"):
        checkpoint.renamed({"a.a": torch.ones(1), "text.a": torch.ones(1)}, {"a.": "text."})
