"""Exported runs: what is written, and what is read of folders that others made."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import cvae
from cvae.cli import evaluate, export
from cvae.config.load import flatten
from cvae.errors import UserError
from cvae.report.card import card
from cvae.runs import fingerprints, hub
from cvae.runs.folder import EXPORTED, RunFolder
from cvae.training import checkpoint
from cvae.training.run import run
from tests.helpers import JARGON, TEXTS, text_run

OWN = ("task=ptb", "dataset=text", "model.embed=4", "model.hidden=6", "model.latent=3", "train.batch_size=8")
OWN += ("task.iw_samples=3", "train.epochs=null", "train.steps=4", "train.validate_every=2", "threads=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configured) -> RunFolder:
    """A finished run."""
    return text_run(configured, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def shared(folder) -> Path:
    """The same, exported."""
    target = folder.path.parent / "shared"
    assert export.main([str(folder.path), str(target)]) == 0
    return target


@pytest.fixture
def copy(shared, tmp_path) -> Path:
    """An exported folder that a test may break."""
    return Path(shutil.copytree(shared, tmp_path / "copy"))


def test_an_exported_model_is_the_run_s(folder, shared):
    before = torch.get_rng_state()
    there, here = cvae.load(folder.path), cvae.load(shared)
    assert torch.equal(torch.get_rng_state(), before)  # which are the program's own
    np.testing.assert_array_equal(there.encode(TEXTS).mean, here.encode(TEXTS).mean)
    assert there.sample(5, temperature=1.0) == here.sample(5, temperature=1.0)
    files = {"README.md", "model.safetensors", "results.json", "run.json", "vocabulary.txt"}
    assert {path.name for path in shared.iterdir()} == files


def test_the_last_checkpoint_is_exported_where_asked(folder, tmp_path, capsys):
    (tmp_path / "last").mkdir()  # empty, it will do
    assert export.main([str(folder.path), str(tmp_path / "last"), "--checkpoint", "last"]) == 0
    names = capsys.readouterr().out.splitlines()[-1].partition(": ")[2].split(", ")
    assert "results.json" in names and names == sorted(names)
    weights = load_file(tmp_path / "last" / "model.safetensors")
    saved = checkpoint.load(folder / "checkpoint_last.pt")["model"]
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in saved.items())
    card = (tmp_path / "last" / "README.md").read_text()
    assert "The weights are those of the last checkpoint, the measures those of the best one." in card
    with pytest.raises(
        UserError, match=f"^{tmp_path}/last was exported with the last weights, not the best$"
    ):
        cvae.load(tmp_path / "last", "best")
    assert export.main([str(tmp_path / "last"), str(tmp_path / "again")]) == 0  # which is itself a run
    assert json.loads((tmp_path / "again" / "run.json").read_text())["checkpoint"] == "last"


def test_evaluate_says_which_weights_an_exported_run_has(folder, shared, tmp_path, capsys):
    corpus = str(folder.path.parent / "corpus")
    assert export.main([str(folder.path), str(tmp_path / "last"), "--checkpoint", "last"]) == 0
    capsys.readouterr()
    another = "of checkpoint_last.pt; results.json is of checkpoint_best.pt\n"
    for at, said in ((tmp_path / "last", another), (shared, ""), (folder.path, "")):
        assert evaluate.main([str(at), "val", "--data", corpus]) == 0
        assert capsys.readouterr().err == said


def test_evaluate_asks_for_the_corpus_that_an_exported_run_lacks(shared, capsys):
    assert evaluate.main([str(shared), "val"]) == 1
    said = f"{shared} has no corpus: --data names it, or another text to measure\n"
    assert capsys.readouterr() == ("", said)


def test_the_card_is_made_from_the_run(folder, shared):
    page = (shared / "README.md").read_text()
    head = yaml.safe_load(page.split("---")[1])
    assert head["library_name"] == "cvae" and "text-vae" in head["tags"]
    results = folder.results
    assert f"| elbo | {results['val/elbo']:.2f} | {results['test/elbo']:.2f} |" in page
    assert f"| train | 48 | {results['data/train/tokens']:,} | 0.00 % |" in page
    assert folder.record["data"]["train"][:16] in page
    assert "`model.latent` | `3`" in page and "cvae.load(" in page and "## Limits" in page
    assert "{{" not in page and "None" not in page


def test_nothing_of_this_machine_is_in_it(folder, shared):
    for path in shared.iterdir():
        if path.suffix != ".safetensors":
            assert str(folder.path.parent) not in path.read_text(encoding="utf-8"), path
    record = json.loads((shared / "run.json").read_text())
    assert record["config"]["dataset"]["path"] == "corpus" and not {"command", "git"} & record.keys()


@pytest.mark.parametrize("where", ["/home/anna/texts", "~/anna/texts", "../anna/texts", "../../anna/texts"])
def test_of_a_path_elsewhere_only_the_name_is_told(where, folder, tmp_path, capsys):
    own = Path(shutil.copytree(folder.path, tmp_path / "run"))
    record = json.loads((own / "run.json").read_text())
    record["config"]["dataset"]["path"] = where
    (own / "run.json").write_text(json.dumps(record | {"command": f"cvae train dataset.path={where}"}))
    assert export.main([str(own), str(tmp_path / "shared")]) == 0
    files = "README.md, model.safetensors, results.json, run.json, vocabulary.txt"
    assert capsys.readouterr().out == f"{tmp_path / 'shared'}: {files}\n"
    for path in (tmp_path / "shared").iterdir():
        assert path.suffix == ".safetensors" or "anna" not in path.read_text(encoding="utf-8"), path
    assert json.loads((tmp_path / "shared" / "run.json").read_text())["config"]["dataset"]["path"] == "texts"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"train": "a" * 64}, f"`{'a' * 16}…`"),
        ({"train/a.csv": "a" * 64, "train/b.csv": "b" * 64, "val": "c" * 64}, "2 files"),
        ({"val": "c" * 64}, "0 files"),
    ],
)
def test_the_card_tells_the_digest_of_one_file_and_the_number_of_several(data, told, folder):
    (row,) = (
        line
        for line in card(folder.configuration("cpu"), folder.results, "best", data).splitlines()
        if line.startswith("| train |")
    )
    assert row.endswith(f" | {told} |")


def test_the_card_has_what_the_results_say_and_nothing_that_they_do_not(folder):
    sizes = {"data/vocabulary": 1234, "data/train/sentences": 2000, "data/train/tokens": 30000}
    sizes |= {"data/train/unknown_share": 0.0512, "data/test/sentences": 7, "data/held/sentences": 9}
    sizes |= {"data/val/sentences": 5}
    measures = {
        "val/elbo": -3.0,
        "test/kl": 0.5,
        "val/au": 0,
        "test/au": 2,
        "checkpoint": "last",
        "finished": True,
        "step": 8000,
    }
    page = card(folder.configuration("cpu"), sizes | measures, "last", {})
    lines = page.splitlines()
    assert "LSTM encoder, diagonal Gaussian z, LSTM decoder; z has 3 dimensions." in lines
    assert "Tokens are words, 1,234 of them." in page and "8,000 updates of 8 sentences, seed 0." in page
    rows = [line for line in lines if line.startswith(("| train", "| val", "| test", "| held"))]
    assert rows == [
        "| train | 2,000 | 30,000 | 5.12 % | 0 files |",
        "| val | 5 | 0 | 0.00 % | 0 files |",
        "| test | 7 | 0 | 0.00 % | 0 files |",
    ]
    assert "| elbo | -3.00 | – |" in lines and "| kl | – | 0.50 |" in lines
    assert "| au | 0.00 | 2.00 |" in lines  # nothing is a measure too
    assert not [line for line in lines if line.startswith("| rec ")]
    assert "Of the last checkpoint." in page and "The weights are those of" not in page
    told = dict(line.split("`")[1::2] for line in lines if line.startswith("| `"))
    assert {key.partition(".")[0] for key in told} == {"schedule", "lr", "model", "objective", "update"}
    config = flatten(folder.configuration("cpu").container)
    assert {str(config[key]) for key in config.keys() - told.keys() if key.startswith("model.")} <= {"None"}
    assert told["model.word_dropout"] == "0.0" and all(str(config[key]) == told[key] for key in told)


@pytest.mark.parametrize("tokens", ["words", "chars"])
def test_the_card_says_what_tokens_are(tokens, folder):
    config = folder.configuration("cpu")
    config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, tokens=tokens))
    assert f"Tokens are {tokens}, " in card(config, folder.results, "best", {})


def test_a_folder_that_is_not_empty_is_left_as_it_is(folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "mine.txt", folder.path):
        assert export.main([str(folder.path), str(target)]) == 1
        assert capsys.readouterr().err == f"{target} is not empty: export to a new folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_reviews_whose_modules_share_vectors_are_exported(tmp_path, configured):
    folder = text_run(configured, tmp_path, "model=review", "model.filters=4", "schedule=constant")
    assert export.main([str(folder.path), str(tmp_path / "shared")]) == 0
    there, here = cvae.load(folder.path), cvae.load(tmp_path / "shared")
    np.testing.assert_array_equal(there.encode(TEXTS).mean, here.encode(TEXTS).mean)


def rewrite(name: str, **changes: object):
    """Return a change of a JSON file of a folder; a value of None removes its key."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def reshape(name: str, weight: torch.Tensor | None):
    """Return a change of one weight, which is removed for None."""

    def change(folder: Path) -> None:
        rewrite("run.json", weights=None)(folder)
        weights = load_file(folder / "model.safetensors") | {name: weight}
        save_file({key: w for key, w in weights.items() if w is not None}, folder / "model.safetensors")

    return change


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


