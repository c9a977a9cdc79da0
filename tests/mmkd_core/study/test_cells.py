"""Which runs a study is made of: one thing changes, and the first cell is what the others are compared with."""

from __future__ import annotations

import pytest

from mmkd_core.distill.config import RECIPES
from mmkd_core.integrate.workspace import Config
from mmkd_core.study.cells import STUDIES, Cell, Given, StudyError

NAMES = ("a", "b", "c", "d")
WEIGHTS = RECIPES["mmkd"].weights.model_dump()
GIVEN = Given(NAMES, ("ct", "xray"), WEIGHTS, "ct")


@pytest.mark.parametrize("name", list(STUDIES))
def test_names_are_different_and_settings_are_ones_that_mmkd_yaml_takes(name: str) -> None:
    cells = STUDIES[name].cells(GIVEN)
    assert len({cell.name for cell in cells}) == len(cells) > 1
    for cell in cells:
        facts = Config().model_dump(mode="json", by_alias=True)
        for section, values in cell.settings.items():
            facts[section] = {**facts[section], **values}
        Config.model_validate(facts)


def test_losses_change_their_own_factor_and_nothing_else() -> None:
    cells = {cell.name: cell for cell in STUDIES["losses"].cells(GIVEN)}
    assert cells["both"] == Cell("both")
    weights = cells["fd"].settings["distill"]["weights"]
    assert {name for name in WEIGHTS if weights[name] != WEIGHTS[name]} == {"icl"}
    assert cells["neither"].settings["distill"]["weights"]["relation"] == WEIGHTS["relation"]
    paper = Given(NAMES, ("ct",), {**WEIGHTS, "relation": 0.0})
    assert [cell.name for cell in STUDIES["losses"].cells(paper)] == ["both", "fd", "icl", "neither"]


def test_teachers_alone_together_and_left_out() -> None:
    chosen = {cell.name: cell.teachers for cell in STUDIES["teachers"].cells(GIVEN)}
    assert chosen["all"] is None
    assert chosen["only-b"] == ("b",)
    assert chosen["first-3"] == ("a", "b", "c")
    assert chosen["no-a"] == ("b", "c", "d")
    assert len(chosen) == 1 + 4 + 2 + 4


def test_thresholds_change_the_rule_and_nothing_else_so_that_all_learn_for_the_same_steps() -> None:
    cells = {cell.name: cell.settings for cell in STUDIES["threshold"].cells(GIVEN)}
    assert list(cells) == ["0.90", "0.50", "0.70", "0.80", "0.95", "everyone"]
    assert cells["0.70"] == {"trust": {"rule": "90", "threshold": 0.7}}
    assert cells["everyone"] == {"trust": {"rule": "none"}}


def test_orders_are_permutations_and_not_too_many() -> None:
    orders = [cell.order for cell in STUDIES["order"].cells(GIVEN)]
    assert len(set(orders)) == len(orders) == 6
    assert all(sorted(order or ()) == sorted(NAMES) for order in orders)


def test_a_study_that_cannot_be_made_says_why() -> None:
    few = Given(("a",), ("ct",), WEIGHTS)
    with pytest.raises(StudyError, match="needs 3 teachers, 1 are in use"):
        STUDIES["order"].cells(few)
    with pytest.raises(StudyError, match="no domain was named"):
        STUDIES["holdout"].cells(few)
    with pytest.raises(StudyError, match="no domain 'mri' to hold out"):
        STUDIES["holdout"].cells(Given(NAMES, ("ct",), WEIGHTS, "mri"))


def test_what_is_different_in_a_cell_is_said_in_words() -> None:
    said = {cell.name: cell.in_words() for name in STUDIES for cell in STUDIES[name].cells(GIVEN)}
    assert said["both"] == said["all"] == said["seen"] == said["with-stage-1"] == ""
    assert said["0.50"] == "trust.rule 90; trust.threshold 0.5"
    assert said["first-2"] == "only a, b"
    assert said["order-1"] == "a, then b, then c, then d"
    assert said["without-ct"] == "no training image of ct"
    assert said["without"] == "no stage 1, as many steps in all"
    assert "icl 0" in said["fd"]
