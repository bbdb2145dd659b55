"""Figures from made-up run folders: what is read, what is averaged, and that pictures appear."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from cvae.cli import figures as command
from cvae.cli.figures import main as figures_command
from cvae.errors import RunsError, UserError
from cvae.report import figures
from cvae.report.figures import animation, curves, run_pictures
from cvae.runs.reader import Run, find_runs, measured, read_classifiers, read_map, read_run
from cvae.schedules import Autoencoder, Constant, Cyclical, Monotonic
from tests.forked import Forks
from tests.helpers import ROOT

BETAS = {"constant": Constant(), "monotonic": Monotonic(), "cyclical": Cyclical(), "none": Autoencoder()}
TOTAL = 40000


def make_run(
    folder: Path,
    schedule: str = "cyclical",
    seed: int = 0,
    lr: str = "constant",
    until: int = TOTAL,
    task: str = "toy",
    latents: bool = True,
) -> Path:
    """A run folder with a record every 500 updates and a validation every 1,000."""
    folder.mkdir(parents=True)
    config = {
        "schedule": {"name": schedule, **({"cycles": 4} if schedule == "cyclical" else {})},
        "lr": {"name": lr},
        "seed": seed,
        "task": {"name": task},
        "train": {"steps": TOTAL},
    }
    (folder / "run.json").write_text(json.dumps({"config": config}))
    records, snapshots = [], []
    for step in range(500, until + 1, 500):
        beta, rec, kl = BETAS[schedule](step - 1, TOTAL), 2 + seed + math.exp(-step / 999), 0.5
        record = {"step": step, "train/rec": rec, "train/loss": rec + beta * kl, "train/beta": beta}
        check = {"step": step, "val/rec": rec, "val/accuracy": 0.71}
        if schedule != "none":
            record |= {"train/kl": kl, "train/elbo": -rec - kl}
            check |= {"val/kl": kl, "val/elbo": -rec - kl, "val/mi": 1.42}
        records += [record, check] if step % 1000 == 0 else [record]
        if step % 1000 == 0:
            mean = [[math.cos(n), math.sin(n)] for n in range(10)]
            logvar, label = [[-2.0, -1.0]] * 10, list(range(10))
            snapshots.append({"step": step, "mean": mean, "logvar": logvar, "label": label})
    write(folder / "metrics.jsonl", records)
    if latents:
        write(folder / "latents.jsonl", snapshots)
    return folder


def made(records: list[dict], schedule: str = "cyclical", lr: str = "constant", **config: object) -> Run:
    """A run with these records that has no folder."""
    names = {"schedule": {"name": schedule}, "lr": {"name": lr}, "task": {"name": "toy"}}
    return Run(Path(schedule, lr), names | config, records, {})


def snapshot_of(count: int) -> dict:
    """A record of so many sequences in one place."""
    return {"step": 1000, "mean": [[0, 0]] * count, "logvar": [[0, 0]] * count, "label": [*range(count)]}


def write(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def colours(path: Path) -> int:
    """How many distinct colours a PNG holds."""
    pixels = (imread(path)[..., :3] * 255).astype(np.uint32)
    return len(np.unique(pixels @ np.array([65536, 256, 1], dtype=np.uint32)))


def texts(figure) -> str:
    """All words of a figure, in one string."""
    found = [text.get_text() for text in figure.texts]
    for ax in figure.axes:
        found += [text.get_text() for text in ax.texts]
        found += [ax.get_title(loc) for loc in ("left", "center", "right")]
        found += [text.get_text() for text in ax.legend_.get_texts()] if ax.legend_ else []
    return "\n".join(found)


def side_by_side(figure: Figure) -> bool:
    """Whether all panels are inside a figure and none lies over another."""
    places = [ax.get_position() for ax in figure.axes]
    inside = all(min(place.min) >= 0 and max(place.max) <= 1 for place in places)
    return inside and all(place.count_overlaps(places) == 1 for place in places)  # with itself


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Three schedules, two seeds of the cyclical one."""
    for schedule in ("cyclical", "constant", "monotonic"):
        make_run(tmp_path / "toy" / schedule, schedule)
    make_run(tmp_path / "toy" / "cyclical-1", "cyclical", seed=1)
    return tmp_path / "toy"


def test_runs_are_found_at_any_depth_and_once(toy: Path):
    runs = find_runs([toy.parent, toy, toy / "constant", toy / ".." / toy.name])
    assert len(runs) == 4
    with pytest.raises(RunsError, match=r"^no folder given: no run found"):
        find_runs([])


def test_groups_are_in_the_papers_order_and_by_seed(toy: Path):
    groups = figures.style.group_runs(reversed(find_runs([toy])))
    assert [schedule for schedule, _ in groups] == ["constant", "monotonic", "cyclical"]
    assert [run.seed for run in groups["cyclical", "constant"]] == [0, 1]
    unknown = [("none", "another"), ("none", "constant"), ("a", "constant"), ("cyclical", "b")]
    assert figures.style.in_order(unknown) == [unknown[3], unknown[1], unknown[0], unknown[2]]


def test_the_learning_rate_is_named_only_where_it_varies(toy: Path):
    make_run(toy / "cosine", "cyclical", lr="cosine_restarts")
    groups = list(figures.style.group_runs(find_runs([toy])))
    assert groups[-2:] == [("cyclical", "constant"), ("cyclical", "cosine_restarts")]
    assert figures.style.labels(groups)[groups[-1]] == "Cyclical, cosine restarts lr"
    assert figures.style.labels(groups[:-1])[groups[0]] == "Constant"
    assert figures.style.labels([("a$b$", "constant")]) == {("a$b$", "constant"): r"A\$b\$"}  # no formula


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(toy: Path):
    other = make_run(toy / "cyclical-2", "cyclical", seed=2)
    content = json.loads((other / "run.json").read_text())
    content["config"]["schedule"]["cycles"] = 8
    (other / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunsError, match=r"cyclical-2.*differ in schedule"):
        figures.style.group_runs(find_runs([toy]))
    content["config"]["schedule"]["cycles"] = 4
    content["config"]["seed"] = 1
    (other / "run.json").write_text(json.dumps(content))
    with pytest.raises(
        RunsError, match=r"cyclical-1 and .*cyclical-2 cannot be averaged: they both have see"
    ):
        figures.style.group_runs(find_runs([toy]))


