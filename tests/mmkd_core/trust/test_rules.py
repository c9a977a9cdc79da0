"""The table of rules, and everything that is read off it."""

from pathlib import Path

import pytest

from mmkd_core.trust import RULES, TrustConfig
from mmkd_core.trust.rules import Rule

DOCS = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "trust.md"


def test_the_page_has_every_rule_in_its_own_words():
    text = DOCS.read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `") and "--trust" not in line]
    assert table == [f"| `{rule.name}` | {rule.summary} |" for rule in RULES.values()]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_a_sentence_is_that_of_the_settings(rule: Rule):
    usual, other = (TrustConfig(rule=rule.name, **more) for more in ({}, {"threshold": 0.5}))
    assert usual.sentence.endswith(".")
    assert "50 %" not in usual.sentence
    assert "90 %" not in other.sentence
    assert ("50 %" in other.sentence) == ("90 %" in usual.sentence)


def test_strict_and_the_minimum_are_told():
    assert "lower 95 % bound" in TrustConfig(strict=True).sentence
    assert "lower 95 % bound" not in TrustConfig().sentence
    assert "at least 20 labelled probe images of 5 patients and 3 images" in TrustConfig().sentence
    assert "at least 40 labelled probe images of 8 patients" in TrustConfig(samples=40, patients=8).sentence


def test_none_says_which_domains():
    assert "the domains that it declares, and no other" in TrustConfig(rule="none").sentence


def test_the_command_offers_the_same_rules():
    from mmkd_core.cli.options import Rule as Offered

    assert [rule.value for rule in Offered] == list(RULES)
