"""The page of tables: rows as :mod:`record` keeps them → markdown.

Rows with the same names in their key make one table, a column a name; rows that differ in nothing but ``seed`` make one
line, their numbers averaged, with least and most. A chart of :mod:`charts` stands above its tables.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import charts

Row = dict[str, Any]
HEAD = """\
# Benchmarks

`make bench` measures all of this again, in hours, from where it was stopped; `make bench BENCH=rollout` one piece of
it. This page is written by `make bench-page` from `results/*.json`, where every row has its date and every file the
machine and the versions. The measurements of the terminal app (`opening.py`, `lag.py`, `chart.py`, `labelling.py`,
`talking.py`) print their own tables, and so does `wishes.py`: their first lines say how to run them.
"""


class Described(Protocol):
    """What the page says of a benchmark; see ``bench.Piece``."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def command(self) -> str: ...
    @property
    def minutes(self) -> int: ...
    @property
    def shows(self) -> str: ...


def write(pieces: Sequence[Described], folder: Path, target: Path) -> None:
    """The whole page, from the results in ``folder``, and the charts beside them."""
    for piece in pieces:
        path = folder / f"{piece.name}.json"
        if piece.name in charts.DRAWN and path.exists():
            drawn = charts.DRAWN[piece.name](json.loads(path.read_text())["rows"])
            path.with_suffix(".svg").write_text(drawn, encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(whole(pieces, folder, target.parent))


def whole(pieces: Iterable[Described], folder: Path, beside: Path) -> str:
    """The page's text; ``beside`` is the folder where it lies."""
    return "\n".join([HEAD, *(section(piece, folder, beside) for piece in pieces)])


def section(piece: Described, folder: Path, beside: Path) -> str:
    """One benchmark: what it shows, its chart and tables, where and when they were made."""
    title = f"## {piece.title}\n\n{piece.shows}\n"
    path = folder / f"{piece.name}.json"
    if not path.exists():
        return f"{title}\nNot measured here yet: `make bench BENCH={piece.name}`, about {piece.minutes} minutes.\n"
    found = json.loads(path.read_text())
    shown = SPECIAL[piece.name](found) if piece.name in SPECIAL else tables(found["rows"])
    if piece.name in charts.DRAWN:
        chart = Path(os.path.relpath(path.with_suffix(".svg"), beside)).as_posix()
        shown = f"![{piece.title}]({chart})\n\n{shown}"
    return f"{title}\n{shown}\n{made(piece, found)}\n"


def made(piece: Described, found: Row) -> str:
    """By what, on which machine, with which versions, when."""
    said = [f"`benchmarks/{piece.command.split()[0]}`"]
    if machine := found.get("machine"):
        where = machine["gpu"] or "no GPU"
        said.append(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {where}")
    versions = found.get("versions", {})
    said.append(", ".join(f"{name} {number}" for name, number in versions.items()))
    dates = sorted({row["date"] for row in found["rows"] if "date" in row})
    said.append(" to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "")
    return f"{'; '.join(filter(None, said))}."


def tables(rows: Sequence[Row]) -> str:
    """Rows of :class:`record.Record` as tables, one for each set of names that a key has."""
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in over_seeds(rows):
        kinds.setdefault(tuple(row["key"]), []).append({**row["key"], **flat(row)})
    return "\n".join(table(group) for group in kinds.values())


def table(rows: Sequence[Row]) -> str:
    """Plain rows as one markdown table; a column for every name that any of them has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[str(name).replace("_", " ") for name in names]]
    lines.append(["---" if isinstance(rows[0].get(name), str) else "--:" for name in names])
    lines += [[cell(row.get(name)) for name in names] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def flat(row: Row) -> Row:
    """What was measured; of a figure inside a figure, both names."""
    found: Row = {}
    for name, value in row.items():
        if isinstance(value, dict) and name != "key":
            found |= {f"{name} {inner}": v for inner, v in flat(value).items()}
        elif name not in ("key", "date"):
            found[name] = value
    return found


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row for those that differ in ``seed`` alone: numbers as [mean, least, most], the rest where they agree."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = {name: value for name, value in row["key"].items() if name != "seed"}
        groups.setdefault(json.dumps(key), []).append(row)
    found: list[Row] = []
    for name, group in groups.items():
        if "seed" not in group[0]["key"]:
            found += group
            continue
        values = [flat(row) for row in group]
        joined = {column: mean([v[column] for v in values if column in v]) for column in values[0]}
        found.append({"key": json.loads(name), "seeds": len(group), **joined})
    return found


def mean(values: Sequence[Any]) -> Any:
    if all(is_number(v) for v in values):
        return [sum(values) / len(values), min(values), max(values)] if len(values) > 1 else values[0]
    return values[0] if all(v == values[0] for v in values) else None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def cell(value: Any) -> str:
    """A number in three digits, "median (least to most)" of three, "least to most" of two."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, list):
        parts = [cell(v) for v in value]
        if not all(map(is_number, value)):
            return ", ".join(parts)
        return f"{parts[0]} ({parts[1]} to {parts[2]})" if len(parts) == 3 else " to ".join(parts)
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def against_trl(found: Row) -> str:
    """The comparison of arithmetic, whose rows have no key: each quantity, the largest difference of all cases."""
    quantities: dict[str, list[Row]] = {}
    for row in found["rows"]:
        quantities.setdefault(row["what"], []).append(row)
    shown: list[Row] = []
    for name, rows in quantities.items():
        numbers = {n: f"{max(r[n] for r in rows):.1e}" for n in ("as_it_is", "with_their_choice")}
        because = dict.fromkeys(reason for r in rows for reason in r["because"])
        shown.append({"quantity": name, **numbers, "because": ", ".join(because)})
    reasons = "".join(f"- {name}: {text}\n" for name, text in found["differences"].items())
    return f"{table(shown)}\n{reasons}"


def speed_against_trl(found: Row) -> str:
    """What a user waits for and what it takes, of all that is kept of both sides."""
    shown: list[Row] = []
    for row in found["rows"]:
        ours, trl = row["ours"], row["trl"]
        shown.append({
            **row["key"], "ours, episodes a second": ours["episodes_per_second"], "TRL": trl["episodes_per_second"],
            "times as fast": [row["ratio"], row["least"], row["most"]], "pairs": row["pairs"],
            "ours, tokens an answer": ours["tokens_per_answer"], "TRL's": trl["tokens_per_answer"],
            "ours, peak MiB": ours["peak_bytes"] / 2**20, "TRL's peak": trl["peak_bytes"] / 2**20,
            "share of TRL's": row["memory_ratio"],
        })  # fmt: skip
    return table(shown)


def of_all_seeds(found: Row) -> str:
    """Where a benchmark has pooled its seeds by itself: those rows alone."""
    return tables([row for row in found["rows"] if "seed" not in row["key"]])


def overoptimisation(found: Row) -> str:
    """What was derived of all steps, best-of-n, and every sixteenth step of PPO."""
    kinds: list[list[Row]] = [[], [], []]
    for row in found["rows"]:
        kind = 0 if "form of" in row["key"] else 1 if "n" in row["key"] else 2
        if row["key"].get("step", 0) % 16 == 0:
            kinds[kind].append(row)
    return tables([row for kind in kinds for row in kind])


SPECIAL: dict[str, Callable[[Row], str]] = {
    "ppo_against_trl": against_trl,
    "ppo_against_trl_speed": speed_against_trl,
    "learning": of_all_seeds,
    "overoptimisation": overoptimisation,
}
