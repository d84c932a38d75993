"""The report as one page that needs nothing else: pictures inside, no scripts, readable on a phone and in the dark."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from stylograph.benchmark import words
from stylograph.benchmark.domains import BUILT_IN as ADAPTERS
from stylograph.benchmark.pieces import Pictures, bar, chart, duration, percent, plain, signed, span
from stylograph.benchmark.rows import Bench, means, rank
from stylograph.benchmark.summary import (
    CASES,
    Column,
    Shown,
    Summary,
    cases,
    described,
    first_counted,
    wilson,
)

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>stylograph bench</title>
<style>
$style
</style>
</head>
<body>
<header>
<h1>How often does a sentence do what it says, and nothing else?</h1>
$lead
</header>
<main>
$body
</main>
<footer class="note">$made</footer>
</body>
</html>
""")
SHOWN = (("clean", "did it, and<br>nothing else", "good"), ("success", "did it", "good"), ("leak", "leak", "bad"))
PLAIN = (("identity", "identity"), ("drift", "drift"))

LEAKS = 3
"""Named beside a picture; of more only the number."""


def page(found: Bench, summary: Summary) -> str:
    """The whole page as text."""
    pictures = Pictures(found)
    body = []
    if summary.columns:
        body += [_tables(summary), chart(summary), _matrix(summary, pictures), _cases(summary, pictures)]
    body += [_domains(found), _failures(found), _meaning()]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return PAGE.substitute(
        style=style, lead=_lead(found, summary), body="\n".join(filter(None, body)), made=_made(found)
    )


# -------------------------------------------------------------------- the beginning


def _lead(found: Bench, summary: Summary) -> str:
    about = found.folder.read("worlds", found.world) or {}
    column = summary.reference
    if column is None:
        return "<p class='lead'>No finished rows yet.</p>"
    group = next(iter(summary.groups))
    figures = summary.figures.get((column.name, group))
    people, count = len(about.get("seeds", ())), len(summary.groups[group])
    text = (
        f"{sum(len(g) for name, g in summary.groups.items() if name != 'all')} sentences, each on the same {people} people drawn "
        f"by <b>{escape(str(about.get('name')))}</b> at {about.get('resolution')} pixels, judged by a network that no method has seen. "
    )
    if figures is None:
        return f"<p class='lead'>{text}</p>"
    text += (
        f"On {count} {escape(described(group))}, <b>{escape(column.name)}</b>"
        f"{' (what <code>stylograph edit</code> does by default)' if column.method == 'direction' else ''}:"
    )
    tiles = (
        (figures["success"], "of the people who did not show it, do now"),
        (figures["clean"], "do, and nothing else about them changed"),
        (figures["leak"], "of the other attributes changed"),
    )
    facts = "".join(f"<li><b>{percent(f.mean)}</b><span>{says}<br>{span(f)}</span></li>" for f, says in tiles)
    return f"<p class='lead'>{text}</p><ul class='facts'>{facts}</ul>{_floor(summary, group)}"


def _floor(summary: Summary, group: str) -> str:
    """What the judge's own noise would make of a harmless change."""
    figures = summary.figures.get(("shift", group))
    if figures is None:
        return ""
    return (
        f"<p class='note'>The judge is not free of noise: moving a picture by one pixel already “leaks” {percent(figures['leak'].mean)}, and "
        f"only {percent(figures['kept'].mean)} of the pictures pass as unchanged. An edit that leaves the rest of a picture as it is can do better; "
        "one that draws it anew cannot be expected to.</p>"
    )


# -------------------------------------------------------------------- tables


def _tables(summary: Summary) -> str:
    parts = ["<h2>Methods</h2>", f"<p>{escape(words.CLEANLY)}</p>", "<div class='tabs'>"]
    styles = []
    for i, group in enumerate(summary.groups):
        checked = " checked" if i == 0 else ""
        parts.append(f"<input type='radio' name='group' id='g{i}'{checked}><label for='g{i}'>{escape(group)}</label>")
        styles.append(f"#g{i}:checked ~ .p{i} {{ display: block; }}")
    for i, group in enumerate(summary.groups):
        parts.append(
            f"<div class='panel p{i}'><p class='note'>{len(summary.groups[group])} {escape(described(group))}</p>"
        )
        parts.append(f"<div class='wide'>{_table(summary, group)}</div></div>")
    base = summary.reference.name if summary.reference else ""
    note = f"<p class='note'>{escape(words.INTERVALS)} Δ: success minus that of {escape(base)}, on the sentences both have.</p>"
    return "".join(parts) + f"</div><style>{' '.join(styles)}</style>{note}"


