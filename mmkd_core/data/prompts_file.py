"""``prompts.yaml``: domain, label, sentences. Does not: make sentences (``captions``)."""

from __future__ import annotations

from pathlib import Path

from mmkd_core.errors import DataError

Prompts = dict[str, dict[str, tuple[str, ...]]]
"""``prompts[domain][label]``: sentences for the class; the order of the labels is the order of the classes."""


def prompts_yaml(prompts: Prompts) -> bytes:
    """Write readable YAML, or escaped YAML where a rare line separator would not survive the readable one."""
    import yaml

    from mmkd_core.settings import parse_yaml

    plain = {domain: {k: list(v) for k, v in classes.items()} for domain, classes in prompts.items()}
    text: str = yaml.safe_dump(plain, sort_keys=False, width=120, allow_unicode=True)
    if parse_yaml(text, texts=True) != plain:
        text = yaml.safe_dump(plain, sort_keys=False, width=120)
    return text.encode()


def read_prompts(path: Path, mend: str) -> Prompts:
    """Read ``prompts.yaml``.

    Raises:
        DataError: damaged, with ``mend`` as the way out.
    """
    from mmkd_core.settings import read_yaml

    try:
        raw = read_yaml(path, mend, DataError, texts=True) or {}
        return {
            str(domain): {str(label): _sentences(texts) for label, texts in classes.items()}
            for domain, classes in raw.items()
        }
    except (FileNotFoundError, AttributeError, TypeError) as error:
        what = "the prompts cannot be read: a mapping domain -> label -> sentences is needed"
        raise DataError(what, where=str(path), next=mend) from error


def _sentences(texts: object) -> tuple[str, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TypeError("sentences")
    return tuple(texts)