BREAKAGES = {
    "cut": (cut, r"model\.safetensors is no usable file of safetensors: .*[Mm]etadata"),
    "pickle": (
        lambda at: torch.save({}, at / "model.safetensors"),
        r"model\.safetensors is no usable file of safetensors: .*[Hh]eader",
    ),
    "flipped": (flip, r"model\.safetensors has changed: its sha256 is not the one in run\.json"),
    "shape": (
        reshape("decoder.output.bias", torch.zeros(7)),
        r"model\.safetensors has the weights of another model: size",
    ),
    "missing": (
        reshape("decoder.output.bias", None),
        r"model\.safetensors has the weights of another model: Missing key",
    ),
    "more": (
        reshape("other", torch.zeros(2)),
        r"model\.safetensors has the weights of another model: Unexpected key",
    ),
    "json": (lambda at: (at / "run.json").write_text('{"format": 1,'), r"run\.json cannot be read"),
    "list": (lambda at: (at / "run.json").write_text("[]"), "must hold a JSON object, found list"),
    "format": (
        rewrite("run.json", format=99, versions={"cvae": "7.1"}),
        "has format 99 of cvae 7.1; this version reads format 1$",
    ),
    "no config": (
        rewrite("run.json", config={}),
        r"/run\.json: name is missing; seed is missing; device is missing; ",
    ),
    "list of data": (rewrite("run.json", data=["a"]), "has format 1"),
    "text config": (rewrite("run.json", config="x"), "has format 1"),
    "no run.json": (lambda at: (at / "run.json").unlink(), r"is not a run folder: it has no run\.json"),
}