def test_seed_mean_averages_the_runs_that_have_the_step(tmp_path: Path):
    runs = [
        Run(tmp_path, {}, [{"step": 1, "x": 1.0}, {"step": 2, "x": 2.0}], {}),
        Run(tmp_path, {}, [{"step": 1, "x": 4.0}], {}),
        Run(tmp_path, {}, [{"step": 1, "x": 10.0}], {}),
    ]
    steps, mean, low, high = (part.tolist() for part in figures.style.seed_mean(runs, "x"))
    assert (steps, mean, low, high) == ([1, 2], [5.0, 2.0], [1.0, 2.0], [10.0, 2.0])


def test_series_takes_the_later_of_two_records_and_skips_nulls(tmp_path: Path):
    metrics = [
        {"step": 2, "x": 1},
        {"step": 1, "x": 5},
        {"step": 3, "x": None},
        {"step": 2, "x": 0},
    ]
    run = Run(tmp_path, {}, metrics, {})
    steps, values = run.series("x")
    assert (steps.tolist(), values.tolist(), run.last) == ([1, 2], [5.0, 0.0], 3)


@pytest.mark.parametrize("name", ["ppl", "iw_ppl", "refined_ppl", "refined_iw_ppl", "rec_ppl"])
def test_any_perplexity_of_null_has_overflown_and_other_measures_of_null_are_absent(name: str):
    record = {"step": 1, f"test/{name}": None, "test/kl": None, "val/iw_ppl": 3.0}
    assert measured(record, f"test/{name}") == math.inf
    assert measured(record, f"val/{name}") == (3.0 if name == "iw_ppl" else None)
    assert measured(record, "test/kl") is None


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("metrics.jsonl", '["step"', "not JSON (Expecting ',' delimiter: line 1 column 8 (char 7))"),
        ("metrics.jsonl", "[1]", "whole number 'step'"),
        ("metrics.jsonl", '{"step": true}', "whole number 'step'"),
        ("metrics.jsonl", '{"step": -1}', "whole number 'step'"),
        ("metrics.jsonl", f'{{"step": {2**63}}}', "whole number 'step'"),
        ("metrics.jsonl", f'{{"step": 1, "train/kl": {"9" * 400}}}', "train/kl must be a number"),
        ("metrics.jsonl", '{"step": 1, "train/kl": "a"}', "train/kl must be a number"),
        ("metrics.jsonl", '{"step": 1, "train/kl": NaN}', "train/kl must be a number"),
        ("metrics.jsonl", '{"step": 1, "train/kl": -Infinity}', "train/kl must be a number"),
        ("metrics.jsonl", '{"step": 1, "train/kl": true}', "train/kl must be a number"),
        ("latents.jsonl", '{"step": 1, "mean": [[0, 0]]}', "needs mean"),
        ("latents.jsonl", '{"step": 1, "mean": [[0], [0, 1]], "logvar": [[0]], "label": [0]}', "needs mean"),
        ("latents.jsonl", '{"step": 1, "mean": [["a"]], "logvar": [[0]], "label": [0]}', "needs mean"),
        ("latents.jsonl", '{"step": 1, "mean": [[{}]], "logvar": [[0]], "label": [0]}', "needs mean"),
        (
            "latents.jsonl",
            '{"step": 1, "mean": [[0]], "logvar": [[0, 0]], "label": [0]}',
            "mean (1, 1), logvar (1, 2) and label (1,) do not fit together",
        ),
        (
            "latents.jsonl",
            '{"step": 1, "mean": [[0]], "logvar": [[0]], "label": [0, 1]}',
            "mean (1, 1), logvar (1, 1) and label (2,) do not fit together",
        ),
        (
            "latents.jsonl",
            '{"step": 1, "mean": [0], "logvar": [0], "label": [0]}',
            "mean (1,), logvar (1,) and label (1,) do not fit together",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, line: str, message: str):
    folder = make_run(tmp_path / "run", until=1000)
    path = folder / name
    count = len(path.read_text().splitlines())
    path.write_text(f"{path.read_text()} \n{line}\n")  # behind a line of spaces, which counts as one
    with pytest.raises(RunsError) as caught:
        read_run(folder)
    assert f"{path}, line {count + 2}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "needs an object with a whole number 'seed'"),
        ({"mode": ...}, "has no mode"),
        ({"share": ..., "labels": ...}, "has no labels, share"),
        ({"share": "a"}, "share must be a number, found 'a'"),
        ({"val/fit": "a"}, "val/fit must be a number, found 'a'"),
        ({"mode": "guess"}, "needs a mode of finetune, probe, scratch, and numbers"),
        ({"test/accuracy": None}, "needs a mode of finetune, probe, scratch, and numbers"),
    ],
)
def test_a_malformed_classifier_is_named(tmp_path: Path, change: dict, message: str):
    good = {"seed": 0, "mode": "probe", "share": 0.1, "labels": 8, "test/accuracy": 0.5, "val/fit": None}
    write(tmp_path / "classifier.jsonl", [good])
    assert read_classifiers(tmp_path / "classifier.jsonl") == [good]
    bad = {key: value for key, value in (good | change).items() if value is not ...}
    write(tmp_path / "classifier.jsonl", [good, bad])
    with pytest.raises(RunsError) as refusal:
        read_classifiers(tmp_path / "classifier.jsonl")
    assert str(refusal.value).startswith(f"{tmp_path}/classifier.jsonl, line 2: {message}")


