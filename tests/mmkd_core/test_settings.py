"""Files that people write: what they mean, and that no text of any kind ends in anything but one sentence."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.audit.gate import GateError, read_gate
from mmkd_core.data.eval_task import read_task
from mmkd_core.data.prompts_file import prompts_yaml, read_prompts
from mmkd_core.errors import DataError, MmkdError, PluginError, WorkspaceError
from mmkd_core.integrate.workspace import Config, read_config, read_json
from mmkd_core.plugins.lock import read_lock
from mmkd_core.plugins.registry import load_registry
from mmkd_core.settings import SettingsError, brief, parse_yaml


def bomb() -> str:
    """Nine to the power of nine values in a few lines."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines) + "\nschema: *i\n"


ODD = {
    "a date that is none": b"name: 2024-13-45",
    "a date": b"name: 2024-01-31",
    "a time": b"name: 2024-01-31 10:00:00",
    "brackets": b"name: " + b"[" * 20_000,
    "braces": b"{a: " * 20_000,
    "dashes": b"- " * 20_000,
    "deep blocks": b"\n".join(b" " * i + b"a:" for i in range(2000)),
    "digits": b"seed: " + b"9" * 5000,
    "a key twice": b"seed: 1\nseed: 2",
    "a key twice inside": b"student: {embed_dim: 8, embed_dim: 16}",
    "a bomb": bomb().encode(),
    "a value in itself": b"a: &a [*a]",
    "no UTF-8": b"name: \xff\xfe",
    "half a character": "name: \u00e9".encode()[:-1],
    "UTF-16": "name: a".encode("utf-16"),
    "a control character": b"name: \x07",
    "two documents": b"name: a\n---\nname: b",
    "an open quote": b"name: 'a",
    "a tab": b"student:\n\tembed_dim: 8",
    "a list": b"- 1",
    "a word": b"word",
    "an object": b"name: !!python/object/apply:os.system [ls]",
    "a key that is a list": b"? [a]\n: 1",
    "an unknown key": b"sead: 3",
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda path: read_config(path), WorkspaceError),
        (lambda path: read_gate(path), GateError),
        (lambda path: read_task(path.rename(path.with_name("task.yaml")).parent), DataError),
        (lambda path: load_registry(path), PluginError),
    ],
    ids=["mmkd.yaml", "gate.yaml", "task.yaml", "registry.yaml"],
)
def test_each_gets_one_short_sentence_that_names_the_file(tmp_path, what, read, error):
    path = tmp_path / "some.yaml"
    path.write_bytes(ODD[what])
    began = time.monotonic()
    with pytest.raises(error) as caught:
        read(path)
    assert str(tmp_path) in str(caught.value)
    assert len(caught.value.what) < 500
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: 2024-13-45", "2024-13-45 is a date, which no setting takes; as text it stands in quotes"),
        ("seed: " + "9" * 5000, "a number of 5,000 digits"),
        ("seed: 1\nname: x\nseed: 2", "seed appears twice"),
        ("name: " + "[" * 60 + "]" * 60, "nested more than 50 levels deep"),
        ("name: " + "[" * 20_000, "exceeded maximum nesting depth"),
        (bomb(), "with its anchors written out it has more than 1,000,000 values"),
    ],
)
def test_the_sentence_says_what_is_wrong(text, sentence):
    with pytest.raises(SettingsError, match=sentence):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("seed: 4294967296", "setting seed: Input should be less than 4294967296"),
        ("seed: 100000000000000000000", "setting seed: Input should be less than 4294967296"),
        ("seed: -1", "setting seed: Input should be greater than or equal to 0"),
        ("trust: {seed: 4294967296}", "setting trust.seed: Input should be less than 4294967296"),
        ("pretrain: {lr: .nan}", "setting pretrain.lr: Input should be a finite number"),
        ("distill: {weight_decay: .inf}", "setting distill.weight_decay: Input should be a finite number"),
        ("pretrain: {lr: -1.0}", "setting pretrain.lr: Input should be greater than 0"),
        ("student: {embed_dim: 0}", "setting student.embed_dim"),
        ("pretrain: {steps: yes}", "setting pretrain.steps: Input should be a valid integer"),
        (f"schema: {'x' * 10_000}", "the workspace is of version 'xxx"),
        (f"student: {{vision: {'x' * 10_000}}}", "setting student.vision: no vision tower"),
        (f"{'x' * 900}: 1", "setting xxx"),
    ],
)
def test_values_that_nothing_can_be_made_of(tmp_path, settings, sentence):
    (tmp_path / "mmkd.yaml").write_text(settings)
    with pytest.raises(WorkspaceError) as caught:
        read_config(tmp_path / "mmkd.yaml")
    assert caught.value.what.startswith(sentence)
    assert len(caught.value.what) < 500


