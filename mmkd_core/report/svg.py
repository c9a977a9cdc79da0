"""The few parts that the figures are drawn with: escaped elements, axes, and one palette.

Figures are plain SVG with CSS classes, so that they follow the reader's light or dark scheme, scale, print and can be
searched. The palette keeps to hues that stay apart for colour-blind readers, and no meaning rests on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from mmkd_core.report.words import clean

LIGHT = {
    "paper": "#ffffff", "wash": "#f6f7f8", "ink": "#1a1f26", "muted": "#5a6472", "line": "#dfe3e7",
    "accent": "#0b5cad", "before": "#6b7480", "teacher": "#9a3f7f", "pass": "#0a7557", "fail": "#b3400a",
    "unsure": "#7a5c00", "cell": "#3c87d2", "cell-low": "#e2773c", "cell-ink": "#0b0e12",
}  # fmt: skip
DARK = {
    "paper": "#12161b", "wash": "#1a2027", "ink": "#e8ebef", "muted": "#9aa5b1", "line": "#2e3640",
    "accent": "#62adf0", "before": "#9aa5b1", "teacher": "#d992c6", "pass": "#46c39b", "fail": "#f2925a",
    "unsure": "#dcb850", "cell": "#1e6fc8", "cell-low": "#b9501a", "cell-ink": "#ffffff",
}  # fmt: skip

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'

FIGURE_CSS = (
    f".mmkd-fig{{display:block;color:var(--ink);font:13px {FONT};font-variant-numeric:tabular-nums lining-nums}}"
    """
.mmkd-fig text{fill:currentColor}
.mmkd-fig .muted{fill:var(--muted)}
.mmkd-fig .small{font-size:11.5px}
.mmkd-fig .head{font-size:11.5px;fill:var(--muted)}
.mmkd-fig .bold{font-weight:650}
.mmkd-fig .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.mmkd-fig .end{text-anchor:end}
.mmkd-fig .mid{text-anchor:middle}
.mmkd-fig .grid{stroke:var(--line);stroke-width:1}
.mmkd-fig .zero{stroke:currentColor;stroke-width:1;opacity:.55}
.mmkd-fig .dash{stroke:var(--muted);stroke-width:1;stroke-dasharray:3 3}
.mmkd-fig .limit{stroke:var(--fail);stroke-width:1.25;stroke-dasharray:5 3}
.mmkd-fig .shade{fill:var(--fail);opacity:.09}
.mmkd-fig .cell{fill:var(--cell)}
.mmkd-fig .cell.low{fill:var(--cell-low)}
.mmkd-fig .empty{fill:none;stroke:var(--line);stroke-dasharray:2 3}
.mmkd-fig text.on-cell{fill:var(--cell-ink)}
.mmkd-fig .trust{fill:none;stroke:currentColor;stroke-width:2}
.mmkd-fig .trust.part{stroke-dasharray:4 3}
.mmkd-fig .before{stroke:var(--before);fill:var(--paper);stroke-width:1.75}
.mmkd-fig .after{stroke:var(--accent);fill:var(--accent);stroke-width:2}
.mmkd-fig .teacher{stroke:var(--teacher);fill:none;stroke-width:1.75}
.mmkd-fig .pass{stroke:var(--pass);fill:var(--pass);stroke-width:1.75}
.mmkd-fig .fail{stroke:var(--fail);fill:var(--fail);stroke-width:1.75}
.mmkd-fig .unsure{stroke:var(--unsure);fill:var(--unsure);stroke-width:1.75}
.mmkd-fig text.pass,.mmkd-fig text.fail,.mmkd-fig text.unsure{stroke:var(--paper);stroke-width:4px;paint-order:stroke}
.mmkd-fig text.pass{fill:var(--pass)}
.mmkd-fig text.fail{fill:var(--fail)}
.mmkd-fig text.unsure{fill:var(--unsure)}
.mmkd-fig .hollow{fill:var(--paper)}
.mmkd-fig .raw{fill:none;stroke:var(--accent);stroke-width:1;opacity:.28}
.mmkd-fig .smooth{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}
.mmkd-fig .smooth.other{stroke:var(--teacher);stroke-dasharray:7 3}
.mmkd-fig .band{fill:var(--accent);opacity:.14}
.mmkd-fig .band.other{fill:var(--teacher)}
"""
)


def palette(selector: str) -> str:
    """CSS that gives ``selector`` the colours as variables; the dark ones on a dark screen, never on paper."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in colours.items()) for colours in (LIGHT, DARK))
    return f"{selector}{{{light}}}\n@media screen and (prefers-color-scheme:dark){{{selector}{{{dark}}}}}\n"


def standalone(figure: str) -> str:
    """``figure`` with its colours inside, for a file of its own. On a page they are given once."""
    head, body = figure.split(">", 1)
    return f"{head}><style>{palette('.mmkd-fig')}{FIGURE_CSS}</style>{body}\n"


def el(tag: str, *children: str, **attributes: object) -> str:
    """One element. ``class_`` is class, ``stroke_width`` is stroke-width; children are markup already escaped."""
    pairs = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    body = "".join(children)
    return f"<{tag}{pairs}>{body}</{tag}>" if body else f"<{tag}{pairs}/>"


def label(x: float, y: float, text: str, class_: str | None = None, room: float | None = None) -> str:
    """Text at (x, y) on its baseline; cut to ``room`` pixels with the whole of it as a tooltip."""
    shown, text = clean(text), clean(text)
    most = len(text) if room is None else max(2, int(room / 7.2))
    if len(text) > most:
        shown = text[: most - 1].rstrip() + "…"
    tip = el("title", escape(text)) if shown != text else ""
    return el("text", escape(shown), tip, x=x, y=y, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def drawing(width: float, height: float, uid: str, title: str, description: str, parts: Iterable[str]) -> str:
    """The ``<svg>`` around ``parts``; ``uid`` keeps the ids of several figures on one page apart."""
    return el(
        "svg",
        el("title", escape(clean(title)), id=f"{uid}-title"),
        el("desc", escape(clean(description)), id=f"{uid}-desc"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        width=width,
        height=height,
        class_="mmkd-fig",
        role="img",
        aria_labelledby=f"{uid}-title {uid}-desc",
    )


@dataclass(frozen=True)
class Axis:
    """Maps values in [low, high] to pixels in [start, stop], linearly or by logarithm (then low > 0)."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of ``value``, held inside the axis."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.stop - self.start) * (value - low) / ((high - low) or 1.0)

    def ticks(self, about: int) -> list[float]:
        """Round values inside the axis, about as many as asked for."""
        if self.log:
            lowest, highest = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for marks in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
                found = [m * 10.0**e for e in range(lowest, highest + 1) for m in marks]
                found = [tick for tick in found if self.low <= tick <= self.high]
                if len(found) >= min(about, 3):
                    return found[:: max(1, len(found) // (about + 1))]
            return found
        raw = max((self.high - self.low or 1.0) / max(1, about), 1e-300)
        unit = 10.0 ** math.floor(math.log10(raw))
        step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def _plain(value: object) -> str:
    """Attribute text: floats with at most two decimals, so that the bytes do not hang on the last bit."""
    if isinstance(value, float):
        text = f"{value:.2f}".rstrip("0").rstrip(".")
        return "0" if text == "-0" else text
    return clean(str(value))
