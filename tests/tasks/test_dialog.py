"""The dialog experiment: its data, its model and its measures (protocol B)."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cvae import data
from cvae.config.schema import DialogData, DialogModel, Objective, SemiAmortized
from cvae.data import dialog_records, switchboard
from cvae.data.dialog_records import START, UNKNOWN, Utterance, tokenise
from cvae.data.dialogs import DialogBatches, DialogCorpus, DialogSplits, authors_windows
from cvae.data.vocabulary import BOS, EOS, UNK, Vocabulary
from cvae.errors import FolderError, UserError
from cvae.evaluation import latent
from cvae.models import gaussian, kernels, objective
from cvae.models.dialog import DialogVAE
from cvae.models.kernels import gru as recurrent
from cvae.models.kernels.gru import GRU
from cvae.runs import fingerprints
from cvae.runs.compatibility import refuse_other_run
from cvae.runs.folder import RunFolder
from cvae.runs.provenance import describe
from cvae.tasks import dialog
from cvae.tasks.dialog import DialogTask
from cvae.training.steps.semi_amortized import SemiAmortizedStep
from tests.helpers import CPU, DIALOGS

MODEL = DialogModel(
    name="dialog",
    embed=5,
    utterance=4,
    context=6,
    topic=2,
    latent=3,
    prior=4,
    decoder=7,
    bow=True,
    bow_hidden=4,
    dropout=0.0,
    word_dropout=0.0,
    init=0.5,
    vectors=None,
)


def dataset(path: Path = DIALOGS, **values) -> DialogData:
    usual = {"vocabulary": 60, "max_tokens": 40, "window": 10, "held_out": 0.2, "consecutive": 3}
    return DialogData(name="switchboard", path=str(path), **usual | values)


@pytest.fixture(scope="module")
def splits() -> DialogSplits:
    return data.build(dataset(), CPU)


@pytest.fixture(scope="module")
def model(splits) -> DialogVAE:
    torch.manual_seed(0)
    return DialogVAE(MODEL, splits.vocabulary, len(splits.topics), 8).double().eval()


def densities(model: DialogVAE, batch, z) -> list[torch.Tensor]:
    """Everything a model says about a batch, a row per response."""
    p, q = model.prior(batch), model.posterior(batch)
    return [*p, *q, model.decode_nll(batch, z)[:, None], model.extra_losses(batch, z)["bow"][:, None]]


def double(batch):
    return dataclasses.replace(batch, floors=batch.floors.double(), people=batch.people.double())


def by_hand(model: DialogVAE, corpus, number: int, z: torch.Tensor) -> list[torch.Tensor]:
    """The densities of one response with no packing, sharing or batching at all: from the jsonl's order."""

    def tokens(place: int) -> torch.Tensor:
        text = corpus.texts[place]
        start = corpus.text_starts[text]
        return corpus.tokens[start : start + corpus.text_lengths[text]].long()

    def encoded(place: int) -> torch.Tensor:
        return model.utterance(model.embedding(tokens(place))[:, None])[1].flatten()

    place = corpus.places[number]
    context = []
    for before in range(corpus.starts[number], place):
        floor = float(corpus.speakers[before] == corpus.speakers[place])
        context.append(torch.cat([encoded(before), torch.tensor([floor, 1 - floor])]))
    state = model.context(torch.stack(context)[:, None])[1].flatten()
    dialog = corpus.dialogs[place]
    topic = model.topic.weight[corpus.topics[dialog]] if corpus.topics[dialog] >= 0 else torch.zeros(2)
    people = [torch.tensor(corpus.people[rows[place]]) for rows in (corpus.responder, corpus.addressee)]
    condition = torch.cat([topic, *people, state])
    hidden, _, last = model.prior_net
    p = last(torch.tanh(hidden(condition))).chunk(2)
    q = model.recognition(torch.cat([condition, encoded(place)])).chunk(2)
    both, said = torch.cat([condition, z]), tokens(place)
    h = model.start(both)[None, None]
    logits = model.output(model.decoder(model.embedding(said[:-1])[:, None], h)[0][:, 0])
    nll = functional.cross_entropy(logits, said[1:], reduction="sum")
    hidden, _, last = model.bag
    bag = -last(torch.tanh(hidden(both))).log_softmax(-1)[said[1:]].sum()
    return [*p, *q, nll[None], bag[None]]


