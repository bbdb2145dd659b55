"""The review VAE: the authors' sizes, what padding must not change, and what the numbers mean."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cvae.config.schema import ReviewModel
from cvae.data.text import Batch
from cvae.data.vocabulary import PAD
from cvae.models import objective
from cvae.models.review import Convolution, ReviewVAE

SMALL = {
    "embed": 8,
    "filters": 4,
    "latent": 3,
    "hidden": 12,
    "layers": 1,
    "dropout": 0.0,
    "word_dropout": 0.0,
}
PAPER = {"embed": 256, "filters": 300, "latent": 256, "hidden": 256, "layers": 1, "dropout": 0.5}
WORDS = 11
SENTENCES = [[2, 7, 4, 9, 10, 3], [2, 5, 3], [2, *[6] * 30, 3], [2, 6, 6, 8, 3], [2, 1, 10, 4, 3]]


def make(words: int = WORDS, loud: bool = True, **values) -> ReviewVAE:
    """A small model; `loud` gives it weights large enough for every path to matter."""
    torch.manual_seed(0)
    model = ReviewVAE(ReviewModel(name="review", **(SMALL | values)), words)
    if loud:
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter, -0.6, 0.6)
    return model


def batch_of(*sentences: list[int], width: int = 0) -> Batch:
    """A padded batch."""
    width = max(width, *map(len, sentences))
    rows = [[*sentence, *[PAD] * (width - len(sentence))] for sentence in sentences]
    return Batch(torch.tensor(rows), torch.tensor([len(sentence) for sentence in sentences]))


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def test_the_model_has_the_authors_number_of_parameters_and_the_second_lstm_bias():
    with torch.device("meta"):
        model = make(3_641, loud=False, **PAPER)
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_761_633 + 1_024


def test_parameters_start_as_the_authors():
    model = make(50, loud=False, **PAPER | {"layers": 2})
    encoder, decoder = model.encoder, model.decoder
    tables = (encoder.embedding.weight, decoder.embedding.weight, decoder.output.embedding.weight)
    assert tables[0] is tables[1] is tables[2]
    for tensor, limit in (
        (tables[0], 0.001),
        (decoder.project.weight, 0.001),
        (decoder.output.bias, 0.001),
        (encoder.second.weight, math.sqrt(6 / (5 * 300 + 5 * 600))),
        (encoder.third.weight, math.sqrt(6 / (4 * 600 + 4 * 900))),
        (encoder.mean.weight, math.sqrt(6 / (900 + 256))),
        (decoder.start.weight, math.sqrt(6 / (256 + 2 * 256))),
        (decoder.lstm.weight_ih_l0, math.sqrt(6 / (512 + 256 + 1024))),
        (decoder.lstm.weight_hh_l0, math.sqrt(6 / (512 + 256 + 1024))),
        (decoder.lstm.weight_ih_l1, math.sqrt(6 / (256 + 256 + 1024))),
        (decoder.lstm.weight_hh_l1, math.sqrt(6 / (256 + 256 + 1024))),
    ):
        assert 0.9 * limit < tensor.abs().max() <= limit
        assert tensor.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.15)
    for tensor in (encoder.first.weight, encoder.first.bias, encoder.second.bias, encoder.mean.bias):
        assert (tensor == 0.001).all()
    assert (decoder.start.bias == 0.001).all() and not encoder.third.bias.any()
    for *_, b_x, b_h in decoder.lstm.all_weights:
        bias = (b_x + b_h).view(4, 256)
        assert (bias[1] == 1).all() and not bias[[0, 2, 3]].any()  # input, forget, cell, output


@pytest.mark.parametrize(("width", "stride"), [(5, 2), (4, 1)])
def test_a_convolution_is_that_of_torch(width, stride):
    layer, x = Convolution(6, 7, width, stride), torch.randn(3, 25, 6)
    weight = layer.weight.view(7, width, 6).transpose(1, 2)
    expected = functional.conv1d(x.transpose(1, 2), weight, layer.bias, stride).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("words", "positions"), [(1, 25), (20, 25), (21, 29), (24, 29), (25, 33), (30, 37)])
def test_the_encoder_sees_four_pads_then_words_end_and_pads_to_whole_windows(words, positions):
    model, read = make(), []
    model.encoder.embedding.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    model.posterior(batch_of([2, 5, 3], [2, *[6] * words, 3]))
    assert read[0].shape == (2, positions)
    assert read[0][0].tolist() == [0] * 4 + [5, 3] + [0] * (positions - 6)
    assert read[0][1].tolist() == [0] * 4 + [6] * words + [3] + [0] * (positions - 5 - words)


def one_window(model: ReviewVAE, batch: Batch) -> list[Tensor]:
    """Mean and logvar of the authors' encoder, which sees 25 positions (protocol C2)."""
    encoder = model.encoder
    seen = functional.pad(batch.tokens[:, 1:22], (4, 22 - batch.tokens.size(1)))
    hidden = encoder.embedding(seen)
    for layer in (encoder.first, encoder.second):
        hidden = layer(hidden).relu()
    hidden = encoder.third(hidden).tanh()[:, 0]
    return [encoder.mean(hidden), encoder.logvar(hidden)]


def test_sentences_of_up_to_20_words_are_encoded_as_the_authors_do_to_the_last_bit():
    model, rng = make(**PAPER | {"filters": 30}), np.random.default_rng(0)
    batch = batch_of(*[[2, *rng.integers(4, WORDS, n).tolist(), 3] for n in (1, 7, 15, 20)])
    both = [[*model.posterior(batch)], one_window(model, batch)]
    gradients = [torch.autograd.grad(sum(p.sum() for p in q), [*model.encoder.parameters()]) for q in both]
    for one, other in ((both[0], both[1]), gradients):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("place", [0, 15, 19, 20, 21, 22, 24, 25, 26, 50, 98, 99])
