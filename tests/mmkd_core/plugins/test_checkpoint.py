"""Checkpoints as people publish them: containers, prefixes, leftovers of a training run, and what must be refused."""

from __future__ import annotations

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
from mmkd_core.plugins.loaders import checkpoint

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