@pytest.mark.parametrize("kind", BREAKAGES)
def test_a_broken_folder_is_refused_in_a_sentence(copy, kind):
    change, sentence = BREAKAGES[kind]
    change(copy)
    with pytest.raises(UserError, match=sentence) as caught:
        cvae.load(copy)
    assert not JARGON.search(str(caught.value)) and "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_named(copy):
    path = copy / "model.safetensors"
    (copy / "run.json").unlink()
    assert checkpoint.load(path)["model"].keys() == load_file(path).keys()  # no digest to compare
    path.unlink()
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} cannot be read: No such file or"):
        checkpoint.load(path)


class Trap:
    """An object whose unpickling makes a file."""

    path = ""

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_no_pickle_of_a_foreign_folder_is_opened(copy, tmp_path, configured):
    trap = Trap()
    trap.path = str(tmp_path / "sprung")
    for name in ("best", "last", "previous"):
        torch.save({"model": trap}, copy / f"checkpoint_{name}.pt")
    cvae.load(copy)  # safetensors, whatever lies beside them
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds other things than weights and plain values"):
        cvae.load(copy)  # as any checkpoint: weights only
    (copy / "run.json").unlink()
    with pytest.raises(UserError, match=r"no run\.json"):
        cvae.load(copy)
    assert not (tmp_path / "sprung").exists()