def test_the_largest_seed_and_an_empty_file_are_settings(tmp_path):
    path = tmp_path / "mmkd.yaml"
    for text, seed in (("seed: 4294967295", 4294967295), ("", 0), ("# nothing yet\n", 0), ("\ufeffseed: 3", 3)):
        path.write_text(text, encoding="utf-8")
        assert read_config(path).seed == seed


def test_words_of_yaml_one_one_are_words():
    text = "a: no\nb: on\nc: 010\nd: 1:30\ne: true\nf: -5\ng: 1.5e-3\nh: ~\ni: ''\nj:\nk: 0x10\nl: 1e-3"
    assert parse_yaml(text) == {
        "a": "no", "b": "on", "c": "010", "d": "1:30", "e": True, "f": -5, "g": 0.0015, "h": None, "i": "", "j": None,
        "k": "0x10", "l": "1e-3",
    }  # fmt: skip
    assert parse_yaml("{a: no, 1: 2024-01-31, b: ~, c: 1.50}", texts=True) == {
        "a": "no", "1": "2024-01-31", "b": "~", "c": "1.50",
    }  # fmt: skip


def test_anchors_within_reason_stand_for_their_value():
    assert parse_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}


def test_what_a_workspace_writes_is_what_it_reads(tmp_path):
    config = Config(name="1e3", seed=4294967295)
    (tmp_path / "mmkd.yaml").write_text(config.dump())
    assert read_config(tmp_path / "mmkd.yaml") == config


def test_labels_that_look_like_something_else_stay_what_they_are(tmp_path):
    """A class may be called no, 010 or 2024-01-31; class order is kept."""
    prompts = {"ct": {"no": ("a ct without",), "010": ("ten",), "2024-01-31": ("a day", "~"), "1.0": ("null",)}}
    (tmp_path / "prompts.yaml").write_bytes(prompts_yaml(prompts))
    assert read_prompts(tmp_path / "prompts.yaml", "") == prompts
    (tmp_path / "prompts.yaml").write_text("ct: {no: [not there], yes: [there]}")
    assert list(read_prompts(tmp_path / "prompts.yaml", "")["ct"]) == ["no", "yes"]
    (tmp_path / "prompts.yaml").write_text("ct: {a: [x], a: [y]}")
    with pytest.raises(DataError, match="a appears twice"):
        read_prompts(tmp_path / "prompts.yaml", "")


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers(-(10**20), 10**20) | st.booleans() | st.none()))
def test_what_a_program_dumped_comes_back(facts):
    try:
        found = parse_yaml(yaml.safe_dump(facts, allow_unicode=False))
    except SettingsError:
        found = None
        assert any(isinstance(value, str) for value in facts)
    if found is not None:
        assert found == facts


@given(st.text())
def test_any_text_is_read_or_refused(text):
    for texts in (False, True):
        with suppress(SettingsError):
            parse_yaml(text, texts=texts)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[" * 100_000, b"9" * 5000 + b"x", b"\xff\xfe", b'{"schema_version": "' + b"x" * 9999 + b'"}']
)
def test_json_of_a_program_that_is_damaged(tmp_path, raw):
    path = tmp_path / "facts.json"
    path.write_bytes(raw)
    with pytest.raises(PluginError) as caught:
        read_lock(path)
    assert len(str(caught.value)) < 500
    if not raw.startswith(b'{"schema'):
        with pytest.raises(MmkdError, match=r"facts.json is damaged: it is no JSON .*Restore it"):
            read_json(path)
    path.unlink()
    assert read_json(path) is None


def test_brief():
    assert brief("short") == "short"
    assert brief("x" * 100, 10) == "xxxxxxx..."
    assert brief(["a"]) == "['a']"