def test_a_line_still_being_written_is_left_alone_and_so_is_an_empty_one(tmp_path: Path):
    folder = make_run(tmp_path / "run", until=1000)
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("\n" + lines.replace("\n", "\n\n", 1))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1500, "train/r')
    assert read_run(folder).last == 1000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, ": no such file"),
        ("{", " cannot be read"),
        ("[]", " must hold a JSON object"),
        ("{}", ": has no object 'config'"),
        ('{"config": [1]}', ": has no object 'config'"),
        ('{"config": {}}', ": schedule, lr, task, dataset and model of the config need names"),
        (
            f'{{"config": {{"schedule": {{"name": "none"}}}}, "data": ["{"a" * 50}"]}}',
            f': data must be the fingerprints of files by name, found "[\'{"a" * 38}"',  # its beginning
        ),
        (
            '{"config": {"schedule": {"name": "none"}}, "continues": 3}',
            ": continues must be a list of objects, found '3'",
        ),
        (
            f'{{"config": {{"schedule": {{"name": "none"}}}}, "continues": [{"3" * 50}]}}',
            f": continues must be a list of objects, found '[{'3' * 39}'",
        ),
        ('{"config": {"schedule": {"name": "none"}, "model": {"name": 3}}}', ": schedule, lr, task, dataset"),
        (
            '{"config": {"schedule": {"name": "none"}, "dataset": {"name": 3}}}',
            ": schedule, lr, task, datase",
        ),
        (
            '{"config": {"schedule": {"name": "none"}, "seed": -1}}',
            ": the config's seed must be a whole number, found -1",
        ),
        (
            '{"config": {"schedule": {"name": "none"}, "seed": "1"}}',
            ": the config's seed must be a whole number, found '1'",
        ),
    ],
)
def test_a_malformed_run_json_is_named(tmp_path: Path, content: str | None, sentence: str):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError) as refusal:
        read_run(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path / 'run.json'}{sentence}")


@pytest.mark.parametrize(
    ("more", "seed", "said"),
    [
        ({}, {}, None),
        ({"continues": None}, {"seed": None}, None),
        ({"continues": [{"end": 9}, {"end": 12}]}, {"seed": 0}, "9 updates + 12 updates"),
    ],
)
def test_a_run_json_needs_no_more_than_the_name_of_a_schedule(more, seed, said, tmp_path: Path):
    content = {"config": {"schedule": {"name": "none"}} | seed} | more
    (tmp_path / "run.json").write_text(json.dumps(content))
    run = read_run(tmp_path)
    assert (run.seed, run.data, run.continues) == (0, {}, said)


@pytest.mark.parametrize("line", ['{"label": 1, "x": 0.5}', '{"label": 1, "x": 0.5, "y": "up"}'])
def test_a_point_of_a_map_needs_its_place(tmp_path: Path, line: str):
    (tmp_path / "map.jsonl").write_text(line + "\n")
    with pytest.raises(RunsError, match=rf"^{tmp_path}/map\.jsonl: a line has no numbers x and y$"):
        read_map(tmp_path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "true", '"1"'])
@pytest.mark.parametrize("key", ["test/kl", "step", "updates", "objective"])
def test_results_that_are_no_numbers_are_named(tmp_path: Path, key: str, value: str):
    folder = make_run(tmp_path / "run", until=1000)
    (folder / "results.json").write_text(f'{{"finished": true, "{key}": {value}}}')
    with pytest.raises(UserError, match=rf"results\.json: {key} must be a number"):
        read_run(folder)


def test_figure_2_shows_three_schedules_and_three_shapes():
    left, right = figures.schedules_figure().axes
    assert [line.get_label() for line in left.lines] == ["Constant", "Monotonic", "Cyclical"]
    assert [line.get_label() for line in right.lines] == ["linear", "sigmoid", "cosine"]
    said = [(ax.get_title("left"), ax.get_xlabel(), tuple(ax.get_yticks())) for ax in (left, right)]
    titles = ("(a) three schedules", "(b) shapes of the cyclical ramp")
    assert said == [(title, "update", (0, 0.5, 1)) for title in titles]
    steps, beta = left.lines[2].get_data()
    assert beta[list(steps).index(10000)] == 0
    assert beta[list(steps).index(5000)] == 1
    for line, eighths in ((left.lines[1], np.arange(8) + 0.5), (left.lines[2], np.arange(8) + 1)):
        places = steps[line.get_markevery()]  # side by side where the lines coincide
        np.testing.assert_allclose(places, 5000 * eighths, atol=10)


def test_all_clouds_share_one_noise():
    mean = np.array([[0.0, 0.0], [3.0, 1.0]])
    z, label = figures.latents.clouds(figures.latents.Snapshot(mean, np.zeros((2, 2)), np.array([4, 7])), 50)
    np.testing.assert_allclose(z[label == 7] - z[label == 4], np.tile([3.0, 1.0], (50, 1)))


def test_clouds_spread_as_the_posterior():
    mean, logvar = np.zeros((2, 2)), np.array([[-2.0, 0.0], [1.0, -4.0]])
    for common in (True, False):
        snapshot = figures.latents.Snapshot(mean, logvar, np.array([4, 7]))
        z, label = figures.latents.clouds(snapshot, 5000, common=common)
        for number, row in zip((4, 7), logvar, strict=True):
            assert z[label == number].std(0) == pytest.approx(np.exp(0.5 * row), rel=0.05)


def test_an_exact_cloud_is_the_means_once():
    snapshot = figures.latents.Snapshot(
        np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2)), np.array([4, 7])
    )
    z, label = figures.latents.clouds(snapshot, 50, exact=True)
    assert (z.tolist(), label.tolist()) == (snapshot.mean.tolist(), [4, 7])


def test_figure_3_names_cycles_numbers_and_the_drawn_seed(toy: Path):
    runs = find_runs([toy])
    figure = figures.latent_figure(runs)
    words = texts(figure)
    assert len(figure.axes) == 18 and side_by_side(figure)
    assert side_by_side(figures.latents.run_latents(runs[0], figures.latents.SNAPSHOTS))
    for word in ("1st cycle", "4th cycle", "31K", "I 1.42  acc 71%", "seed 0 (2 runs)"):
        assert word in words
    assert "3rd cycle" not in words


