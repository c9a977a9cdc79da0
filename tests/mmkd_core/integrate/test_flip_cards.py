"""Nearest training samples of a flip: of its domain, nearest first, and the nearest that was replayed."""

from pathlib import Path

import numpy as np

from mmkd_core.data.manifest import Corpus
from mmkd_core.integrate.flip_cards import Card, Said, nearest, replay_first


def testnearest_and_replayed():
    rows = [
        {"image": f"{i}", "image_id": f"{i}", "caption": "c", "domain": "ct", "group_id": f"{i}", "split": "train"}
        for i in range(6)
    ]
    corpus = Corpus.build(Path("/nowhere"), rows, {})
    names = list(corpus.sample_id)
    similar = np.array([0.1, 0.9, 0.5, 0.7, 0.2, 0.3], dtype=np.float32)
    train, replayed, cosine = nearest(corpus, np.arange(6), similar, {names[2], names[0]})
    assert train == (names[1], names[3], names[2])
    assert (replayed, round(cosine, 6)) == (names[2], 0.5)
    assert nearest(corpus, np.arange(6), similar, set())[1:] == (None, None)


def test_what_is_replayed_first_is_each_neighbour_once():
    said = Said("a", 0.5)
    found = [Card(str(i), "ct", "b", said, said, train=train) for i, train in enumerate([("x", "y"), ("y", "z"), ()])]
    assert replay_first(found) == ["x", "y", "z"]
