"""What keeps the benchmarks' figures and writes their page: nothing is measured here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench
import growth
import page
import record

MACHINE = {"processor": "Z80", "cores": 2, "memory_gib": 23, "gpu": ""}
MADE_WITH = {"machine": MACHINE, "versions": {"torch": "2.13.0"}}


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "made_with", lambda: MADE_WITH)


def piece(name: str, command: str = "nothing.py") -> bench.Piece:
    return bench.Piece(name, "Some title", command, 7, "What it shows.")


def test_a_benchmark_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    keys = [{"batch": n} for n in (1, 8, 32)]
    record.Record("x", tmp_path).add(keys[1], seconds=2.0)
    again = record.Record("x", tmp_path)
    assert again.missing(keys) == [{"batch": 1}, {"batch": 32}]
    again.add({"batch": 1}, seconds=1.0)
    assert [r["seconds"] for r in record.Record("x", tmp_path).rows] == [2.0, 1.0]


def test_a_row_that_is_measured_again_takes_the_old_ones_place(tmp_path: Path) -> None:
    kept = record.Record("x", tmp_path)
    kept.add({"batch": 1}, seconds=1.0)
    kept.add({"batch": 1}, seconds=3.0)
    assert [r["seconds"] for r in record.Record("x", tmp_path).rows] == [3.0]


@pytest.mark.parametrize("change", [{"machine": {**MACHINE, "cores": 4}}, {"versions": {"torch": "2.14.0"}}])
def test_figures_of_another_machine_or_version_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    record.Record("x", tmp_path).add({"batch": 1}, seconds=1.0)
    assert bench.made_elsewhere(tmp_path, [piece("x"), piece("y")], MADE_WITH) == []
    monkeypatch.setattr(record, "made_with", lambda: {**MADE_WITH, **change})
    with pytest.raises(SystemExit, match="another machine or other versions"):
        record.Record("x", tmp_path)
    assert bench.made_elsewhere(tmp_path, [piece("x"), piece("y")], record.made_with()) == ["x"]


def test_the_page_says_figures_machine_versions_and_date(tmp_path: Path) -> None:
    row = record.Record("x", tmp_path).add(
        {"model": "tiny", "batch": 8}, ours=1234.5, ratio=[1.25, 1.2, 1.333]
    )
    page.write([piece("x"), piece("y")], tmp_path, tmp_path / "README.md")
    shown = (tmp_path / "README.md").read_text()
    assert "## Some title\n\nWhat it shows.\n" in shown
    assert "| model | batch | ours | ratio |\n" in shown
    assert "| tiny | 8 | 1,234 | 1.25 (1.2 to 1.33) |\n" in shown
    assert f"Z80, 2 cores, 23 GiB, no GPU; torch 2.13.0; {row['date']}." in shown


def test_the_page_says_what_is_not_measured_yet(tmp_path: Path) -> None:
    page.write([piece("y")], tmp_path, tmp_path / "README.md")
    assert (
        "Not measured here yet: `make bench BENCH=y`, about 7 minutes."
        in (tmp_path / "README.md").read_text()
    )


def test_seeds_are_one_line_with_mean_least_and_most(tmp_path: Path) -> None:
    kept = record.Record("x", tmp_path)
    for seed, rate in enumerate((0.1, 0.2, 0.6)):
        kept.add({"wish": "short", "seed": seed}, rate=rate, inner={"kl": 1.0 + seed})
    kept.add({"wish": "long", "seed": 0}, rate=0.5, inner={"kl": 7.0})
    lines = page.tables(kept.rows).splitlines()
    assert lines[0] == "| wish | seeds | rate | inner kl |"
    assert lines[2:] == ["| short | 3 | 0.3 (0.1 to 0.6) | 2 (1 to 3) |", "| long | 1 | 0.5 | 7 |"]


def test_points_and_what_is_derived_of_them_are_tables_of_their_own() -> None:
    rows = [{"key": {"batch": 8}, "seconds": 1.5}, {"key": {"slope over": "batch"}, "exponent": 0.97}]
    first, second = page.tables(rows).split("\n\n")
    assert first.endswith("| 8 | 1.5 |")
    assert second.endswith("| batch | 0.97 |\n")


def test_a_bar_in_a_text_does_not_break_its_line() -> None:
    assert page.cell("a|b\nc") == "a\\|b c"


def test_what_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "HERE", tmp_path)
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    (tmp_path / "good.py").write_text("import os, sys; print(os.environ['BENCH_RESULTS'], *sys.argv[1:])")
    failed = bench.run([piece("bad", "bad.py"), piece("good", "good.py {results}/y 5")], tmp_path / "r")
    assert failed == ["bad"]
    assert f"{tmp_path}/r {tmp_path}/r/y 5\n" in capfd.readouterr().out


def test_the_kept_comparison_with_trl_is_shown() -> None:
    kept = json.loads((bench.HERE / "results" / "ppo_against_trl.json").read_text())
    shown = page.against_trl(kept)
    assert "| returns, ended answers |" in shown
    assert len(shown.splitlines()) == len({r["what"] for r in kept["rows"]}) + 2 + 1 + len(
        kept["differences"]
    )


def test_an_exponent_is_that_of_the_power_law() -> None:
    rows = [{"x": x, "seconds": {"rollout": 3 * x**1.5, "update": 0.2}} for x in (8, 16, 32, 64)]
    found = growth.exponents(rows)
    assert found == pytest.approx({"rollout": 1.5, "rollout r2": 1, "update": 0, "update r2": 1})


def test_a_run_that_slows_down_is_seen_and_one_that_does_not_is_not() -> None:
    noise = [0.01 * (-1) ** n for n in range(growth.LONG_RUN)]
    steady = growth.drift([9.0] * growth.SETTLING + [1 + e for e in noise[growth.SETTLING :]])
    slower = growth.drift([1 + 0.002 * n + e for n, e in enumerate(noise)])
    assert steady["mean"] == pytest.approx(1, abs=0.01)
    assert steady["95 % interval"][0] < 0 < steady["95 % interval"][1]
    assert 0 < slower["95 % interval"][0] < 0.002 < slower["95 % interval"][1]


def test_speed_and_memory_stand_beside_the_peers() -> None:
    side = {"episodes_per_second": 4.0, "tokens_per_answer": 36.0, "peak_bytes": 300 * 2**20, "bare_bytes": 1}
    trl = {**side, "episodes_per_second": 2.0, "peak_bytes": 600 * 2**20}
    row = {"key": {"model": "tiny", "weights": "nf4"}, "pairs": 5, "ratio": 2.0, "least": 1.9, "most": 2.2,
           "memory_ratio": 0.5, "ours": side, "trl": trl}  # fmt: skip
    line = page.speed_against_trl({"rows": [row]}).splitlines()[2]
    assert line == "| tiny | nf4 | 4 | 2 | 2 (1.9 to 2.2) | 5 | 36 | 36 | 300 | 600 | 0.5 |"


def test_where_seeds_are_pooled_their_own_rows_are_not_shown() -> None:
    rows = [{"key": {"by": "ppo", "seed": 0}, "rate": 0.5}, {"key": {"by": "ppo"}, "rate": 0.75}]
    assert page.of_all_seeds({"rows": rows}).splitlines()[2:] == ["| ppo | 0.75 |"]


def test_the_page_is_that_of_the_figures_that_are_kept() -> None:
    """Where this fails: `make bench-page`."""
    shown = page.whole(bench.PIECES, bench.HERE / "results", bench.HERE)
    assert (bench.HERE / "README.md").read_text() == shown
