"""Verdicts follow from the rules: what holds, holds partly, does not hold, and what is missing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvae.cli.claims import main as claims_command
from cvae.errors import RunsError, UserError
from cvae.report import tables
from cvae.report.claims import WALL_CLOCK, Check, Claim, claims_table, experiment_runs, read_claims, read_side
from cvae.report.formats import Cell
from cvae.report.verdicts import RULES, SYMBOLS, Outcome, across_settings, below, compare, verdict
from cvae.runs.reader import Run, find_runs
from tests.helpers import ROOT


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
        ("more", 2.5, None, 5.0, 0.5),
        ("same", 5.0, None, 5.0, 1.0),
        ("same", -10.0, None, 5.0, 0.5),
        ("same", 10.1, None, 5.0, 0.0),
        ("same", 0.0, 2.0, None, 1.0),
        ("same", 0.1, 2.0, None, 0.0),
        ("more", 99.0, None, None, 0.5),  # one seed each: the direction at best
        ("more", 0.0, None, None, 0.0),  # no direction
        ("not more", 0.0, None, None, 0.5),
        ("more", 0.1, 0.0, None, 1.0),  # seeds agree
        ("more", 0.0, 0.0, None, 0.0),
        ("not more", 2.1, 1.0, None, 0.0),
        ("not more", 1.1, 1.0, None, 0.5),
        ("not more", -3.0, 1.0, None, 1.0),
        ("not more", -9.0, None, None, 0.5),  # as for more: the direction at best
        ("not more", 9.0, None, None, 0.0),
        ("same", -0.9, 9.0, 1.0, 1.0),
        ("same", 1.9, None, 1.0, 0.5),
        ("same", 2.1, None, 1.0, 0.0),
    ],
)
def test_rules(rule, difference, spread, margin, score):
    assert compare(rule, difference, spread, margin) == score


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
    bound = Check("test/kl", CYCLICAL, "below", 1.25).judge(runs)
    assert bound == ("cyclical 1.10 ± 0.10 (n 3) < 1.25", "", 1.0, 3)
    other = Check("test/kl", CYCLICAL | {"lr.name": "Cosine"}, "below", 1.25).judge(runs)
    assert other.found == "cyclical, lr cosine (not measured) < 1.25"
    assert Check("test/kl", CYCLICAL, "below", 1.15).judge(runs).score == 0.5
    assert Check("test/kl", CYCLICAL, "below", 1.05).judge(runs).score == 0.0
    assert (below(Cell((1.0,)), 1.01), below(Cell((1.0,)), 1.0)) == (1.0, 0.0)  # a bound is not below itself
    # 0.55 apart: a share of 0.55 and not of 1.10
    for margin, score in ((1.01, 1.0), (0.9, 0.5), (0.51, 0.5), (0.49, 0.0)):
        check = Check("test/kl", CYCLICAL, "same", MONOTONIC, margin=margin, relative=True)
        assert check.judge(runs).score == score
    assert Check("test/kl", CYCLICAL, "same", {"schedule.name": "none"}, margin=1.0).judge(runs).score is None


@pytest.mark.parametrize(
    ("total", "share", "update"), [(100, 0.29, 29), (100, 0.55, 55), (10, 0.5, 5), (3, 1.0, 3)]
)
def test_a_share_of_training_is_the_update_nearest_to_it(total, share, update):
    records = [{"step": step, "train/kl": 1.0 * step, "val/kl": 2.0 * step} for step in range(1, total + 1)]
    run = Run(Path("a"), {}, records, {}, {"updates": total})
    assert read_side([run], {"at": share}, "val/kl").values == (2 * update,)
    # train/* is of the updates just before, of a short run of that one alone
    assert read_side([run], {"at": share}, "train/kl").values == (update - 0.5 * (total == 100),)
    gap = replace(run, metrics=[record for record in records if record["step"] != update])
    assert read_side([gap], {"at": share}, "val/kl").values == ()  # and no other update stands for it
    unknown = replace(run, results={})  # how long such a run is, nothing says
    assert read_side([unknown, run], {"at": share}, "val/kl").values == (2 * update,)


@pytest.mark.parametrize(("left", "right"), [(3, 1), (1, 3)])
def test_a_check_has_the_seeds_of_the_side_that_has_fewer(left, right, tmp_path):
    for schedule, seeds in (("cyclical", left), ("monotonic", right)):
        for seed in range(seeds):
            finished(tmp_path, schedule, seed, 1.0 + seed / 10)
    assert Check("test/kl", CYCLICAL, "more", MONOTONIC).judge(find_runs([tmp_path])).seeds == 1


@pytest.mark.parametrize(
    ("scores", "margin", "outcome"),
    [
        ([1.0] * 5, None, (5, 1.0)),
        ([1.0] * 4, None, (4, 0.5)),  # too few to hold
        ([1.0, 1.0, 1.0, 0.0], None, (3, 0.5)),
        ([1.0, 1.0, 0.0, 0.0], None, (2, 0.0)),  # half is not more than half
        ([0.5] * 5, None, (5, 1.0)),  # the direction is enough
        ([0.5] * 5, 0.1, (0, 0.0)),  # but not where there is a margin
        ([], None, (0, None)),
    ],
)
def test_a_check_holds_over_settings(scores, margin, outcome):
    assert across_settings(scores, margin) == outcome


@pytest.mark.parametrize(("settings", "score"), [(5, 1.0), (4, 0.5), (2, 0.0)])
def test_in_each_setting_the_direction_counts(settings, score, tmp_path):
    for size in range(5):
        finished(tmp_path, "cyclical", 0, 1.0 if size < settings else 0.1, hidden=size)
        finished(tmp_path, "monotonic", 0, 0.5, hidden=size)
    found = Check("test/kl", CYCLICAL, "more", MONOTONIC, each=True).judge(find_runs([tmp_path]))
    assert found == (f"cyclical > monotonic in {settings} of 5 settings", "", score, 1)
    low = Check("test/kl", CYCLICAL, "below", 0.25, each=True).judge(find_runs([tmp_path]))
    assert low.found == f"cyclical < 0.25 in {5 - settings} of 5 settings"


@pytest.mark.parametrize("sign", [1, -1])  # an ELBO is negative, and a share of it is as wide
@pytest.mark.parametrize(("apart", "margin", "kept"), [(1.019, 0.01, 0), (1.009, 0.01, 6), (1.019, 0.02, 6)])
def test_in_each_setting_a_margin_is_kept_or_it_is_not(apart, margin, kept, sign, tmp_path):
    for size in range(6):
        finished(tmp_path, "cyclical", 0, sign * apart, hidden=size)
        finished(tmp_path, "monotonic", 0, sign * 1.0, hidden=size)
    check = Check("test/kl", CYCLICAL, "same", MONOTONIC, margin=margin, relative=True, each=True)
    found = check.judge(find_runs([tmp_path]))
    assert found == (f"cyclical ≈ monotonic in {kept} of 6 settings", "", float(kept == 6), 1)


@pytest.mark.parametrize(
    ("seeds", "checks", "said"),
    [
        (3, "Yy", "holds"),
        (3, "Yn", "holds partly"),
        (3, "Ny", "does not hold here"),
        (3, "Nn", "does not hold here"),
        (3, "Yp", "holds partly"),
        (3, "P", "holds partly"),
        (2, "Yy", "holds partly (2 seeds)"),
        (1, "Y", "holds partly (one seed)"),
        (1, "N", "does not hold here (one seed)"),
        (3, "Ya", "holds partly (1 of 2 measured)"),
        (3, "Ay", "holds partly (1 of 2 measured)"),
        (1, "Aa", "missing"),
    ],
)
def test_a_claim_falls_with_a_main_check_and_holds_where_all_do_on_three_seeds(seeds, checks, said):
    score = {"y": 1.0, "p": 0.5, "n": 0.0, "a": None}
    outcomes = [Outcome("", "", score[check.lower()], 0 if check in "Aa" else seeds) for check in checks]
    assert verdict(outcomes, [check.isupper() for check in checks]) == said


SCORES = st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.0, None])
OUTCOMES = st.builds(lambda score, seeds: Outcome("", "", score, seeds), SCORES, st.integers(1, 5))


@given(st.lists(st.tuples(OUTCOMES, st.booleans()), min_size=1, max_size=6), st.data())
def test_no_verdict_depends_on_the_order_of_checks_and_none_holds_on_few_seeds(judged, data):
    outcomes, main = zip(*judged, strict=True)
    said = verdict(outcomes, main)
    assert verdict(*zip(*data.draw(st.permutations(judged)), strict=True)) == said
    word = said.partition(" (")[0]
    assert (word == "holds") == all(outcome.score == 1 and outcome.seeds >= 3 for outcome in outcomes)
    assert (word == "does not hold here") == any(one.score == 0 and decides for one, decides in judged)
    assert (word == "missing") == all(outcome.score is None for outcome in outcomes)


def test_a_table_marks_main_checks_and_briefly_shows_the_one_that_fared_worst(tmp_path):
    finished(tmp_path / "known", "cyclical", 0, 1.0)
    runs = {"known": find_runs([tmp_path])}
    checks = [
        Check("test/kl", CYCLICAL, "below", 2.0, main=True),
        Check("test/kl", CYCLICAL, "below", 0.5),
        Check("test/mi", CYCLICAL, "below", 0.5),
    ]
    claim = Claim("It is so", ["known", "other"], checks)
    table = claims_table([claim], runs)
    assert [row[:3] for row in table.body] == [
        ["It is so", "holds partly (one seed, 2 of 3 measured)", "test/kl (main)"],
        ["", "", "test/kl"],
        ["", "", "test/mi"],
    ]
    assert table.notes == claims_table([claim, claim], runs).notes  # once, however many claims need it
    assert table.notes == ["no runs: python train.py experiment=other"]
    (row,) = claims_table([claim], runs, brief=True).body
    assert row[:3] == ["It is so", "holds partly (one seed, 2 of 3 measured)", "test/kl"]
    assert row[-1] == "✗"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([("cyclical", 0, {"hidden": 4}), ("cyclical", 1, {"hidden": 8})], "differ in model.hidden"),
        ([("cyclical", 0, {"hidden": 4}), ("cyclical", 0, {"hidden": 4, "name": "again"})], ""),
        (
            [("cyclical", 0, {"vocabulary": 3}), ("monotonic", 0, {"vocabulary": None})],
            "^test/kl of cyclical and monotonic cannot be compared: they differ in dataset.vocabulary$",
        ),
    ],
)
def test_other_settings_are_no_seeds_and_other_vocabularies_no_match(settings, said, tmp_path):
    for schedule, seed, values in settings:
        finished(tmp_path, schedule, seed, 1.0, **values)
    for path in tmp_path.glob("*/run.json"):
        config = json.loads(path.read_text())["config"]
        config["dataset"] = {"name": "ptb", "vocabulary": config["model"].pop("vocabulary", None)}
        config["model"] = {"hidden": config["model"].get("hidden")}
        path.write_text(json.dumps({"config": config}))
    runs = find_runs([tmp_path])
    with pytest.raises(RunsError, match=said or "both have seed 0"):
        Check("test/kl", CYCLICAL, "more", MONOTONIC).judge(runs)


def test_a_claim_that_rests_on_time_says_what_the_time_is():
    for measure, notes in (("test/kl", []), ("time/training_seconds", [WALL_CLOCK])):
        claim = Claim("It is so", [], [Check(measure, CYCLICAL, "below", 1.0, main=True)])
        assert claims_table([claim], {}).notes == notes


def test_a_claim_needs_a_main_check():
    plain = {"measure": "test/kl", "of": CYCLICAL, "rule": "below", "than": 1.0}
    with pytest.raises(UserError, match="no check of the claim 'It is so' has main: true"):
        Claim.of({"claim": "It is so", "experiments": ["toy"], "checks": [plain]})


def test_of_a_two_by_two_all_four_comparisons_are_checked():
    squares = []
    for claim in read_claims():
        sides = [(check.of, check.than) for check in claim.checks if isinstance(check.than, dict)]
        cells = [
            tuple(sorted((side["schedule.name"], side["lr.name"]) for side in pair))
            for pair in sides
            if all("lr.name" in side for side in pair)
        ]
        if cells:
            squares.append(claim.claim)
            assert len({cell for pair in cells for cell in pair}) == 4
            assert len(set(cells)) == len(cells) == 4  # neighbours in the square, each once
            assert all(sum(one != other for one, other in zip(*pair, strict=True)) == 1 for pair in cells)
    assert len(squares) == 4


def test_the_published_two_by_two_of_the_toy_holds_partly_since_restarts_add_to_cycles():
    (claim,) = (one for one in read_claims() if "learning rate" in one.claim and "synthetic" in one.claim)
    runs = experiment_runs(claim.experiments, [ROOT / "outputs" / "published"])
    body = claims_table([claim], runs).body
    assert body[0][1] == "holds partly"
    assert [row[-1] for row in body] == ["✓", "✓", "✓", "✗"]


def test_the_committed_claims_can_be_read_and_name_experiments_that_exist():
    known = read_claims()
    assert len(known) > 10
    assert {check.rule for claim in known for check in claim.checks} <= set(SYMBOLS)
    presets = ROOT / "conf" / "experiment"
    experiments = {str(path.relative_to(presets).with_suffix("")) for path in presets.rglob("*.yaml")}
    assert {name for claim in known for name in claim.experiments} <= experiments
    runs = experiment_runs(["toy", "nowhere"], [ROOT / "outputs" / "published"])
    assert list(runs) == ["toy"]
    assert all(symbol in RULES for symbol in SYMBOLS.values())


def test_no_claim_rests_on_what_answers_that_know_no_context_win():
    dialogs = [claim for claim in read_claims() if any("switchboard" in name for name in claim.experiments)]
    measures = {check.measure for claim in dialogs for check in claim.checks}
    assert any(measure.endswith("_minus_permuted") for measure in measures)
    assert all(tables.direction(measure) or measure == "test/kl" for measure in measures)
    published = experiment_runs(["switchboard_quick"], [ROOT / "outputs" / "published"])
    table = claims_table(dialogs, published)
    by_measure = {row[2].removesuffix(" (main)"): row for row in table.body}
    assert by_measure["test/kl"][-1] == "✓"  # older runs can be read, and have not what came later
    row = by_measure["test/act_hit_minus_permuted"]
    assert row[1] == row[-1] == "missing" and row[3].count("(not measured)") == 2


def test_runs_of_an_experiment_come_from_the_first_folder_that_has_it(tmp_path):
    for place, value in (("mine/toy", 1.0), ("published/toy", 2.0), ("published/ptb", 3.0)):
        finished(tmp_path / place / "a", "cyclical", 0, value)
    (tmp_path / "none").mkdir()
    folders = [tmp_path / name for name in ("none", "mine", "published")]
    runs = experiment_runs(["toy", "ptb", "yelp"], folders)
    found = {name: [run.folder.relative_to(tmp_path).parts[0] for run in part] for name, part in runs.items()}
    assert found == {"toy": ["mine"], "ptb": ["published"]}


@pytest.mark.parametrize(
    ("more", "installed", "start"),
    [([], False, [str(ROOT / "train.py")]), (["outputs"], True, ["-m", "cvae", "train"])],
)
def test_train_starts_what_has_no_runs_and_goes_on_with_what_has_some(
    more, installed, start, tmp_path, monkeypatch, capsys
):
    """Whether or not their runs may be read from `outputs`, too."""
    started = []
    monkeypatch.setattr("cvae.cli.claims.INSTALLED", installed)

    def run(command):
        assert command[:-1] == [sys.executable, *start]
        started.append(command[-1])
        return SimpleNamespace(returncode=int("ptb_cyclical" in command[-1]))

    monkeypatch.setattr("cvae.cli.claims.subprocess.run", run)
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "outputs" / "original" / "ptb_monotonic" / "a", "cyclical", 0, 1.0)
    finished(tmp_path / "mine" / "toy" / "a", "cyclical", 0, 1.0)
    assert claims_command(["mine", *more, "--train"]) == 1
    assert started == ["experiment=original/ptb_monotonic", "experiment=original/ptb_cyclical"]
    assert "experiment=original/ptb_cyclical ended with exit status 1" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        claims_command([str(tmp_path / "absent")])
    assert refusal.value.code == 2
    assert f"{tmp_path / 'absent'}: no such folder" in capsys.readouterr().err


def test_a_format_is_one_of_three(capsys):
    with pytest.raises(SystemExit):
        claims_command(["--format", "html"])
    assert "invalid choice: 'html'" in capsys.readouterr().err


def test_train_shows_what_it_has_trained(tmp_path, monkeypatch, capsys):
    def run(command):
        name = command[-1].removeprefix("experiment=")
        alone = name.split("_")[1:2] if name.startswith("original/") else []
        for schedule in alone or ("constant", "monotonic", "cyclical"):
            finished(tmp_path / "outputs" / name, schedule, 0, 4.321)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("cvae.cli.claims.subprocess.run", run)
    monkeypatch.chdir(tmp_path)
    assert claims_command(["--train"]) == 0
    assert "cyclical at 100 % 4.32 (n 1)" in capsys.readouterr().out


def test_runs_of_one_s_own_come_before_the_published_ones(tmp_path, monkeypatch, capsys):
    for place, value in (("outputs/published", 8.765), ("mine", 4.321)):
        finished(tmp_path / place / "toy" / "a", "cyclical", 0, value)
    finished(tmp_path / "outputs" / "published" / "original" / "ptb_cyclical" / "a", "cyclical", 0, 7.654)
    monkeypatch.chdir(tmp_path)
    for folders, told, untold in ((["mine"], "4.32", "8.7"), ([], "8.7", "4.32")):
        assert claims_command(folders) == 0
        said = capsys.readouterr().out
        assert f"cyclical at 100 % {told}" in said and f"% {untold}" not in said
        assert "cyclical 7.65" in said  # of an experiment without runs of one's own
