"""``gate.yaml``: what counts as forgetting, fixed before a candidate is looked at.

Each metric of each family has a rule: the loss that is tolerated, whether it has a part in the verdict, and other
margins for single domains, teachers or directions. The file is hashed over its meaning (comments and order do not
count), and the hash stands in every report, so that a gate that was widened afterwards is seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, field_validator

from mmkd_core.audit.metrics import TABLE
from mmkd_core.errors import MmkdError
from mmkd_core.files import replacing
from mmkd_core.settings import Seed, Settings, read_yaml, validated

GATE = "gate.yaml"


class GateError(MmkdError):
    """A gate that cannot be read or makes no test."""


class Rule(Settings):
    """How much a metric may lose. Margins are fractions: 0.02 is two points."""

    gates: bool = Field(description="whether it has a part in the verdict, or is only reported")
    margin: float = Field(gt=0, lt=1)
    parts: dict[str, float] = Field(default={}, description="other margins, by domain, teacher or direction")

    @field_validator("parts")
    @classmethod
    def _fractions(cls, parts: dict[str, float]) -> dict[str, float]:
        for part, margin in parts.items():
            if not 0 < margin < 1:
                raise ValueError(f"a margin of {margin} for {part} is no fraction between 0 and 1")
        return parts

    def of(self, part: str) -> float:
        """The margin of one domain, teacher or direction."""
        return self.parts.get(part, self.margin)


def _families() -> dict[str, dict[str, Rule]]:
    families: dict[str, dict[str, Rule]] = {}
    for metric in TABLE:
        parts = {"mean": metric.of_mean} if metric.of_mean else {}
        rule = Rule(gates=metric.gates, margin=metric.margin, parts=parts)
        families.setdefault(metric.family, {})[metric.name] = rule
    return families


class Gate(Settings):
    """The whole file. What is left out is as in the default."""

    model_config = ConfigDict(populate_by_name=True)

    version: Literal["mmkd.gate/v1"] = Field(default="mmkd.gate/v1", alias="schema")
    confidence: float = Field(
        default=0.95, gt=0, lt=1, description="of two-sided intervals; a loss of the margin passes with half the rest"
    )
    power: float = Field(default=0.8, gt=0.5, lt=1, description="with which the samples still needed would decide")
    resamples: int = Field(default=2000, ge=100)
    seed: Seed = 0
    families: dict[str, dict[str, Rule]] = Field(default_factory=_families)

    @field_validator("families")
    @classmethod
    def _known(cls, families: dict[str, dict[str, Rule]]) -> dict[str, dict[str, Rule]]:
        whole = _families()
        for family, rules in families.items():
            if family not in whole:
                raise ValueError(f"there is no family {family!r}, only {', '.join(whole)}")
            if unknown := sorted(set(rules) - set(whole[family])):
                raise ValueError(f"{family} has no metric {unknown[0]!r}, only {', '.join(whole[family])}")
            whole[family] |= rules
        if not any(rule.gates for rules in whole.values() for rule in rules.values()):
            raise ValueError("no metric decides (`gates: true`), so that everything would pass")
        return whole

    @property
    def alpha(self) -> float:
        """Level of each one-sided test."""
        return (1 - self.confidence) / 2

    @property
    def hash(self) -> str:
        """16 hex digits over everything that the gate says."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return blake2b(text.encode(), digest_size=8).hexdigest()

    def changes(self, before: Gate) -> dict[str, dict[str, Any]]:
        """By setting, such as ``zero-shot auc margin``, what it ``was`` in another gate and what it ``is`` here."""
        was, now = (_flat(gate.model_dump(mode="json", by_alias=True)) for gate in (before, self))
        return {
            key: {"was": was.get(key), "is": now.get(key)}
            for key in dict.fromkeys((*was, *now))
            if was.get(key) != now.get(key)
        }

    def rule(self, family: str, metric: str) -> Rule:
        """The rule of one metric."""
        return self.families[family][metric]

    def dump(self) -> str:
        """YAML with every setting."""
        facts = self.model_dump(mode="json", by_alias=True, exclude_defaults=False)
        for rules in facts["families"].values():
            for rule in rules.values():
                rule["parts"] or rule.pop("parts")
        return _HEAD + yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)


def _flat(facts: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings inside settings under one name each; the word ``families`` says nothing."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        name = f"{above} {key}".strip() if key != "families" else above
        found |= _flat(value, name) if isinstance(value, Mapping) else {name: value}
    return found


_HEAD = """\
# What counts as forgetting. Margins are fractions of each figure: 0.02 is two points.
# Metrics with `gates: true` decide; the others are reported. For one domain, teacher or direction:
#   auc: {gates: true, margin: 0.02, parts: {mri: 0.03}}
"""


def read_gate(path: Path) -> Gate:
    """The gate in a file, or the default where there is none.

    Raises:
        GateError: names the first setting that is wrong.
    """
    try:
        raw = read_yaml(path, "Mend the file", GateError)
    except FileNotFoundError:
        return Gate()
    return validated(Gate, raw, path, GateError)


def write_gate(path: Path, gate: Gate) -> None:
    """Write a gate, whole or not at all."""
    with replacing(path) as file:
        file.write(gate.dump().encode())
