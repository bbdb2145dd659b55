"""How answers are scored, and read."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cvae import answers, data, figures
from cvae.acts import ActClassifier
from cvae.config import DialogData
from cvae.data import references, vectors
from cvae.data.dialogs import UNKNOWN, DialogSplits
from cvae.folder import RunFolder
from cvae.reading import UserError
from cvae.run import reopen, run

ROOT = Path(__file__).parent.parent
HERE = ROOT / "tests/dialogs"
DATA = DialogData(
    name="switchboard",
    path=str(HERE),
    vocabulary=60,
    max_tokens=40,
    window=10,
    held_out=0.2,
    consecutive=3,
)
SMALL = (
    *("task=switchboard", f"dataset.path={HERE}", "dataset.held_out=0.2", "dataset.vocabulary=60"),
    *("model.embed=5", "model.utterance=4", "model.context=6", "model.topic=2", "model.latent=3"),
    *("model.prior=4", "model.decoder=7", "model.bow_hidden=4", "model.init=0.5"),
    *("task.samples=3", "task.iw_samples=2", "task.examples=4", "task.contexts=9"),
    *("train.batch_size=6", "train.epochs=1", "train.log_every=4"),
)


@pytest.fixture(scope="module")
def splits() -> DialogSplits:
    return data.build(DATA, torch.device("cpu"))


# ---- BLEU ----

# protocol B4: NLTK 3.9.1, reference "i do not know"
TABLE = {
    "i do not know": (1.3333, 1.2172, 1.1539, 1.0106),
    "i know": (0.3764, 0.2281, 0.1397, 0.0855),
    "i think so too yes": (0.4801, 0.2959, 0.1885, 0.1211),
    "i": (0.0498, 0.0287, 0.0166, 0.0096),
    "no": (0, 0, 0, 0),
    "": (0, 0, 0, 0),
}


@pytest.mark.parametrize("answer", TABLE)
def test_bleu_is_the_authors(answer):
    found = answers.smoothed_bleu(answer.split(), ["i", "do", "not", "know"])
    assert found == pytest.approx(TABLE[answer], abs=6e-5)


def test_bleu_is_nltks():
    score = pytest.importorskip("nltk.translate.bleu_score")
    rng = np.random.default_rng(0)
    for _ in range(200):
        answer, reference = (rng.integers(0, 5, rng.integers(1, 12)).tolist() for _ in range(2))
        found = answers.smoothed_bleu(answer, reference)
        for n in range(1, 5):
            weights = [1 / n] * n + [0] * (4 - n)
            smooth = score.SmoothingFunction().method7
            wanted = score.sentence_bleu([reference], answer, weights, smoothing_function=smooth)
            assert found[n - 1] == pytest.approx(float(wanted), abs=1e-12)


def test_precision_and_recall_are_over_answers_and_references():
    found = answers.Agreement()
    found.add(np.array([[0.2, 0.8], [0.4, 0.1], [0.0, 0.0]]))  # three answers, two references
    found.add(np.array([[1.0]]))
    found.add(np.empty((0, 2)))  # left out
    precision, recall = ((0.8 + 0.4 + 0.0) / 3 + 1) / 2, ((0.4 + 0.8) / 2 + 1) / 2
    wanted = {"x_precision": precision, "x_recall": recall}
    wanted["x_f1"] = 2 * precision * recall / (precision + recall)
    assert found.values("x") == pytest.approx(wanted)
    assert answers.Agreement().values("x") == {"x_precision": 0, "x_recall": 0, "x_f1": 0}


def test_sacrebleu_is_bounded_and_takes_as_many_references_as_there_are():
    said = [[["i", "do", "not", "know"], ["no"]], [["that", "is", "right"], ["yes", "it", "is"]]]
    right = [[["i", "do", "not", "know"]], [["yes", "it", "is"], ["that", "is", "right"]]]
    found = answers.sacrebleu(said, right)
    assert found["sacrebleu_precision"] == pytest.approx((0.5 + 1) / 2)
    assert found["sacrebleu_recall"] == pytest.approx(1)
    assert 0.5 < found["corpus_bleu"] < 1
    every = answers.sacrebleu([[one[0]] for one in said], right)
    assert every["corpus_bleu"] == pytest.approx(1)


# ---- vectors, diversity ----


def test_sentences_are_compared_by_average_and_extrema():
    words = np.array([[3.0, -1.0], [-2.0, 1.0], [-4.0, 0.0]])
    assert answers.average(words).tolist() == [-1, 0]
    assert answers.extrema(words).tolist() == [-4, 1]  # of 1 and -1 the higher
    table = np.array([[0, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    known = np.array([False, True, True, True])
    found = answers.bag_similarity([[[1], [2, 0]]], [[[1]]], table, known)
    assert found["a_bow_precision"] == pytest.approx((1 + 0.5) / 2)
    assert found["a_bow_recall"] == pytest.approx(1)
    assert answers.bag_similarity([[[0]]], [[[1]]], table, known)["a_bow_f1"] == 0  # nothing known
    assert answers.bag_similarity([[[1]]], [[[3]]], table, known)["e_bow_f1"] == 0  # opposite


def test_distinct_counts_within_a_context_and_over_the_set():
    found = answers.distinct([[[1, 2], [1, 2], [3]], [[1], []]])
    assert found["different"] == 2
    assert found["distinct1"] == 3 / 6 and found["distinct2"] == 1 / 2
    assert found["distinct1_context"] == pytest.approx((3 / 5 + 1) / 2)
    assert found["distinct2_context"] == pytest.approx(1 / 2)  # the second context has no pairs


def test_words_in_the_same_company_get_similar_vectors_the_same_each_time():
    rng = np.random.default_rng(0)
    sentences = [[rng.integers(4, 6), 8, 9, 8] for _ in range(200)]
    sentences += [[rng.integers(6, 8), 10, 11, 10] for _ in range(200)]
    sentences = [list(map(int, sentence)) for sentence in sentences]
    found, known = vectors.cooccurrence(sentences, 13, 4)
    assert known.tolist() == [False] * 4 + [True] * 8 + [False]
    unit = found[known] / np.linalg.norm(found[known], axis=1, keepdims=True)
    likeness = unit @ unit.T
    assert likeness[0, 1] > 0.9 and likeness[2, 3] > 0.9 and abs(likeness[:2, 2:4]).max() < 0.2
    assert np.array_equal(vectors.cooccurrence(sentences, 13, 4)[0], found)


def test_the_act_classifier_learns_words_and_is_the_same_each_time(splits):
    train, held = splits.corpora["train"], splits.corpora["held"]
    state = torch.get_rng_state()
    found = [ActClassifier(train, len(splits.vocabulary), len(splits.acts)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].weights, found[1].weights)
    measured = found[0].accuracy(held)
    assert measured["act_accuracy"] > measured["act_majority"]
    words = splits.vocabulary.index
    question, yeah = [words["what"], words["about"], words["the"]], [words["yeah"]]
    acts = [splits.acts[act] for act in found[0]([question, yeah])]
    assert acts == ["wh-question", "acknowledge_(backchannel)"]
    assert len(found[0]([])) == 0


# ---- references ----


def written(tmp_path: Path, entries: object) -> Path:
    path = tmp_path / "references.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def utterances(split: str) -> list[list[list[str]]]:
    """[speaker, text] of each utterance of each dialog."""
    lines = (HERE / f"{split}.jsonl").read_text().splitlines()
    return [[said[:2] for said in json.loads(line)["utts"]] for line in lines]


def test_references_are_matched_by_their_context_wherever_they_stand(tmp_path, splits):
    corpus, dialogs = splits.corpora["test"], utterances("test")
    entries = [
        {"responses": ["yeah", "What about THE dog"], "resp_dialog_acts": ["agree/accept", "?"]}
        | {"context": [text for _, text in dialogs[1][:12]]},  # more than the window holds
        {"responses": ["uh-huh"], "context": dialogs[0][:2]},
        {"responses": ["nowhere"], "context": ["said by nobody"]},
    ]
    found = references.read(written(tmp_path, entries), corpus)
    assert sorted(found) == [2, len(dialogs[0]) + 12]
    words = splits.vocabulary.words
    late = found[len(dialogs[0]) + 12]
    assert [[words[n] for n in said] for said in late.responses] == [
        ["yeah"],
        ["what", "about", "the", "dog"],
    ]
    assert late.acts == [splits.acts.index("agree/accept"), UNKNOWN] and found[2].acts == []


def test_the_same_context_twice_takes_its_references_in_turn(tmp_path, splits):
    entries = [{"responses": [word], "context": []} for word in ("yeah", "oh")]
    found = references.read(written(tmp_path, entries), splits.corpora["test"])
    first = utterances("test")[0]
    words = splits.vocabulary.words
    said = {number: words[some.responses[0][0]] for number, some in found.items()}
    assert said == {0: "yeah", len(first): "oh"}


def test_references_without_contexts_are_matched_by_place_if_they_are_as_many(tmp_path, splits):
    corpus = splits.corpora["test"]
    entries = [{"responses": ["yeah"] * (number + 1)} for number in range(len(corpus))]
    found = references.read(written(tmp_path, entries), corpus)
    assert [len(found[number].responses) for number in range(len(corpus))] == list(range(1, len(corpus) + 1))
    with pytest.raises(UserError, match="has 20 entries without a context for 21 responses"):
        references.read(written(tmp_path, entries[1:]), corpus)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("{", "is not JSON"),
        ([], "must be a list of references"),
        ({"a": 1}, "must be a list of references"),
        ([{"responses": []}], "entry 1: responses must be a list of texts"),
        ([{"responses": ["a"]}, {"responses": ["a", 3]}], "entry 2: responses must be a list of texts"),
        ([{"responses": ["a"], "resp_dialog_acts": []}, 3], "entry 2: responses must"),
        ([{"responses": ["a"], "resp_dialog_acts": ["x", "y"]}], "entry 1: resp_dialog_acts must be one for"),
        ([{"responses": ["a"], "context": []}, {"responses": ["a"]}], "entry 2: no context, though others"),
        ([{"responses": ["a"], "context": "hi"}], "entry 1: context must be a list of utterances"),
        ([{"responses": ["a"], "context": ["never said"]}], "none of its 1 contexts is one of this split"),
    ],
)
def test_references_that_cannot_be_used_are_refused(tmp_path, splits, entries, sentence):
    path = written(tmp_path, entries)
    with pytest.raises(UserError, match=sentence) as refusal:
        references.read(path, splits.corpora["test"])
    assert str(path) in str(refusal.value)


# ---- a run ----


def script():
    """scripts/sample.py as a module."""
    name = "sample_of_dialogs"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts/sample.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, configured) -> list[Path]:
    """Two finished runs."""
    found = []
    for schedule in ("monotonic", "cyclical"):
        path = tmp_path_factory.mktemp("dialog") / schedule
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(figures, "run_pictures", lambda path: [])
            run(configured(*SMALL, f"schedule={schedule}"), RunFolder(path))
        found.append(path)
    return found


def test_a_finished_run_has_every_score_and_the_same_checkpoint_the_same(folders):
    folder = RunFolder(folders[0])
    results = folder.results
    for split in ("val", "test", "held"):
        names = {key.partition("/")[2] for key in results if key.startswith(f"{split}/")}
        assert names >= {"elbo", "rec", "kl", "ppl", "rec_ppl", "bow", "iw_nll", "mi", "au", "path_a"}
        assert names >= {f"bleu{n}_{what}" for n in range(1, 5) for what in ("precision", "recall", "f1")}
        assert names >= {
            "a_bow_f1",
            "e_bow_f1",
            "sacrebleu_f1",
            "corpus_bleu",
            "distinct1",
            "distinct2_context",
        }
        assert names >= {"acts", "act_hit", "act_accuracy", "different", "answer_words"}
        assert results[f"{split}/contexts"] == 9 and 1 <= results[f"{split}/acts"] <= 3
    task = reopen(folder.configuration("cpu"), folder)
    again = {f"held/{name}": value for name, value in task.evaluate("held", thorough=True).items()}
    assert again == {key: value for key, value in results.items() if key.startswith("held/")}
    assert results["data/val/unknown_topics"] == 1
    tokens = results["data/val/tokens"] / results["data/val/sentences"]
    assert results["val/rec_ppl"] == pytest.approx(np.exp(results["val/rec"] / tokens))


def test_references_replace_the_response_on_test_only(folders, tmp_path):
    folder = RunFolder(folders[0])
    entries = [{"responses": ["yeah", "oh yeah"], "context": utterances("test")[0][:4]}]
    config = folder.configuration("cpu", references=str(written(tmp_path, entries)))
    task = reopen(config, folder)
    task.model.eval()
    with torch.no_grad():
        test, val = task.scores("test"), task.scores("val")
    assert (test["contexts"], test["references"]) == (1, 2) and "act_hit" not in test
    assert (val["contexts"], val["references"]) == (9, 1)


def test_samples_and_draws_are_as_asked(folders):
    folder = RunFolder(folders[0])
    said = {}
    for temperature, top_p, forbid in ((0.0, 1.0, False), (1.5, 1.0, True), (1.5, 0.5, True)):
        keys = {"temperature": temperature, "top_p": top_p, "forbid_unknown": forbid, "samples": 4}
        task = reopen(folder.configuration("cpu", **keys), folder)
        task.model.eval()
        some = [task.answers("val", np.arange(5), seed) for seed in (1, 1, 2)]
        assert some[0] == some[1] != some[2]
        assert [len(one) for one in some[0]] == [4] * 5
        assert max(len(words) for one in some[0] for words in one) <= 38
        words = {number for one in some[0] for words in one for number in words}
        assert not (forbid and 1 in words)
        said[temperature, top_p] = str(some[0])
    assert len(set(said.values())) == 3


def test_the_page_of_a_run_shows_context_reference_and_answers(folders):
    page = (folders[0] / "samples.md").read_text()
    assert page.count("## ") == 4 == page.count("reference: **")
    assert page.count("\n3. ") == 4 and "wh-question" in page


def test_runs_stand_side_by_side(folders, capsys):
    command = [str(folders[0]), "--beside", str(folders[1]), "--count", "3", "--split", "test"]
    assert script().main(command) == 0
    page = capsys.readouterr().out
    assert page.count("## ") == 3 == page.count(f"{folders[0]}:") == page.count(f"{folders[1]}:")
    assert script().main([*command, "--json", "--answers", "2", "--temperature", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found.values()
    assert [one["reference"] for one in first] == [one["reference"] for one in second]
    assert {len(one["answers"]) for one in first + second} == {2}


def test_a_chat_goes_on_with_what_was_chosen(folders, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What about the dog?\n2\nyeah\n\nWhat about the dog?\n"))
    assert script().main([str(folders[0]), "--chat", "--topic", "music", "--temperature", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("1. ") and said[4] == "B has said: " + said[2][3:].rpartition(" (")[0]
    assert said[5].startswith("1. ") and said[8] == "A new dialog."
    assert said[9:12] == said[1:4]


@pytest.mark.parametrize("text", ["²", "9" * 5000, "٣ ²", "①"])
def test_what_is_no_number_of_an_answer_is_something_said(text, folders, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"yeah\n{text}\n٢\n"))
    assert script().main([str(folders[0]), "--chat"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in said[1:7]] == ["1. ", "2. ", "3. "] * 2
    assert said[7] == "B has said: " + said[5][3:].rpartition(" (")[0]


def test_a_chat_ends_in_a_sentence_where_it_is_no_text_and_quietly_at_ctrl_c(folders, capsys, monkeypatch):
    class Interrupted(io.StringIO):
        def __next__(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ye\xffah\n"), encoding="utf-8"))
    assert script().main([str(folders[0]), "--chat"]) == 1
    assert capsys.readouterr().err == "what is typed must be UTF-8, found the byte 0xff\n"
    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert script().main([str(folders[0]), "--chat"]) == 0
    assert capsys.readouterr().err == ""


def test_what_does_not_answer_is_refused(folders, tmp_path, configured, capsys):
    config = configured("task=toy", "train.steps=4")
    other = RunFolder(tmp_path / "toy")
    other.path.mkdir()
    other.describe(config, "", {})
    assert script().main([str(other.path), "--chat"]) == 1
    assert script().main([str(folders[0]), "prior"]) == 1
    assert script().main([str(folders[0]), "--beside", str(other.path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{other.path} is a run of task=toy, which does not answer",
        f"{folders[0]} answers in a dialog: leave out prior",
        f"{other.path} is a run of task=toy, which does not answer",
    ]
    with pytest.raises(SystemExit):
        script().main([str(folders[0]), "--chat", "--json"])


def test_an_autoencoder_has_no_prior_to_answer_from(folders, tmp_path, configured):
    steps = ("train.epochs=null", "train.steps=2", "train.validate_every=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "run_pictures", lambda path: [])
        run(configured(*SMALL, "schedule=none", *steps), RunFolder(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert "test/rec" in results and "test/kl" not in results and "test/bleu1_f1" not in results
    assert (tmp_path / "samples.md").read_text() == "schedule=none has no prior to answer from.\n"
    assert script().main([str(tmp_path), "--chat"]) == 1


def test_vectors_may_be_a_file_beside_the_data(folders, tmp_path):
    folder = RunFolder(folders[0])
    path = tmp_path / "glove.txt"
    path.write_text("yeah 1 0\nthe 0 1\n")
    task = reopen(folder.configuration("cpu", vectors=str(path)), folder)
    table, known = task.vectors
    assert known.sum() == 2 and table[task.data.vocabulary.index["yeah"]].tolist() == [1, 0]
    config = folder.configuration("cpu", vectors="nowhere.txt")
    with pytest.raises(UserError, match=r"no word vectors at .*dialogs/nowhere\.txt"):
        _ = reopen(dataclasses.replace(config), folder).vectors
