from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mmkd_core.data.assemble import assemble
from mmkd_core.data.check import check
from mmkd_core.data.issues import ImportLog
from mmkd_core.data.options import ImportOptions
from mmkd_core.data.tables import Row, Table


def test_rows_with_findings_make_their_domain_multi_label(picture_folder: Path, tmp_path: Path) -> None:
    def row(key: int, domain: str, label: str | None = None, labels: tuple[str, ...] | None = None) -> Row:
        caption = "as written" if key == 1 else None
        more = ("again", "as written", "again") if key == 1 else ()
        return Row(
            f"row {key}", picture_folder / f"{key}.png", domain, label, caption, None, "train", None, None, more, labels
        )

    rows = [
        row(0, "xray", labels=("mass", "edema", "mass")),
        row(1, "xray", "mass"),
        row(2, "xray", labels=()),
        row(3, "oct", "drusen"),
    ]
    corpus, _ = assemble(Table(tmp_path / "table", rows), tmp_path / "out", ImportOptions(), ImportLog())
    assert list(corpus.labels) == [("edema", "mass"), ("mass",), (), None]
    assert list(corpus.label) == [None, None, None, "drusen"]
    assert corpus.captions(1) == ("as written", "again")
    assert corpus.classes("xray") == ["edema", "mass"]
    assert corpus.multilabel("xray")
    assert not corpus.multilabel("oct")
    assert corpus.findings(np.arange(3), "xray").tolist() == [[True, True], [False, True], [False, False]]
    assert corpus.labelled.tolist() == [True] * 4
    assert [corpus.named(i) for i in range(4)] == [("edema", "mass"), ("mass",), (), ("drusen",)]


def test_what_is_said_of_a_domain_with_findings(picture_folder: Path, tmp_path: Path) -> None:
    splits = ("train", "train", "val", "val", "test", "test")
    rows = [
        Row(f"row {k}", picture_folder / f"{k}.png", "xray", None, None, f"p{k}", split, labels=labels)
        for k, (split, labels) in enumerate(zip(splits, [("mass",), (), ("mass",), None, (), ()], strict=True))
    ]
    rows[3] = replace(rows[3], caption="unlabelled", more_captions=("again",))
    corpus, report = assemble(Table(tmp_path / "table", rows), tmp_path / "out", ImportOptions(), ImportLog())
    assert report.notes == ("xray: test has no 'mass'",)
    found = check(corpus)
    assert found.ok
    assert [str(issue) for issue in found.warnings] == ["class missing in a split: 1 (xray: test has no 'mass')"]
    silent = replace(corpus, more_captions=np.array([(), (), (), (" ",), (), ()], object))
    assert [issue.what for issue in check(silent, images=False).problems] == ["empty caption"]
    unknown = replace(corpus, prompts={"xray": {"edema": ("e",)}})
    assert [str(issue) for issue in check(unknown, images=False).problems] == [
        "label without prompts: 1 (xray: 'mass' (2 samples))"
    ]
