"""Whatever is fed to the program, it either works or answers in one sentence; nothing else comes out.

Each property damages a good input `EXAMPLES` times at random; `test_hundreds_of_inputs_are_tried` counts. One
sample of each class is typed, so to speak: a process of its own, whose exit status and output are looked at.
"""

from __future__ import annotations

import copy
import io
import itertools
import json
import os
import random
import shlex
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvae import data
from cvae.cli import claims, decode, encode, evaluate, export, figures, report, sample, status, table
from cvae.cli import data as data_command
from cvae.config.load import load
from cvae.config.schema import Config, DialogData, OwnDialogs
from cvae.data import files, references, switchboard, vectors
from cvae.data.dialogs import DialogCorpus
from cvae.data.vocabulary import Vocabulary
from cvae.errors import UserError
from cvae.runs import reader
from cvae.runs.folder import RunFolder
from cvae.training import checkpoint
from scripts import bench, docs, estimate, gpu_check, kill, publish, toy_grid
from tests.helpers import ROOT

DIALOGS = ROOT / "tests" / "dialogs"
EXAMPLES = 80
tried = {"inputs": 0, "refused": 0}
seeds = st.integers(0, 2**32)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def accepted(work: Callable[[], Any]) -> bool:
    """Whether it works; where it does not, that must be said in one sentence without a trace of code."""
    tried["inputs"] += 1
    try:
        work()
    except UserError as error:
        tried["refused"] += 1
        text = str(error)
        assert text and "Traceback" not in text and "object at 0x" not in text
        assert "\n" not in text
        return False
    return True


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with some bytes flipped, inserted, taken away, repeated or cut off."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not found:
            break
        at, until = sorted((rng.randrange(len(found)), rng.randrange(len(found))))
        match rng.randrange(7):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at:at] = rng.choice(
                    [b"\x00", b"\xff", b"\r", b"\n", b'"', b"\xef\xbb\xbf", b"{", b"\\ud800"]
                )
            case 2:
                del found[at : min(until, at + 30)]
            case 3:
                del found[at:]
            case 4:
                found[at:at] = found[at : min(until, at + 50)]
            case 5:
                found[at:at] = rng.choice([b"null", b"1e999", b"NaN", b"-1", b"9" * 5000, b"[" * 2000, b" "])
            case _:
                found[at:until] = bytes(rng.randrange(256) for _ in range(min(until - at, 20)))
    return bytes(found)


# ---- corpora and what lies beside them ----


@fuzz
@given(seed=seeds)
def test_text(tmp_path, seed):
    good = "the naïve dog <unk> sat\n\nand a market waits\r\nagain\n".encode() * 3
    path = tmp_path / "my text.txt"
    path.write_bytes(damaged(good, random.Random(seed)))
    accepted(lambda: files.check(path, max_words=20))


