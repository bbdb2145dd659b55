"""dataset=labelled: sentences of any number of classes, from tables and folders, through task=yelp."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from cvae import data
from cvae.config.schema import OwnLabels, Shares
from cvae.data import labelled
from cvae.data.text import Corpus
from cvae.data.vocabulary import BOS, EOS
from cvae.errors import UserError
from cvae.evaluation.classifier import Classifier, Scaling, judge, probe
from cvae.models.gaussian import Gaussian
from cvae.report import figures
from cvae.runs.folder import RunFolder
from cvae.runs.reader import find_runs, read_map
from cvae.training.run import run
from tests.helpers import CPU, REVIEWS

CLASSES = ("bad", "fair", "good")
WORDS = {"bad": "awful", "fair": "usual", "good": "great"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keeps what `datasets` caches out of the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def sentences(name: str, count: int) -> list[str]:
    subjects = ("the food", "my room", "this place", "our table")
    return [f"{subjects[n % 4]} was {WORDS[name]} {n % 5}" for n in range(count)]


def table(folder: Path, name: str = "reviews.csv", counts: int = 20, classes: tuple = CLASSES) -> Path:
    """A CSV of three classes, mixed."""
    rows = [f"{text},{name}" for name in classes for text in sentences(name, counts)]
    (folder / name).write_text("\n".join(["review,stars", *rows[::2], *rows[1::2]]) + "\n")
    return folder / name


def own(path: Path, **values) -> OwnLabels:
    base = {"max_words": 20, "held_out": 0.1, "sampler": "bucketed", "share": Shares(1.0, 1.0, 1.0)}
    base |= dict.fromkeys(("column", "label", "longest"))
    return OwnLabels(name="labelled", path=str(path), **(base | values))


def test_a_table_is_split_class_by_class_and_its_column_of_text_is_found(tmp_path):
    built = data.build(own(table(tmp_path), label="stars", max_words=5), CPU)  # all have five
    assert built.classes == CLASSES
    for split, count in (("train", 16), ("val", 2), ("test", 2)):
        labels = built.corpora[split].labels
        assert labels.tolist() == sorted(labels) and np.bincount(labels).tolist() == [count] * 3
    train = built.corpora["train"]
    for row in (0, 20, 47):
        text = built.vocabulary.sentence(train.batch(np.array([row])).tokens[0].tolist())
        assert WORDS[CLASSES[train.labels[row]]] in text
    assert built.notes[0].startswith("train 48 sentences of 3 classes; val 6 held out of train (dataset.held")


def test_no_text_is_in_two_splits_and_none_is_lost(tmp_path):
    found, _ = labelled.read_own(own(table(tmp_path), label="stars"))
    for name in CLASSES:
        texts = [text for classes in found.values() for text in classes[name]]
        assert sorted(texts) == sorted(sentences(name, 20))


def test_of_a_split_without_a_sentence_the_file_is_named(tmp_path):
    table(tmp_path, "train.csv")
    (tmp_path / "test.csv").write_text("review,stars\n ,good\n")
    with pytest.raises(UserError, match=r"test\.csv has no sentence in it$"):
        labelled.read_own(own(tmp_path, label="stars"))


def test_folders_of_classes_are_read_with_and_without_splits(tmp_path):
    for split in ("train", "test"):
        for name in CLASSES:
            folder = tmp_path / "split" / split / name
            folder.mkdir(parents=True)
            for place, text in enumerate(sentences(name, 10)):
                (folder / f"{place}.txt").write_text(text)
    (tmp_path / "split" / "train" / "bad" / "README.md").write_text("no text of this class")
    built = data.build(own(tmp_path / "split"), CPU)
    sizes = {split: len(corpus) for split, corpus in built.corpora.items()}
    assert sizes == {"train": 27, "test": 30, "val": 3} and built.classes == CLASSES
    assert {"train/bad", "test/good"} <= built.fingerprints.keys()
    read, _ = labelled.read_own(own(tmp_path / "split"))
    assert read["test"]["bad"] == sentences("bad", 10)  # in the order of the files' names
    alone = data.build(own(tmp_path / "split" / "train"), CPU)
    assert {split: len(corpus) for split, corpus in alone.corpora.items()} == {
        "train": 24,
        "val": 3,
        "test": 3,
    }
    (tmp_path / "split" / "train" / "bad" / "0.txt").write_text("another text")
    edited = data.build(own(tmp_path / "split"), CPU).fingerprints
    assert edited["train/bad"] != built.fingerprints["train/bad"]
    (tmp_path / "split" / "train" / "bad" / "0.txt").rename(tmp_path / "split" / "train" / "bad" / "00.txt")
    (tmp_path / "split" / "train" / "good" / "more").mkdir()
    renamed = data.build(own(tmp_path / "split"), CPU).fingerprints
    assert renamed["train/bad"] != edited["train/bad"] and renamed["train/good"] == edited["train/good"]


def test_a_folder_of_tables_has_splits_by_their_usual_names(tmp_path):
    table(tmp_path, "train.csv")
    table(tmp_path, "valid.csv", counts=4, classes=CLASSES[1:])
    built = data.build(own(tmp_path, label="stars"), CPU)
    sizes = {split: len(corpus) for split, corpus in built.corpora.items()}
    assert sizes == {"train": 54, "val": 8, "test": 6} and built.classes == CLASSES
    assert built.corpora["val"].labels.tolist() == [1] * 4 + [2] * 4  # of the first class it has none
    assert {"train", "val"} <= built.fingerprints.keys()


def test_classes_that_are_numbers_are_in_the_order_of_numbers_and_before_others(tmp_path):
    rows = [{"text": f"a b {n}", "stars": stars} for stars in (10, "all", 9, " 1 ") for n in range(12)]
    rows.append({"text": None, "stars": 9})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    built = data.build(own(tmp_path / "a.jsonl", label="stars", share=Shares(0.5, 1.0, 1.0)), CPU)
    assert built.classes == ("1", "9", "10", "all")
    assert np.bincount(built.corpora["train"].labels).tolist() == [5] * 4
    assert built.notes[0].endswith("; 1 empty or longer ones left out")
    assert built.notes[-1] == "train: 20 sentences, the first 50 % of each class (dataset.share.train)"


def test_classes_below_0_and_with_places_behind_the_point_are_numbers_too(tmp_path):
    lines = [f"a b,{stars}" for stars in ("0", "1", "-1", "4.5", "10.0", "2", "nan", "all")]
    (tmp_path / "a.csv").write_text("\n".join(["text,stars", *lines * 12]))
    built = data.build(own(tmp_path / "a.csv", label="stars"), CPU)
    assert built.classes == ("-1", "0", "1", "2", "4.5", "10.0", "all", "nan")


def test_what_is_empty_or_longer_is_left_out_and_said(tmp_path):
    path = table(tmp_path)
    with path.open("a") as file:
        file.write(",bad\n ,good\n" + "one two three four five six,fair\n" * 3)
    built = data.build(own(path, label="stars", longest=5), CPU)
    assert built.notes[0].endswith("(dataset.held_out); 5 empty or longer ones left out")
    assert sum(map(len, built.corpora.values())) == 60
    assert "left out" not in data.build(own(table(tmp_path), label="stars"), CPU).notes[0]


BAD = [
    (
        "a.csv",
        "text,stars\na b,1\n",
        {},
        "dataset.label must name the column of the classes: {path} has stars, text",
    ),
    (
        "a.csv",
        "text,stars\na b,1\n",
        {"label": "star"},
        "dataset.label=star is no column: {path} has stars, text",
    ),
    (
        "a.csv",
        "text,stars\na b,1\nb c,\n",
        {"label": "stars"},
        "a.csv, line 3: stars must name a class, found ",
    ),
    (
        "a.csv",
        "text,stars\na b,1\nb c,1\n",
        {"label": "stars"},
        "all training sentences are of one class, 1: ",
    ),
    ("a.csv", "text,more,stars\na b,c d,x\n", {"label": "stars"}, "has the text columns more, text: "),
    (
        "a.jsonl",
        '{"text": 3, "stars": 1}\n',
        {"label": "stars", "column": "text"},
        "line 1: text must be text, found 3",
    ),
    (
        "a.jsonl",
        '{"text": "a", "stars": [1]}\n',
        {"label": "stars"},
        "line 1: stars must name a class, found [1]",
    ),
    (
        "a.jsonl",
        '{"text": "a", "stars": 1}\n{"text": "a", "stars": null}\n',
        {"label": "stars"},
        "line 2: stars must name a class, found null",
    ),
    (
        "a.jsonl",
        '{"text": "a", "stars": 1}\n{"text": "a", "stars": " "}\n',
        {"label": "stars"},
        'line 2: stars must name a class, found " "',
    ),
    (
        "a.jsonl",
        '{"text": "a", "stars": {"of": 5}}\n',
        {"label": "stars"},
        'line 1: stars must name a class, found {"of": 5}',
    ),
    (
        "a.csv",
        "text,stars\na b,1\nb c,2\n",
        {"label": "stars"},
        "the class 1 of {path} has 1 sentences: too few to hold",
    ),
    (
        "a.csv",
        "text,stars\na b c d,1\nb c,2\n",
        {"label": "stars", "max_words": 3},
        "line 2: 4 words, dataset.max_",
    ),
    ("a.txt", "a b\n", {"label": "stars"}, "a.txt is plain text: dataset=labelled reads tables"),
    ("a.csv", "text,stars\n,1\n ,2\n", {"label": "stars"}, "a.csv has no sentence in it"),
]


@pytest.mark.parametrize(("name", "content", "values", "sentence"), BAD, ids=range(len(BAD)))
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, name, content, values, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as refusal:
        data.build(own(tmp_path / name, **values), CPU)
    whole = sentence.replace("{path}", str(tmp_path / name))
    assert whole in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_no_text_may_have_is_refused_by_its_own_file_and_line(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("the food\n")
    path = tmp_path / "fair" / "b.txt"
    for line, sentence in (("w " * 21, "21 words, dataset.max_words allows 20"), ("a <s> b", "<s>: of the")):
        path.write_text(f"fine\n{line}\n")
        with pytest.raises(UserError, match=f"^{re.escape(f'{path}, line 2: {sentence}')}"):
            data.build(own(tmp_path), CPU)


def test_a_class_that_train_lacks_and_a_folder_without_any_are_refused(tmp_path):
    for split, names in (("train", CLASSES[:2]), ("test", CLASSES)):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "a.txt").write_text("\n".join(sentences(name, 8)))
    with pytest.raises(UserError, match="test has the class good, and train has only bad, fair"):
        data.build(own(tmp_path), CPU)
    (tmp_path / "empty").mkdir()
    for read in (labelled.read_own, lambda config: data.build(config, CPU)):
        with pytest.raises(UserError, match=r"no labelled sentences at .*empty: dataset\.path must be"):
            read(own(tmp_path / "empty"))


def test_softmax_of_more_classes_is_scored_as_defined():
    logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 1.0]]), np.array([0, 1])
    score = judge(logits, labels)
    likelihoods = np.exp(logits[[0, 1], labels]) / np.exp(logits).sum(1)
    assert score.accuracy == 0.5 and score.fit == pytest.approx(np.log(likelihoods).mean())


class Reader(nn.Module):
    """An encoder whose mean is the vector of the first word."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.eye(8)[:, :3] * 2, freeze=False)

    def forward(self, batch):
        mean = self.table(batch.tokens[:, 1] - 4)
        return Gaussian(mean, torch.zeros_like(mean))