def test_a_shorter_run_that_made_all_its_own_updates_is_not_called_unfinished(toy: Path):
    run = replace(find_runs([toy])[0], metrics=[{"step": 100}], results={"updates": 100})
    assert (run.last, run.total) == (100, 100)
    assert curves._seeds([run], total=1000) == ""
    short = replace(run, metrics=[{"step": 98}], config=run.config | {"seed": 4})
    assert curves._seeds([short], total=1000) == " (to 98)"
    assert curves._seeds([run, short], total=1000) == " (2 seeds; seed 4 to 98)"
    near = replace(run, metrics=[{"step": 99}])  # the last record may be a little before the end
    assert curves._seeds([near], total=1000) == ""
    endless = made([{"step": 99}])  # as long as the others, nothing else says
    assert [curves._seeds([endless], total=total) for total in (100, 200)] == ["", " (to 99)"]


@pytest.mark.parametrize(("last", "places"), [(80, 8), (79, 8), (78, 7), (40, 4), (38, 3), (9, 1), (8, 0)])
def test_a_line_is_marked_at_eighths_of_training_as_far_as_it_goes(last: int, places: int):
    steps = np.arange(1, last + 1)
    found = steps[figures.style.marks(steps, 80)]
    assert np.abs(found - np.arange(10, 10 * places + 1, 10)).max(initial=0) <= 1
    later = steps[figures.style.marks(steps, 80, offset=-0.5)]
    assert later[:1].tolist() == [5] and (np.diff(later) >= 9).all()
    assert figures.style.marks(steps[:0], 80) == []


def test_a_band_over_seeds_is_explained_where_there_is_one(toy: Path):
    seeds, single = find_runs([toy]), find_runs([toy / "constant", toy / "monotonic"])
    for runs, explained in ((seeds, True), (single, False)):
        assert ("band: lowest to highest" in texts(figures.curves_figure(runs))) == explained


def test_a_run_s_title_says_how_far_it_came(tmp_path: Path):
    title = "toy  ·  schedule=cyclical  ·  lr=constant  ·  seed=3"
    for until, more in ((12000, "  ·  unfinished: 12K of 40K updates"), (TOTAL, "")):
        run = read_run(make_run(tmp_path / str(until), seed=3, until=until, latents=False))
        assert figures.style.run_title(run) == title + more
    odd = replace(run, config=run.config | {"schedule": {"name": "a$b$"}})
    assert r"schedule=a\$b\$  ·" in figures.style.run_title(odd)  # which is no formula
    for last, told in ((39599, True), (39600, False)):  # the last record may be a little before the end
        near = figures.style.run_title(replace(run, metrics=[{"step": last}]))
        assert ("unfinished" in near) == told


def test_unfinished_runs_are_drawn_and_what_is_missing_is_said(tmp_path: Path):
    make_run(tmp_path / "a", "constant")
    make_run(tmp_path / "b", "cyclical", until=12000)
    started = make_run(tmp_path / "c", "monotonic", latents=False)
    (started / "metrics.jsonl").unlink()
    runs = find_runs([tmp_path])
    assert "ends at\n12K" in texts(figures.latent_figure(runs))
    assert "no latents.jsonl" in texts(figures.latent_figure(runs))
    words = texts(figures.curves_figure(runs))
    assert "Cyclical (to 12K)" in words
    assert "Monotonic (no records yet)" in words
    assert "not recorded" not in words  # of a run that has only begun nobody can say


@pytest.mark.parametrize("size", [1, 3])
def test_figure_3_needs_a_plane(tmp_path: Path, size: int):
    folder = make_run(tmp_path / "a", latents=False)
    line = {"step": 1000, "mean": [[0.0] * size], "logvar": [[0.0] * size], "label": [0]}
    write(folder / "latents.jsonl", [line])
    with pytest.raises(RunsError, match=r"latents\.jsonl: only a 2-d latent can be drawn"):
        figures.latent_figure(find_runs([tmp_path]))


def test_figure_3_needs_a_posterior_with_snapshots(tmp_path: Path):
    make_run(tmp_path / "a", "none", until=1000)
    make_run(tmp_path / "b", "cyclical", until=1000, latents=False)
    with pytest.raises(RunsError, match=r"^none of the runs has both a posterior and a latents\.jsonl: use"):
        figures.latent_figure(find_runs([tmp_path]))


def test_a_snapshot_that_was_not_taken_is_said_in_its_place(tmp_path: Path):
    make_run(tmp_path / "run", until=2000)
    make_run(tmp_path / "without", "constant", until=2000, latents=False)
    panels = figures.latent_figure(find_runs([tmp_path]), (500, 1000, 3000)).axes
    words = [text.get_text() for ax in panels for text in ax.texts]
    assert words[:3] == ["no latents.jsonl"] * 3
    assert words[3:] == ["no\nsnapshot\nat 500", "I 1.42  acc 71%", "the run\nends at\n2K"]


def test_of_several_seeds_the_first_with_snapshots_is_drawn(tmp_path: Path):
    for seed in range(3):
        make_run(tmp_path / str(seed), seed=seed, until=1000, latents=seed > 0)
    figure = figures.latent_figure(find_runs([tmp_path]), (1000,))
    assert "seed 1 (3 runs)" in texts(figure) and figure.axes[0].collections


def test_a_schedule_of_another_name_is_drawn_too(tmp_path: Path):
    run = read_run(make_run(tmp_path / "run", until=2000))
    odd = replace(run, config=run.config | {"schedule": {"name": "odd"}})
    plane, lines = figures.latent_figure([odd], (1000,)), figures.curves_figure([odd])
    assert "Odd" in texts(plane) and "Odd" in texts(lines)
    look = {(line.get_marker(), line.get_color()) for ax in lines.axes[:3] for line in ax.lines}
    assert look - {("None", "#666666")} == {("v", "#CC79A7")}  # beside the entropy
    frames = list(figures.latent_animation([odd], samples=2, dpi=60))
    assert len(frames) == 2
    pixels = np.asarray(frames[1]) == (0xCC, 0x79, 0xA7)
    top, middle, bottom = (part.all(-1).any() for part in np.array_split(pixels, (25, 160)))
    assert (top, middle, bottom) == (True, False, True)  # its name and its β


