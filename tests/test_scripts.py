"""evaluate, table, status and publish on run folders."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cvae import figures
from cvae.folder import RunFolder
from cvae.reading import UserError
from cvae.run import run
from cvae.runs import RunsError, differing_keys, find_runs
from cvae.sweeps import find_jobs, plan, seconds_left
from cvae.tables import Cell, around, direction, rows

ROOT = Path(__file__).parent.parent
SIZES = (
    "train.steps=20",
    "train.log_every=5",
    "train.validate_every=10",
    "dataset.draws=2",
    "task.samples=10",
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their names
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory, configured) -> Path:
    """Two schedules, two seeds, and a third schedule that is not finished."""
    folder = tmp_path_factory.mktemp("outputs") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "run_pictures", lambda path: [])
        for schedule, seed in (("constant", 0), ("constant", 1), ("cyclical", 0), ("cyclical", 1)):
            config = configured(f"schedule={schedule}", f"seed={seed}", *SIZES)
            run(config, RunFolder(folder / f"{schedule}-{seed}"))
        config = configured("schedule=monotonic", "train.stop_after=12", *SIZES)
        run(config, RunFolder(folder / "monotonic-0"))
    return folder


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluate_prints_what_training_recorded(split, runs, capsys):
    folder = runs / "cyclical-1"
    assert script("evaluate").main([str(folder), split]) == 0
    results = json.loads((folder / "results.json").read_text())
    recorded = {key: value for key, value in results.items() if key.startswith(f"{split}/")}
    assert json.loads(capsys.readouterr().out) == recorded


def test_evaluate_weighs_as_many_samples_and_sentences_as_asked(runs, capsys):
    evaluate, folder = script("evaluate").main, str(runs / "cyclical-1")
    found = []
    for flags in (["--iw-samples", "7", "--iw-sentences", "all"], ["--chunk", "3", "--iw-sentences", "6"]):
        assert evaluate([folder, *flags]) == 0
        values = json.loads(capsys.readouterr().out)
        found.append(tuple(values[f"test/iw_{name}"] for name in ("samples", "sentences", "chunk")))
    assert found == [(7, 20, 1000), (50, 6, 3)]
    for flags in (["--iw-samples", "0"], ["--iw-sentences", "many"], ["--chunk", "-1"]):
        with pytest.raises(SystemExit):
            evaluate([folder, *flags])
        assert f"argument {flags[0]}: invalid" in capsys.readouterr().err


def test_paths_are_tracked_and_kl_by_dimension_is_a_result_only(runs):
    for run_folder in (runs / "constant-0", runs / "cyclical-1"):
        (found,) = find_runs([run_folder])
        for name in ("mi", "au", "path_a", "path_a_prior", "path_b"):
            assert list(found.series(f"val/{name}")[0]) == [10, 20]
        assert found.at("test/iw_nll", 20) == found.results["test/iw_nll"]
        assert not [key for record in found.metrics for key in record if "kl_dim" in key]
        dimensions = [found.results[f"test/kl_dim/0{place}"] for place in range(2)]
        assert sum(dimensions) == pytest.approx(found.results["test/kl"])
        assert found.results["test/mi_examples"] == 10


def test_evaluate_refuses_in_a_sentence(runs, tmp_path, capsys):
    evaluate = script("evaluate").main
    assert evaluate([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert evaluate([str(runs / "constant-0"), "--data", "elsewhere"]) == 1
    assert "generated" in capsys.readouterr().err


def test_evaluate_refuses_a_corpus_that_has_changed(tmp_path, configured, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("train", "valid", "test"):
        (corpus / f"{name}.txt").write_text("the cat sat\na dog ran off\n" * 4)
    sizes = ("model.embed=4", "model.hidden=4", "model.latent=2", "train.epochs=1")
    folder = tmp_path / "run"
    run(configured("task=ptb", f"dataset.path={corpus}", *sizes), RunFolder(folder))
    evaluate = script("evaluate").main
    assert evaluate([str(folder)]) == 0
    moved = corpus.rename(tmp_path / "moved")
    assert evaluate([str(folder), "test", "--data", str(moved)]) == 0
    assert evaluate([str(folder)]) == 1
    assert f"no data at {corpus}" in capsys.readouterr().err
    (moved / "test.txt").write_text("the cat sat\n")
    assert evaluate([str(folder), "test", "--data", str(moved)]) == 1
    assert "other data: test changed" in capsys.readouterr().err


def test_a_row_is_what_differs_and_seeds_are_folded(runs, capsys):
    found = find_runs([runs])
    assert differing_keys(found) == ["schedule.name"]
    assert script("table").main([str(runs)]) == 0
    head, _, *body, between, note = capsys.readouterr().out.splitlines()
    assert head.startswith("| schedule.name | n | test/elbo | test/rec | test/kl |")
    assert (between, note) == ("", f"- stopped {runs / 'monotonic-0'}: 12 of 20 updates")
    names, counts = zip(*(line.split(" | ")[:2] for line in body), strict=True)
    assert names == ("| constant", "| monotonic", "| cyclical")
    assert counts == ("2", "0 of 1", "2")
    elbos = [run.results["test/elbo"] for run in found if run.group[0] == "constant"]
    mean = sum(elbos) / 2
    std = math.sqrt(sum((elbo - mean) ** 2 for elbo in elbos))
    assert f"{mean:.2f} ± {std:.2f}" in body[0]
    assert "| – |" in body[1]


def faked(folder: Path, place: str, seed: int, **schedule) -> None:
    """A run folder with nothing but a configuration in it."""
    config = {"seed": seed, "task": {"name": "toy"}, "schedule": {"name": "cyclical"} | schedule}
    (folder / place).mkdir(parents=True)
    (folder / place / "run.json").write_text(json.dumps({"config": config}))


def reported(folder: Path, place: str, seed: int, results: dict[str, float], **schedule) -> None:
    """A finished run with these results."""
    faked(folder, place, seed, **schedule)
    (folder / place / "results.json").write_text(json.dumps({"finished": True} | results))


def test_the_best_is_bold_where_better_is_defined_and_formats_agree(tmp_path, capsys):
    for seed, ppl in ((0, 99.0), (1, 101.0)):
        results = {"test/ppl": ppl, "test/elbo": -4.0, "test/kl": 1.0}
        reported(tmp_path, f"a{seed}", seed, results, name="constant")
    reported(tmp_path, "b", 0, {"test/ppl": 102.0, "test/elbo": -3.0, "test/kl": 2.0})
    table, columns = script("table").main, ["--columns", "test/ppl", "test/elbo", "test/kl"]
    said = {}
    for kind in ("markdown", "csv", "latex"):
        assert table([str(tmp_path), *columns, "--format", kind]) == 0
        said[kind] = capsys.readouterr().out.splitlines()
    assert said["markdown"][2:] == [
        "| constant | 2 | **100.0 ± 1.4** | -4.00 ± 0.00 | 1.00 ± 0.00 |",
        "| cyclical | 1 | 102.0 | **-3.00** | 2.00 |",
    ]
    assert said["csv"] == [
        "schedule.name,n,test/ppl,test/ppl std,test/elbo,test/elbo std,test/kl,test/kl std",
        "constant,2,100.0,1.4142135623730951,-4.0,0.0,1.0,0.0",
        "cyclical,1,102.0,,-3.0,,2.0,",
    ]
    assert r"constant & 2 & \textbf{100.0 $\pm$ 1.4} & -4.00 $\pm$ 0.00 & 1.00 $\pm$ 0.00 \\" in said["latex"]


def test_a_failing_run_leaves_its_error_until_a_good_start(tmp_path, configured, monkeypatch, capsys):
    folder, config = RunFolder(tmp_path / "run"), configured(*SIZES, "train.stop_after=5")
    with monkeypatch.context() as patch:
        patch.setattr("cvae.loop.Loop.run", lambda loop, recorder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(config, folder)
    assert (folder.state, folder.error) == ("failed", "ZeroDivisionError: division by zero")
    assert "Traceback" in (folder / "error.txt").read_text()
    assert "division by zero" in (folder / "train.log").read_text()
    assert script("table").main([str(tmp_path), "--at", "1"]) == 0
    assert f"- failed {folder}: ZeroDivisionError: division by zero" in capsys.readouterr().out
    run(config, folder)
    assert (folder.state, folder.error) == ("stopped", "")
    with folder.held():
        assert folder.state == "running"


def test_status_counts_runs_and_says_when_they_end(tmp_path, capsys):
    plan({str(tmp_path / name): [f"a={name}"] for name in "abcde"})
    reported(tmp_path, "a", 0, {"updates": 100, "step": 100, "time/training_seconds": 3600.0})
    reported(tmp_path, "b", 0, {"updates": 100, "step": 0, "finished": False})
    timed = {"step": 40, "time/seconds": 40 * 72.0}
    (tmp_path / "b" / "metrics.jsonl").write_text(f"{json.dumps(timed)}\n" + json.dumps({"step": 50}) + "\n")
    faked(tmp_path, "c", 0)
    RunFolder(tmp_path / "d").fail(UserError("no such file"))
    with RunFolder(tmp_path / "b").held():
        # b: 50 updates of 72 s; c and e: 100 each, of (36 + 72) / 2 s; d only when it is started again
        assert seconds_left(find_jobs([tmp_path])) == pytest.approx(50 * 72 + 2 * 100 * 54)
        assert script("status").main([str(tmp_path)]) == 0
    counts, end, *lines = capsys.readouterr().out.splitlines()
    assert counts == "5 runs: 1 done, 1 running, 1 failed, 1 stopped, 1 missing"
    assert end.startswith("about 4:00:00 left, until ")
    assert lines == [
        f"running {tmp_path}/b: 50 of 100 updates",
        f"stopped {tmp_path}/c",
        f"failed {tmp_path}/d: no such file",
        f"missing {tmp_path}/e: python train.py a=e",
    ]
    assert seconds_left(find_jobs([tmp_path])) is None


def test_a_sweep_ends_no_sooner_than_its_longest_run():
    def job(state: str, step: int, total: int | None, pace: float | None) -> SimpleNamespace:
        return SimpleNamespace(state=state, progress=(step, total, pace))

    running = [job("running", 90, 100, 2.0), job("running", 0, 100, 8.0)]
    assert seconds_left(running) == 800
    assert seconds_left([*running, job("stopped", 40, 100, 20.0)]) == (20 + 800 + 1200) / 2
    assert seconds_left([*running, job("failed", 0, 100, 99.0)]) == 800


def test_the_table_along_training_averages_the_window_before_a_step(runs, capsys):
    found = [run for run in find_runs([runs]) if run.group[0] == "cyclical"]
    records = [record for run in found for record in run.metrics if record["step"] in (15, 19)]
    expected = [sum(r["train/kl"] for r in records[i : i + 2]) / 2 for i in (0, 2)]
    for window in (9, 10):  # not the record at 10
        assert around(found, "train/kl", 20, window).values == pytest.approx(expected)
    assert around(found, "train/kl", 20, 11).values != pytest.approx(expected)
    (stopped,) = (run for run in find_runs([runs]) if run.group[0] == "monotonic")
    assert [len(around([stopped], "train/kl", step, 5).values) for step in (10, 11, 12)] == [1, 1, 0]
    assert script("table").main([str(runs), "--at", "10", "20"]) == 0
    assert "| monotonic | 0 of 1 | train/kl |" in capsys.readouterr().out


def test_other_settings_of_one_schedule_are_other_rows_and_a_seed_counts_once(tmp_path):
    faked(tmp_path, "a", 0, cycles=2)
    faked(tmp_path, "b", 1, cycles=2)
    faked(tmp_path, "c", 0, cycles=4)
    faked(tmp_path, "d", 0, name="constant")
    found = find_runs([tmp_path])
    assert differing_keys(found) == ["schedule.name", "schedule.cycles"]
    assert sorted(map(len, rows(found, ()).values())) == [1, 1, 2]
    faked(tmp_path, "e", 1, cycles=2)
    with pytest.raises(RunsError, match="both have seed 1"):
        rows(find_runs([tmp_path]), ())


def test_published_copies_are_read_only_where_they_are_asked_for(tmp_path):
    faked(tmp_path, "outputs/toy/a", 0)
    faked(tmp_path, "outputs/published/toy/a", 0)
    assert len(find_runs([tmp_path / "outputs"])) == 1
    assert len(find_runs([tmp_path / "outputs" / "published"])) == 1


@pytest.mark.parametrize(
    ("sign", "keys"),
    [
        (1, "test/elbo val/refined_elbo test/iw_elbo test/bleu4_f1 test/accuracy/probe/0.1"),
        (-1, "test/rec test/ppl val/refined_rec test/refined_iw_nll test/iw_ppl"),
        (0, "test/kl test/mi test/au test/accuracy test/path_a test/refined_kl time/training_seconds"),
    ],
)
def test_which_way_a_measure_is_better(sign, keys):
    assert {key: direction(key) for key in keys.split()} == dict.fromkeys(keys.split(), sign)


def test_a_cell_says_mean_and_sample_deviation():
    assert str(Cell((1.0, 2.0, 3.0))) == "2.00 ± 1.00"
    assert str(Cell((101.26,))) == "101.3"
    assert str(Cell(())) == "–"


def test_publishing_keeps_means_and_validations_and_drops_places(runs, tmp_path, capsys):
    assert script("publish").main([str(runs), "--to", str(tmp_path), "--thin", "2"]) == 0
    (original,) = find_runs([runs / "constant-0"])
    (copy,) = find_runs([tmp_path / "toy" / "constant-0"])
    assert copy.results == original.results
    steps, rec = original.series("train/rec")
    assert list(copy.series("train/rec")[0]) == [0, 10, 19]
    varied = [{"step": n, "train/rec": 1.0 * n, "train/beta": n / 8, "train/lr": n / 4} for n in range(5)]
    thin = list(script("publish").thinned(varied, 2))
    assert [list(record.values()) for record in thin] == [
        *([0, 0.0, 0.0, 0.0], [2, 1.5, 0.25, 0.5], [4, 3.5, 0.5, 1.0])
    ]
    assert copy.series("train/rec")[1][1] == pytest.approx(rec[(steps > 0) & (steps <= 10)].mean(), rel=1e-5)
    assert copy.series("val/kl")[1] == pytest.approx(original.series("val/kl")[1], rel=1e-5)
    assert sorted(copy.latents) == sorted(original.latents)
    assert "path" not in copy.config["dataset"]


def test_a_published_run_names_no_place_of_this_machine(tmp_path):
    config = {"seed": 0, "task": {"name": "ptb"}, "dataset": {"name": "ptb", "path": "/home/me/ptb"}}
    folder = tmp_path / "ptb" / "a"
    folder.mkdir(parents=True)
    about = {"config": config, "command": "python train.py dataset.path=/home/me/ptb"}
    (folder / "run.json").write_text(json.dumps(about))
    assert script("publish").main([str(tmp_path / "ptb"), "--to", str(tmp_path / "to")]) == 0
    copy = (tmp_path / "to" / "ptb" / "a" / "run.json").read_text()
    assert "/home/me" not in copy and json.loads(copy)["config"]["dataset"] == {"name": "ptb"}


class Balanced(HTMLParser):
    """Fails on tags that do not match, and collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.words = ""

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_report_is_one_page_with_tables_figures_sentences_and_failures(runs, tmp_path, capsys):
    folder = tmp_path / "toy"
    shutil.copytree(runs, folder)
    plan({str(folder / "gone"): ["schedule=<none>"]})
    RunFolder(folder / "broken").fail(UserError("no <data> at all"))
    assert script("report").main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    page = Balanced()
    page.feed((folder / "report.html").read_text())
    assert page.open == []
    assert len(page.loaded) == 3
    assert all(uri.startswith("data:image/png;base64,") for uri in page.loaded)
    shared = script("report").settings(find_runs([folder]))
    assert shared["dataset"]["draws"] == 2 and "seed" not in shared and "name" not in shared["schedule"]
    mean = find_runs([folder / "cyclical-0", folder / "cyclical-1"])
    for words in (
        "7 runs: 4 done, 1 failed, 1 stopped, 1 missing",
        "no <data> at all",
        "python train.py 'schedule=<none>'",
        f"{sum(one.results['test/rec'] for one in mean) / 2:.2f}",
        "constant, seed 0",
        "z from the prior",
        "draws: 2",
    ):
        assert words in page.words


def test_the_report_looks_at_quarters_of_the_longest_run(tmp_path):
    for seed, updates in enumerate((8, 40)):
        reported(tmp_path, str(seed), seed, {"updates": updates})
        records = [{"step": step, "train/rec": 1.0} for step in range(updates)]
        path = tmp_path / str(seed) / "metrics.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    caption, table = script("report").along_training(find_runs([tmp_path]))
    assert table.head[-4:] == ["10", "20", "30", "40"] and "10 updates" in caption


def test_the_reports_markdown_is_that_of_samples():
    text = "## A `b`\n\n- one <unk>\n  - two\n- three\n1. four **five**\n\nsix"
    assert script("report").markdown(text).replace("\n", "") == (
        "<h4>A <code>b</code></h4><ul><li>one &lt;unk&gt;</li><ul><li>two</li></ul><li>three</li>"
        "<li>four <b>five</b></li></ul><p>six</p>"
    )


def test_scripts_name_what_is_missing(tmp_path, capsys):
    for name in ("table", "publish", "report", "status"):
        assert script(name).main([str(tmp_path / "nowhere")]) == 1
        assert "no such folder" in capsys.readouterr().err
