from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge

from mmkd_core.distill.heads import TeacherHead, load_heads, save_heads
from mmkd_core.distill.normalise import PhiS
from mmkd_core.errors import ReleaseError

S, D, N = 7, 5, 60


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    embedding = unit(rng.normal(size=(N, S))).astype(np.float32)
    features = (embedding @ rng.normal(size=(S, D)) + 0.3 * rng.normal(size=(N, D)) + 1).astype(np.float32)
    return torch.from_numpy(embedding), torch.from_numpy(features)


def head_for(features, scale=20.0):
    """Images and texts of a teacher lie in different places."""
    spaces = {"image": PhiS.fit(features.numpy()), "text": PhiS.fit(3 - 2 * features.numpy()[:, ::-1].copy())}
    return TeacherHead(S, spaces, scale)


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 1.0])
def test_the_fit_is_ridge_regression_with_a_penalised_intercept(data, tower, penalty):
    """The gram matrix is a mean and the penalty is shared by S + 1 columns: alpha = penalty * N / (S + 1)."""
    embedding, features = data
    head = head_for(features)
    other = {"image": head.text, "text": head.image}[tower]
    untouched = other.weight.detach().clone()
    fidelity = head.fit_ridge(embedding, features, tower, penalty)

    target = head.normalisers[tower].forward(features).double().numpy()
    design = np.hstack([embedding.numpy(), np.ones((N, 1))]).astype(np.float64)
    ridge = Ridge(alpha=penalty * N / (S + 1), fit_intercept=False).fit(design, target)
    layer = getattr(head, tower)
    np.testing.assert_allclose(layer.weight.detach(), ridge.coef_[:, :-1], atol=1e-5)
    np.testing.assert_allclose(layer.bias.detach(), ridge.coef_[:, -1], atol=1e-5)
    predicted = ridge.predict(design)
    assert fidelity == pytest.approx((unit(predicted) * unit(target)).sum(axis=1).mean(), abs=1e-6)
    np.testing.assert_allclose(head(embedding, tower).detach(), predicted, atol=1e-5)
    assert torch.equal(other.weight, untouched)


def test_a_true_linear_map_is_recovered(data):
    embedding, _ = data
    rng = np.random.default_rng(1)
    matrix, offset = rng.normal(size=(S, D)), rng.normal(size=D)
    features = torch.from_numpy((embedding.numpy() @ matrix + offset).astype(np.float32))
    head = head_for(features)
    assert head.fit_ridge(embedding, features, "image", penalty=1e-9) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(
        head.normalisers["image"].inverse(head(embedding, "image")).detach(), features, atol=1e-3
    )
    native = head.native(head(embedding, "image"), "image").detach()
    np.testing.assert_allclose(native, unit(features.numpy()), atol=1e-3)


def test_save_and_load_are_exact(data, tmp_path):
    embedding, features = data
    heads = {name: head_for(features * k, scale) for name, k, scale in (("b-net", 2, 300.0), ("a", 1, 5.0))}
    heads["a"].fit_ridge(embedding, features, "text")
    save_heads(heads, tmp_path)
    again = load_heads(tmp_path)
    assert set(again) == {"a", "b-net"}
    for name, head in heads.items():
        ours, theirs = head.state_dict(), again[name].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        for tower in ("image", "text"):
            assert torch.equal(head(embedding, tower), again[name](embedding, tower))
            assert torch.equal(head.native(features, tower), again[name].native(features, tower))


def test_a_hidden_layer_starts_where_the_ridge_fit_ends(data):
    embedding, features = data
    phis = {tower: PhiS.fit(features.numpy()) for tower in ("image", "text")}
    plain, deep = TeacherHead(S, phis, 20.0), TeacherHead(S, phis, 20.0, mlp=True)
    for head in (plain, deep):
        head.fit_ridge(embedding, features, "image")
    torch.testing.assert_close(deep(embedding, "image"), plain(embedding, "image"))
    deep(embedding, "image").sum().backward()
    assert deep.more["image"][2].weight.grad.abs().sum() > 0


def test_heads_with_all_parts_are_saved_and_loaded(data, tmp_path):
    embedding, features = data
    phis = {tower: PhiS.identity(D) for tower in ("image", "text")}
    head = TeacherHead(S, phis, 20.0, mlp=True)
    head.fuse(3)
    fused = head.fusion
    head.fuse(4)
    assert head.fusion is fused
    torch.nn.init.normal_(head.more["text"][2].weight)
    save_heads({"a": head}, tmp_path)
    again = load_heads(tmp_path)["a"]
    assert torch.equal(head(embedding, "text"), again(embedding, "text"))
    four = [torch.randn(4, D) for _ in range(4)]
    for one, other in zip(head.fusion(*four), again.fusion(*four), strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(again.native(features, "image"), torch.nn.functional.normalize(features, dim=-1))


def without_normaliser(folder):
    state = load_file(folder / "heads.safetensors")
    save_file({name: value for name, value in state.items() if "normaliser" not in name}, folder / "heads.safetensors")


def of_other_facts(folder):
    (folder / "heads.json").write_text('{"a": {"student_dim": 7}}')


@pytest.mark.parametrize(
    "harm",
    [
        without_normaliser,
        of_other_facts,
        lambda folder: (folder / "heads.safetensors").write_bytes(b"cut"),
        lambda folder: (folder / "heads.json").write_text("{"),
        lambda folder: (folder / "heads.json").unlink(),
    ],
)
def test_heads_of_another_version_are_a_sentence(data, tmp_path, harm):
    _, features = data
    normalisers = {tower: PhiS.fit(features.numpy()) for tower in ("image", "text")}
    save_heads({"a": TeacherHead(S, normalisers, 50.0)}, tmp_path)
    load_heads(tmp_path)
    harm(tmp_path)
    with pytest.raises(ReleaseError, match=r"damaged, or of another version of mmkd \(.*\)\. `mmkd releases show ID`"):
        load_heads(tmp_path)


def test_no_heads_at_all_can_be_saved(tmp_path):
    """The paper's recipe leaves none."""
    save_heads({}, tmp_path)
    assert load_heads(tmp_path) == {}


def test_the_logit_scale_starts_at_the_teachers_and_at_most_at_100(data):
    _, features = data
    assert head_for(features, 20.0).log_scale.exp().item() == pytest.approx(20)
    assert head_for(features, 300.0).log_scale.exp().item() == pytest.approx(100)
    assert all(p.requires_grad for p in head_for(features).parameters())


def test_normalisers_go_where_the_layers_go():
    phi = PhiS.fit(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    head = TeacherHead(8, {"image": phi, "text": phi}, 10.0)
    moved = head.to("meta")
    for normaliser in moved.normalisers.values():
        assert {normaliser.mean.device.type, normaliser.rotation.device.type} == {"meta"}
        assert normaliser.scale == phi.scale
    assert phi.mean.device.type == "cpu"  # the one that it was made of is shared


def test_each_tower_is_fitted_in_its_own_space():
    """Two captions and two images, the text features a hundred away from those of the images."""
    embedding = torch.eye(2)
    image, text = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[100.0, 3.0], [100.0, -3.0]])
    head = TeacherHead(2, {"image": PhiS.fit(image.numpy()), "text": PhiS.fit(text.numpy())}, 1.0)
    for tower, features in (("image", image), ("text", text)):
        head.fit_ridge(embedding, features, tower, penalty=1e-9)
        said = head.normalisers[tower].inverse(head(embedding, tower)).detach()
        torch.testing.assert_close(said, features, atol=1e-3, rtol=0)
