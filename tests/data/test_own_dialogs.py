"""Anybody's dialogs: the format of docs/data.md, what becomes of it, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cvae import data
from cvae.cli import evaluate, sample, table
from cvae.config.schema import OwnDialogs
from cvae.data.dialog_records import MOST_VALUES, UNKNOWN, Attributes, _ranked
from cvae.data.own_dialogs import addressees
from cvae.errors import UserError
from cvae.runs.folder import RunFolder
from cvae.training.run import prepare, run
from tests.helpers import CPU, JARGON, ROOT

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
ANNA = {"age": 31, "sex": "f"}
SMALL = (
    *("task=dialogs", "dataset.vocabulary=60", "model.bow_hidden=4", "task.samples=2", "task.iw_samples=2"),
    *(f"model.{size}=4" for size in ("embed", "utterance", "context", "topic", "latent", "prior", "decoder")),
    *("train.batch_size=6", "train.epochs=null", "train.steps=8", "task.examples=2", "task.contexts=9"),
)


def full(n: int = 0, **changed) -> dict:
    """A dialog with all that one may have."""
    turns = [
        {"speaker": "anna", "text": f"Don't you like jazz number {n}?", "act": "question"},
        {"speaker": "bot", "text": "I do."},
        {"speaker": "anna", "text": "well yes", "act": "statement"},
    ]
    people = {"anna": ANNA | {"age": 31 + n}, "bot": {"sex": "none"}}
    return {"topic": ("music", "pets")[n % 2], "speakers": people, "turns": turns} | changed


def bare(n: int = 0) -> dict:
    """A dialog of plain texts."""
    return {"turns": [f"hi number {n}", "hello", "how are you"]}


def write(path: Path, *lines) -> Path:
    """Write values as lines of JSON, texts as they are."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def dataset(path: Path, **values) -> OwnDialogs:
    usual = {"vocabulary": 60, "max_tokens": 40, "window": 10, "held_out": 0.2, "consecutive": 3}
    return OwnDialogs(name="dialogs", path=str(path), **usual | values)


def train_of(path: Path, **values):
    return data.build(dataset(path, **values), CPU).corpora["train"]


# ---- what is read ----


def test_a_dialog_with_all_there_is_becomes_a_batch(tmp_path):
    for name in ("train", "valid", "test"):
        write(tmp_path / f"{name}.jsonl", full(0), full(2))
    splits = data.build(dataset(tmp_path), CPU)
    corpus = splits.corpora["train"]
    assert (splits.topics, splits.acts, splits.people) == (["music"], ["question", "statement"], 2 * 3)
    assert splits.notes == (
        "train 2 dialogs of train.jsonl; val 2 dialogs of valid.jsonl; test 2 dialogs of test.jsonl",
        "train has 1 topic, 2 dialog acts, and tells age, sex of its speakers",
    )
    assert corpus.acts[corpus.places].tolist() == [0, UNKNOWN, 1] * 2
    assert corpus.counts() | {"tokens": 0} == {
        **{"dialogs": 2, "sentences": 6, "tokens": 0},
        **{"unknown_topics": 0, "unknown_acts": 2, "unknown_speakers": 0},
    }
    batch = corpus.batch(np.arange(6))
    # ages 31 and 33 are -1 and 1; f, none; what is unknown of bot, its age, is 0
    first, bot, second = [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]
    assert batch.people.tolist() == [
        *([*first, *bot], [*bot, *first], [*first, *bot]),
        *([*second, *bot], [*bot, *second], [*second, *bot]),
    ]
    alone = corpus.batch(np.array([2]))
    assert alone.floors.tolist() == [0.0, 1.0, 0.0]  # of `<d>`, anna and bot
    assert corpus.words(np.array([0]))[0][:4] == ["don", "'", "t", "you"]
    assert train_of(tmp_path, lower=False).words(np.array([0]))[0][:4] == ["Don", "'", "t", "you"]


def test_a_monologue_is_read_and_a_corpus_of_nothing_else_refused(tmp_path):
    alone = {"turns": [{"speaker": "anna", "text": text} for text in ("hello", "is anybody there")]}
    for name in ("train", "valid", "test"):
        write(tmp_path / f"{name}.jsonl", full(), alone)
    assert len(train_of(tmp_path)) == 5
    for name in ("train", "valid", "test"):
        write(tmp_path / f"{name}.jsonl", alone)
    with pytest.raises(UserError, match="every dialog has one speaker, and a response needs two"):
        data.build(dataset(tmp_path), CPU)