@pytest.fixture(scope="module")
def dialogs(tmp_path_factory) -> Path:
    """A folder whose train.jsonl each example replaces."""
    folder = tmp_path_factory.mktemp("dialogs") / "Gespräche und Räume"
    folder.mkdir()
    for path in DIALOGS.glob("*.jsonl"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def dialog_data(folder: Path) -> DialogData:
    sizes = {"vocabulary": 60, "max_tokens": 40, "window": 10, "held_out": 0.2, "consecutive": 3}
    return DialogData(name="switchboard", path=str(folder), **sizes)


def lines(path: Path, count: int) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


@fuzz
@given(seed=seeds)
def test_dialogs(dialogs, seed):
    good = lines(DIALOGS / "train.jsonl", 2)
    (dialogs / "train.jsonl").write_bytes(damaged(good, random.Random(seed)))
    config = dialog_data(dialogs)
    if accepted(lambda: switchboard.read(config)):
        splits = data.build(config, torch.device("cpu"))
        "\n".join(splits.vocabulary.words).encode()  # what is read can be written
        splits.corpora["train"].batch(splits.corpora["train"].places[:1] * 0)


@fuzz
@given(seed=seeds)
def test_own_dialogs(tmp_path, seed):
    turns = [{"speaker": "ann", "text": "Is it naïve?", "act": "question"}, {"speaker": "bo", "text": "no"}]
    full = {"topic": "music", "speakers": {"ann": {"age": 31, "sex": "f"}, "bo": {}}, "turns": turns}
    good = "".join(json.dumps(line) + "\n" for line in [full, {"turns": ["hi", "well", "yes"]}] * 2).encode()
    path = tmp_path / "my dialogs.jsonl"
    path.write_bytes(damaged(good, random.Random(seed)))
    sizes = {"vocabulary": 60, "max_tokens": 40, "window": 10, "held_out": 0.2, "consecutive": 3}
    config = OwnDialogs(name="dialogs", path=str(path), **sizes)

    def batch() -> None:
        splits = data.build(config, torch.device("cpu"))
        "\n".join([*splits.vocabulary.words, *splits.topics, *splits.acts]).encode()
        people = splits.corpora["train"].batch(splits.corpora["train"].places[:1] * 0).people
        assert people.isfinite().all()

    accepted(batch)


@fuzz
@given(seed=seeds)
def test_word_vectors(tmp_path, seed):
    good = "".join(f"word{n} {n}.5 -1e-3 0.25\n" for n in range(8)).encode()
    path = tmp_path / "vectors.txt"
    path.write_bytes(damaged(good, random.Random(seed)))
    accepted(lambda: vectors.read(path, Vocabulary([f"word{n}" for n in range(8)])))


@pytest.fixture(scope="module")
def corpus() -> DialogCorpus:
    return data.build(dialog_data(DIALOGS), torch.device("cpu")).corpora["test"]


@fuzz
@given(seed=seeds)
def test_references(tmp_path, corpus, seed):
    entry = {"responses": ["yes", "the dog waits"], "resp_dialog_acts": ["a", "b"]}
    path = tmp_path / "test_multi_ref.json"
    path.write_bytes(damaged(json.dumps([entry] * len(corpus)).encode(), random.Random(seed)))
    accepted(lambda: references.read(path, corpus))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    """Labelled files, one of which each example replaces."""
    folder = tmp_path_factory.mktemp("reviews") / "Kritiken – 1"
    folder.mkdir()
    for split, label in itertools.product(("train", "dev", "test"), (0, 1)):
        (folder / f"sentiment.{split}.{label}").write_text("the food was naïve\n\nnever again\n" * 4)
    return folder


@fuzz
@given(seed=seeds)
def test_reviews(reviews, seed):
    rng = random.Random(seed)
    path = reviews / f"sentiment.{rng.choice(('train', 'dev', 'test'))}.{rng.randrange(2)}"
    good = path.read_bytes()
    path.write_bytes(damaged(good, rng))
    try:
        accepted(lambda: [files.check(found, 9) for found in reviews.iterdir()])
    finally:
        path.write_bytes(good)


# ---- configurations ----

WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def places(container: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every group of keys with each of its keys."""
    for key, value in container.items():
        yield container, key
        if isinstance(value, dict):
            yield from places(value)


@pytest.fixture(scope="module", params=["task=toy", "task=ptb", "task=switchboard", "task=yelp"])
def composed(request, configured) -> dict[str, Any]:
    return configured(request.param).container


@fuzz
@given(seed=seeds, value=WRONG)
def test_configurations(composed, seed, value):
    container = copy.deepcopy(composed)
    rng = random.Random(seed)
    group, key = rng.choice(list(places(container)))
    match rng.randrange(4):
        case 0:
            del group[key]
        case 1:
            group[f"{key}x"] = value
        case _:
            group[key] = value
    tried["inputs"] += 1
    try:
        assert isinstance(load(container), Config)
    except UserError as error:
        tried["refused"] += 1
        assert all(line.strip() and "Traceback" not in line for line in str(error).splitlines())


# ---- run folders ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configured) -> Path:
    """What a run leaves."""
    path = tmp_path_factory.mktemp("runs") / "Läufe 1"
    path.mkdir()
    prints = data.build(configured().dataset, torch.device("cpu")).fingerprints
    about = {"format": 1, "config": configured().container, "data": prints, "versions": {"cvae": "0.1.0"}}
    (path / "run.json").write_text(json.dumps(about))
    (path / "results.json").write_text(json.dumps({"finished": True, "step": 3, "val/kl": 0.5}))
    (path / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "train/kl": {n}.5}}\n' for n in range(6)))
    line = {"mode": "probe", "share": 0.1, "seed": 0, "labels": 8, "test/accuracy": 0.5}
    (path / "classifier.jsonl").write_text(json.dumps(line) + "\n")
    (path / "map.jsonl").write_text('{"x": 0.5, "y": -1.0, "label": 1}\n' * 3)
    latents = {"mean": [[0.0, 1.0]], "logvar": [[0.0, 0.0]], "label": [0]}
    (path / "latents.jsonl").write_text("".join(json.dumps({"step": n} | latents) + "\n" for n in range(3)))
    checkpoint.save(path / "checkpoint_last.pt", {"step": 3, "model": {"weight": torch.arange(200.0)}})
    return path


RECORDS = ("run.json", "results.json", "metrics.jsonl", "latents.jsonl", "classifier.jsonl", "map.jsonl")


@pytest.mark.parametrize("name", RECORDS)
@settings(fuzz, max_examples=60)
@given(seed=seeds)
def test_records(folder, name, seed, tmp_path_factory):
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(damaged(good, random.Random(seed)))
    try:
        accepted(lambda: [read(folder) for read in (reader.read_run, reader.read_map)])
        accepted(lambda: RunFolder(folder).results)
        accepted(lambda: RunFolder(folder).configuration("cpu"))
    finally:
        (folder / name).write_bytes(good)


@fuzz
@given(seed=seeds)
def test_checkpoints(folder, seed):
    path = folder / "checkpoint_last.pt"
    good, before = path.read_bytes(), checkpoint.load(path)
    path.write_bytes(damaged(good, random.Random(seed)))
    try:
        found = {}
        if accepted(lambda: found.update(checkpoint.load(path))):
            assert torch.equal(found["model"]["weight"], before["model"]["weight"])
    finally:
        path.write_bytes(good)


@settings(fuzz, max_examples=40)
@given(seed=seeds)
def test_checkpoints_whose_checksums_are_right(folder, seed):
    good = (folder / "checkpoint_last.pt").read_bytes()
    path, rng = folder / "checkpoint_other.pt", random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w") as new:
        names = old.namelist()
        wrong = {name for name in names if name.endswith("data.pkl")} | {rng.choice(names)}
        for name in names:
            content = old.read(name)
            new.writestr(name, damaged(content, rng) if name in wrong else content)
    accepted(lambda: checkpoint.load(path))
    path.unlink()


def answered(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    """A script either works, or ends with another status than 0 and one sentence, below argparse's usage."""
    tried["inputs"] += 1
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err.splitlines()
    if status:
        tried["refused"] += 1
        sentences = [line for line in said if not line.startswith(("usage: ", " "))]
        assert len(sentences) == 1 and "Traceback" not in sentences[0]


@settings(fuzz, max_examples=40)
@given(seed=seeds, value=WRONG)
def test_records_with_other_values(folder, seed, value, capsys):
    rng = random.Random(seed)
    path = folder / rng.choice(("run.json", "results.json", "metrics.jsonl", "classifier.jsonl"))
    good = path.read_text()
    content = [json.loads(line) for line in good.splitlines()]
    group, key = rng.choice(list(places({"lines": dict(enumerate(content))}))[2:])
    group[key] = value
    path.write_text("\n".join(json.dumps(record) for record in content) + "\n")
    try:
        answered(table.main, [str(folder)], capsys)
        answered(table.main, [str(folder), "--accuracy"], capsys)
        answered(status.main, [str(folder)], capsys)
        answered(publish.main, [str(folder), "--to", str(folder.parent / "published")], capsys)
    finally:
        path.write_text(good)


# ---- the arguments of scripts ----

PARSERS = {
    "bench": bench.parse,
    "claims": claims.parse,
    "decode": decode.parse,
    "docs": docs.parse,
    "encode": encode.parse,
    "estimate": estimate.parse,
    "evaluate": evaluate.parse,
    "export": export.parse,
    "figures": figures.parse,
    "get_data": data_command.parse,
    "gpu_check": gpu_check.parse,
    "kill": kill.parse,
    "publish": publish.parse,
    "report": report.parse,
    "sample": sample.parse,
    "status": status.parse,
    "table": table.parse,
    "toy_grid": toy_grid.parse,
}
FLAGS = (
    *(
        "--to",
        "--at",
        "--window",
        "--columns",
        "--format",
        "--thin",
        "--dpi",
        "--kills",
        "--count",
        "--split",
    ),
    *(
        "--seed",
        "--temperature",
        "--top-p",
        "--json",
        "--iw-samples",
        "--iw-sentences",
        "--chunk",
        "--device",
    ),
    *("--seconds", "--threads", "--base-url", "--force", "--beside", "--chat", "--from", "--brief", "--nope"),
)
WORDS = (
    "outputs",
    "all",
    "ptb",
    "3",
    "toy",
    "0",
    "-1",
    "1e999",
    "nan",
    "1.5",
    "",
    "--",
    "9" * 40,
    "é ü",
    "test",
)


@settings(fuzz, max_examples=200)
@given(seed=seeds)
def test_arguments_of_scripts(seed, capsys):
    rng = random.Random(seed)
    parse = PARSERS[rng.choice(list(PARSERS))]
    arguments = [rng.choice(rng.choice((FLAGS, WORDS, WORDS))) for _ in range(rng.randint(0, 4))]
    answered(lambda words: parse(words) and 0, arguments, capsys)


def test_every_script_is_among_them():
    scripts = (path for path in (ROOT / "scripts").glob("*.py") if "__main__" in path.read_text())
    assert set(PARSERS) == {path.stem for path in scripts}


# ---- one of each class, typed ----


def samples(place: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """(command, what is said) for the classes that test_cli does not type; `folder` is that of a run."""
    bad = place / "schlecht é"
    bad.mkdir()
    for name in ("train.txt", "valid.txt", "test.txt", "train.jsonl", "valid.jsonl", "test.jsonl", "vectors"):
        (bad / name).write_bytes(b"\xff\xfe broken\n")
    torch.save({"format": 1, "trap": Path("executed")}, folder / "checkpoint_best.pt")
    dialogs, run = shlex.quote(str(DIALOGS)), shlex.quote(str(folder))
    train = "train.py task=switchboard dataset.path="
    yield "train.py task=ptb dataset.path='schlecht é'", "schlecht é/train.txt, line 1: not UTF-8"
    yield f"{train}'schlecht é'", "schlecht é/train.jsonl, line 1: "
    yield f"{train}{dialogs} model.vectors='{bad}/vectors'", "schlecht é/vectors, line 1: "
    best = f"{run} --device cpu --checkpoint best"
    yield f"scripts/evaluate.py {best}", "is not a usable checkpoint: it holds other things"
    yield "scripts/table.py here --window 0", "argument --window: invalid count value: '0'"


def test_one_of_each_class_from_the_command_line(tmp_path, folder, forks):
    commands = list(samples(tmp_path, folder))
    environment = {key: value for key, value in os.environ.items() if key != "CVAE_DATA"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command, said in commands:
        first, *rest = shlex.split(command)
        done = forks.run(ROOT / first, *rest, cwd=tmp_path, environment=environment)
        lines = done.stderr.splitlines()
        sentences = [line for line in lines if not line.startswith(("usage: ", " "))]
        assert done.returncode in (1, 2), command
        assert done.stdout == "" and len(sentences) == 1 and said in sentences[0], done.stderr
        tried["inputs"] += 1
        tried["refused"] += 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_hundreds_of_bad_inputs_are_tried():
    """Runs last; what was refused was refused in a sentence."""
    print(tried)
    assert tried["inputs"] >= 1500 and tried["refused"] >= 800
