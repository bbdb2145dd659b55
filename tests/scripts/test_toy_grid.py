"""The grid of toy runs: which runs make a cell, and how far it is from the paper's curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvae.runs.reader import Run, RunsError
from scripts import toy_grid


def run_of(schedule: str, rate: str = "constant", off: float = 0.0, seed: int = 0, copies: int = 1) -> Run:
    """A run whose curves are the paper's, off by so many nats at each mark."""
    config = {
        "seed": seed,
        "schedule": {"name": schedule},
        "lr": {"name": rate, "value": 1e-4},
        "dataset": {"name": "toy", "copies": copies},
        "model": {"name": "sentence", "inject": "inputs"},
        "task": {"name": "toy"},
        "train": {"steps": 40_000},
    }
    curves = toy_grid.PAPER[schedule]
    metrics = [
        {
            "step": mark - before,
            "val/accuracy": 0.1,
            **{key: values[place] + off for key, values in curves.items()},
        }
        for place, mark in enumerate(toy_grid.MARKS)
        for before in (900, 500, 0)
    ]
    return Run(Path(f"{schedule}-{rate}-{seed}-{copies}"), config, metrics, {})


def test_a_cell_has_all_three_schedules_and_restarts_are_of_cyclical_only():
    three = [run_of(schedule) for schedule in toy_grid.PAPER]
    restarts = [run_of(schedule, "cosine_restarts") for schedule in toy_grid.PAPER]
    alone = [run_of("cyclical", copies=10), run_of("monotonic", copies=10)]
    found = toy_grid.cells([*three, *restarts, *alone])
    assert list(found) == [
        ("constant", "0.0001", "1", "inputs"),
        ("cosine_restarts", "0.0001", "1", "inputs"),
    ]
    plain, other = found.values()
    assert plain == three
    assert other == [*three[:2], restarts[2]]


def test_unfinished_runs_and_other_tasks_are_left_out():
    three = [run_of(schedule) for schedule in toy_grid.PAPER]
    short, other, plain = (run_of("cyclical", seed=seed) for seed in (1, 2, 3))
    del short.metrics[-1]
    other.config["task"]["name"] = "language"
    plain.config["schedule"]["name"] = "none"
    (found,) = toy_grid.cells([short, other, plain, *three]).values()
    assert found == three
    with pytest.raises(RunsError, match="no setting has toy runs of constant, monotonic, cyclical as far as"):
        toy_grid.cells([*three[:2], short, other])


def test_the_distance_is_the_mean_gap_of_each_seed():
    exact = [run_of(schedule) for schedule in toy_grid.PAPER]
    off = [run_of(schedule, off=0.3 * (schedule == "cyclical"), seed=1) for schedule in toy_grid.PAPER]
    assert toy_grid.distance(exact).values == pytest.approx((0.0,))
    assert toy_grid.distance([*exact, *off]).values == pytest.approx((0.0, 0.1))


def test_the_tables_have_the_closest_cell_first_and_count_claims():
    close, far = ([run_of(s, off=off, copies=c) for s in toy_grid.PAPER] for off, c in ((0.0, 10), (0.2, 1)))
    cells, counts = toy_grid.tables(toy_grid.cells([*far, *close]))
    assert [row[1] for row in cells.body] == ["10", "1", "", "", ""]
    assert [str(part) for part in cells.body[2][5:8]] == ["0.14", "0.97", "1.62"]
    assert all(float(row[4]) > 0.5 for row in cells.body[3:])  # the controls
    held = dict(counts.body)
    (vanishing,) = [claim for claim in held if "the KL term vanishes" in claim]
    (bound,) = [claim for claim in held if "the same bound" in claim]
    assert held[vanishing] == "1 of 2"
    assert held[bound] == "0 of 2"  # the loss is not recorded here


def test_a_claim_holds_where_all_its_checks_agree():
    (claim,) = [c for c in toy_grid.read_claims() if "rec and KL are better from cycle to cycle" in c.claim]
    assert toy_grid.holds(claim, [run_of("cyclical")])
    worse = run_of("cyclical")
    worse.metrics[-1]["train/kl"] = 0.0  # the mean before the last mark falls below the third cycle's
    assert not toy_grid.holds(claim, [worse])


def test_a_claim_with_a_margin_holds_only_within_it():
    (claim,) = [c for c in toy_grid.read_claims() if "the same bound" in c.claim]
    for apart, held in ((0.04, True), (0.06, False)):  # the margin is 0.05
        runs = [run_of(schedule) for schedule in toy_grid.PAPER]
        for run in runs:
            for record in run.metrics:
                record["train/loss"] = 2.3 + apart * (run.group[0] == "cyclical")
        assert toy_grid.holds(claim, runs) == held
