"""The dialog experiment: its data, its model and its measures (protocol B)."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from cvae import data
from cvae.config import DialogData, DialogModel
from cvae.data.dialogs import DialogSplits
from cvae.models.dialog import DialogVAE
from cvae.tasks.dialog import Answering

CPU = torch.device("cpu")
HERE = Path(__file__).parent / "dialogs"
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


def dataset(path: Path = HERE, **values) -> DialogData:
    usual = {"vocabulary": 60, "max_tokens": 40, "window": 10, "held_out": 0.2, "consecutive": 3}
    return DialogData(name="switchboard", path=str(path), **usual | values)


@pytest.fixture(scope="module")
def splits() -> DialogSplits:
    return data.build(dataset(), CPU)


@pytest.fixture(scope="module")
def model(splits) -> DialogVAE:
    torch.manual_seed(0)
    return DialogVAE(MODEL, splits.vocabulary, len(splits.topics)).double().eval()


def densities(model: DialogVAE, batch, z) -> list[torch.Tensor]:
    """Everything a model says about a batch, a row per response."""
    p, q = model.prior(batch), model.posterior(batch)
    return [*p, *q, model.decode_nll(batch, z)[:, None], model.bag_nll(batch, z)[:, None]]


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
    dialog, speaker = corpus.dialogs[place], int(corpus.speakers[place])
    topic = model.topic.weight[corpus.topics[dialog]] if corpus.topics[dialog] >= 0 else torch.zeros(2)
    people = [torch.tensor(corpus.people[dialog, who]) for who in (speaker, (1, 0, 2)[speaker])]
    condition = torch.cat([topic, *people, state])
    p = model.prior_net(condition).chunk(2)
    q = model.recognition(torch.cat([condition, encoded(place)])).chunk(2)
    both, said = torch.cat([condition, z]), tokens(place)
    h = model.start(both)[None, None]
    logits = model.output(model.decoder(model.embedding(said[:-1])[:, None], h)[0][:, 0])
    nll = functional.cross_entropy(logits, said[1:], reduction="sum")
    bag = -model.bag(both).log_softmax(-1)[said[1:]].sum()
    return [*p, *q, nll[None], bag[None]]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_packing_and_sharing_change_nothing(split, splits, model):
    corpus = splits.corpora[split]
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(corpus))[:13]
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
    read = Answering.words(types.SimpleNamespace(data=splits), batch)
    for number, sentence in zip((4, 0, 7), read, strict=True):
        text = corpus.texts[corpus.places[number]]
        start, length = corpus.text_starts[text], corpus.text_lengths[text]
        assert sentence == " ".join(splits.vocabulary.decode(corpus.tokens[start : start + length].tolist()))
