"""Every figure that the README quotes: ``python benchmarks/run.py [NAME ...] [--json]``.

A figure is a ratio of two things measured side by side in one run, or a quality with seeds and an interval. Each is one
object: name, value, unit, against what, spread. A NAME is a benchmark, or a figure that benchmarks on several data have
in common: then they run, and only that is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import audit
import evaluate
import extract
import faults
import losses
import quality
import recipes
import replay
import sequence
import steps
import store
import store_disk
import training

Figure = dict[str, Any]
FIGURES: dict[str, Callable[[], list[Figure]]] = {
    **store.FIGURES,
    **store_disk.FIGURES,
    **extract.FIGURES,
    **faults.FIGURES,
    **losses.FIGURES,
    **steps.FIGURES,
    **quality.FIGURES,
    **recipes.FIGURES,
    **replay.FIGURES,
    **sequence.FIGURES,
    **audit.FIGURES,
    **evaluate.FIGURES,
    **training.FIGURES,
}
SEQUENCES = ("sequence-phantom", "sequence-real")
SHARED = {"sequence-quality": SEQUENCES, "sequence-forgetting": SEQUENCES, "integration-cost": SEQUENCES}
"""Figures that several benchmarks have in common."""


@cache
def measured(name: str) -> tuple[Figure, ...]:
    """The figures of a benchmark, or those of a shared name."""
    if name in FIGURES:
        return tuple(FIGURES[name]())
    return tuple(figure for of in SHARED[name] for figure in measured(of) if figure["name"].startswith(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    known = f"{', '.join(FIGURES)}; {', '.join(SHARED)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{known} (default: all benchmarks)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - {*FIGURES, *SHARED})
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {known}", file=sys.stderr)
        return 2
    for name in arguments.names or FIGURES:
        for figure in measured(name):
            if arguments.json:
                print(json.dumps(figure), flush=True)
            else:
                spread = figure["spread"]
                value = f"{figure['value']:.3g} {figure['unit']}"
                print(f"{figure['name']}: {value} against {figure['against']} ({spread})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
