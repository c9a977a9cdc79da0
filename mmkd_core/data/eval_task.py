"""``task.yaml`` of an evaluation set, and the prompt files that it may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from mmkd_core.data.domains import domain_name, written
from mmkd_core.errors import DataError
from mmkd_core.settings import Settings, first_fault, read_yaml

SCHEMA = "mmkd.eval/v1"
TASK = "task.yaml"
HOW = (
    f"A set is a folder with {TASK} (schema: {SCHEMA}, name, tasks, domain, manifest) and a manifest with a column "
    "image and those of its tasks; `mmkd data phantom-sets` writes some to look at."
)
Task = Literal["zero-shot", "linear-probe", "retrieval", "vqa", "survival", "diagnosis"]


class TaskFile(Settings):
    """``task.yaml``."""

    version: Literal["mmkd.eval/v1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    tasks: tuple[Task, ...] = Field(min_length=1)
    domain: str
    manifest: str = "manifest.csv"
    classes: tuple[str, ...] = ()
    multilabel: bool = Field(default=False, description="an image is of any number of classes: the column labels")
    positive: tuple[str, ...] = Field(default=(), description="diagnosis: the classes that make a patient ill")
    prompts: dict[str, tuple[str, ...]] | str = Field(
        default_factory=dict, description="sentences of each class, or the name of a CONCH prompt file"
    )
    absent: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="multi-label zero-shot: sentences that say that a class is not there"
    )
    license: str = ""
    source: str = ""
    revision: str = Field(default="", description="of the source: a commit, or the hash of its files")

    @field_validator("domain")
    @classmethod
    def _of_mmkd(cls, text: str) -> str:
        return domain_name(text, TASK)

    @field_serializer("domain")
    def _as_read(self, name: str) -> str:
        return written(name)

    @model_validator(mode="after")
    def _belongs(self) -> TaskFile:
        if "zero-shot" in self.tasks and not self.prompts:
            raise ValueError("zero-shot needs prompts")
        if self.multilabel and "diagnosis" in self.tasks:
            raise ValueError("diagnosis needs one label per image, and multilabel gives several")
        if self.multilabel and not self.classes:
            raise ValueError("multilabel needs classes")
        if "diagnosis" in self.tasks and not self.positive:
            raise ValueError("diagnosis needs positive: the classes that make a patient ill")
        if twice := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise ValueError(f"classes names {twice[0]!r} twice")
        if any(not name.strip() for name in self.classes):
            raise ValueError("classes names one that is empty")
        if odd := sorted(set(self.positive) - set(self.classes)):
            raise ValueError(f"positive names {odd[0]!r}, which is not in classes")
        return self


def read_task(folder: Path) -> TaskFile:
    """``task.yaml`` of a folder.

    Raises:
        DataError: there is none, or a key is wrong.
    """
    path = folder / TASK
    if not path.is_file():
        raise DataError(f"the folder is no evaluation set: it has no {TASK}", where=str(folder), next=HOW)
    return task_of(read_yaml(path, HOW, DataError), str(path))


def task_of(facts: object, where: str) -> TaskFile:
    """A task of its settings.

    Raises:
        DataError: a key is wrong.
    """
    try:
        return TaskFile.model_validate(facts)
    except ValidationError as error:
        key, what = first_fault(error)
        raise DataError(f"{key or 'the file'}: {what}", where=where, next=HOW) from error


def conch_prompts(path: Path) -> dict[str, tuple[str, ...]]:
    """Sentences by class from a CONCH prompt file: synonyms of each class times templates with ``CLASSNAME``.

    Raises:
        DataError: the file is not of that layout.
    """
    try:
        sets: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        result: dict[str, list[str]] = {}
        for entry in sets.values():
            for label, synonyms in entry["classnames"].items():
                sentences = [
                    template.replace("CLASSNAME", name) for name in synonyms for template in entry["templates"]
                ]
                result.setdefault(label, []).extend(sentences)
        return {label: tuple(dict.fromkeys(sentences)) for label, sentences in result.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = "not a CONCH prompt file: a mapping to classnames (lists of synonyms) and templates is needed"
        raise DataError(what, where=str(path), next=HOW) from error