def hub_of(monkeypatch, folder: Path | Exception) -> list[tuple]:
    """Make `folder` what the hub has; return the requests it gets."""
    asked: list[tuple] = []

    def download(name: str, revision: str | None = None, allow_patterns: list[str] | None = None) -> str:
        asked.append((name, revision, allow_patterns))
        if isinstance(folder, Exception):
            raise folder
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub._fetched.cache_clear()
    return asked


def test_a_name_of_the_hub_is_fetched_by_a_list_of_names(shared, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = hub_of(monkeypatch, shared)
    assert cvae.load("owner/name").latent == cvae.load("owner/name@refs/pr/1").latent == 3
    assert asked == [("owner/name", None, EXPORTED), ("owner/name", "refs/pr/1", EXPORTED)]
    read = {"run.json", "results.json", "vocabulary.txt", "tokenizer.json", "pretrained.json"}
    assert set(EXPORTED) == read | {"model.safetensors"}  # nothing that is pickled or could run
    (tmp_path / "owner").mkdir()  # now it is a path
    with pytest.raises(UserError, match="is not a run folder"):
        cvae.load("owner/name")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (OSError("no\nnetwork"), "owner/name is no folder here, and cannot be had from the hub: no network"),
        (OSError(), "owner/name is no folder here, and cannot be had from the hub: OSError"),
        (None, r"owner/name of the hub has no model\.safetensors: it is no model that `export` wrote"),
    ],
)
def test_without_network_or_model_it_ends_in_a_sentence(answer, sentence, copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "checkpoint_best.pt")  # of a hub, no checkpoint will do
    hub_of(monkeypatch, answer or copy)
    with pytest.raises(UserError, match=re.escape(sentence) if answer else sentence):
        cvae.load("owner/name")


def test_what_the_cache_has_is_found_by_name_and_revision(monkeypatch, tmp_path):
    def look(*asked: str, revision: str | None = None) -> str | None:
        found = (*asked, revision) == ("owner/name", "model.safetensors", "v1")
        return str(tmp_path / "cache" / asked[1]) if found else None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look)
    assert hub.cached("owner/name@v1") == tmp_path / "cache"
    assert not hub.cached("owner/name").exists()


@pytest.mark.parametrize(
    "name", ["checkpoint_last.pt", "checkpoint_previous.pt", "results.json", "model.safetensors"]
)
def test_a_run_with_weights_or_results_needs_no_pretrained_checkpoint(name, tmp_path, configured):
    given = (
        "dataset.path=a",
        "dataset.tokens=bpe",
        "model=pretrained",
        "model.decoder=absent",
        "model.encoder=too",
    )
    model, folder = configured(*OWN[:2], *given).model, RunFolder(tmp_path)
    with pytest.raises(UserError, match=r"model\.decoder=absent is neither a folder here nor"):
        hub.pretrained(model, folder)
    (tmp_path / name).write_text('{"finished": true}')
    kept = hub.pretrained(model, folder)
    assert (kept.decoder, kept.encoder) == (str(tmp_path / "pretrained.json"), None)


def test_init_from_takes_an_exported_folder_and_a_name_of_the_hub(
    folder, shared, tmp_path, configured, monkeypatch
):
    weights = checkpoint.load(folder.reported)["model"]
    corpus = f"dataset.path={folder.path.parent / 'corpus'}"
    monkeypatch.chdir(tmp_path)
    hub_of(monkeypatch, shared)
    for number, source in enumerate((str(shared), "owner/name")):
        config = configured(*OWN, corpus, f"init_from={source}", "lr.value=1e-12")
        own = RunFolder(tmp_path / f"run{number}")
        run(config, own)
        after = checkpoint.load(own / "checkpoint_last.pt")["model"]
        assert all(torch.allclose(after[name], weight, atol=1e-6) for name, weight in weights.items())
    prints = fingerprints.of_config(configured(*OWN, corpus, f"init_from={shared}"))
    assert prints["init_from"] == fingerprints.fingerprint(shared / "model.safetensors")
    config = configured(*OWN, corpus, f"init_from={shared}", "model.hidden=7")
    with pytest.raises(UserError, match="is a model of another shape"):
        run(config, RunFolder(tmp_path / "other"))