def test_a_step_is_in_the_cycle_that_it_ends_unless_the_cycles_are_of_several_runs():
    bare = made([{"step": 11}], train={"steps": 40})
    other, unfinished = (
        replace(bare, config=bare.config | {"schedule": {"name": name, "cycles": 4}})
        for name in ("constant", "cyclical")
    )
    number = figures.latents.cycle_numbers
    assert number([other, unfinished], (1, 10, 11, 20, 40)) == [1, 1, 2, 2, 4]
    assert number([other], (1, 10)) is None
    assert number([replace(unfinished, continues="10 updates")], (1, 10)) is None


def test_cycles_are_named_by_their_ordinal_and_left_out_ones_by_dots():
    figure = Figure()
    cycles = [1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30]
    figures.latents._braces(figure, cycles, list(range(0, 2 * len(cycles), 2)))
    ordinals = "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 30th"
    names = [text.get_text() for text in figure.texts]
    assert names == [f"{name} cycle" for name in ordinals.split()] + ["…"] * 3


@pytest.mark.parametrize(("count", "inside"), [(20, True), (900, True), (3000, False)])
def test_a_point_is_outside_its_panel_only_among_many(count: int, inside: bool):
    z = np.zeros((count, 2))
    z[count // 2, 1] = -9
    assert (figures.latents.plane_limit([(z, np.zeros(count, dtype=int))]) > 9) == inside


def test_the_z_of_an_autoencoder_are_its_means_large_enough_to_be_seen(tmp_path: Path):
    dots = []
    for schedule in ("none", "cyclical"):
        run = read_run(make_run(tmp_path / schedule, schedule, until=1000))
        snapshot = {1000: figures.latents.Snapshot(*(np.zeros((64, 2)),) * 2, np.arange(64))}
        (panel,) = figures.latents.run_latents(replace(run, latents=snapshot), [1000]).axes
        dots.append(panel.collections[0])
    means, samples = (len(drawn.get_offsets()) for drawn in dots)
    assert means == 64 and samples > 1000
    assert dots[0].get_sizes() > 4 * dots[1].get_sizes()


@pytest.mark.parametrize("count", [10, 11])
def test_sequences_have_a_legend_as_long_as_there_is_a_colour_for_each(tmp_path: Path, count: int):
    write(make_run(tmp_path / "one", "constant", until=1000) / "latents.jsonl", [snapshot_of(1)])
    write(make_run(tmp_path / "run", until=1000) / "latents.jsonl", [snapshot_of(count)])
    figure = figures.latent_figure(find_runs([tmp_path]), (1000,))
    assert f"at most ln {count} = {math.log(count):.2f} nats" in texts(figure)
    shown = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    assert shown == ([["sequence n", *map(str, range(10))]] if count == 10 else [])


@pytest.mark.parametrize(("far", "limit"), [(0.0, 4), (3.7, 4), (4 / 1.05, 4), (4.1, 8), (9.0, 16)])
def test_the_picture_of_a_validation_is_as_wide_as_its_points_need(far: float, limit: int, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.latents, "draw_plane", lambda ax, *how: drawn.append((ax, *how)))
    mean = np.array([[0.0, 0.0], [0.0, -far]])
    snapshot = figures.latents.Snapshot(mean, np.full((2, 2), -80.0), np.array([0, 1]))
    picture = figures.latents.plane_picture(snapshot, 12000, exact=False)
    assert picture.shape == (286, 264, 3) and picture.dtype == np.uint8
    ((ax, (z, label), half, sigmas),) = drawn
    assert (half, sigmas) == (limit, (1, 2)) and np.bincount(label).tolist() == [100, 100]
    np.testing.assert_allclose(z[label == 1], np.tile(mean[1], (100, 1)), atol=1e-6)
    assert ax.get_title() == f"update 12,000, as far as ±{limit}"


def test_the_picture_of_a_validation_shows_samples_each_with_noise_of_its_own(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.latents, "draw_plane", lambda ax, cloud, *_: drawn.append(cloud))
    snapshot = figures.latents.Snapshot(np.zeros((2, 2)), np.zeros((2, 2)), np.array([0, 1]))
    for exact in (False, True):
        figures.latents.plane_picture(snapshot, 1, exact)
    (z, label), (means, _) = drawn
    assert abs(z[label == 0] - z[label == 1]).max() > 1 and z.std() > 0.8
    assert means.tolist() == [[0, 0], [0, 0]]


def test_figure_4_draws_the_mean_its_band_and_the_entropy(toy: Path):
    figure = figures.curves_figure(find_runs([toy]))
    rec = figure.axes[1]
    cyclical = next(line for line in rec.lines if line.get_label().startswith("Cyclical"))
    assert cyclical.get_ydata()[-1] == pytest.approx(2.5)
    (band,) = rec.collections
    edges = band.get_paths()[0].vertices
    last = edges[edges[:, 0] == TOTAL, 1]
    assert (last.min(), last.max()) == pytest.approx((2.0, 3.0))
    assert "ln 10" in texts(figure)


@pytest.mark.parametrize("tops", [(1, 4), (4, 1)])
def test_beneath_figure_4_every_beta_is_inside_its_strip(tops: tuple[int, int], tmp_path: Path):
    for schedule, top in zip(("constant", "cyclical"), tops, strict=True):
        folder = make_run(tmp_path / schedule, schedule, until=500, latents=False)
        write(folder / "metrics.jsonl", [{"step": n, "train/beta": n / 9 * top} for n in range(1, 10)])
    _, _, kl, *strips = figures.curves_figure(find_runs([tmp_path])).axes
    assert kl.get_title("right") == "not recorded: Constant, Cyclical"
    for strip in strips:
        assert strip.get_ylim()[0] < 0 and 4 < strip.get_ylim()[1] < 5


@pytest.mark.parametrize(("from_zero", "low"), [(False, 2), (True, 0)])
def test_the_first_tenth_may_leave_a_panel_and_nothing_else(from_zero: bool, low: float):
    ax = Figure().subplots()
    early, late = np.array([900.0, *[3.0] * 9, *[2.0] * 9, 5.0]), np.array([math.nan, math.inf, 4.0])
    figures.style.limit(ax, [early[1:2], early, late], from_zero)
    bottom, top = ax.get_ylim()
    assert low - 0.5 < bottom <= low and 5 < top < 5.5
    figures.style.limit(ax, [late[:2]], from_zero)
    assert ax.get_ylim() == (bottom, top)  # nothing to show
    for values in ([2.0, 2.0], [-3.0, 2.0], [-3.0, -3.0]):  # estimates of what cannot be negative may be
        figures.style.limit(ax, [np.array(values)], from_zero)
        bottom, top = ax.get_ylim()
        assert bottom <= values[0] <= values[1] < top and bottom <= (0 if from_zero else top)


def test_a_point_for_each_run_has_its_rate_its_distortion_and_hollow_markers_for_other_rates(tmp_path: Path):
    places = {}
    for number, (schedule, lr) in enumerate(
        [("cyclical", "constant"), ("cyclical", "another"), ("constant", "constant"), ("odd", "constant")]
    ):
        folder = make_run(tmp_path / str(number), "constant", lr=lr, until=500, latents=False)
        record = json.loads((folder / "run.json").read_text())
        record["config"]["schedule"] = {"name": schedule}
        (folder / "run.json").write_text(json.dumps(record))
        values = {"finished": True, "test/kl": float(number), "test/rec": 9.0 - number}
        (folder / "results.json").write_text(json.dumps(values))
        places[float(number), 9.0 - number] = schedule, lr
    unfinished = make_run(tmp_path / "unfinished", until=500, latents=False)
    (unfinished / "results.json").write_text('{"finished": false, "test/kl": 7.0, "test/rec": 7.0}')
    autoencoder = make_run(tmp_path / "autoencoder", "none", until=500, latents=False)
    for absent in ({}, {"test/kl": None}):
        (autoencoder / "results.json").write_text(json.dumps({"finished": True, "test/rec": 1.0} | absent))
        figure = figures.rate_figure(find_runs([tmp_path]))
        (ax,) = figure.axes
        points = [line for line in ax.get_lines() if len(line.get_xdata()) == 1]
        assert len(points) == len(places)
    assert {(*line.get_xdata(), *line.get_ydata()) for line in points} == places.keys()
    for line in points:
        schedule, lr = places[(*line.get_xdata(), *line.get_ydata())]
        assert line.get_marker() == figures.style.MARKERS.get(schedule, "v")
        assert line.get_color() == figures.style.COLOURS.get(schedule, "#666666")
        assert (line.get_markerfacecolor() == "none") == (lr == "another")
    without = [run for run in find_runs([tmp_path]) if run.group[1] != "constant"]
    filled = [line.get_markerfacecolor() for line in figures.rate_figure(without).axes[0].get_lines()]
    assert "none" not in filled[:1]  # the first rate of those shown, whatever its name
    left, right, low, high = *ax.get_xlim(), *ax.get_ylim()
    assert (left, right, low, high) == pytest.approx((-0.1, 3.24, 5.76, 9.24))
    assert len(ax.texts) > 3
    for text in ax.texts:  # lines of equal rec + KL are named where they leave the picture
        x, y = text.xy
        assert sum(text.xy) == pytest.approx(float(text.get_text()))
        assert left < x <= right and low <= y < high and (x == right or y == low)


@pytest.mark.parametrize("draw", [lambda run: figures.curves_figure([run]), curves.run_curves])
@pytest.mark.parametrize(("updates", "last"), [(100, 40), (100, 130), (None, 40), (None, 0)])
def test_the_axis_reaches_to_the_planned_end_and_to_the_last_record(draw, updates: int | None, last: int):
    run = made([{"step": last, "train/rec": 2.0}], train={"steps": updates})
    end = max(updates or 0, last) or 1
    for ax in draw(run).axes:
        left, right = ax.get_xlim()
        assert left == 0 and end < right < 1.05 * end


def test_the_constant_rate_is_solid_and_rates_have_styles_in_turn():
    rates = ["constant", *"abcd"]
    runs = [made([{"step": 1, "train/rec": 2.0}], lr=lr) for lr in reversed(rates)]
    drawn = {line.get_label(): line.get_linestyle() for line in figures.curves_figure(runs).axes[1].lines}
    assert [name for name, style in drawn.items() if style == "-"] == [
        "Cyclical, constant lr",
        "Cyclical, d lr",
    ]
    looks = [str(figures.style.look_of(("cyclical", lr), rates)["linestyle"]) for lr in rates]
    assert len(set(looks)) == 4 and looks[4] == looks[0]


@pytest.mark.parametrize(("key", "low"), [("val/elbo", True), ("train/loss", False)])
def test_the_legend_is_not_where_the_curves_end(key: str, low: bool):
    """A bound rises, what is lost falls."""
    run = made([{"step": 1, key: 2.0}])
    figure = figures.curves_figure([run], ((key, "one"), ("train/kl", "other")))
    figure.draw_without_rendering()
    ax = figure.axes[0]
    corners = ax.transAxes.inverted().transform(ax.legend_.get_window_extent())
    assert corners.mean(axis=0)[0] > 0.5 and (corners.mean(axis=0)[1] < 0.5) == low


@pytest.mark.parametrize("task", ["toy", "ptb"])
def test_the_curves_of_a_run_are_inside_their_panels_where_validation_ends_higher(task: str):
    records = [{"step": n, "train/rec": 2.0, "val/rec": 900.0 if n == 1 else 50.0} for n in range(1, 21)]
    records[-1]["val/kl"] = 3.0
    run = made(records, task={"name": task}, dataset={"sequences": 16})
    figure = curves.run_curves(run)
    loss, rec, kl = figure.axes[:3]
    assert rec.get_ylim()[0] <= 2 and 50 < rec.get_ylim()[1] < 100
    assert [text.get_text() for text in rec.legend_.get_texts()] == ["training", "validation"]
    words = [[text.get_text() for text in ax.texts] for ax in (loss, rec, kl)]
    assert words == [["not recorded", "ln 16"] if task == "toy" else ["not recorded"], [], []]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_sets_runs_apart_is_told_by_a_colour_of_each(count: int):
    runs = [
        replace(made([], dataset={"size": n}), results={"finished": True, "test/kl": n, "test/rec": n})
        for n in range(count)
    ]
    figure = figures.rate_figure(runs)
    points = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 1]
    assert len({line.get_color() for line in points}) == count
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["Cyclical", *(["plain", "size=1", "size=2"][:count] if count > 1 else [])]


