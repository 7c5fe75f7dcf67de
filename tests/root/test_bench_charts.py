"""What the benchmarks' charts draw of rows, and the arithmetic behind them."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench
import charts
import curves
import page

Rows = list[dict[str, Any]]
FRONTIER = [
    ("base", 0.25, 0.0),
    ("ppo", 0.9, 2.5),
    ("dpo", 0.85, 3.0),
    ("best of 2", 0.4, 0.19),
    ("best of 8", 0.7, 1.2),
]


def frontier(wishes: tuple[str, ...] = ("asks_back", "warm_offer"), seeds: int = 2) -> Rows:
    return [
        {"key": {"wish": wish, "seed": seed, "by": by}, "rate": rate, "kl": kl}
        for wish, seed, (by, rate, kl) in itertools.product(wishes, range(seeds), FRONTIER)
    ]


def steps(wish: str, seed: int, far: float = 1.0) -> Rows:
    key = {"wish": wish, "seed": seed}
    ppo = [
        {
            "key": {**key, "by": "ppo", "step": n},
            "score": n / 4,
            "rate": 1 - (n - 10) ** 2 / 100,
            "kl": far * n,
        }
        for n in range(20)
    ]
    best = [{"key": {**key, "by": "best of n", "n": n}, "score": 0.1 * n, "rate": 0.5, "kl": curves.best_of_kl(n)}
            for n in (1, 2, 4)]  # fmt: skip
    return [*ppo, *best, {"key": {**key, "form of": "ppo"}, "a": 0.2, "b": 0.01}]


def points(svg: str) -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(svg).iter() if e.get("class") == "point"]


def said(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


def dashed(svg: str) -> list[list[tuple[float, ...]]]:
    """The dashed lines but for the legend's, which comes first."""
    found = [e.get("points", "") for e in ElementTree.fromstring(svg).iter() if e.get("stroke-dasharray")]
    return [[tuple(map(float, p.split(","))) for p in text.split()] for text in found[1:]]


def test_each_row_of_the_frontier_is_a_point_and_each_wish_a_panel() -> None:
    rows = frontier()
    svg = charts.frontier(rows)
    assert len(points(svg)) == len(rows)
    assert {"asks back", "warm offer", "base", "PPO", "DPO", "best of n"} <= set(said(svg))


def test_the_curve_of_the_least_kl_rises_and_starts_at_the_base() -> None:
    (curve,) = dashed(charts.frontier(frontier(("asks_back",))))
    assert all(x0 <= x1 and y0 >= y1 for (x0, y0), (x1, y1) in itertools.pairwise(curve))
    assert curve[0][0] == pytest.approx(charts.LEFT)  # 0 nats
    nats = charts.bound(0.25, 9.0)
    assert nats[0] == pytest.approx((0, 0.25))
    assert nats[-1] == pytest.approx((math.log(4), 1))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(nats))


@pytest.mark.parametrize(
    ("p", "q", "nats"), [(0.5, 1, math.log(2)), (0.5, 0.75, 0.1308), (0.6, 0.5, 0), (0.0, 0.1, math.inf)]
)
def test_the_least_kl_is_that_of_two_coins(p: float, q: float, nats: float) -> None:
    assert curves.least_kl(p, q) == pytest.approx(nats, abs=1e-4)


def test_a_wish_that_the_base_never_fulfils_has_no_such_curve() -> None:
    rows = [{**r, "rate": 0.0} if r["key"]["by"] == "base" else r for r in frontier(("formal",))]
    assert dashed(charts.frontier(rows)) == []


def test_overoptimisation_shows_each_step_and_each_n_twice() -> None:
    rows = [*steps("asks_back", 0), *steps("asks_back", 1), *steps("prefer", 0)]
    assert len(points(charts.overoptimisation(rows))) == 2 * 3 * (20 + 3)


def test_the_budget_is_a_line_where_the_run_comes_so_far() -> None:
    for far, lines in ((charts.BUDGET, 2), (charts.BUDGET / 100, 0)):  # 19 times that, of 2 panels
        found = dashed(charts.overoptimisation(steps("prefer", 0, far)))
        assert len(found) == lines
        assert all(start[0] == end[0] for start, end in found)


