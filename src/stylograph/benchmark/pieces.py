"""Pieces of the page: pictures as data, bars, the chart, and how figures are written."""

from __future__ import annotations

import base64
import io
import math
from functools import lru_cache
from html import escape
from typing import Any

from stylograph.benchmark.rows import Bench
from stylograph.benchmark.summary import Figure, Summary


class Pictures:
    """The pictures of rows, as data within the page."""

    def __init__(self, found: Bench) -> None:
        self.folder, self.world = found.folder, found.world
        self._tiles = lru_cache(maxsize=64)(self.folder.tiles)
        self._packed = lru_cache(maxsize=4096)(self._pack)

    def _pack(self, kind: str, key: str, index: int) -> str:
        tiles = self._tiles(kind, key)
        if index >= len(tiles):
            return ""
        stream = io.BytesIO()
        tiles[index].save(stream, format="WEBP", quality=82, method=4)
        return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"

    def before(self, index: int) -> str:
        return _img(self._packed("worlds", self.world, index), "before")

    def after(self, row: dict[str, Any], index: int) -> str:
        return _img(self._packed("rows", row["key"], index), "after")

    def domain(self, row: dict[str, Any]) -> list[str]:
        count = len(self._tiles("domains", row["key"]))
        return [_img(self._packed("domains", row["key"], i), "") for i in range(count)]


def _img(data: str, alt: str) -> str:
    return f'<img loading="lazy" alt="{alt}" src="{data}">' if data else f'<img alt="{alt} (picture not kept)">'


def bar(figure: Figure, tone: str) -> str:
    if math.isnan(figure.mean):
        return "<td>–</td>"
    low, high = (100 * (0 if math.isnan(v) else v) for v in (figure.low, figure.high))
    bar = (
        f"<div class='bar' style='--tone:var(--{tone})'><i style='left:{low:.1f}%;width:{max(0.5, high - low):.1f}%'></i>"
        f"<u style='left:{100 * figure.mean:.1f}%'></u></div>"
    )
    return f"<td><b>{percent(figure.mean)}</b><small>{span(figure)}</small>{bar}</td>"


def chart(summary: Summary) -> str:
    """Success against leak, as an inline drawing; the numbers are those of the table."""
    group = next(iter(summary.groups))
    dots = [
        (i, c, summary.figures[c.name, group])
        for i, c in enumerate(summary.columns, 1)
        if (c.name, group) in summary.figures
    ]
    dots = [d for d in dots if d[1].method != "stranger" and not math.isnan(d[2]["success"].mean + d[2]["leak"].mean)]
    if not dots:
        return ""
    most = max(0.1, *(min(1.0, instead(f["leak"].high, f["leak"].mean)) for _, _, f in dots))
    step = next(s for s in (0.02, 0.05, 0.1, 0.2) if most <= 6 * s)
    top = step * math.ceil(most / step)
    width, height, left, bottom = 480, 330, 40, 40

    def x(v: float) -> float:
        return left + (width - left - 14) * min(v, top) / top

    def y(v: float) -> float:
        return 34 + (height - bottom - 34) * (1 - v)

    parts = []
    for v in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f"<line class='grid' x1='{left}' x2='{width - 14}' y1='{y(v):.0f}' y2='{y(v):.0f}'/>")
        parts.append(f"<text x='{left - 8}' y='{y(v) + 4:.0f}' text-anchor='end'>{100 * v:.0f}%</text>")
    for tick in range(round(top / step) + 1):
        v = step * tick
        parts.append(f"<text x='{x(v):.0f}' y='{height - bottom + 18}' text-anchor='middle'>{100 * v:.0f}%</text>")
    parts.append(
        f"<text x='{(left + width) / 2:.0f}' y='{height - 4}' text-anchor='middle'>leak: other attributes changed →</text>"
    )
    parts.append(f"<text x='{left - 8}' y='12'>↑ did it</text>")
    spans, marks = [], []
    for number, column, figures in dots:
        s, k = figures["success"], figures["leak"]
        cx, cy = x(k.mean), y(s.mean)
        spans.append(
            f"<line class='span' x1='{x(instead(k.low, k.mean)):.1f}' x2='{x(instead(k.high, k.mean)):.1f}' y1='{cy:.1f}' y2='{cy:.1f}'/>"
        )
        spans.append(
            f"<line class='span' x1='{cx:.1f}' x2='{cx:.1f}' y1='{y(instead(s.low, s.mean)):.1f}' y2='{y(instead(s.high, s.mean)):.1f}'/>"
        )
        kind = "dot control" if column.control else "dot"
        marks.append(
            f"<g class='{kind}'><title>{escape(column.name)}: success {percent(s.mean)}, leak {percent(k.mean)}</title>"
            f"<circle cx='{cx:.1f}' cy='{cy:.1f}' r='8.5'/><text x='{cx:.1f}' y='{cy + 3.5:.1f}'>{number}</text></g>"
        )
    legend = " ".join(f"<span><span class='n'>{n}</span>{escape(c.name)}&ensp;</span>" for n, c, _ in dots)
    return (
        f"<h3>Up is better, left is better ({escape(group)})</h3><svg class='chart' viewBox='0 0 {width} {height}' role='img' "
        f"aria-label='success against leak'>{''.join(parts + spans + marks)}</svg><p class='note legend'>{legend}</p>"
    )


def instead(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f}\u00a0%"


def span(figure: Figure, form: str = "") -> str:
    if math.isnan(figure.low):
        return ""
    if form:
        return f"{figure.low:{form}} to {figure.high:{form}}"
    return f"{100 * figure.low:.0f} to {100 * figure.high:.0f}"


def plain(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def signed(figure: Figure | None) -> str:
    if figure is None or math.isnan(figure.mean):
        return "–"
    low, high = (100 * v for v in (figure.low, figure.high))
    return f"{100 * figure.mean:+.0f}<small>{low:+.0f} to {high:+.0f}</small>".replace("-", "−")


def duration(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}" if value < 10 else f"{value:.0f}"