def _table(summary: Summary, group: str) -> str:
    heads = "".join(f"<th>{title}</th>" for title in [t for _, t, _ in SHOWN] + ["Δ success"] + [t for _, t in PLAIN])
    lines = []
    for number, column in enumerate(summary.columns, 1):
        if not (count := summary.count(column, group)):
            continue
        figures = summary.figures[column.name, group]
        cells = [bar(figures[name], tone) for name, _, tone in SHOWN]
        difference = summary.against.get((column.name, group))
        cells.append(f"<td>{signed(difference)}</td>")
        cells += [
            f"<td>{plain(figures[name].mean)}<small>{span(figures[name], '.2f')}</small></td>" for name, _ in PLAIN
        ]
        cells.append(f"<td>{duration(summary.seconds(column, group))}</td>")
        some = (
            f" · <span class='no'>{count} of {len(summary.groups[group])} sentences</span>"
            if count < len(summary.groups[group])
            else ""
        )
        explained = f"<small>{escape(column.says)}{some}</small>"
        control = " class='control'" if column.control else ""
        lines.append(
            f"<tr{control}><th><span class='n'>{number}</span>{escape(column.name)}{explained}</th>{''.join(cells)}</tr>"
        )
    return f"<table><thead><tr><th>method, strength</th>{heads}<th>seconds</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _matrix(summary: Summary, pictures: Pictures) -> str:
    columns = summary.columns
    head = "".join(
        f"<div><span><span class='n'>{i}</span><br>{escape(c.name)}</span></div>" for i, c in enumerate(columns, 1)
    )
    parts = [f"<div class='row head'><div>sentence</div>{head}</div>"]
    for group, sentences in summary.groups.items():
        if group == "all":
            continue
        parts.append(f"<div class='group'>{escape(described(group))}</div>")
        for sentence in sentences:
            cells = "".join(_cell(column, sentence) for column in columns)
            parts.append(
                f"<details><summary><div class='row'><div>{escape(sentence)}</div>{cells}</div></summary>"
                f"{_strip(columns, sentence, pictures)}</details>"
            )
    return (
        "<h2>Sentences × methods</h2><p>Success, below it the leak. Open a sentence to see the first person who counts for it, edited by "
        "every method: nobody chose that one. Point at a cell for its interval.</p>"
        f"<div class='wide'><div class='matrix' style='--columns:{len(columns)}'>{''.join(parts)}</div></div>"
    )


def _cell(column: Column, sentence: str) -> str:
    rows = column.of((sentence,))
    if not rows:
        return "<div class='empty'>·</div>"
    figures = means(rows[0]["pictures"])
    if math.isnan(figures["success"]):
        return "<div class='empty' title='nobody counts: everybody shows it already, or it cannot be seen'>–</div>"
    count = int(figures["counted"])
    found = wilson(round(figures["success"] * count), count)
    said = f"{percent(found.mean)} of {count} ({span(found)}); clean {percent(figures['clean'])}; leak {percent(figures['leak'])}"
    shade = 0.68 * figures["success"] ** 1.4
    return f"<div class='cell' style='--a:{shade:.2f}' title='{said}'><b>{100 * found.mean:.0f}</b><small>{100 * figures['leak']:.0f}</small></div>"


def _strip(columns: Sequence[Column], sentence: str, pictures: Pictures) -> str:
    index = first_counted(columns, sentence)
    if index is None:
        return "<div class='strip'>nobody counts</div>"
    seed = next(row["pictures"][index]["seed"] for column in columns for row in column.of((sentence,)))
    parts = [f"<figure>{pictures.before(index)}<figcaption><b>before</b><br>seed {seed}</figcaption></figure>"]
    for number, column in enumerate(columns, 1):
        for row in column.of((sentence,)):
            told = _told(row["pictures"][index])
            name = f"<span class='n'>{number}</span>{escape(column.name)}"
            parts.append(f"<figure>{pictures.after(row, index)}<figcaption>{name}<br>{told}</figcaption></figure>")
    return f"<div class='strip'>{''.join(parts)}</div>"


def _told(picture: dict[str, Any]) -> str:
    """What the judge says of one picture."""
    reached = "<span class='yes'>there</span>" if picture["reached"] else "<span class='no'>not there</span>"
    leaks = [f"{escape(n.replace('_', ' '))}: {escape(a)} → {escape(b)}" for n, (a, b) in picture["leaked"].items()]
    more = [f"{len(leaks) - LEAKS} more"] if len(leaks) > LEAKS else []
    same = "" if picture.get("identity") is None else f" · identity {picture['identity']:.2f}"
    extra = f"<br><span class='no'>{', '.join(leaks[:LEAKS] + more)}</span>" if leaks else "<br>nothing else"
    return f"{reached}, p {picture['p'][0]:.2f} → {picture['p'][1]:.2f}{same}{extra}"


def _cases(summary: Summary, pictures: Pictures) -> str:
    parts = [
        "<h2>Best, median and worst</h2><p>Of all pictures that count, ordered by the judge: probability of what was asked for, minus the share "
        f"of leaks. {CASES} each, of a sentence at most one. Before is left, after is right.</p>"
    ]
    for number, column in enumerate(summary.columns, 1):
        if column.control:
            continue
        groups = []
        for title, shown in cases(column).items():
            figures = "".join(_case(one, pictures) for one in shown)
            groups.append(f"<h3>{title}</h3><div class='cases'>{figures}</div>")
        opened = " open" if column is summary.reference else ""
        parts.append(
            f"<details class='method'{opened}><summary><span class='n'>{number}</span>{escape(column.name)}</summary>{''.join(groups)}</details>"
        )
    return "".join(parts)