def copied(tmp_path: Path, split: str, change) -> DialogData:
    """The dialogs with one line of a file changed: `change` gets the object and returns what to write."""
    for source in DIALOGS.glob("*.jsonl"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    path = tmp_path / f"{split}.jsonl"
    lines = path.read_text().splitlines()
    changed = change(json.loads(lines[1]))
    lines[1] = changed if isinstance(changed, str) else json.dumps(changed)
    path.write_text("\n".join(lines))
    return dataset(tmp_path)


# ---- data ----


@pytest.mark.parametrize("consecutive", [1, 3, 50])
@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("whole", [False, True])
def test_each_utterance_is_a_target_exactly_once_an_epoch(splits, consecutive, size, whole):
    lines = [json.loads(line) for line in (DIALOGS / "train.jsonl").read_text().splitlines()]
    corpora = splits.corpora
    assert len(corpora["train"]) + len(corpora["held"]) == sum(len(line["utts"]) for line in lines)
    corpus = corpora["train"]
    passages = DialogBatches(corpus, consecutive, size, 0, whole)
    epochs = []
    for epoch in (0, 1, 0):
        steps = range(epoch * len(passages), (epoch + 1) * len(passages))
        drawn = [passages.drawn(step) for step in steps]
        assert all(0 < len(numbers) <= size for numbers in drawn)
        assert sorted(np.concatenate(drawn).tolist()) == list(range(len(corpus)))
        epochs.append([numbers.tolist() for numbers in drawn])
        assert len(passages.at(steps[-1]).lengths) == len(drawn[-1])
    assert epochs[0] == epochs[2] != epochs[1]
    other = DialogBatches(corpus, consecutive, size, 1, whole)
    assert [other.drawn(step).tolist() for step in range(len(other))] != epochs[0]
    fit = size // min(consecutive, size)
    for numbers in epochs[0][:-1] if whole else ():
        assert sum(set(passage) <= set(numbers) for passage in passages.passages) == fit
    for passage in passages.passages:
        assert len(passage) <= consecutive
        assert len(set(corpus.dialogs[corpus.places[passage]])) == 1
        if whole or consecutive == 1:
            assert sum(set(passage) <= set(numbers) for numbers in epochs[0]) == 1
    assert np.concatenate(passages.members).tolist() == list(range(len(corpus)))


@pytest.mark.parametrize("consecutive", [1, 3, 8])
def test_a_batch_has_as_many_responses_as_it_says(configured, consecutive):
    config = configured(
        "task=switchboard",
        f"dataset.path={DIALOGS}",
        f"dataset.consecutive={consecutive}",
        "train.batch_size=5",
    )
    corpus = data.build(config.dataset, CPU).corpora["train"]
    passages = DialogTask.make_batches(types.SimpleNamespace(config=config), corpus)
    sizes = [len(passages.at(step).lengths) for step in range(len(passages))]
    assert set(sizes[:-1]) == {5} and sizes[-1] == len(corpus) - 5 * (len(sizes) - 1) > 0


def test_older_runs_are_of_whole_passages_and_not_gone_on_with(configured, tmp_path):
    overrides = "task=switchboard", f"dataset.path={DIALOGS}"
    config, folder = configured(*overrides), RunFolder(tmp_path)
    describe(folder, config, "", fingerprints.corpus(config))
    record = folder.record
    assert record["config"]["dataset"].pop("whole_passages") is False
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert folder.configuration("cpu").dataset.whole_passages
    with pytest.raises(FolderError, match=r"dataset\.whole_passages is True there and False here"):
        refuse_other_run(folder, config)
    refuse_other_run(folder, configured(*overrides, "dataset.whole_passages=true"))


def test_a_context_is_the_utterances_before_the_response(splits):
    dialog = json.loads((DIALOGS / "test.jsonl").read_text().splitlines()[0])["utts"]
    corpus = data.build(dataset(window=4), CPU).corpora["test"]
    for number in range(len(dialog)):
        read = [[corpus.labels.vocabulary.words[n] for n in said] for said in corpus.context(number)]
        wanted = [tokenise(text) for _, text, _ in dialog[max(0, number - 3) : number]]
        known = [[w if w in corpus.labels.vocabulary.index else "<unk>" for w in said] for said in wanted]
        assert read == known
    batch = corpus.batch(np.array([1, 6]))
    # `<d>` and A's first; then three utterances, whose speakers are compared with the responder's
    assert batch.contexts.batch_sizes.tolist() == [2, 2, 1]
    same = [float(dialog[place][0] == dialog[6][0]) for place in (3, 4, 5)]
    first = float(dialog[0][0] == dialog[1][0])
    assert batch.floors.tolist() == [same[0], 0.0, same[1], first, same[2]]


@pytest.mark.parametrize("size", [2, 3, 9])
@pytest.mark.parametrize("window", [4, 10])
def test_the_authors_windows_are_theirs(size, window):
    """By slices of lists, as protocol B1 describes their loader."""
    corpus = data.build(dataset(window=window), CPU).corpora["val"]  # dialogs of 9, 6 and 12 utterances
    lines = [json.loads(line)["utts"] for line in (DIALOGS / "valid.jsonl").read_text().splitlines()]
    firsts = np.cumsum([0, *map(len, lines)])  # the number of a dialog's first response
    dialogs = sorted(
        ([None, *range(first, first + len(line))] for first, line in zip(firsts, lines, strict=False)),
        key=len,
    )
    wanted = []
    for i in range(0, len(dialogs) // size * size, size):
        group = dialogs[i : i + size]
        ends = range(2, len(group[-1]))
        windows = [(max(0, end - window), end) for end in ends if max(0, end - window) < len(group[0]) - 1]
        wanted += [[dialog[start:end] for dialog in group] for start, end in windows]
    found = list(authors_windows(corpus, size))
    assert len(found) == len(wanted) == {2: 8, 3: 11 if window == 10 else 8, 9: 0}[size]
    for (responses, starts), window in zip(found, wanted, strict=True):
        assert responses.tolist() == [cut[-1] for cut in window]
        assert (corpus.places[responses] - starts).tolist() == [len(cut) - 1 for cut in window]
        batch = corpus.batch(responses, starts)
        assert batch.contexts.batch_sizes.sum() == sum(len(cut) - 1 for cut in window)
        assert batch.lengths.tolist() == corpus.lengths[responses].tolist()


def test_the_authors_unit_is_the_mean_over_batches(splits, model):
    corpus = splits.corpora["val"]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(dialog, "AUTHORS_BATCH", 2)
        patch.setattr(corpus, "batch", lambda *a: double(DialogCorpus.batch(corpus, *a)))
        found, off = (
            dialog.authors_unit(model, corpus, deterministic, torch.Generator().manual_seed(0))
            for deterministic in (False, True)
        )
        assert off.keys() == {f"authors/{name}" for name in ("rec", "rec_ppl", "batches", "responses")}
        patch.setattr(dialog, "AUTHORS_BATCH", 60)
        assert dialog.authors_unit(model, corpus, False, torch.Generator()) == {}
        noise = torch.Generator().manual_seed(0)
        batches = [corpus.batch(*window) for window in authors_windows(corpus, 2)]
        terms = [objective.terms(model, batch, generator=noise) for batch in batches]
    for name, values in (
        ("rec", [part.nll.mean() for part in terms]),
        ("kl", [part.kl.sum(1).mean() for part in terms]),
        ("bow", [part.extra_losses["bow"].mean() for part in terms]),
        ("rec_ppl", [(part.nll.sum() / part.tokens.sum()).exp() for part in terms]),
    ):
        assert found[f"authors/{name}"] == pytest.approx(sum(map(float, values)) / 8)
    assert found["authors/elbo"] == pytest.approx(-found["authors/rec"] - found["authors/kl"])
    assert (found["authors/batches"], found["authors/responses"]) == (8, 16)
    assert found.keys() == off.keys() | {f"authors/{name}" for name in ("elbo", "kl", "bow")}


def test_the_authors_unit_is_of_batches_of_60(monkeypatch):
    """Protocol B4."""
    sizes = []
    monkeypatch.setattr(dialog, "authors_windows", lambda corpus, size: sizes.append(size) or [])
    assert dialog.authors_unit(None, None, False, torch.Generator()) == {} and sizes == [60]


def test_no_utterance_is_in_a_batch_twice(splits):
    corpus = splits.corpora["train"]
    batch = corpus.batch(np.arange(9))
    texts = int(batch.texts.batch_sizes[0])
    spoken = {tuple(said) for number in range(9) for said in corpus.context(number)}
    spoken |= {tuple(said) for said in corpus.sentences(np.arange(9))}
    assert texts == len(spoken) + 1  # and `<d>`
    assert texts < len(batch.contexts.data)


ANYBODY = {"age": 30, "sex": "MALE"}


def test_what_the_files_mean_is_read(tmp_path):
    def quirky(line):
        line["A"] = {"age": 104, "education": " 1", "sex": ' "FEMALE"'}
        line["B"] = {"age": " 30", "education": " 9", "sex": ' "UNK"'}
        line["topic"] = ' "AIR POLLUTION" '
        line["utts"][0] = [' "B"', "Don't you, THINK", ['"qy" ']]
        return line

    found, kept = (
        switchboard.read(dataclasses.replace(copied(tmp_path, "test", quirky), lower=lower))[0]["test"][1]
        for lower in (True, False)
    )
    assert kept.utterances[0].words == ["Don", "'", "t", "you", ",", "THINK"]
    assert found.people == [
        {"age": 1.04, "education": 1 / 3, "female": 1.0, "male": 0.0},
        {"age": 0.3, "education": 2 / 3, "female": 0.0, "male": 0.0},
    ]
    levels = [switchboard._person("A", ANYBODY | {"education": level}) for level in (0, "1", 2, 3, "9")]
    assert [person["education"] for person in levels] == [0, 1 / 3, 2 / 3, 1, 2 / 3]
    assert found.topic == "AIR POLLUTION"
    words = ["don", "'", "t", "you", ",", "think"]
    assert found.names == ["A", "B"] and found.utterances[0] == Utterance(1, words, "qy", 0)


def test_long_utterances_are_cut_and_rare_words_unknown(splits):
    corpus = splits.corpora["test"]
    assert int(corpus.text_lengths.max()) == 40  # fifty times `very`, which no other split has
    longest = corpus.utterance(int(np.flatnonzero(corpus.text_lengths[corpus.texts] == 40)[0]))
    assert longest == [UNK] * 38
    small = data.build(dataset(vocabulary=40), CPU)
    assert len(small.vocabulary) == 42  # and <pad> and <unk>
    assert {"<s>", "</s>", START} < set(small.vocabulary.words)


def test_held_out_dialogs_are_the_same_for_all_and_teach_no_word(splits):
    again = data.build(dataset(), CPU)
    assert again.corpora["held"].tokens.tolist() == splits.corpora["held"].tokens.tolist()
    assert len(splits.corpora["held"].topics) == 2 and len(splits.corpora["train"].topics) == 8
    every = data.build(dataset(vocabulary=1000), CPU)
    used = set(every.corpora["train"].tokens.tolist())
    assert used | {0, UNK} >= set(range(len(every.vocabulary)))
    assert set(data.build(dataset(held_out=0.0), CPU).corpora) == {"train", "val", "test"}
    most = data.build(dataset(held_out=0.29), CPU).corpora  # of ten dialogs, rounded down
    assert [len(most[split].topics) for split in ("train", "held")] == [8, 2]


def test_what_is_unknown_is_counted_and_zero(splits, model):
    unknown = {
        split: [corpus.counts()[f"unknown_{what}"] for what in ("topics", "acts", "speakers")]
        for split, corpus in splits.corpora.items()
    }
    assert unknown == {"train": [0, 0, 0], "held": [0, 0, 0], "val": [1, 1, 0], "test": [0, 0, 1]}
    val, test = splits.corpora["val"], splits.corpora["test"]
    assert (val.topics == UNKNOWN).tolist() == [False, True, False]
    inside = int(np.flatnonzero(val.dialogs[val.places] == 1)[0])
    assert not model.shared(double(val.batch(np.array([inside])))).condition[0, : MODEL.topic].any()
    stranger = int(np.flatnonzero(test.speakers[test.places] > 1)[0])
    assert not test.batch(np.array([stranger])).people.any()


def test_the_shares_of_unknown_words_and_of_responses_in_train_are_those_of_the_utterances(tmp_path):
    person = {"age": "30", "education": "2", "sex": "MALE"}

    def write(name: str, *texts: str) -> None:
        utts = [["A", text, ["sd"]] for text in texts]
        line = json.dumps({"A": person, "B": person, "topic": "MUSIC", "utts": utts})
        (tmp_path / f"{name}.jsonl").write_text(line + "\n")

    write("train", "yes", "yes", "well yes", "no")
    write("valid", "Yes", "yes", "yes well", "yes well", "why not yes")  # heard twice, counted twice
    write("test", "well yes well no", "no")
    found = data.build(dataset(tmp_path, held_out=0.0, vocabulary=4, max_tokens=5), CPU)
    assert found.vocabulary.words[-2:] == ["yes", "<d>"]
    shares = {split: corpus.unknown_share for split, corpus in found.corpora.items()}
    assert shares == {"train": 2 / 5, "val": 4 / 9, "test": 3 / 4}  # a response is read up to three words
    assert found.in_train == {"val": 2 / 5, "test": 1 / 2}
    write("valid", "why " * 300 + "yes")  # more than a byte counts
    whole = data.build(dataset(tmp_path, held_out=0.0, vocabulary=4, max_tokens=303), CPU)
    assert whole.corpora["val"].unknown_share == 300 / 301
    corpus = found.corpora["train"]
    known = [0.3, 2 / 3, 0.0, 1.0]  # age, education, female, male of the two who speak
    np.testing.assert_allclose(corpus.batch(np.array([0])).people, [known * 2], rtol=1e-6)


def test_other_speakers_are_different_people_of_whom_nothing_is_known(tmp_path):
    def joined(line):
        names = ["C", "A", "D", "C", "B", "D"]
        line["utts"] = [[name, *line["utts"][n][1:]] for n, name in enumerate(names)]
        return line

    # all who speak in the dialog before are known: nobody is taken for them
    corpus = data.build(copied(tmp_path, "valid", joined), CPU).corpora["val"]
    assert corpus.counts()["unknown_speakers"] == 4
    own = np.flatnonzero(corpus.dialogs[corpus.places] == 1)
    people = [corpus.batch(own[n : n + 1]).people[0].reshape(2, 4).any(1).tolist() for n in range(6)]
    stranger, known = [False, False], [True, True]
    assert people == [stranger, known, stranger, stranger, known, stranger]
    # who of `<d>`, C, A, D, C and B is D
    assert corpus.batch(own[5:]).floors.tolist() == [0, 0, 0, 1, 0, 0]
    assert [corpus.name(place) for place in corpus.places[own]] == ["?", "A", "?2", "?", "B", "?2"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda line: "{", "not JSON: Expecting property name"),
        (lambda line: "[]", "a dialog is an object with A, B, topic and utts, found []"),
        (lambda line: {k: v for k, v in line.items() if k not in ("B", "utts")}, "B, utts missing"),
        (lambda line: line | {"topic": 3}, "topic must be text, found 3"),
        (lambda line: line | {"utts": []}, "utts must be a list of utterances, found []"),
        (lambda line: line | {"A": 1}, "A must have an age, education and sex, found 1"),
        (
            lambda line: line | {"A": {"age": 3}},
            "A must have an age, education and sex, found education, sex",
        ),
        (lambda line: line | {"A": line["A"] | {"age": "old"}}, 'A.age must be a whole number, found "old"'),
        (
            lambda line: line | {"A": line["A"] | {"age": "30.5"}},
            'A.age must be a whole number, found "30.5"',
        ),
        (
            lambda line: line | {"B": line["B"] | {"education": " 7"}},
            'B.education must be 0, 1, 2, 3 or 9 (unknown), found " 7"\n',
        ),
        (
            lambda line: line | {"B": line["B"] | {"sex": None}},
            "B.sex must be FEMALE, MALE or UNK (unknown), found null\n",
        ),
        (
            lambda line: line | {"utts": [["A", "hi"]]},
            'utterance 1 must be [speaker, text, [dialog act, ...]], found ["A", "hi"]\n',
        ),
        (
            lambda line: line | {"utts": [[name, "hi", ["x"]] for name in ("Ann", "Bo", "Cy", "Di")]},
            "speakers must be named as they are described, A and B, found only Ann, Bo, Cy\n",
        ),
        (
            lambda line: line | {"utts": [["a" * 50, "hi", ["x"]], ["b" * 50, "oh", ["x"]]]},
            f"found only {'a' * 50}, bbbbbbbb\n",
        ),
        (
            lambda line: line | {"utts": [*line["utts"], ["A", 3, ["x"]]]},
            'utterance 7 must be [speaker, text, [dialog act, ...]], found ["A", 3, ["x"]]\n',
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path, change, sentence):
    config = copied(tmp_path, "valid", change)
    with pytest.raises(UserError) as refusal:
        data.build(config, CPU)
    assert str(refusal.value).startswith(f"{tmp_path / 'valid.jsonl'}, line 2: ")
    assert sentence in f"{refusal.value}\n"


def test_files_without_dialogs_or_utf8_are_refused(tmp_path):
    config = copied(tmp_path, "valid", lambda line: line)
    (tmp_path / "test.jsonl").write_bytes(b"\n\n")
    with pytest.raises(UserError, match=r"test\.jsonl has no dialog in it"):
        data.build(config, CPU)
    (tmp_path / "test.jsonl").write_bytes(b'\n{"A": "\xff"}')
    with pytest.raises(UserError, match=r"test\.jsonl, line 2: not UTF-8 \(byte 0xff at place 7\)"):
        data.build(config, CPU)


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CVAE_DATA"), reason="CVAE_DATA is not set")
def test_switchboard_has_the_sizes_of_protocol_b(configured):
    config = configured("task=switchboard")
    found = data.build(config.dataset, CPU)
    counts = {split: corpus.counts() for split, corpus in found.corpora.items()}
    assert counts["train"]["sentences"] + counts["held"]["sentences"] == 188_511
    assert [counts[split]["sentences"] for split in ("val", "test")] == [5_225, 5_543]
    assert [counts[split]["dialogs"] for split in ("train", "held", "val", "test")] == [1_045, 54, 60, 62]
    assert len(found.vocabulary) == 10_002
    for split, batches in (("val", 41), ("test", 21)):  # protocol B4
        windows = list(authors_windows(found.corpora[split], 60))
        assert len(windows) == batches and {len(responses) for responses, _ in windows} == {60}
    model = DialogVAE(config.model, found.vocabulary, len(found.topics), found.people)
    assert sum(p.numel() for p in model.parameters()) == 15_393_204 + 30 * 66 + GRU_BIASES


# ---- model ----


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_packing_and_sharing_change_nothing(split, splits, model):
    corpus = splits.corpora[split]
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(corpus))[:6]
    z = torch.randn(len(chosen), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = densities(model, double(corpus.batch(chosen)), z)
    for row, number in enumerate(chosen):
        alone = densities(model, double(corpus.batch(np.array([number]))), z[row : row + 1])
        for one, other, third in zip(together, alone, by_hand(model, corpus, number, z[row]), strict=True):
            torch.testing.assert_close(one[row], other[0])
            torch.testing.assert_close(one[row], third, check_dtype=False)


def test_a_batch_can_be_read(splits):
    corpus = splits.corpora["train"]
    batch = corpus.batch(np.array([4, 0, 7]))
    read = DialogTask.words(types.SimpleNamespace(data=splits), batch)
    for number, sentence in zip((4, 0, 7), read, strict=True):
        text = corpus.texts[corpus.places[number]]
        start, length = corpus.text_starts[text], corpus.text_lengths[text]
        assert sentence == " ".join(splits.vocabulary.decode(corpus.tokens[start : start + length].tolist()))
    ordered = [batch.lengths.tolist() for batch in corpus.batches(np.array([4, 0, 7]), 2)]
    assert ordered == [corpus.lengths[[0, 4]].tolist(), corpus.lengths[[7]].tolist()]


GRU_BIASES = 2 * 3 * 300 + 3 * 600 + 3 * 400  # torch's GRUs have a second bias for each gate


def test_the_full_model_has_the_authors_parameters(configured):
    config = configured("task=switchboard").model
    with torch.device("meta"):
        model = DialogVAE(config, Vocabulary([str(n) for n in range(10_002)]), 42, 8)
    assert sum(p.numel() for p in model.parameters()) == 15_393_204 + 30 * 42 + GRU_BIASES


def test_initial_weights_are_the_authors(splits):
    torch.manual_seed(0)
    model = DialogVAE(dataclasses.replace(MODEL, prior=40, bow_hidden=40), splits.vocabulary, 3, 8)
    grus = (model.utterance, model.context, model.decoder)
    weights = [p for gru in grus for name, p in gru.named_parameters() if name.startswith("weight")]
    for weight in (model.embedding.weight, model.output.weight, *weights):
        assert 0.4 < weight.abs().max() <= 0.5
    for gru in grus:
        for name, parameter in gru.named_parameters():
            if name.startswith("bias_ih"):
                assert parameter.tolist() == [1.0] * 2 * gru.hidden_size + [0.0] * gru.hidden_size
            elif name.startswith("bias_hh"):
                assert not parameter.any()
    assert not model.recognition.bias.any() and not model.start.bias.any()
    for layer in (model.recognition, model.start, *model.prior_net[::2], *model.bag[::2]):
        limit = (6 / (layer.in_features + layer.out_features)) ** 0.5  # Xavier's
        assert 0.8 * limit < layer.weight.abs().max() <= limit


def exchanges(splits, count: int = 9):
    return double(splits.corpora["train"].batch(np.arange(2, 2 + count)))


def test_the_decoder_sees_only_the_words_before(splits, model):
    batch = exchanges(splits, 5)
    z = torch.randn(5, 3, dtype=torch.float64)
    words = splits.corpora["train"].sentences(np.arange(2, 7))
    said, total = torch.full((5, 40), EOS), torch.zeros(5, dtype=torch.float64)
    for row, sentence in enumerate(words):
        said[row, : len(sentence)] = torch.tensor(sentence)
    ends = torch.tensor([len(sentence) for sentence in words])
    state, read = model.begin(batch, z), torch.full((5,), BOS)
    for place in range(int(ends.max()) + 1):  # `step` gets one word after another, and nothing that follows
        logits, state = model.step(read, state)
        read = said[:, place]
        nll = functional.cross_entropy(logits, read, reduction="none")
        total += torch.where(place <= ends, nll, 0.0)
    torch.testing.assert_close(total, model.decode_nll(batch, z))


def test_several_samples_are_decoded_as_one_by_one(splits, model):
    batch, z = exchanges(splits), torch.randn(4, 9, 3, dtype=torch.float64)
    together = model.decode_nll(batch, z)
    torch.testing.assert_close(together, torch.stack([model.decode_nll(batch, one) for one in z]))


def test_z_the_context_and_the_speakers_change_what_is_said(splits, model):
    batch = model.shared(exchanges(splits))
    z = torch.randn(9, 3, dtype=torch.float64)
    nll = model.decode_nll(batch, z)
    other = dataclasses.replace(batch, condition=batch.condition.roll(1, 0))
    assert (model.decode_nll(batch, z + 1) != nll).all()
    assert (model.decode_nll(other, z) != nll).all()
    assert (model.extra_losses(other, z)["bow"] != model.extra_losses(batch, z)["bow"]).all()
    people = exchanges(splits)
    people = dataclasses.replace(people, people=people.people + 1)
    assert (model.prior(people).mean != model.prior(batch).mean).all()
    topics = exchanges(splits)
    topics = dataclasses.replace(topics, topics=(topics.topics + 1) % 3)
    assert (model.prior(topics).mean != model.prior(batch).mean).all()


def test_the_response_reaches_the_decoder_through_z_alone(splits, model):
    batch = exchanges(splits)
    embedded = model.embedding(batch.texts.data)
    said = batch.responses.unique()
    swapped = dataclasses.replace(batch, responses=batch.responses.roll(1, 0))
    assert len(said) > 1 and embedded.requires_grad
    torch.testing.assert_close(model.shared(swapped).condition, model.shared(batch).condition)
    assert (model.posterior(swapped).mean != model.posterior(batch).mean).any()


def test_semi_amortised_gradients_are_those_of_torchs_gru(splits, model, monkeypatch):
    how = SemiAmortized("semi_amortized", steps=2, lr=0.5, momentum=0.5, clip=5.0)
    config = types.SimpleNamespace(objective=Objective(free_bits=0.0), update=how)
    update, batch, found, ours = SemiAmortizedStep(model, config), exchanges(splits), [], []
    apply = recurrent._Direction.apply
    monkeypatch.setattr(recurrent._Direction, "apply", lambda *a: (ours.append(1), apply(*a))[1])

    def torchs(self, inputs, first=None):
        return nn.GRU.forward(self, inputs, first)

    with kernels.twice_differentiable():
        objective.terms(model, batch)
    assert not ours
    for forward in (GRU.forward, torchs):
        monkeypatch.setattr(GRU, "forward", forward)
        torch.manual_seed(0)
        loss = update.loss(update.terms(batch, 0.5), 0.5)
        found.append([loss.detach(), *torch.autograd.grad(loss, model.parameters())])
        # the encoders' three directions and the last decoder's; none that are differentiated twice
        assert len(ours) == 4
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_kl_to_the_learned_prior_is_what_monte_carlo_finds(splits, model):
    batch = exchanges(splits)
    q, p = model.posterior(batch), model.prior(batch)
    draws = q.mean + torch.exp(0.5 * q.logvar) * torch.randn(
        40_000, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    estimate = gaussian.log_prob(q, draws) - gaussian.log_prob(p, draws)
    error = estimate.std(0) / 200
    closed = objective.terms(model, batch, deterministic=True).kl.sum(1)
    assert (closed > 0.01).all() and ((estimate.mean(0) - closed).abs() < 4 * error).all()


def test_bag_of_words_is_in_the_loss_and_not_in_the_bound(splits, model):
    batch = exchanges(splits)
    found = objective.terms(model, batch, deterministic=True)
    bare = found._replace(extra_losses={})
    more = objective.loss(found, 0.5) - objective.loss(bare, 0.5)
    bow = found.extra_losses["bow"].mean().item()
    assert more.item() == pytest.approx(bow)
    with_bow, without = latent.elbo_metrics(found), latent.elbo_metrics(bare)
    assert with_bow.pop("bow") == pytest.approx(bow) and with_bow == without
    silent = DialogVAE(dataclasses.replace(MODEL, bow=False), splits.vocabulary, 3, 8).double()
    assert not objective.terms(silent, batch).extra_losses


def test_words_of_a_bag_are_summed_in_float32_under_autocast(splits):
    model = DialogVAE(MODEL, splits.vocabulary, 3, 8)
    batch, z = model.shared(splits.corpora["train"].batch(np.arange(9))), torch.randn(9, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.extra_losses(batch, z)["bow"]
        scores = model.bag(torch.cat([batch.condition, z], 1))
    nll = functional.cross_entropy(scores.float()[batch.owners], batch.targets, reduction="none")
    assert scores.dtype == torch.bfloat16 and found.dtype == torch.float32
    for row, own in enumerate(found):
        torch.testing.assert_close(own, nll[batch.owners == row].sum())


def test_dropout_acts_on_the_words_and_outputs_of_the_decoder_in_training_only(splits):
    model = DialogVAE(dataclasses.replace(MODEL, dropout=0.5), splits.vocabulary, 3, 8).double()
    batch, z, read = exchanges(splits), torch.randn(9, 3, dtype=torch.float64), []
    model.decoder.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0].data))
    model.output.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    for training in (True, False):
        model.train(training).decode_nll(batch, z)
        for zeros in ((part == 0).double().mean().item() for part in (read.pop(), read.pop())):
            assert 0.4 < zeros < 0.6 if training else zeros == 0


def test_word_dropout_takes_its_share_of_the_words_but_the_first(splits):
    model = DialogVAE(dataclasses.replace(MODEL, word_dropout=0.3), splits.vocabulary, 3, 8).double()
    batch, read = model.shared(exchanges(splits, 60)), []
    model.embedding.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    torch.manual_seed(0)
    model.decode_nll(batch, torch.zeros(60, 3, dtype=torch.float64))
    changed = read[0] != batch.inputs.data
    assert (read[0][changed] == UNK).all() and not changed[:60].any()
    words = batch.inputs.data[60:] != UNK
    assert changed[60:][words].double().mean().item() == pytest.approx(0.3, abs=0.07)


def test_word_dropout_keeps_the_first_word_and_is_off_in_evaluation(splits):
    torch.manual_seed(0)
    config = dataclasses.replace(MODEL, word_dropout=1.0, dropout=0.0)
    model = DialogVAE(config, splits.vocabulary, 3, 8).double()
    batch, z = exchanges(splits), torch.randn(9, 3, dtype=torch.float64)
    blind = model.decode_nll(batch.without_words(), z)
    torch.testing.assert_close(model.decode_nll(batch, z), blind)
    assert (model.eval().decode_nll(batch, z) != blind).any()


def test_a_byte_order_mark_is_no_part_of_a_dialog(tmp_path):
    plain = DIALOGS / "valid.jsonl"
    first, *others = plain.read_text(encoding="utf-8").splitlines()
    utterance = json.loads(first)["utts"][0][1]
    marked = first.replace(utterance, f"\ufeff{utterance}\ufeff").replace('"topic": "', '"topic": "\ufeff')
    assert marked.count("\ufeff") > 2
    path = tmp_path / "marked.jsonl"
    path.write_text("\n\ufeff\n\ufeff".join([marked, *others]), encoding="utf-8-sig")
    parse = functools.partial(switchboard._dialog, lower=True)
    assert dialog_records.read(path, parse) == dialog_records.read(plain, parse)


def test_vectors_are_what_the_embedding_starts_from(splits, tmp_path):
    known = splits.vocabulary.words[5:8]
    path = tmp_path / "vectors.txt"
    lines = [f"{word} {n} 0 -1.5 2e-1 {n}.5" for n, word in enumerate([*known, "never-heard"])]
    path.write_text("\n".join(lines) + "\n")
    model = DialogVAE(dataclasses.replace(MODEL, vectors=str(path)), splits.vocabulary, 3, 8)
    for n in range(3):
        assert model.embedding.weight[5 + n].tolist() == pytest.approx([n, 0, -1.5, 0.2, n + 0.5])
    assert 0 < model.embedding.weight[8].abs().max() <= 0.5
    assert model.from_vectors == 3
    said = rf"^model\.embed must be 5, as in model\.vectors={re.escape(str(path))}, found 6$"
    with pytest.raises(UserError, match=said):
        DialogVAE(dataclasses.replace(MODEL, vectors=str(path), embed=6), splits.vocabulary, 3, 8)
    for text, wrong in (
        ("a 1 2\nb 1\n", ", line 2: a word and 2 numbers expected"),
        ("a 1 x\n", ", line 1: a word and 2 numbers expected"),
        ("zz 1 2\n", " has none of the 62 words"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"^{path}{wrong}$"):
            DialogVAE(dataclasses.replace(MODEL, vectors=str(path)), splits.vocabulary, 3, 8)
    with pytest.raises(UserError, match="no word vectors at"):
        DialogVAE(dataclasses.replace(MODEL, vectors=str(tmp_path)), splits.vocabulary, 3, 8)


# ---- training ----


@pytest.mark.parametrize(
    ("patience", "scores", "settled"),
    [
        (None, [5.0] * 100, False),
        (3, [5.0, 5.0], False),
        (3, [5.0, 5.0, 5.0], True),
        (3, [5.0, 4.9, 4.8, 4.8, 4.8], False),  # the third is better: 6 validations at least
        (3, [5.0, 4.9, 4.8, 4.8, 4.8, 4.8], True),
        (3, [5.0, 4.99, 4.985], True),  # better, but not by 0.4 %
        (3, [1000.0, 999.0, 996.0], True),  # 0.4 % exactly is not below
        (3, [5.0, 4.99, 4.97], False),  # nor is each, but the last is against the mark
    ],
)
def test_early_stopping_is_the_authors(patience, scores, settled):
    task = types.SimpleNamespace(settings=types.SimpleNamespace(patience=patience))
    assert DialogTask.should_stop_early(task, scores) is settled


def test_the_presets_are_the_authors_schedules(configured):
    monotonic = configured("experiment=original/switchboard_monotonic")
    cyclical = configured("experiment=original/switchboard_cyclical")
    total = monotonic.train.steps
    assert total == cyclical.train.steps == 102_960 and monotonic.train.validate_every == 1_716
    for config in (monotonic, cyclical):
        # protocol B1 and B3
        assert (config.dataset.held_out, config.task.patience, config.train.batch_size) == (0, 10, 30)
        assert config.train.validate_every == 6_864 // 4
    for step in [*range(0, total, 97), 3_430, 3_431, 5_147, 5_148, 9_998, 9_999, total - 1]:
        # protocol B3, with t counted from 1
        assert monotonic.schedule(step, total) == pytest.approx(min(1, (step + 1) / 10_000), abs=1e-12)
        assert monotonic.lr(step, total) == 1e-3
        place = step % 5_148
        assert cyclical.schedule(step, total) == pytest.approx(min(1, (place + 1) / 3_432), abs=1e-12)
        assert cyclical.lr(step, total) == pytest.approx(
            5e-4 * (1 + np.cos(np.pi * place / 5_148)), abs=1e-12
        )
