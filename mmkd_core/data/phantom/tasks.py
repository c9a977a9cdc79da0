"""Ground truth of the phantom for the other tasks: questions with answers, and survival from a known model.

Questions come from what was drawn. Half of the yes/no questions are to be answered with yes, in each wording alike, so
the question alone is worth nothing there; "where" and "how large" have answers that only the image knows.

Survival: the hazard of a patient is ``HAZARD * exp(SLOPE * severity)``, where the severity is the place of the finding
in its domain's list (0 for none, 1 for the last), averaged over the patient's images; censoring is uniform. So the best
possible ranking is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_core.data.eval_sets import EvalSet, write
from mmkd_core.data.eval_task import SCHEMA, Task, TaskFile
from mmkd_core.data.phantom.captions import prompts
from mmkd_core.data.phantom.catalogue import FINDINGS
from mmkd_core.data.phantom.generate import Sample, drawn_with, samples

HAZARD, SLOPE, FOLLOWED = 0.01, 3.0, 60.0
"""Per month, at severity 0; log hazard ratio from none to the last finding; longest follow-up in months."""
IMAGE_TASKS: tuple[Task, ...] = ("zero-shot", "linear-probe", "retrieval", "survival", "diagnosis")


def phantom_sets(root: Path, images: Path) -> list[EvalSet]:
    """Write one evaluation set per domain for five tasks, and one of questions for each, below ``root``.

    Args:
        images: folder of a corpus that ``generate`` wrote.

    Raises:
        DataError: it is none.
    """
    config = drawn_with(images)
    by_domain: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples(config):
        by_domain[sample.domain].append(sample)
    sets = []
    for domain, drawn in by_domain.items():
        rows, questions = [], []
        follow = survival(drawn, config.seed)
        for sample in drawn:
            time, event = follow[sample.group_id]
            image = str((images / sample.name).absolute())
            row = {"image": image, "group_id": sample.group_id, "split": sample.split}
            label = {
                "label": sample.label,
                "caption": sample.clean_caption,
                "time": round(time, 4),
                "event": int(event),
            }
            rows.append(row | label)
            questions += [row | asked for asked in questions_of(sample, config.seed)]
        findings = FINDINGS[domain]
        common = {"schema": SCHEMA, "domain": domain, "license": "Apache-2.0", "source": "phantom, drawn by mmkd"}
        facts = {"classes": findings, "positive": findings[1:], "prompts": prompts(domain)}
        sets.append(write(root / f"phantom-{domain}", _task(f"phantom-{domain}", IMAGE_TASKS, common | facts), rows))
        sets.append(write(root / f"phantom-{domain}-vqa", _task(f"phantom-{domain}-vqa", ("vqa",), common), questions))
    return sets


def severity(domain: str, finding: str) -> float:
    """0 for the plain finding of a domain, 1 for the last of its list."""
    findings = FINDINGS[domain]
    return findings.index(finding) / (len(findings) - 1)


def survival(drawn: Iterable[Sample], seed: int) -> dict[str, tuple[float, bool]]:
    """Follow-up time in months and event of each patient, by group_id."""
    severities: dict[str, list[float]] = defaultdict(list)
    for sample in drawn:
        severities[sample.group_id].append(severity(sample.domain, sample.label))
    result = {}
    for group, values in severities.items():
        rng = np.random.default_rng([seed, _number(group), 51])
        death = rng.exponential(1 / (HAZARD * np.exp(SLOPE * float(np.mean(values)))))
        censored = rng.uniform(0.1 * FOLLOWED, FOLLOWED)
        result[group] = (max(1e-3, float(min(death, censored))), bool(death <= censored))
    return result


def questions_of(sample: Sample, seed: int) -> Iterator[dict[str, Any]]:
    """Questions about one image: one to be answered with yes or no, those that the truth allows, and an open one."""
    rng = np.random.default_rng([seed, _number(sample.name), 52])
    others = [name for name in FINDINGS[sample.domain] if name != sample.label]
    there = bool(rng.random() < 0.5)
    asked = sample.label if there else others[rng.integers(len(others))]
    yield _question(f"Is this {_article(asked)}?", "yes" if there else "no", ("yes", "no"))
    if side := sample.truth.get("side"):
        yield _question("On which side is the finding?", str(side), ("left", "right"))
    if size := sample.truth.get("size"):
        yield _question("How large is it?", str(size), ("small", "medium-sized", "large"))
    yield _question("What does the image show?", sample.label, None)


def _question(question: str, answer: str, choices: tuple[str, ...] | None) -> dict[str, Any]:
    kind = "closed" if choices else "open"
    return {"question": question, "answer": answer, "answer_type": kind, "choices": choices}


def _article(finding: str) -> str:
    if finding.startswith(("no ", "normal")):
        return f"an image with {finding}"
    return f"{'an' if finding[0] in 'aeiou' else 'a'} {finding}"


def _task(name: str, tasks: tuple[Task, ...], facts: dict[str, Any]) -> TaskFile:
    return TaskFile.model_validate({"name": name, "tasks": tasks, "manifest": "manifest.parquet"} | facts)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
