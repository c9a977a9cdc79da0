"""SentencePiece models read without that library, against it where it is installed."""

from __future__ import annotations

import contextlib
import random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmkd_core.errors import PluginError
from mmkd_core.plugins.loaders import sentencepiece

SPEC = SimpleNamespace(name="somebody")
PIECES = [("<unk>", 0.0, 2), ("</s>", 0.0, 3), ("▁", -2.0, 1), ("a", -3.0, 1), ("b", -3.0, 1), ("▁ab", -1.0, 1)]


@pytest.fixture
def model(tmp_path, write_sentencepiece):
    write_sentencepiece(tmp_path / "spiece.model", PIECES)
    return tmp_path / "spiece.model"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab", [5]),
        ("  ab   ba ", [5, 2, 4, 3]),
        ("abxyz", [5, 0]),  # unknown characters in a row are one piece
        ("</s>", [2, 0]),  # a control piece is never found in a text
        ("▁ab", [2, 5]),
        ("", []),
        ("   ", []),
    ],
)
def test_a_text_is_split_into_the_likeliest_pieces(model, text, ids):
    assert sentencepiece.read(SPEC, model).encode(text).ids == ids


@pytest.mark.parametrize(
    ("pieces", "trainer", "problem"),
    [
        (PIECES, b"\x18\x02", "it is no unigram model"),
        ([*PIECES, ("<0x0A>", 0.0, 6)], b"", "pieces of kind 6 are not handled"),
        (PIECES[1:], b"", "it has no piece for what it does not know"),
        (PIECES, b"\x18", "index out of range"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, write_sentencepiece, pieces, trainer, problem):
    file = tmp_path / "x.spm"
    write_sentencepiece(file, pieces, trainer)
    with pytest.raises(PluginError, match=f"x.spm of teacher somebody cannot be read: {problem}"):
        sentencepiece.read(SPEC, file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PluginError, match=r"x.spm of teacher somebody cannot be read: .*No such file"):
        sentencepiece.read(SPEC, tmp_path / "x.spm")


def test_a_file_that_was_cut_off_is_refused(model):
    data = model.read_bytes()
    model.write_bytes(data[:20])
    with pytest.raises(PluginError, match="cannot be read: it ends too early"):
        sentencepiece.read(SPEC, model)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_tokenizer_or_a_plugin_error(tmp_path, data):
    file = tmp_path / "any.spm"
    file.write_bytes(data)
    with contextlib.suppress(PluginError):  # anything else fails this test
        assert sentencepiece.read(SPEC, file).encode("a b").ids is not None


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity"])
@pytest.mark.parametrize("squeeze", [True, False])
def test_the_library_says_the_same(tmp_path, rule, squeeze):
    library = pytest.importorskip("sentencepiece")
    pick = random.Random(0)
    text = "a slide of colon, chest x-ray: no signs (mri) 2.5 cm naïve ﬁbrosis 5µm Ｆｕｌｌ ① é 細胞"
    words = text.split()
    lines = [" ".join(pick.choices(words, k=12)) for _ in range(500)]
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "real"),
        vocab_size=100,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        remove_extra_whitespaces=squeeze,
        minloglevel=2,
    )
    theirs = library.SentencePieceProcessor(model_file=str(tmp_path / "real.model"))
    ours = sentencepiece.read(SPEC, tmp_path / "real.model")
    characters = [*"abcdefgh ABC  .,;-()012\u3000\t\n▁éﬁ細胞😀①Ω", "</s>", "<unk>"]
    texts = ["", "  a  b ", "▁a", *lines[:100], *("".join(pick.choices(characters, k=12)) for _ in range(500))]
    for text in texts:
        assert ours.encode(text).ids == theirs.encode(text), text