def test_plain_texts_alternate_and_leave_nothing_in_the_model(tmp_path, configured):
    path = write(tmp_path / "my.jsonl", *(bare(n) | {"topic": "\ufeff "} for n in range(10)))
    splits = data.build(dataset(path), CPU)
    assert (splits.topics, splits.acts, splits.people) == ([], [], 0)
    assert splits.notes == (
        "train 6 dialogs of my.jsonl; val 2 held out of train (dataset.held_out);"
        " test 2 held out of train (dataset.held_out)",
        "train has no topics, no dialog acts, and tells nothing of its speakers",
    )
    corpus = splits.corpora["train"]
    assert corpus.counts().keys() == {"dialogs", "sentences", "tokens"}
    batch = corpus.batch(np.array([2]))
    assert batch.people.shape == (1, 0) and batch.floors.tolist() == [0.0, 1.0, 0.0]
    model = prepare(configured(*SMALL, f"dataset.path={path}")).model
    assert model.topic is None and model.prior_net[0].in_features == 4  # of the context
    assert not [name for name in model.state_dict() if "topic" in name]


@pytest.mark.parametrize(
    ("speakers", "people", "whom"),
    [
        ([0, 1, 1, 0], 2, [1, 0, 0, 1]),
        ([0, 0, 2, 0], 3, [2, 2, 0, 2]),  # the third who is described says nothing
        ([0, 1, 2, 2, 0, 1], 3, [UNKNOWN, 0, 1, 1, 2, 0]),
        ([0, 0], 2, [1, 1]),
        ([0, 0], 1, [UNKNOWN, UNKNOWN]),
        ([0, 0], 3, [UNKNOWN, UNKNOWN]),
    ],
)
def test_a_speaker_speaks_to_the_other_one_or_to_the_last_who_spoke(speakers, people, whom):
    assert list(addressees(speakers, people)) == whom


def test_who_is_not_described_is_unknown_and_counted(tmp_path):
    turns = [{"speaker": name, "text": "yes"} for name in ("ann", "Bo B.", "cy", "ann")]
    people = {"ann": {"age": 20, "job": ""}, "cy": {"age": None}, "Bo B.": None, "bo": {"age": 40}}
    path = write(tmp_path / "my.jsonl", *[{"turns": turns, "speakers": people}] * 5)
    corpus = train_of(path)
    assert corpus.labels.attributes.names == ["age"]
    assert corpus.counts()["unknown_speakers"] == 2 * 3
    rows = corpus.batch(np.arange(4)).people.tolist()
    assert rows == [[-1.0, 0.0], [0.0, -1.0], [0.0, 0.0], [-1.0, 0.0]]  # to nobody, ann, Bo, cy
    names = [corpus.name(place) for place in corpus.places[:4]]
    assert names == ["ann", "Bo B.", "cy", "ann"]


def test_spaces_around_a_name_make_nobody_else(tmp_path):
    def rows(anna, sex, woman):
        people = {anna: {sex: woman, "age": 31}, "bo": {"sex": " ", "age": 40}}
        turns = [{"speaker": name, "text": "yes"} for name in ("anna", "bo", "\ufeffanna\t", "bo ")]
        corpus = train_of(write(tmp_path / "my.jsonl", *[{"turns": turns, "speakers": people}] * 5))
        return corpus.labels.attributes.names, corpus.batch(np.arange(4)).people.tolist()

    assert rows("anna ", " sex", "f ") == rows("anna", "sex", "f")


def test_an_attribute_of_0_is_known_and_false_is_none(tmp_path):
    turns = [{"speaker": name, "text": "yes"} for name in ("ann", "bo")]
    people = {"ann": {"age": 0}, "bo": {"age": 40.5}}
    corpus = train_of(write(tmp_path / "my.jsonl", *[{"turns": turns, "speakers": people}] * 5))
    assert corpus.counts()["unknown_speakers"] == 0
    for age, wrong in (
        (False, "number or a word, found false"),
        (math.nan, r"number of at most .*, found NaN"),
    ):
        path = write(tmp_path / "no.jsonl", {"turns": turns, "speakers": {"ann": {"age": age}}})
        with pytest.raises(UserError, match=rf"speakers\.ann\.age must be a {wrong}"):
            train_of(path)