def test_every_word_of_a_sentence_of_100_reaches_its_posterior(place):
    model = make(filters=40)
    for total in {place + 1, 100}:
        sentences = [[2, *[6] * total, 3], [2, *[6] * total, 3]]
        sentences[1][1 + place] = 9
        mean = model.posterior(batch_of(*sentences)).mean
        assert not torch.equal(mean[0], mean[1])


def test_the_posterior_is_three_convolutions_by_relu_relu_and_tanh():
    model = make()
    encoder, table = model.encoder, unit(model.decoder.embedding.weight)

    def convolved(layer: Convolution, x: Tensor, width: int) -> Tensor:
        weight = layer.weight.view(len(layer.weight), width, -1).transpose(1, 2)
        return functional.conv1d(x, weight, layer.bias, layer.stride)

    q = model.posterior(batch_of(*SENTENCES))
    for n, sentence in enumerate(SENTENCES):
        if len(sentence) > 22:
            continue  # seen through several windows
        seen = [PAD] * 4 + sentence[1:] + [PAD] * (22 - len(sentence))
        hidden = convolved(encoder.first, table[seen].T[None], 5).relu()
        hidden = convolved(encoder.third, convolved(encoder.second, hidden, 5).relu(), 4).tanh()
        for found, layer in zip(q, (encoder.mean, encoder.logvar), strict=True):
            torch.testing.assert_close(found[n], layer.weight @ hidden.flatten() + layer.bias)


def test_decode_nll_reads_and_predicts_unit_vectors_by_a_loop_over_time():
    model, z = make(), torch.randn(5, 3)
    decoder, table = model.decoder, unit(model.decoder.embedding.weight)
    nll = model.decode_nll(batch_of(*SENTENCES), z)
    lstm = decoder.lstm
    for n, (sentence, code) in enumerate(zip(SENTENCES, z, strict=True)):
        h, c = decoder.start.weight @ code + decoder.start.bias, torch.zeros(12)
        expected = torch.tensor(0.0)
        for word, target in itertools.pairwise(sentence):
            x = torch.cat([table[word], code])
            gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
            i, f, g, o = gates.chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            logits = table @ (decoder.project.weight @ h) + decoder.output.bias
            expected = expected + logits.logsumexp(0) - logits[target]
        torch.testing.assert_close(nll[n], expected)


def test_the_length_of_a_word_vector_plays_no_part():
    model, batch, z = make(), batch_of(*SENTENCES), torch.randn(5, 3)
    before = [*model.posterior(batch), model.decode_nll(batch, z)]
    with torch.no_grad():
        model.encoder.embedding.weight *= torch.linspace(0.5, 2, WORDS)[:, None]
    for one, other in zip(before, [*model.posterior(batch), model.decode_nll(batch, z)], strict=True):
        torch.testing.assert_close(one, other)


def test_a_sentence_is_the_same_alone_and_padded_and_so_are_its_gradients():
    model, z = make(), torch.randn(5, 3)

    def found(batch: Batch, z: Tensor, row: int) -> list[Tensor]:
        q, nll = model.posterior(batch), model.decode_nll(batch, z)
        values = [nll[row], q.mean[row], q.logvar[row]]
        return [*values, *torch.autograd.grad(sum(v.square().sum() for v in values), model.parameters())]

    for n, sentence in enumerate(SENTENCES):
        alone = found(batch_of(sentence), z[n : n + 1], 0)
        padded = found(batch_of(*SENTENCES, width=40), z, n)
        for one, other in zip(alone, padded, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_posterior_does_not_depend_on_the_longer_sentences_of_a_batch_whatever_its_length():
    model = make()
    sentences = [[2, *[6] * words, 3] for words in range(1, 41)]
    with torch.no_grad():
        together = model.posterior(batch_of(*sentences))
        alone = [model.posterior(batch_of(sentence)) for sentence in sentences]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(part, torch.cat(parts))


def test_several_samples_at_once_are_the_samples_one_by_one():
    model, batch, z = make().eval(), batch_of(*SENTENCES), torch.randn(4, 5, 3)
    with torch.no_grad():
        together = model.decode_nll(batch, z)
        alone = torch.stack([model.decode_nll(batch, one) for one in z])
    torch.testing.assert_close(together, alone)


def test_the_fused_output_layer_gives_the_same_loss_and_gradients(monkeypatch):
    model, batch, z = make(), batch_of(*SENTENCES), torch.randn(5, 3)

    def found() -> list[Tensor]:
        nll = model.decode_nll(batch, z)
        return [nll, *torch.autograd.grad(nll.mean(), list(model.decoder.parameters()))]

    plain = found()
    monkeypatch.setattr("cvae.models.kernels.output.FUSED_WORDS", 0)
    for one, other in zip(plain, found(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("deterministic", [False, True])
def test_gradients_reach_every_parameter_from_the_authors_start(deterministic):
    model = make(50, loud=False, **PAPER | {"filters": 10, "dropout": 0.0})
    rng = np.random.default_rng(0)
    batch = batch_of(*[[2, *rng.integers(4, 50, 9).tolist(), 3] for _ in range(8)])
    objective.loss(
        objective.terms(model, batch, deterministic), beta=0.0 if deterministic else 1.0
    ).backward()
    for name, parameter in model.named_parameters():
        unused = deterministic and "logvar" in name
        assert (parameter.grad.abs().sum() > 0) != unused, name
