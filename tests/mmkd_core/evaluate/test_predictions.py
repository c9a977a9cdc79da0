"""Predictions: what they hold, and that a file gives back the same bits."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from mmkd_core.errors import DataError
from mmkd_core.evaluate.predictions import DomainPredictions, Predictions


def column(values):
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def part(n=30, classes=("a", "b", "c"), seed=0, domain="ct", groups=None):
    rng = np.random.default_rng(seed)
    label = column([classes[i] for i in rng.integers(0, len(classes), n)])
    names = column([f"{domain} {i}" for i in range(n)])
    logits = rng.normal(size=(n, len(classes)))
    return DomainPredictions.build(names, column(groups or [f"p{i // 2}" for i in range(n)]), label, logits, classes)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_round_trip_is_exact(tmp_path_factory, shapes, seed):
    domains = {
        f"domain {d}": part(n, tuple(f"class {c}" for c in range(classes)), seed, f"d{d}")
        for d, (n, classes) in reversed(list(enumerate(shapes)))
    }
    path = tmp_path_factory.mktemp("p") / "predictions.parquet"
    Predictions(domains, "mmkd/zero-shot@2").save(path)
    again = Predictions.load(path)
    assert list(again.domains) == list(domains)
    assert again.protocol == "mmkd/zero-shot@2"
    for domain, expected in domains.items():
        found = again[domain]
        assert found.classes == expected.classes
        assert found.logits.dtype == np.float64
        for name in ("sample_id", "group_id", "label", "truth", "logits"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_file_can_be_read_by_others(tmp_path):
    Predictions({"ct": part(4, ("a", "b"))}, "x@1").save(tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["sample_id", "group_id", "domain", "label", "labels", "logits"]
    assert table.schema.field("logits").type == pa.list_(pa.float64())
    assert json.loads(table.schema.metadata[b"mmkd.predictions"])["classes"] == {"ct": ["a", "b"]}


def test_auc_against_sklearn_and_the_mean_over_defined_domains():
    one, two = part(60), part(60, ("x", "y"), seed=1)
    single = DomainPredictions.build(column(["s"]), column(["g"]), column(["x"]), np.ones((1, 2)), ("x", "y"))
    found = Predictions({"one": one, "two": two, "single": single}, "p@1")
    expected = np.mean([roc_auc_score(one.truth == c, softmax(one.logits, axis=1)[:, c]) for c in range(3)])
    assert found.auc()["one"] == pytest.approx(expected)
    assert found.auc()["single"] is None
    assert found.mean_auc() == pytest.approx((found.auc()["one"] + found.auc()["two"]) / 2)
    assert Predictions({"single": single}, "p@1").mean_auc() is None
    assert len(found) == 121


def test_refuses_nan_unknown_labels_and_odd_shapes():
    sample, group, label = column(["s1", "s2"]), column(["g", "g"]), column(["a", "b"])
    with pytest.raises(DataError, match=r"logits with NaN or infinity \(sample s2\)"):
        DomainPredictions.build(sample, group, label, np.array([[0, 1], [np.nan, 0]]), ("a", "b"))
    with pytest.raises(DataError, match=r"the label 'b' is none of the classes a, c \(sample s2\)"):
        DomainPredictions.build(sample, group, label, np.zeros((2, 2)), ("a", "c"))
    with pytest.raises(DataError, match="columns of predictions differ in length"):
        DomainPredictions(sample, group[:1], label, np.array([0, 1]), np.zeros((2, 2)), ("a", "b"))


class TestRefusedFiles:
    def test_missing_foreign_and_damaged(self, tmp_path):
        path = tmp_path / "p.parquet"
        with pytest.raises(DataError, match=r"no predictions .*p.parquet.*`mmkd eval zero-shot`"):
            Predictions.load(path)
        path.write_bytes(b"PAR1 but no more")
        with pytest.raises(DataError, match="the predictions cannot be read"):
            Predictions.load(path)
        pq.write_table(pa.table({"a": [1]}), path)
        with pytest.raises(DataError, match="the table holds no predictions"):
            Predictions.load(path)

    def edited(self, path, facts=None, drop=None):
        Predictions({"ct": part(4, ("a", "b"))}, "x@1").save(path)
        table = pq.read_table(path)
        old = json.loads(table.schema.metadata[b"mmkd.predictions"])
        table = table.replace_schema_metadata({b"mmkd.predictions": json.dumps(old | (facts or {}))})
        pq.write_table(table.drop_columns([drop]) if drop else table, path)
        return path

    def test_version_columns_and_classes(self, tmp_path):
        path = tmp_path / "p.parquet"
        with pytest.raises(DataError, match="of version 9, this mmkd reads 2"):
            Predictions.load(self.edited(path, {"version": 9}))
        with pytest.raises(DataError, match="the predictions lack group_id"):
            Predictions.load(self.edited(path, drop="group_id"))
        with pytest.raises(DataError, match="damaged: no classes are given for the domain 'ct'"):
            Predictions.load(self.edited(path, {"classes": {}}))
        with pytest.raises(DataError, match="rows of ct whose number of logits is not that of its 3 classes"):
            Predictions.load(self.edited(path, {"classes": {"ct": ["a", "b", "c"]}}))