def test_attributes_are_those_of_the_train_split(tmp_path):
    anna, bot = {"age": 5, "town": "Oslo", "size": 10**20}, {"age": 7, "town": "Rome", "size": 10**20}
    # the third says nothing, and nothing is known of them
    same, other = {"anna": anna, "bot": bot, "cy": {}}, {"anna": anna | {"age": 8, "town": "Paris", "new": 1}}
    write(tmp_path / "train.jsonl", full(speakers=same))
    write(tmp_path / "valid.jsonl", full(speakers=other))
    write(tmp_path / "test.jsonl", full(speakers=same))
    splits = data.build(dataset(tmp_path), CPU)
    assert splits.corpora["train"].labels.attributes.names == ["age", "size", "town"]
    assert splits.corpora["train"].batch(np.array([0])).people.tolist() == [[-1, 0, 1, 0, 1, 0, 0, 1]]
    assert splits.corpora["val"].batch(np.array([0])).people.tolist() == [[2, 0, 0, 0, 0, 0, 0, 0]]
    assert splits.corpora["train"].average_person.tolist() == [0, 0, 0.5, 0.5]
    write(tmp_path / "valid.jsonl", full(speakers={"anna": {"age": "old"}}))
    with pytest.raises(UserError, match=r"valid\.jsonl, line 1: speakers\.anna\.age must be a number, as"):
        data.build(dataset(tmp_path), CPU)


@pytest.mark.parametrize("age", [30, 0.1, 1.7, 1e20])  # the mean of three 0.1 is not quite 0.1
@pytest.mark.parametrize("people", [2, 3, 7])
def test_a_number_that_all_of_train_share_tells_nothing_of_others(age, people):
    attributes = Attributes.of([{"age": age}] * people + [{}])
    assert [attributes.encode(person) for person in ({"age": age}, {"age": 31}, {"age": -4}, {})] == [
        [0.0]
    ] * 4


def test_attributes_are_in_the_order_of_their_names_whatever_that_of_the_file():
    people = [{"b": 1, "a": "x"}, {"a": "y", "b": 3}]
    turned = [dict(reversed(person.items())) for person in people]
    found, other = Attributes.of(people), Attributes.of(turned)
    assert [found.encode(person) for person in people] == [other.encode(person) for person in people]
    assert list(found.numbers) + list(found.words) == list(other.numbers) + list(other.words)


def test_a_word_has_a_thousand_values_at_most():
    people = [{"name": f"bot {n}"} for n in range(MOST_VALUES + 1)]
    assert len(Attributes.of(people[1:])) == MOST_VALUES
    with pytest.raises(UserError, match=r"the speakers' name has 1,001 different values, at most 1,000 are"):
        Attributes.of(people)


def test_a_split_may_be_in_several_files(tmp_path):
    for n in range(2):
        write(tmp_path / f"train-0000{n}-of-00002.jsonl", bare(n), bare(n + 2))
    write(tmp_path / "test.jsonl", bare())
    splits = data.build(dataset(tmp_path), CPU)
    assert {split: len(corpus.topics) for split, corpus in splits.corpora.items()} == {
        **{"train": 3, "val": 1, "test": 1},
    }
    assert len(splits.fingerprints) == 2 + 2 + 1
    names = "train-00000-of-00002.jsonl, train-00001-of-00002.jsonl"
    assert splits.notes[0].startswith(f"train 3 dialogs of {names}; val 1 held out")


