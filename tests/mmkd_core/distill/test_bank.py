from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import BankConfig
from mmkd_core.errors import TrainingError

CT = ("normal ct", "ct, no finding", "ct with a lesion")
XRAY = ("normal radiograph", "radiograph with a nodule", "a nodule")


def test_prompts_come_first_in_class_order_then_captions(corpus):
    bank = Bank.build(corpus, BankConfig(captions=2), seed=0)
    assert bank.domains == ("ct", "xray")
    assert bank.texts["ct"][:3] == CT
    assert bank.texts["xray"][:3] == XRAY
    for domain in bank.domains:
        captions = bank.texts[domain][3:]
        assert len(set(captions)) == 2
        train = {corpus.caption[i] for i in corpus.where(split="train", domains=[domain])}
        assert set(captions) <= train


def test_captions_of_the_test_split_never_enter(corpus):
    bank = Bank.build(corpus, BankConfig(captions=99), seed=0)
    assert len(bank.texts["ct"]) == 3 + 5
    test = {corpus.caption[i] for i in corpus.where(split="test")}
    assert not test & {text for row in bank.texts.values() for text in row}


def test_the_seed_draws_the_captions(corpus):
    banks = [Bank.build(corpus, BankConfig(captions=2), seed).texts for seed in (0, 0, 1, 2, 3)]
    assert banks[0] == banks[1]
    assert len({str(bank) for bank in banks}) > 1


def test_the_order_of_the_corpus_does_not_matter(corpus):
    order = np.random.default_rng(0).permutation(len(corpus))
    config = BankConfig(captions=3)
    assert Bank.build(corpus, config, 5) == Bank.build(corpus.take(order), config, 5)


def test_a_caption_that_is_a_prompt_is_there_once(corpus):
    from dataclasses import replace

    caption = corpus.caption.copy()
    caption[0] = CT[0]
    bank = Bank.build(replace(corpus, caption=caption), BankConfig(captions=99), seed=0)
    assert bank.texts["ct"].count(CT[0]) == 1
    assert len(bank.texts["ct"]) == 3 + 4


def test_a_domain_with_one_text_has_no_bank(corpus):
    from dataclasses import replace

    prompts = {"ct": {"normal": ("only one",)}, "xray": corpus.prompts["xray"]}
    assert Bank.build(replace(corpus, prompts=prompts), BankConfig(captions=0), seed=0).domains == ("xray",)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=5),
    count=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**5),
)
def test_draw_has_no_repeats_and_is_a_function_of_seed_and_step(lengths, count, seed, step):
    bank = Bank({f"d{i}": tuple(f"{i} {k}" for k in range(length)) for i, length in enumerate(lengths)})
    draw = bank.draw(count, seed, step)
    again = bank.draw(count, seed, step)
    assert tuple(draw) == bank.domains
    for domain, index in draw.items():
        assert len(index) == min(count, *lengths)
        assert len(set(index.tolist())) == len(index)
        assert set(index.tolist()) <= set(range(len(bank.texts[domain])))
        assert index.tolist() == again[domain].tolist()


def test_all_texts_are_drawn_over_the_steps():
    bank = Bank({"ct": tuple(map(str, range(20)))})
    seen = {int(i) for step in range(40) for i in bank.draw(4, 0, step)["ct"]}
    assert seen == set(range(20))
    assert bank.draw(4, 0, 0)["ct"].tolist() != bank.draw(4, 1, 0)["ct"].tolist()


@pytest.mark.parametrize("captions", [0, 1])
def test_a_bank_of_prompts_alone(corpus, captions):
    bank = Bank.build(corpus, BankConfig(captions=captions), seed=0)
    assert {domain: len(row) for domain, row in bank.texts.items()} == {"ct": 3 + captions, "xray": 3 + captions}


def test_an_empty_bank_says_why(corpus):
    bank = Bank.build(corpus.take([]), BankConfig(), seed=0)
    with pytest.raises(TrainingError) as caught:
        bank.draw(16, 0, 0)
    assert str(caught.value) == (
        "there is no text to relate images to: no domain has two different prompts or training captions. "
        "Give the data labels or captions, or set `relation: 0` under weights in mmkd.yaml"
    )