def test_a_line_of_equal_bounds_that_only_touches_a_corner_has_no_name():
    run = replace(made([]), results={"finished": True, "test/kl": 1.0, "test/rec": 1.0})
    (ax,) = figures.rate_figure([run]).axes
    assert (*ax.get_xlim(), *ax.get_ylim()) == (0.5, 1.5, 0.5, 1.5)
    assert [text.get_text() for text in ax.texts] == ["1.25", "1.5", "1.75", "2", "2.25", "2.5", "2.75"]


@pytest.mark.parametrize("draw", [figures.curves_figure, figures.rate_figure])
def test_a_figure_of_several_runs_shows_one_task_only(toy: Path, draw):
    make_run(toy / "ptb", task="ptb", latents=False)
    with pytest.raises(RunsError, match="ptb, toy"):
        draw(find_runs([toy]))


def test_figure_4_says_that_an_autoencoder_has_no_kl(toy: Path):
    make_run(toy / "none", "none")
    make_run(toy / "none-1", "none", seed=1, until=0)  # which has only begun
    figure = figures.curves_figure(find_runs([toy]))
    assert figure.axes[2].get_title("right") == "not recorded: Autoencoder"
    alone = figures.curves_figure(find_runs([toy]), (("train/kl", "KL"),))  # without the entropy of the loss
    assert alone.axes[0].get_title("right") == "not recorded: Autoencoder" and "ln 10" not in texts(alone)