@pytest.mark.parametrize(
    ("name", "rows"), [("frontier", frontier()), ("overoptimisation", steps("prefer", 0))]
)
def test_nothing_is_drawn_outside_the_picture(name: str, rows: Rows) -> None:
    root = ElementTree.fromstring(charts.DRAWN[name](rows))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    places = [(float(e.get("x", "")), float(e.get("y", ""))) for e in root.iter() if e.tag.endswith("text")]
    lines = [e.get("points", "").split() for e in root.iter() if e.tag.endswith("polyline")]
    places += [(float(x), float(y)) for line in lines for x, y in (p.split(",") for p in line)]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)


def test_the_page_shows_the_chart_and_draws_it(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "frontier.json").write_text(json.dumps({"rows": frontier()}))
    page.write(bench.PIECES, tmp_path / "results", tmp_path / "README.md")
    shown = (tmp_path / "README.md").read_text()
    assert shown.count("![") == 1
    assert "![What a wish costs](results/frontier.svg)" in shown
    assert len(points((tmp_path / "results" / "frontier.svg").read_text())) == len(frontier())


def test_the_page_has_what_was_derived_and_some_steps_of_overoptimisation() -> None:
    lines = page.overoptimisation({"rows": steps("prefer", 0)}).splitlines()
    assert "| prefer | ppo | 1 | 0.2 | 0.01 |" in lines
    assert [line.split(" | ")[2] for line in lines if line.startswith("| prefer | ppo | ")][1:] == ["0", "16"]


def test_kept_charts_are_those_of_the_figures_that_are_kept() -> None:
    """Where this fails: `make bench-page`."""
    for name, draw in charts.DRAWN.items():
        kept = bench.HERE / "results" / f"{name}.json"
        if kept.exists():
            assert kept.with_suffix(".svg").read_text() == draw(json.loads(kept.read_text())["rows"])


@pytest.mark.parametrize("n", [2, 4, 32])
def test_best_of_n_costs_the_divergence_of_the_largest_of_n(n: int) -> None:
    """The rank u of the best has density n·u^(n−1) where one answer's has 1: ∫ p ln p, by the midpoint rule."""
    cells = 20_000
    density = [n * ((i + 0.5) / cells) ** (n - 1) for i in range(cells)]
    assert curves.best_of_kl(n) == pytest.approx(sum(p * math.log(p) for p in density) / cells, rel=1e-4)


def test_weights_of_ranks_are_those_of_all_draws() -> None:
    draws = list(itertools.combinations(range(7), 3))
    shares = [sum(max(drawn) == i for drawn in draws) / len(draws) for i in range(7)]
    assert curves.rank_weights(7, 3) == pytest.approx(shares)


@pytest.mark.parametrize("bend", [math.log, float])
def test_the_form_that_made_a_curve_is_found_again(bend: Callable[[float], float]) -> None:
    kls = [-0.01, 0.0, 0.1, 0.5, 2.0, 8.0, 30.0]
    gains = [d * (0.5 - 0.15 * bend(d)) if (d := curves.distance(kl)) else 0.0 for kl in kls]
    assert curves.fitted(kls, gains, bend) == pytest.approx({"a": 0.5, "b": 0.15, "r2": 1})


def test_where_a_rate_turns_is_not_decided_by_one_lucky_step() -> None:
    kls = [float(n) for n in range(40)]
    rates = [0.9 - abs(n - 20) / 50 for n in range(40)]
    rates[35] = 1.0
    found = curves.turn(kls, rates, 10.0)
    assert found["KL before the fall"] == pytest.approx(20)
    assert found["KL after the fall"] == pytest.approx(37)
    assert found["rate at KL 10"] == pytest.approx(0.7)
    assert found["KL at the end"] == pytest.approx(37)
    assert curves.turn(kls, rates, 100.0)["rate at KL 100"] is None


def test_a_turn_is_seen_where_the_rate_comes_back_later() -> None:
    rates = [0.5] * 5 + [0.9] * 10 + [0.3] * 10 + [1.0] * 15
    found = curves.turn([float(n) for n in range(40)], rates, 10.0)
    fall = [found[name] for name in ("rate before the fall", "rate after the fall", "rate at the end")]
    assert fall == pytest.approx([0.9, 0.3, 1.0])
    assert 5 <= (found["KL before the fall"] or 0) <= 15


def test_a_rate_that_only_rises_falls_by_nothing() -> None:
    found = curves.turn([float(n) for n in range(20)], [n / 20 for n in range(20)], 10.0)
    assert found["rate before the fall"] == found["rate after the fall"]
