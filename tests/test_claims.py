"""Verdicts follow from the rules: what holds, holds partly, does not hold, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_scripts import ROOT, script

from cvae.runs import find_runs

claims = script("claims")
Check = claims.Check


@pytest.mark.parametrize(
    ("rule", "difference", "spread", "margin", "score"),
    [
        ("more", 2.1, 1.0, None, 1.0),  # beyond two standard deviations
        ("more", 1.1, 1.0, None, 0.5),
        ("more", 0.9, 1.0, None, 0.0),
        ("more", -9.0, 1.0, None, 0.0),
        ("less", -2.1, 1.0, None, 1.0),
        ("more", 2.1, 1.0, 5.0, 0.0),  # the margin is larger than the noise
        ("more", 2.6, 1.0, 5.0, 0.5),
        ("more", 5.0, None, 5.0, 1.0),
        ("more", 99.0, None, None, 0.5),  # one seed each: the direction at best
        ("more", 0.1, 0.0, None, 1.0),  # seeds agree
        ("more", 0.0, 0.0, None, 0.0),
        ("not more", 2.1, 1.0, None, 0.0),
        ("not more", 1.1, 1.0, None, 0.5),
        ("not more", -3.0, 1.0, None, 1.0),
        ("same", -0.9, 9.0, 1.0, 1.0),
        ("same", 1.9, None, 1.0, 0.5),
        ("same", 2.1, None, 1.0, 0.0),
    ],
)
def test_rules(rule, difference, spread, margin, score):
    assert claims.compare(rule, difference, spread, margin) == score


def finished(folder: Path, schedule: str, seed: int, kl: float, **settings) -> None:
    """A run of 100 updates whose training KL was twice as large half-way."""
    place = folder / "-".join(map(str, (schedule, seed, *settings.values())))
    place.mkdir(parents=True)
    config = {"seed": seed, "task": {"name": "toy"}, "schedule": {"name": schedule}, "model": settings}
    (place / "run.json").write_text(json.dumps({"config": config}))
    results = {"finished": True, "updates": 100, "test/kl": kl}
    (place / "results.json").write_text(json.dumps(results))
    records = [{"step": step, "train/kl": 2 * kl if step <= 50 else kl} for step in range(1, 101)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_measure_that_overflows_is_shown_and_not_judged(tmp_path):
    ppl = {"cyclical": 90.0, "monotonic": None}
    for schedule, value in ppl.items():
        finished(tmp_path, schedule, 0, 1.0)
        path = tmp_path / f"{schedule}-0" / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"test/ppl": value}))
    for rule in ("same", "less"):
        check = Check("test/ppl", CYCLICAL, rule, MONOTONIC, margin=0.01, relative=True)
        outcome = check.judge(find_runs([tmp_path]))
        assert outcome.score is None and "monotonic ∞ (n 1)" in outcome.found
    assert Check("test/ppl", MONOTONIC, "below", 108.0).judge(find_runs([tmp_path])).score == 0.0


CYCLICAL, MONOTONIC = {"schedule.name": "cyclical"}, {"schedule.name": "monotonic"}


def test_a_check_says_its_numbers_seeds_and_effect(tmp_path):
    for seed, kl in enumerate((1.0, 1.2, 1.1)):
        finished(tmp_path, "cyclical", seed, kl)
        finished(tmp_path, "monotonic", seed, kl / 2)
    runs = find_runs([tmp_path])
    outcome = Check("test/kl", CYCLICAL, "more", MONOTONIC).judge(runs)
    assert outcome == ("cyclical 1.10 ± 0.10 (n 3) > monotonic 0.55 ± 0.05 (n 3)", "+0.55, d +7.0", 1.0, 3)
    falls = Check("train/kl", CYCLICAL | {"at": 1.0}, "less", CYCLICAL | {"at": 0.5}).judge(runs)
    assert falls.found == "cyclical at 100 % 1.10 ± 0.10 (n 3) < cyclical at 50 % 2.20 ± 0.20 (n 3)"
    assert Check("test/kl", CYCLICAL, "below", 1.25).judge(runs).score == 1.0
    assert Check("test/kl", CYCLICAL, "below", 1.15).judge(runs).score == 0.5
    assert Check("test/kl", CYCLICAL, "below", 1.05).judge(runs).score == 0.0
    assert Check("test/kl", CYCLICAL, "same", MONOTONIC, margin=1.0, relative=True).judge(runs).score == 1.0
    assert Check("test/kl", CYCLICAL, "same", {"schedule.name": "none"}, margin=1.0).judge(runs).score is None


@pytest.mark.parametrize(("settings", "score"), [(5, 1.0), (4, 0.5), (2, 0.0)])
def test_in_each_setting_the_direction_counts(settings, score, tmp_path):
    for size in range(5):
        finished(tmp_path, "cyclical", 0, 1.0 if size < settings else 0.1, hidden=size)
        finished(tmp_path, "monotonic", 0, 0.5, hidden=size)
    found = Check("test/kl", CYCLICAL, "more", MONOTONIC, each=True).judge(find_runs([tmp_path]))
    assert found == (f"cyclical > monotonic in {settings} of 5 settings", "", score, 1)


def test_a_claim_stands_on_its_first_check_and_says_what_was_not_measured(tmp_path):
    finished(tmp_path / "known", "cyclical", 0, 1.0)
    runs = {"known": find_runs([tmp_path])}
    yes, no, absent = (
        Check("test/kl", CYCLICAL, "below", 2.0),
        Check("test/kl", CYCLICAL, "below", 0.5),
        Check("test/mi", CYCLICAL, "below", 0.5),
    )
    for checks, word in (
        ([yes, yes], "holds (one seed)"),
        ([yes, no], "holds partly (one seed)"),
        ([no, yes], "does not hold here (one seed)"),
        ([yes, absent], "holds (one seed, 1 of 2 measured)"),
        ([absent], "missing"),
    ):
        assert claims.verdict([check.judge(runs["known"]) for check in checks]) == word
    table = claims.claims_table([claims.Claim("It is so", ["known", "other"], [yes, absent])], runs)
    assert [row[:3] for row in table.body] == [
        ["It is so", "holds (one seed, 1 of 2 measured)", "test/kl"],
        ["", "", "test/mi"],
    ]
    assert table.notes == ["no runs: python train.py experiment=other"]


def test_the_committed_claims_can_be_read_and_name_experiments_that_exist():
    known = claims.read()
    assert len(known) > 10
    assert {check.rule for claim in known for check in claim.checks} <= set(claims.SYMBOLS)
    experiments = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    assert {name for claim in known for name in claim.experiments} <= experiments
    runs = claims.gathered(["toy", "nowhere"], [ROOT / "outputs" / "published"])
    assert list(runs) == ["toy"]
    assert all(symbol in claims.RULES for symbol in claims.SYMBOLS.values())


def test_train_starts_what_has_no_runs_and_goes_on_with_what_has_some(tmp_path, monkeypatch, capsys):
    started = []

    def run(command):
        started.append(command[-1])
        return SimpleNamespace(returncode=int("ptb_table" in command[-1]))

    monkeypatch.setattr(claims.subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "outputs" / "ptb_quick" / "a", "cyclical", 0, 1.0)
    finished(tmp_path / "mine" / "toy" / "a", "cyclical", 0, 1.0)
    assert claims.main(["mine", "--train"]) == 1
    assert started == ["experiment=ptb_quick", "experiment=ptb_table"]
    assert "experiment=ptb_table ended with exit status 1" in capsys.readouterr().err