def test_the_curves_of_a_run_have_its_validations_beside_its_training(tmp_path: Path):
    run = read_run(make_run(tmp_path / "run", until=3000))
    loss, rec, kl, *strips = figures.curves.run_curves(run).axes
    for strip in strips:
        (line,) = strip.get_lines()
        np.testing.assert_array_equal(line.get_data(), run.series("train/beta"))
    panels = {"train/loss": (loss, -run.series("val/elbo")[1])}
    panels |= {f"train/{name}": (ax, run.series(f"val/{name}")[1]) for name, ax in (("rec", rec), ("kl", kl))}
    for key, (ax, checks) in panels.items():
        training, validation = (line.get_ydata().tolist() for line in ax.get_lines()[:2])
        assert (training, validation) == (run.series(key)[1].tolist(), checks.tolist())


@pytest.mark.parametrize(("until", "said"), [(0, ["no records yet"] * 3), (1000, ["not recorded"])])
def test_a_panel_without_curves_says_why(tmp_path: Path, until: int, said: list[str]):
    run = read_run(make_run(tmp_path / "run", "none", until=until))
    panels = figures.curves.run_curves(run).axes[:3]
    words = [text.get_text() for ax in panels for text in ax.texts]
    assert [word for word in words if word != "ln 10"] == said


def test_run_pictures_of_a_toy_run(tmp_path: Path):
    written = run_pictures(make_run(tmp_path / "run"))
    assert [path.name for path in written] == ["curves.png", "latents.png"]
    assert colours(written[0]) > 50
    assert colours(written[1]) > 1000


@pytest.mark.parametrize("until", [0, 3000])
def test_run_pictures_of_an_unfinished_autoencoder(tmp_path: Path, until: int):
    written = run_pictures(make_run(tmp_path / "run", "none", until=until))
    assert [path.name for path in written] == ["curves.png", "latents.png"][: 2 if until else 1]


def test_run_pictures_skip_a_latent_that_is_no_plane(tmp_path: Path):
    folder = make_run(tmp_path / "run", task="ptb", until=1000)
    record = {"step": 1000, "mean": [[0, 0, 0]], "logvar": [[0, 0, 0]], "label": [0]}
    write(folder / "latents.jsonl", [record])
    assert run_pictures(folder) == [folder / "curves.png"]
    with pytest.raises(RunsError, match="2-d"):
        figures.latent_figure(find_runs([folder]))


def test_the_animation_has_a_frame_for_each_update_that_all_schedules_have(tmp_path: Path):
    make_run(tmp_path / "a", "constant", until=3000)
    make_run(tmp_path / "b", "cyclical", until=2000)
    make_run(tmp_path / "c", "none", until=1000)
    assert side_by_side(animation._axes(find_runs([tmp_path]), samples=20)[0])
    frames = list(figures.latent_animation(find_runs([tmp_path]), samples=20, dpi=50))
    assert len(frames) == 2
    path = figures.save_gif(iter(frames), tmp_path / "to" / "latents.gif", seconds=0.2, rest=1.5)
    with Image.open(path) as gif:
        assert gif.n_frames == 2 and gif.info["loop"] == 0  # without end
        lasting = [gif.seek(place) or gif.info["duration"] for place in range(2)]
        assert lasting == [200, 1500]  # milliseconds: it rests at the last
        assert len(gif.convert("RGB").getcolors(1000)) > 20
    (tmp_path / "a" / "latents.jsonl").unlink()
    assert len(list(figures.latent_animation(find_runs([tmp_path / "b"]), 20, 50))) == 2
    line = {"step": 1000, "mean": [[0.0] * 3], "logvar": [[0.0] * 3], "label": [0]}
    write(make_run(tmp_path / "d", "monotonic", latents=False) / "latents.jsonl", [line])
    with pytest.raises(RunsError, match="2-d"):
        list(figures.latent_animation(find_runs([tmp_path / "b", tmp_path / "d"])))
    with pytest.raises(RunsError, match="2-d"):
        list(figures.latent_animation(find_runs([tmp_path / "a"])))