def _case(shown: Shown, pictures: Pictures) -> str:
    picture = shown.picture
    return (
        f"<figure><div class='pair'>{pictures.before(shown.index)}{pictures.after(shown.row, shown.index)}</div><figcaption>"
        f"<b>{escape(shown.row['task']['sentence'])}</b><br>{_told(picture)}<br>seed {picture['seed']} · {rank(picture):+.2f}"
        "</figcaption></figure>"
    )


# -------------------------------------------------------------------- the rest


def _domains(found: Bench) -> str:
    rows = [row for row in found.domains if "figures" in row]
    if not rows:
        return ""
    pictures, sentences = Pictures(found), dict.fromkeys(row["domain"]["sentence"] for row in rows)
    order = {name: i for i, name in enumerate(ADAPTERS)}
    lines, faces = [], []
    for sentence in sentences:
        mine = [row for row in rows if row["domain"]["sentence"] == sentence]
        for row in sorted(mine, key=lambda r: (order.get(r["adapter"], len(order)), r["adapter"])):
            f, n = row["figures"], row["samples"]
            control = " class='control'" if row["control"] else ""
            tuned = "" if row["control"] else " (tuned on)" if row["domain"]["tuned"] else " (held out)"
            lines.append(
                f"<tr{control}><th>{escape(sentence)}<small>{escape(row['adapter'])}{tuned}</small></th>"
                f"<td><b>{f['kid']:.0f}</b><small>± {f['kid_std']:.0f}</small></td>"
                f"{bar(wilson(round(f['target'] * n), n), 'good')}{bar(wilson(round(f['source'] * n), n), 'bad')}"
                f"<td>{f['diversity']:.2f}</td><td>{duration(row['seconds'])}</td></tr>"
            )
            faces.append(
                f"<p class='note'>{escape(sentence)}, {escape(row['adapter'])}</p><div class='faces'>{''.join(pictures.domain(row))}</div>"
            )
    heads = "".join(f"<th>{name}</th>" for name in ("KID", "target", "source", "diversity", "seconds"))
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in words.DOMAINS.items())
    return (
        f"<h2>Other domains</h2><p>The generator itself is moved by a sentence. {rows[0]['samples']} pictures of every child, against "
        f"{rows[0]['real']} new real drawings of the domain, by a judge that is part of no loss. The rows “parent” are what there was before.</p>"
        f"<div class='wide'><table><thead><tr><th>sentence</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div><dl>{said}</dl>"
        f"<details class='method'><summary>The same people, drawn by parent and children</summary>{''.join(faces)}</details>"
    )


def _failures(found: Bench) -> str:
    failed = [row for row in (*found.rows, *found.domains) if "error" in row]
    if not failed:
        return ""
    lines = "".join(
        f"<p class='failed'><b>{escape(row.get('method', row.get('adapter', '')))}</b>, "
        f"{escape(row.get('task', row.get('domain', {}))['sentence'])}: {escape(row['error'])}</p>"
        for row in failed
    )
    return f"<h2>Failed</h2><p>{len(failed)} rows came to nothing; they are not in the means.</p>{lines}"


def _meaning() -> str:
    terms = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in words.MEANING.items())
    flatters = "".join(f"<li>{escape(text)}</li>" for text in words.FLATTERS)
    return f"<h2>What the figures mean</h2><dl>{terms}</dl><h2>What they flatter, and what they do not see</h2><ul>{flatters}</ul>"


def _made(found: Bench) -> str:
    about = found.folder.read("worlds", found.world) or {}
    rows = [*found.rows, *found.domains]
    machines = sorted({_machine(row["made"]) for row in rows})
    clips = sorted({f"{row['clip']['name']} {row['clip']['digest'][:12]}" for row in rows if not row["control"]})
    dates = sorted({time.strftime("%Y-%m-%d", time.gmtime(row["made"].get("at", 0))) for row in rows})
    facts = [
        *(f"{name} <code>{str(about.get(name))[:12]}</code>" for name in ("generator", "judge", "identity")),
        *(f"CLIP <code>{escape(clip)}</code>" for clip in clips),
        f"truncation {about.get('truncation')}",
        f"neutral sentence “{escape(str(about.get('neutral')))}”",
        *(escape(machine) for machine in machines),
        " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
    ]
    return f"{' · '.join(facts)}<br>Every row, picture by picture: <a href='bench.json'>bench.json</a>."


def _machine(made: dict[str, Any]) -> str:
    keys = ("stylograph", "torch", "python")
    return (
        ", ".join(f"{k} {made[k]}" for k in keys)
        + f", {made['system']} {made['machine']}, {made['threads']} of {made['cpus']} CPUs"
    )
