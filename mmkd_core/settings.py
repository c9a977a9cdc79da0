"""Files that people write: YAML read within limits, and what is wrong with it as one sentence.

YAML is read as its version 1.2 has it where people stumble over 1.1: ``no`` and ``010`` are text, a key that stands
twice is refused, and so is a date, because no setting takes one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmkd_core.errors import MmkdError

BYTES = 32 * 2**20
"""The largest file that is read."""
DEPTH, VALUES, DIGITS = 50, 1_000_000, 50
"""Nested levels, values (what an anchor stands for counts wherever it is used) and digits of a number."""
_SURELY_SHALLOW = 1000

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy, torch and scikit-learn all take."""
Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """A section of a file. Unknown keys are refused, so that a typing error cannot pass for a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SettingsError(ValueError):
    """Why a text is no YAML that can be used."""


def read_yaml(path: Path, next: str, error: type[MmkdError], *, texts: bool = False) -> Any:
    """What a YAML file holds.

    Args:
        next: how to mend it.
        texts: every value is text, as it stands there.

    Raises:
        FileNotFoundError: there is no file.
        MmkdError: as ``error``, if it cannot be read.
    """
    try:
        if path.stat().st_size > BYTES:
            raise SettingsError(f"it is larger than {BYTES // 2**20} MiB")
        return parse_yaml(path.read_bytes().decode("utf-8-sig"), texts=texts)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path.name} cannot be read: {problem.strerror}", where=str(path), next=next) from problem
    except UnicodeDecodeError as problem:
        what = f"{path.name} cannot be read: it is not UTF-8 text from byte {problem.start} on"
        raise error(what, where=str(path), next=next) from problem
    except SettingsError as problem:
        raise error(f"{path.name} cannot be read: {problem}", where=str(path), next=next) from problem


def parse_yaml(text: str, *, texts: bool = False) -> Any:
    """What a YAML text says.

    Raises:
        SettingsError: it is no YAML, holds a key twice or a date, is nested too deep, or is too large once its anchors
            are written out.
    """
    loader_of = _Texts if texts else _Plain
    try:
        _refuse_depth(text)
        loader = loader_of(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except SettingsError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # beside its own, yaml lets through what its constructors raise on odd values
        raise SettingsError(brief(" ".join(str(error).split()), 300)) from error


def validated(model: type[Model], raw: Any, path: Path, error: type[MmkdError], next: str = "Correct it") -> Model:
    """A model of what a file holds; nothing stands for no settings at all.

    Raises:
        MmkdError: as ``error``; names the first setting that is wrong.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        what = f"{path.name} holds no settings but a {type(raw).__name__}"
        raise error(what, where=str(path), next="Write `name: value` lines")
    try:
        return model.model_validate(raw)
    except ValidationError as problem:
        key, what = first_fault(problem)
        raise error(f"setting {key}: {what}" if key else what, where=str(path), next=next) from problem


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Which value is wrong (names joined by dots; empty for the whole), and why."""
    first = error.errors(include_input=False, include_url=False)[0]
    return brief(".".join(map(str, first["loc"])), 120), brief(first["msg"].removeprefix("Value error, "), 300)


def brief(value: object, most: int = 60) -> str:
    """A value as it may stand in a sentence."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _Plain(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Scalars of YAML 1.2; keys once."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{brief(key.value)} appears twice", key.start_mark)
            seen.add(name)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > DIGITS:
            self._refuse(node, f"a number of {len(node.value):,} digits")
        return int(node.value)

    def construct_date(self, node: yaml.ScalarNode) -> Any:
        self._refuse(node, f"{brief(node.value)} is a date, which no setting takes; as text it stands in quotes")

    def _refuse(self, node: yaml.Node, what: str) -> None:
        raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)


class _Texts(_Plain):
    """Every plain scalar is text."""


_NUMBER = list("-+0123456789")
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", _NUMBER),
    (
        "float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*_NUMBER, "."],
    ),
    ("timestamp", r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?", _NUMBER),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first)
_Texts.yaml_implicit_resolvers = {}
_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_whole)
_Plain.add_constructor("tag:yaml.org,2002:timestamp", _Plain.construct_date)


def _refuse_depth(text: str) -> None:
    """libyaml's composer recurses in C, so ten thousand brackets would end the process and not raise."""
    # A block lies deeper than its parent by at least a column, of which a list in a mapping may use one twice.
    bound = 2 * max(map(len, text.splitlines()), default=0) + text.count("[") + text.count("{")
    if bound <= _SURELY_SHALLOW:
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Plain):
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH:
            raise SettingsError(f"it is nested more than {DEPTH} levels deep")


def _refuse_size(root: yaml.Node) -> None:
    """Count values as if every anchor were written out, without writing any out."""
    known: dict[int, tuple[int, int]] = {}  # by node: values, levels
    open_: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        if len(open_) == DEPTH:
            raise SettingsError(f"it is nested more than {DEPTH} levels deep")
        if id(node) in open_:
            raise SettingsError("a value contains itself")
        if id(node) not in known:
            open_.add(id(node))
            pairs = isinstance(node, yaml.MappingNode)
            below = [measure(part) for entry in node.value for part in (entry if pairs else (entry,))]
            open_.remove(id(node))
            known[id(node)] = 1 + sum(n for n, _ in below), 1 + max((levels for _, levels in below), default=0)
        values, levels = known[id(node)]
        if values > VALUES or levels > DEPTH:
            raise SettingsError(f"with its anchors written out it has more than {VALUES:,} values or {DEPTH} levels")
        return values, levels

    measure(root)