def test_the_colours_of_the_middle_frame_are_kept(tmp_path: Path):
    frames = [Image.new("RGB", (8, 8)) for _ in range(3)]
    frames[1].paste((200, 30, 40), (2, 2, 8, 8))
    with Image.open(figures.save_gif(iter(frames), tmp_path / "one.gif")) as gif:
        gif.seek(1)
        assert gif.convert("RGB").getpixel((4, 4)) == pytest.approx((200, 30, 40), abs=4)


def test_spread_steps():
    thousands = range(1000, 41000, 1000)
    assert figures.latents.spread_steps(thousands) == list(figures.latents.SNAPSHOTS)
    assert figures.latents.spread_steps([7, 3]) == [3, 7]
    assert figures.latents.spread_steps(range(10, 121, 10))[-1] == 120
    assert len(figures.latents.spread_steps(range(10, 121, 10))) == 6


def test_the_script_writes_what_it_prints(tmp_path: Path, forks: Forks):
    done = forks.run(ROOT / "scripts" / "figures.py", "2", "--to", tmp_path / "figs", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    png, pdf = map(Path, done.stdout.split())
    assert (png.name, pdf.name) == ("figure2_schedules.png", "figure2_schedules.pdf")
    assert colours(png) > 50
    assert pdf.read_bytes()[:4] == b"%PDF"
    assert b"CreationDate" not in pdf.read_bytes()


@pytest.mark.parametrize(("more", "dpi"), [([], 150), (["--dpi", "20"], 20)])
def test_a_picture_has_the_dots_per_inch_that_are_asked_for(more: list[str], dpi: int, tmp_path: Path):
    assert figures_command(["2", "--to", str(tmp_path), *more]) == 0
    with Image.open(tmp_path / "figure2_schedules.png") as picture:
        assert picture.size == (11 * dpi, round(3.3 * dpi))  # the figure is 11 by 3.3 inches


def test_a_run_s_own_pictures_have_150_dots_per_inch(tmp_path: Path):
    (path,) = figures.save(Figure(figsize=(2, 1)), tmp_path / "new" / "folder", "empty", ["png"])
    with Image.open(path) as picture:
        assert picture.size == (300, 150)


def test_the_script_answers_a_folder_without_runs_in_one_sentence(tmp_path: Path, forks: Forks):
    done = forks.run(ROOT / "scripts" / "figures.py", "4", tmp_path, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"figure 4: {tmp_path}: no run found (no run.json in or below)\n"


def test_the_script_writes_the_animation(tmp_path: Path, capsys: pytest.CaptureFixture):
    make_run(tmp_path / "run", until=2000)
    assert figures_command(["animation", str(tmp_path / "run"), "--to", str(tmp_path / "figs")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/figs/latents.gif\n"
    with Image.open(tmp_path / "figs" / "latents.gif") as gif:
        assert gif.n_frames == 2
        first = gif.info["duration"]
        gif.seek(1)
        assert gif.info["duration"] > 2 * first  # it rests on the last frame


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("3", "figure3_latents", "300 samples of q(z|n) for each n, with common noise, as far as ±2.5; "),
        ("4", "figure4_curves", "(a) loss: rec + "),
        ("curves", "curves", "(a) ELBO, validation\n"),
        ("rate", "rate", "none of these runs is finished and has test/kl and test/rec\n"),
        ("accuracy", "accuracy", "none of these runs has classifiers"),
        ("map", "map", "none of the runs has a map.jsonl"),
    ],
)
def test_each_name_draws_its_figure(name: str, file: str, words: str, tmp_path: Path, monkeypatch, capsys):
    make_run(tmp_path / "run", until=2000)
    saved = []

    def save(figure: Figure, folder: Path, name: str, dpi: int) -> list[Path]:
        saved.append((folder, name, dpi))
        print(texts(figure))
        return [folder / f"{name}.png"]

    monkeypatch.setattr(figures, "save", save)
    drawn = "none" not in words
    assert figures_command([name, str(tmp_path / "run"), str(tmp_path)]) == (0 if drawn else 1)
    said = capsys.readouterr()
    assert saved == ([(tmp_path / "run", file, 150)] if drawn else [])  # in the first folder
    assert words in (said.out if drawn else said.err)
    assert said.err.startswith("" if drawn else f"figure {name}: ")


def test_all_of_the_paper_s_figures_are_drawn_though_one_cannot_be(tmp_path: Path, monkeypatch, capsys):
    def save(figure: object, folder: Path, name: str, dpi: int) -> list[Path]:
        if name == "figure2_schedules":
            raise OSError(errno.ENOSPC, "No space left")
        return [Path(name)]

    make_run(tmp_path / "run", until=2000, latents=False)
    monkeypatch.setattr(figures, "save", save)
    assert figures_command(["all", str(tmp_path / "run")]) == 1
    out, err = capsys.readouterr()
    assert out.split() == ["figure4_curves"]
    second, third = err.splitlines()
    assert second.startswith("figure 2: ") and "No space left" in second
    assert third.startswith("figure 3: none of the runs has both")
    assert figures_command(["animation", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.startswith("animation: ")
    assert command.parse(["2"]).to == Path("outputs/figures")


def test_a_closed_pipe_is_no_figure_that_cannot_be_drawn(monkeypatch, capsys: pytest.CaptureFixture):
    def closed(*_: object) -> list[Path]:
        raise BrokenPipeError

    monkeypatch.setattr(command, "draw", closed)
    with pytest.raises(BrokenPipeError):
        figures_command.__wrapped__(["2"])
    assert capsys.readouterr() == ("", "")


def test_an_absent_folder_is_named(tmp_path: Path):
    with pytest.raises(RunsError, match="absent: no such folder"):
        find_runs([tmp_path / "absent"])


def test_folders_without_runs_are_named(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for names, said in ((("a", "b"), f"{tmp_path}/a, {tmp_path}/b"), ((), "no folder given")):
        with pytest.raises(RunsError) as refusal:
            find_runs([tmp_path / name for name in names])
        assert str(refusal.value) == f"{said}: no run found (no run.json in or below)"
