"""Recipes as data: what each is, what can be exchanged, and what is refused with which sentence."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mmkd_core.distill.config import RECIPES, DistillConfig, IncrementalConfig, Weights


def test_the_recipes():
    mmkd, paper, published = (DistillConfig(recipe=name).parts for name in ("mmkd", "paper", "paper-published"))
    assert (mmkd.heads, mmkd.aligner, mmkd.fd, mmkd.teacher_balance) == ("linear", "phi-s", "cosine", "none")
    assert mmkd.weights == Weights(fd=5, icl=0.1, clip=0.1, relation=1)
    assert paper.weights == Weights(fd=50, icl=1, clip=1)
    assert published.weights == Weights(fd=1, icl=1, clip=0.1)
    for parts in (paper, published):
        assert (parts.heads, parts.aligner, parts.fd) == ("none", "autoencoder", "mse")
    assert DistillConfig().parts == IncrementalConfig().parts == RECIPES["mmkd"]


def test_what_is_left_out_is_the_recipes():
    config = DistillConfig.model_validate({"weights": {"crd": 0.5, "icl": 0}, "heads": "mlp"})
    assert config.factors == Weights(fd=5, icl=0, crd=0.5, clip=0.1, relation=1)
    assert (config.parts.heads, config.parts.aligner) == ("mlp", "phi-s")
    assert DistillConfig(recipe="paper", weights={"fd": 2000}).factors == Weights(fd=2000, icl=1, clip=1)


def test_a_written_config_reads_the_same():
    """mmkd.yaml is written with all settings: what was left out must stay the recipe's."""
    config = DistillConfig(recipe="paper", weights={"icl": 2}, aligner="procrustes")
    again = DistillConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.factors == Weights(fd=50, icl=2, clip=1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"aligner": "procrustes"}, "aligner procrustes makes one space of all teachers.*choose aligner phi-s or none"),
        ({"recipe": "paper", "weights": {"crd": 1, "relation": 1}}, "crd and relation cannot be had without heads"),
        ({"heads": "none"}, "relation cannot be had without heads.*set their weight to 0, or heads to linear or mlp"),
        ({"recipe": "paper", "heads": "linear"}, "aligner autoencoder makes one space"),
        ({"recipe": "paper", "teacher_balance": "dropping"}, "teacher_balance dropping weighs the FD of the heads"),
        ({"teacher_balance": "dispersion", "weights": {"fd": 0}}, "weight of fd above 0"),
        ({"weights": {"fd": 0, "icl": 0, "clip": 0, "relation": 0}}, "one of fd, icl, crd, gd, afd, clip and relation"),
        ({"fd": "l1"}, "Input should be 'cosine' or 'mse'"),
        ({"weights": {"fdd": 1}}, "Input should be 'fd', 'icl'"),
        ({"weights": {"fd": -1}}, "greater than or equal to 0"),
    ],
)
@pytest.mark.parametrize("kind", [DistillConfig, IncrementalConfig])
def test_what_makes_no_sense_is_refused(kind, settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        kind.model_validate(settings)
