"""What is written in the end: bench.json, report.md and report.html."""

from __future__ import annotations

import json
import math
from typing import Any

from stylograph.benchmark import words
from stylograph.benchmark.page import page
from stylograph.benchmark.rows import Bench, line_of, means
from stylograph.benchmark.summary import Figure, Summary, described, summarise
from stylograph.files import replacing


def write(found: Bench) -> None:
    """Writes all reports into the folder. Raises `OutputError`."""
    summary = summarise(found)
    texts = {
        "bench.json": _json(found, summary),
        "report.md": markdown(found, summary),
        "report.html": page(found, summary),
    }
    for name, text in texts.items():
        with replacing(found.folder.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _json(found: Bench, summary: Summary) -> str:
    """Everything, a row per line."""
    rows = [{**row, "means": finite(means(row["pictures"]))} if "pictures" in row else row for row in found.rows]
    parts = {
        "world": json.dumps(found.folder.read("worlds", found.world)),
        "columns": _lines(summary.record()),
        "domains": _lines(found.domains),
        "rows": _lines(rows),
    }
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {text}" for name, text in parts.items()) + "\n}\n"


def _lines(rows: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]" if rows else "[]"


def finite(figures: dict[str, float]) -> dict[str, Any]:
    """NaN, which JSON does not have, as null; else rounded."""
    return {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}


def markdown(found: Bench, summary: Summary) -> str:
    """The figures as text."""
    about = found.folder.read("worlds", found.world) or {}
    people = len(about.get("seeds", ()))
    lines = ["# How often does a sentence do what it says, and nothing else?", "", words.CLEANLY, ""]
    for group, sentences in summary.groups.items():
        lines += [f"## {group}", "", f"{len(sentences)} {described(group)}, {people} people each", ""]
        lines += [
            "| method, strength | did it, and nothing else | did it | leak | identity | drift | seconds |",
            "|---" * 7 + "|",
        ]
        for column in summary.columns:
            if not (count := summary.count(column, group)):
                continue
            f = summary.figures[column.name, group]
            some = "" if count == len(sentences) else f" ({count} of {len(sentences)} sentences)"
            cells = [
                *(_percent(f[n]) for n in ("clean", "success", "leak")),
                *(_plain(f[n]) for n in ("identity", "drift")),
            ]
            name = f"*{column.name}*" if column.control else column.name
            lines.append(f"| {_cell(name)}{some} | {' | '.join(cells)} | {summary.seconds(column, group):.1f} |")
        lines.append("")
    if summary.columns:
        lines += _sentences(summary)
    done = [row for row in found.domains if "figures" in row]
    if done:
        lines += [
            "## Other domains",
            "",
            "| sentence | method | KID | target | source | diversity | seconds |",
            "|---" * 7 + "|",
        ]
        for row in done:
            f = row["figures"]
            told = f"{f['kid']:.0f} ± {f['kid_std']:.0f} | {f['target']:.2f} | {f['source']:.2f} | {f['diversity']:.2f}"
            lines.append(
                f"| {_cell(row['domain']['sentence'])} | {_cell(row['adapter'])} | {told} | {row['seconds']:.0f} |"
            )
        lines += ["", *(f"- *{name}*: {text}." for name, text in words.DOMAINS.items()), ""]
    failed = [row for row in (*found.rows, *found.domains) if "error" in row]
    if failed:
        lines += ["## Failed", "", *(f"- {line_of(row)}" for row in failed), ""]
    lines += ["## What the figures mean", "", words.INTERVALS, ""]
    lines += [f"- *{name}*: {text}." for name, text in words.MEANING.items()]
    lines += ["", "## What they flatter, and what they do not see", "", *(f"- {text}" for text in words.FLATTERS), ""]
    return "\n".join(lines)


def _sentences(summary: Summary) -> list[str]:
    lines = ["## Sentences", "", "success / leak", ""]
    lines += [
        f"| | {' | '.join(_cell(column.name) for column in summary.columns)} |",
        "|---" * (len(summary.columns) + 1) + "|",
    ]
    for group, sentences in summary.groups.items():
        for sentence in sentences if group != "all" else ():
            cells = []
            for column in summary.columns:
                told = [means(row["pictures"]) for row in column.of((sentence,))]
                cells.append(f"{told[0]['success']:.2f} / {told[0]['leak']:.2f}" if told else "")
            lines.append(f"| {_cell(sentence)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _percent(figure: Figure) -> str:
    if math.isnan(figure.mean):
        return "–"
    return f"**{100 * figure.mean:.0f} %** ({100 * figure.low:.0f}–{100 * figure.high:.0f})"


def _plain(figure: Figure) -> str:
    return "–" if math.isnan(figure.mean) else f"{figure.mean:.2f}"


def _cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")