def test_a_classifier_of_three_classes_starts_as_its_probe():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 60, p=(0.6, 0.3, 0.1))  # whose biases differ
    corpus = Corpus([[BOS, 4 + label, EOS] for label in labels], 20, CPU, labels)
    reader = Reader()
    means = reader(corpus.batch(np.arange(60))).mean.detach()
    scaling = Scaling.of(means)
    fitted = probe(scaling(means)[:40], labels[:40], scaling(means)[40:], labels[40:], [1.0])
    assert fitted.weights.shape == (3, 3) and fitted.score.accuracy == 1.0
    again = judge(fitted.logits(scaling(means)[40:]), labels[40:])
    assert again == pytest.approx(tuple(fitted.score), abs=1e-9)
    classifier = Classifier(reader, scaling, 3)
    classifier.start_from(fitted)
    logits = classifier(corpus.batch(np.arange(60))).detach().double().numpy()
    assert logits == pytest.approx(fitted.logits(scaling(means)), abs=1e-5)
    loss = classifier.loss(corpus.batch(np.arange(60)), labels).item()
    assert loss == pytest.approx(-judge(logits, labels).fit, abs=1e-5)


def test_the_whole_second_stage_runs_on_three_classes_with_their_names(tmp_path, configured):
    labels = ("dataset=labelled", f"dataset.path={table(tmp_path)}", "dataset.label=stars")
    config = configured(*REVIEWS, *labels, "train.epochs=3", "task.finetune.modes=[probe,finetune,scratch]")
    run(config, RunFolder(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test/majority"] == pytest.approx(1 / 3)
    for mode in ("probe", "finetune", "scratch"):
        assert 0 <= results[f"test/accuracy/{mode}/1"] <= 1
    points = read_map(tmp_path / "run")
    assert set(points.classes.values()) >= set(CLASSES) and set(points.labels) == {0, 1, 2}
    figure = figures.map_figure(find_runs([tmp_path / "run"]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASSES)
    metadata = (tmp_path / "run" / "projector_sentences.tsv").read_text().splitlines()
    assert {line.split("\t")[1] for line in metadata[1:]} == set(CLASSES)


def test_short_yelp_is_read_by_its_label_and_tab(tmp_path, configured):
    for part in ("train", "valid", "test"):
        lines = [f"{n % 2}\tthe food was {('awful', 'great')[n % 2]} {n % 7}" for n in range(12)]
        (tmp_path / f"short_yelp.{part}.txt").write_text("\n".join(lines))
    config = configured("task=yelp", "dataset=short_yelp", f"dataset.path={tmp_path}").dataset
    built = data.build(config, CPU)
    assert built.classes == ("negative", "positive")
    train = built.corpora["train"]
    assert train.labels.tolist() == [0] * 6 + [1] * 6
    texts = [built.vocabulary.sentence(row) for row in train.batch(np.arange(12)).tokens.tolist()]
    assert all("awful" in text for text in texts[:6]) and all("great" in text for text in texts[6:])
    for line in ("1 the food was great", "1", "2\tfine", "\tfine", "1\t", "0\t "):
        (tmp_path / "short_yelp.test.txt").write_text(f"1\tfine\n{line}\n")
        found = re.escape(json.dumps(line))
        sentence = rf"test\.txt, sentence 2: a line is 0 or 1, a tab and a sentence, found {found}$"
        with pytest.raises(UserError, match=sentence):
            data.build(config, CPU)
