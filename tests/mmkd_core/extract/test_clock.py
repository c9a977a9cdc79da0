"""The wall clock is nobody's business: a run under a clock that jumps, and goes on under another, ends the same."""

from __future__ import annotations

import ast
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest

import mmkd_core.extract
from feature_store import FeatureStore
from mmkd_core.extract import extract
from tests.mmkd_core.extract.test_pipeline import TEXTS, Sensitive, _small_batches, contents, corpus, undisturbed

__all__ = ["_small_batches", "corpus"]


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("step", [-86400.0, 0.0, 1e9])
def test_a_clock_that_jumps_within_and_between_runs(corpus, tmp_path, monkeypatch, step):
    teachers = [Sensitive("a"), Sensitive("b")]
    jobs = [teacher.job() for teacher in teachers]
    expected = undisturbed(corpus, teachers, tmp_path / "calm")
    for start, last in ((4e9, 4), (1.0, None)):
        clock = itertools.count(start, step)
        monkeypatch.setattr(time, "time", lambda clock=clock: next(clock))
        monkeypatch.setattr(time, "time_ns", lambda clock=clock: int(1e9 * next(clock)))
        calls, real = itertools.count(1), teachers[1].encode_image

        def encode(images, calls=calls, last=last, real=real):
            if next(calls) == last:
                raise KilledError
            return real(images)

        monkeypatch.setattr(teachers[1], "encode_image", encode)
        with FeatureStore.open(tmp_path / "store", "w") as store:
            if last is None:
                extract(corpus, TEXTS, jobs, store).require()
            else:
                with pytest.raises(KilledError):
                    extract(corpus, TEXTS, jobs, store)
        for path in (tmp_path / "store").iterdir():
            os.utime(path, (4e9 - start, 4e9 - start))
    with FeatureStore.open(tmp_path / "store") as store:
        assert store.verify() == []
        found = contents(store, [teacher.spec for teacher in teachers], corpus)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_nothing_of_extraction_asks_for_the_time():
    """``monotonic`` and ``perf_counter`` measure how long something takes, whatever the clock shows."""
    for path in Path(mmkd_core.extract.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                assert node.attr in ("monotonic", "perf_counter"), path
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"datetime"}, path
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("time", "datetime"), path