@pytest.mark.parametrize("name", ["valid", "val", "validation", "dev"])
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_a_folder_has_splits_by_their_usual_names(tmp_path, name, ending):
    for split, count in (("train", 7), (name, 2)):
        path = write(tmp_path / f"{split}.jsonl", *map(bare, range(count)))
        if ending == "jsonl.gz":
            (tmp_path / f"{split}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    splits = data.build(dataset(tmp_path), CPU)
    assert {split: len(corpus.topics) for split, corpus in splits.corpora.items()} == {
        **{"train": 6, "val": 2, "test": 1},
    }
    assert splits.notes[0] == (
        f"train 6 dialogs of train.{ending}; val 2 dialogs of {name}.{ending};"
        " test 1 held out of train (dataset.held_out)"
    )
    again = data.build(dataset(tmp_path), CPU)
    assert again.corpora["test"].words(np.arange(3)) == splits.corpora["test"].words(np.arange(3))


# ---- mistakes ----

LINES = [
    '{"turns": }',
    b'{"turns": ["\xff"]}',
    ["hi"],
    {"utts": []},
    {"turns": []},
    {"turns": ["hi", 3]},
    {"turns": ["hi", {"speaker": "anna", "text": "hello"}]},
    {"turns": [{"speaker": 7, "text": "hi"}]},
    {"turns": [{"speaker": "anna", "text": " "}]},
    bare() | {"speakers": {"anna": {}}},
    full(speakers={"anna": 31}),
    full(speakers={"anna": {"age": [31]}}),
    full(speakers={"anna": {"age": "31"}}),
]
MORE = [
    (full(topic=3), "topic must be text, found 3"),
    (full(speakers=["anna"]), 'speakers must be an object, attributes by name, found ["anna"]'),
    (
        full(speakers={"anna": {"sex": True}}),
        "speakers.anna.sex must be a number or a word, found true",
    ),
    (
        full(speakers={"anna": {"sex": 1}}),
        "speakers.anna.sex must be a word, as it was before, found 1",
    ),
    (
        '{"turns": ["a"], "speakers": {"b": {"age": -1e999}}}',
        "speakers.b.age must be a number of at most",
    ),
    (
        full(speakers={"anna": {"age": 10**400}}),
        "speakers.anna.age must be a number of at most 1e+30",
    ),
    (full(speakers={"bo": {}, "bo ": {}}), "speakers.bo stands twice, but for spaces around the name"),
    (
        full(speakers={"bo": {" age": 1, "age": 2}}),
        "speakers.bo.age stands twice, but for spaces around the name",
    ),
    ({"turns": "hi"}, 'turns must be a list of one turn at least, found "hi"'),
    ({"turns": None}, "turns must be a list of one turn at least, found null"),
    ({"turns": [["anna", "hi"]]}, "turn 1 must be a text or an object with speaker and text, found"),
    ({"turns": ["hi", ""]}, "turn 2 has no text"),
    ({"turns": [{"text": "hi"}]}, "turn 1 has no speaker"),
    ({"turns": [{"speaker": "anna"}]}, "turn 1 has no text"),
    ({"turns": [{"speaker": "anna", "text": ["hi"]}]}, 'turn 1: text must be text, found ["hi"]'),
    ({"turns": [{"speaker": "anna", "text": "hi", "act": 2}]}, "turn 1: act must be text, found 2"),
    ('{"turns": ["\\ud800"]}', "a text has half a character in it"),
    ('{"turns": ["\\uD800"]}', "a text has half a character in it"),
    ("[" * 100_000, "lists or objects nested too deeply"),
    ("null", "a dialog is an object with turns, found null"),
]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        data.build(dataset(path), CPU)
    sentence = str(refused.value)
    assert "\n" not in sentence and not JARGON.search(sentence)
    return sentence


def with_line(path: Path, line: object) -> Path:
    """Write a good dialog and a bad one."""
    write(
        path, full(), line if isinstance(line, str) else json.dumps("" if isinstance(line, bytes) else line)
    )
    if isinstance(line, bytes):
        path.write_bytes(path.read_bytes().replace(b'""', line))
    return path


def test_each_mistake_gets_the_sentence_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("my.jsonl")
    said = [refusal(write(path))]
    said += [refusal(with_line(path, line)) for line in LINES]
    said.append(refusal(write(path, {"turns": ["hi"]}, full(turns=[{"speaker": "anna", "text": "yes"}] * 2))))
    content = gzip.compress((json.dumps(bare()) + "\n").encode())
    Path("my.jsonl.gz").write_bytes(content[:-4])
    said.append(refusal(Path("my.jsonl.gz")))
    for name in ("train", "valid", "dev"):
        Path("my").mkdir(exist_ok=True)
        write(Path("my", f"{name}.jsonl"), bare())
    said.append(refusal(Path("my")))
    listed = PAGE.partition("## Your own dialogs")[2].partition("```text\n")[2].partition("```")[0]
    assert said == listed.splitlines()


@pytest.mark.parametrize(("line", "sentence"), MORE)
def test_other_mistakes_get_one_too(tmp_path, line, sentence):
    path = with_line(tmp_path / "my.jsonl", line)
    assert refusal(path).startswith(f"{path}, line 2: {sentence}")


def test_what_concerns_no_line_is_said_of_the_file(tmp_path):
    path = tmp_path / "train.jsonl"
    assert refusal(path).startswith(
        f"no dialogs at {path}: dataset.path must be a file with a dialog in JSON on"
    )
    assert refusal(tmp_path).startswith(f"no dialogs at {path}: dataset.path must be")
    assert refusal(write(path, bare())) == (
        f"{path} has 1 dialogs: too few to hold 1 out for val and test each"
    )
    (tmp_path / "train.jsonl.gz").write_bytes(b"no archive")
    assert refusal(tmp_path) == (
        f"{tmp_path} has train.jsonl and train.jsonl.gz: one of them must be the training text"
    )
    path.unlink()
    gz = tmp_path / "train.jsonl.gz"
    assert refusal(gz) == f"{gz} is no complete gzip file: Not a gzipped file (b'no')"
    write(path, *[full(speakers={"bot": {"name": f"bot {n}"}}) for n in range(2 * MOST_VALUES)])
    assert refusal(path).startswith(
        "the speakers' name has 1,200 different values, at most 1,000 are possible"
    )


# ---- public formats ----


def convert(heading: str, folder: Path, monkeypatch) -> None:
    """Run the code block below a heading of the page, as it stands, in a folder."""
    code = PAGE.partition(f"### {heading}\n")[2].partition("```python\n")[2].partition("```")[0]
    assert 5 < len(code.splitlines()) < 20
    monkeypatch.chdir(folder)
    exec(compile(code, heading, "exec"), {})


def test_dailydialog_is_converted_as_the_page_says(tmp_path, monkeypatch):
    texts = (
        "Is it late ? __eou__ It is . __eou__",
        "Go . __eou__ Why ? __eou__ Now ! __eou__",
        "Hi . __eou__ Hi ! __eou__",
    )
    (tmp_path / "dialogues_text.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    (tmp_path / "dialogues_act.txt").write_text("2 1 \n3 2 3 \n1 4 \n")
    (tmp_path / "dialogues_topic.txt").write_text("1\n10\n1\n")
    convert("DailyDialog", tmp_path, monkeypatch)
    lines = [json.loads(line) for line in Path("dailydialog.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[1] == {
        "topic": "finance",
        "turns": [
            {"speaker": "A", "text": "Go . ", "act": "directive"},
            {"speaker": "B", "text": " Why ? ", "act": "question"},
            {"speaker": "A", "text": " Now ! ", "act": "directive"},
        ],
    }
    splits = data.build(dataset(Path("dailydialog.jsonl")), CPU)
    assert {split: len(corpus.topics) for split, corpus in splits.corpora.items()} == {
        **{"train": 1, "val": 1, "test": 1},
    }
    assert splits.topics and splits.acts and not splits.people


def test_personachat_is_converted_as_the_page_says(tmp_path, monkeypatch):
    episodes = [
        "1 your persona: i like to ski.\n2 your persona: i have a dog.\n"
        f"3 hi , how are you ?\tgood , you ? {n}\t\tno|good , you ? {n}\n4 fine\ti ski\t\tyes|i ski\n"
        for n in range(3)
    ]
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}_self_original.txt").write_text("".join(episodes), encoding="utf-8")
    convert("Persona-Chat", tmp_path, monkeypatch)
    splits = data.build(dataset(Path("personachat")), CPU)
    assert {split: len(corpus.topics) for split, corpus in splits.corpora.items()} == {
        **{"train": 3, "val": 3, "test": 3},
    }
    corpus = splits.corpora["train"]
    assert corpus.words(np.array([3, 5])) == [["i", "ski"], ["good", ",", "you", "?", "1"]]
    assert [corpus.name(place) for place in corpus.places[:2]] == ["partner", "self"]
    assert (splits.topics, splits.acts, splits.people, len(splits.notes)) == ([], [], 0, 2)


# ---- a run ----


@pytest.fixture(scope="module", params=["full", "bare"])
def trained(request, tmp_path_factory, configured) -> tuple[str, Path, Path]:
    """What the corpus has, its file, and the folder of a run on it."""
    folder = tmp_path_factory.mktemp(request.param)
    make = full if request.param == "full" else bare
    path = write(folder / "my.jsonl", *map(make, range(24)))
    run(configured(*SMALL, f"dataset.path={path}"), RunFolder(folder / "run"))
    return request.param, path, folder / "run"


def test_a_run_has_measures_and_samples_of_what_there_is_only(trained, capsys):
    has, _, folder = trained
    results = json.loads((folder / "results.json").read_text())
    page = (folder / "samples.md").read_text()
    assert "test/bleu4_f1" in results and "test/authors/rec" not in results
    names = {key for key in results if re.search(r"\bacts?\b|act_|topic|unknown_(?!share)", key)}
    assert table.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert page.count("\n1. ") == 2 == page.count("## ")
    if has == "bare":
        assert not names and "act" not in printed and "(`" not in page and "unknown" not in page
        assert re.search(r"^## 1\.$", page, re.M) and "- A: `hi number" in page
    else:
        assert {"test/act_hit", "test/acts", "val/act_accuracy", "data/topics", "data/acts"} < names
        assert "act_hit" in printed and "(`question`)" in page and "## 1. `" in page
        assert "anna, reference: " in page
    assert results["notes"][-1].startswith("train has 2 topics" if has == "full" else "train has no topics")


def test_a_run_is_sampled_chatted_with_and_evaluated(trained, capsys, monkeypatch, tmp_path):
    has, path, folder = trained
    assert sample.main([str(folder), "--json", "--count", "3"]) == 0
    (conversations,) = json.loads(capsys.readouterr().out).values()
    extra = {"topic"} if has == "full" else set()
    assert {frozenset(one) for one in conversations} == {
        frozenset({"context", "speaker", "reference", "answers", *extra})
    }
    assert {"act" in said for one in conversations for said in one["answers"]} == {has == "full"}
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n2\nhow are you\n"))
    assert sample.main([str(folder), "--chat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[1].endswith(")") == (has == "full")
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(path.read_bytes())
    assert evaluate.main([str(folder), "test", "--data", str(moved)]) == 0
    recorded = json.loads((folder / "results.json").read_text())
    for key, value in json.loads(capsys.readouterr().out).items():
        assert recorded[key] == pytest.approx(value), key
    write(moved, bare())
    assert evaluate.main([str(folder), "test", "--data", str(moved)]) == 1
    assert sample.main([str(folder), "--chat", "--topic", "space"]) == 1
    wrong = (
        "--topic space is none of the train split's topics: music, pets"
        if has == "full"
        else "--topic space: the train split has no topics"
    )
    assert wrong in capsys.readouterr().err


def test_a_name_changes_nothing_on_a_page(tmp_path, configured):
    turns = [{"speaker": name, "text": "yes"} for name in ("<b>_x_", "bo")]
    path = write(tmp_path / "my.jsonl", *[{"turns": turns}] * 6)
    task = prepare(configured(*SMALL, f"dataset.path={path}"))
    with task.eval_mode():
        page = task.page()
    assert "<b>" in page and "`<b>_x_`" in page and not re.search(r"(?<!`)<b>", page)


def test_acts_that_are_missing_here_and_there_teach_nothing(tmp_path, configured):
    path = write(tmp_path / "my.jsonl", *map(full, range(24)))
    task = prepare(configured(*SMALL, f"dataset.path={path}"))
    corpus = task.data.corpora["train"]
    assert task.classifier.accuracy(corpus)["act_majority"] == 0.5
    unlabelled = dataclasses.replace(corpus.batch(np.arange(2)))
    assert unlabelled.people.shape == (2, 6) and not torch.isnan(unlabelled.people).any()
    corpus.acts[:] = UNKNOWN
    assert task.classifier.accuracy(corpus) == {}


def test_acts_and_topics_are_numbered_from_the_commonest_on_and_ties_by_the_alphabet():
    assert _ranked(["b", "a", None, "d", "b", "a", "c", "c", "c"]) == {"c": 0, "a": 1, "b": 2, "d": 3}
