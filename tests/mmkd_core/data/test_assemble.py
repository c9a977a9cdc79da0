from __future__ import annotations

from pathlib import Path

import numpy as np

from mmkd_core.data.assemble import assemble
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
    corpus, _ = assemble(Table(tmp_path / "table", rows, []), tmp_path / "out")
    assert list(corpus.labels) == [("edema", "mass"), ("mass",), (), None]
    assert list(corpus.label) == [None, None, None, "drusen"]
    assert corpus.captions(1) == ("as written", "again")
    assert corpus.classes("xray") == ["edema", "mass"]
    assert corpus.multilabel("xray")
    assert not corpus.multilabel("oct")
    assert corpus.findings(np.arange(3), "xray").tolist() == [[True, True], [False, True], [False, False]]
    assert corpus.labelled.tolist() == [True] * 4
