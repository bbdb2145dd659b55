"""The sentence VAE: what it may see, what padding must not change, and what the numbers mean."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cvae.data.text import Batch, Batches, Corpus
from cvae.data.vocabulary import BOS, EOS, PAD, UNK
from cvae.models import objective
from tests.helpers import SENTENCES, WORDS, batch_of, layers, make

injects = pytest.mark.parametrize("inject", ["inputs", "start"])


def watched(module: torch.nn.Module) -> list[Tensor]:
    """What `module` puts out from now on, with gradients kept."""
    found = []

    def keep(_module, _inputs, output):
        if output.requires_grad:
            output.retain_grad()
        found.append(output)

    module.register_forward_hook(keep)
    return found


def lstm_by_hand(lstm: torch.nn.LSTM, inputs: Tensor, h: Tensor) -> Tensor:
    """Outputs [T, hidden] for one sentence [T, in], place by place; h is [layers, hidden] and c = 0."""
    h, c = list(h), [torch.zeros(lstm.hidden_size)] * lstm.num_layers
    outputs = []
    for x in inputs:
        for layer in range(lstm.num_layers):
            w_x, w_h, b_x, b_h = (
                getattr(lstm, f"{kind}_l{layer}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            i, f, g, o = (w_x @ x + b_x + w_h @ h[layer] + b_h).chunk(4)
            c[layer] = f.sigmoid() * c[layer] + i.sigmoid() * g.tanh()
            x = h[layer] = o.sigmoid() * c[layer].tanh()
        outputs.append(x)
    return torch.stack(outputs)


# ---- the parts ----


def test_the_ptb_model_has_the_authors_number_of_parameters():
    ptb = {"embed": 256, "hidden": 256, "layers": 1, "latent": 32, "dropout": 0.5, "init": 0.1}
    with torch.device("meta"):
        model = make(10_002, **ptb)
        lm = make(10_002, **ptb | {"latent": 0})
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_801_874
    # embedding, LSTM with two biases, output
    assert sum(p.numel() for p in lm.parameters()) == 10_002 * 256 + 1024 * (512 + 2) + 257 * 10_002


@pytest.mark.parametrize("init", [0.1, 0.02])
def test_every_parameter_starts_uniform_within_init(init):
    for name, parameter in make(100, embed=32, hidden=32, layers=2, init=init).named_parameters():
        assert parameter.abs().max() <= init, name
        assert parameter.abs().max() > 0.5 * init and parameter.unique().numel() > 2, name
        if parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(init / math.sqrt(3), rel=0.1), name


@layers
def test_the_posterior_is_a_loop_over_the_sentence_read_to_its_end(layers):
    model = make(layers=layers)
    encoder = model.encoder
    q = model.posterior(batch_of(*SENTENCES))
    for n, sentence in enumerate(SENTENCES):
        read = encoder.embedding.weight[sentence]
        last = lstm_by_hand(encoder.lstm, read, torch.zeros(layers, 12))[-1]
        torch.testing.assert_close(q.mean[n], encoder.mean.weight @ last + encoder.mean.bias)
        torch.testing.assert_close(q.logvar[n], encoder.logvar.weight @ last + encoder.logvar.bias)


@layers
@injects
def test_decode_nll_is_a_loop_over_time_with_z_at_the_start_and_beside_every_word_or_not(layers, inject):
    model = make(layers=layers, inject=inject)
    decoder, z = model.decoder, torch.randn(len(SENTENCES), 3)
    nll = model.decode_nll(batch_of(*SENTENCES), z)
    for n, (sentence, code) in enumerate(zip(SENTENCES, z, strict=True)):
        start = (decoder.start.weight @ code + decoder.start.bias).view(layers, 12)
        beside = code if inject == "inputs" else code[:0]
        read = torch.stack([torch.cat([decoder.embedding.weight[word], beside]) for word in sentence[:-1]])
        outputs = lstm_by_hand(decoder.lstm, read, start)
        expected = torch.tensor(0.0)
        for state, target in zip(outputs, sentence[1:], strict=True):
            logits = decoder.output.weight @ state + decoder.output.bias
            expected = expected + logits.logsumexp(0) - logits[target]
        torch.testing.assert_close(nll[n], expected)


def test_the_prior_is_standard_normal():
    mean, logvar = make().prior(batch_of(*SENTENCES))
    assert mean.shape == logvar.shape == (5, 3)
    assert not mean.any() and not logvar.any()


# ---- what may influence what ----


@layers
@injects
def test_a_predicted_word_depends_on_z_and_on_all_words_before_it_and_on_none_after(layers, inject):
    model = make(layers=layers, inject=inject)
    embedded, logits = watched(model.decoder.embedding), watched(model.decoder.output)
    batch, z = batch_of(SENTENCES[0]), torch.randn(1, 3, requires_grad=True)
    model.decode_nll(batch, z)
    terms = -logits[0].log_softmax(-1).gather(-1, batch.targets[0, :, None])[:, 0]
    for place, term in enumerate(terms):
        to_words, to_z = torch.autograd.grad(term, [embedded[0], z], retain_graph=True)
        reached = to_words[0].abs().sum(-1) > 0
        assert reached.tolist() == [other <= place for other in range(len(terms))]
        assert to_z.abs().sum() > 0


@layers
def test_z_changes_the_nll(layers):
    model, batch = make(layers=layers), batch_of(*SENTENCES)
    nll = [model.decode_nll(batch, torch.full((5, 3), value)) for value in (0.0, 1.0)]
    assert ((nll[0] - nll[1]).abs() > 1e-3).all()


@layers
def test_z_matters_through_the_start_and_through_the_input(layers):
    model, batch = make(layers=layers), batch_of(*SENTENCES)
    z = torch.randn(5, 3, requires_grad=True)
    through = [model.decoder.start.weight, model.decoder.lstm.weight_ih_l0]
    start, beside = torch.autograd.grad(model.decode_nll(batch, z).sum(), through)
    # z's columns are the last; each layer of the start has its own rows
    assert beside[:, -3:].abs().min() > 0
    assert (start.view(layers, 12, 3).abs().sum((1, 2)) > 0).all()


@layers
def test_a_sentence_is_the_same_alone_and_padded_in_a_batch_and_so_are_its_gradients(layers):
    model, together = make(layers=layers), batch_of(*SENTENCES)
    z = torch.randn(5, 3)

    def found(batch: Batch, z: Tensor, row: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        q, nll = model.posterior(batch), model.decode_nll(batch, z)
        values = [nll[row], q.mean[row], q.logvar[row]]
        gradients = torch.autograd.grad(sum(value.square().sum() for value in values), model.parameters())
        return values, gradients

    for n, sentence in enumerate(SENTENCES):
        alone, padded = found(batch_of(sentence), z[n : n + 1], 0), found(together, z, n)
        for one, other in zip([*alone[0], *alone[1]], [*padded[0], *padded[1]], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    pads = torch.autograd.grad(model.decode_nll(together, z).sum(), model.decoder.embedding.weight)[0]
    assert not pads[PAD].any()


@layers
def test_equal_length_and_bucketed_batches_give_the_same_total_loss(layers):
    model, rng = make(layers=layers), np.random.default_rng(0)
    sentences = [[BOS, *rng.integers(4, WORDS, rng.integers(0, 9)).tolist(), EOS] for _ in range(60)]
    corpus = Corpus(sentences, WORDS, torch.device("cpu"))

    def totals(sampler: str) -> list[float]:
        every = [objective.terms(model, b, deterministic=True) for b in Batches(corpus, sampler, 8, seed=0)]
        parts = [terms[:3] for terms in every]
        return [sum(part.double().sum().item() for part in column) for column in zip(*parts, strict=True)]

    with torch.no_grad():
        assert totals("equal_length") == pytest.approx(totals("bucketed"), rel=1e-6)


# ---- what the numbers mean ----


@pytest.mark.parametrize("latent", [0, 3])
def test_the_probabilities_of_all_sentences_sum_to_one(latent):
    model = make(7, latent=latent)
    with torch.no_grad():
        model.decoder.output.bias[PAD] = -1e4  # a pad is no word
        model.decoder.output.bias[EOS] += 3  # most of the mass is on short sentences
    words = [UNK, BOS, 4, 5, 6]
    code, total, before = torch.randn(1, latent), 0.0, -1.0
    with torch.no_grad():
        for length in range(6):
            rows = [[BOS, *middle, EOS] for middle in itertools.product(words, repeat=length)]
            batch = batch_of(*rows)
            total += (-model.decode_nll(batch, code.expand(len(rows), -1)).double()).exp().sum().item()
            assert before < total < 1 + 1e-6
            before = total
    assert total > 0.99


def test_without_z_it_is_a_language_model_with_no_encoder_and_no_kl():
    model, batch = make(latent=0), batch_of(*SENTENCES)
    assert model.encoder is None and model.decoder.start is None
    found = objective.terms(model, batch)
    assert found.kl.shape == (5, 0)
    assert objective.loss(found, beta=1.0) == found.nll.mean()
    assert all(parameter.numel() for parameter in model.parameters())
    objective.loss(found, beta=1.0).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@layers
def test_terms_have_one_number_a_sentence_and_gradients_reach_every_parameter(layers):
    model, batch = make(layers=layers), batch_of(*SENTENCES)
    found = objective.terms(model, batch)
    assert found.nll.shape == (5,) and found.kl.shape == (5, 3)
    assert found.tokens.tolist() == [5, 2, 1, 4, 4]
    assert (found.nll > 0).all() and (found.kl >= 0).all()
    objective.loss(found, beta=1.0).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


# ---- dropout ----


def test_word_dropout_turns_words_but_never_the_first_into_unk_and_in_training_only():
    model = make(word_dropout=0.4)
    read = []
    model.decoder.embedding.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    batch = batch_of(*[[BOS, *[5, 6, 7, 8, 9] * 40, EOS]] * 30)
    tokens = batch.tokens.clone()
    z = torch.zeros(30, 3)
    model.train().decode_nll(batch, z)
    model.eval().decode_nll(batch, z)
    trained, evaluated = read
    assert torch.equal(evaluated, batch.inputs) and torch.equal(batch.tokens, tokens)
    changed = trained != batch.inputs
    assert (trained[:, 0] == BOS).all() and (trained[changed] == UNK).all()
    assert changed[:, 1:].double().mean().item() == pytest.approx(0.4, abs=0.03)  # 6,000 words


def test_with_all_words_dropped_the_decoder_sees_z_and_places_only_but_still_predicts_the_words():
    model, z = make(word_dropout=1.0).train(), torch.randn(1, 3)
    nll = [model.decode_nll(batch_of(s), z).item() for s in ([2, 5, 6, 3], [2, 1, 1, 3], [2, 1, 6, 3])]
    with torch.no_grad():
        read = model.eval().decode_nll(batch_of([2, 1, 1, 3]), z).item()
    assert nll[1] == pytest.approx(read)
    assert len({round(value, 4) for value in nll}) == 3


@pytest.mark.parametrize("skip", [False, True])
def test_dropout_acts_on_words_and_outputs_but_not_on_z_and_in_training_only(skip):
    model, batch = make(dropout=0.5, skip=skip), batch_of(*SENTENCES)
    read, z = [], torch.full((5, 3), 0.25)
    model.decoder.lstm.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    model.decoder.output.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    model.train().decode_nll(batch, z)
    words, outputs = read[0][..., :8], read[1][..., :12]
    assert 0.3 < (words == 0).double().mean() < 0.7 and 0.3 < (outputs == 0).double().mean() < 0.7
    assert (read[0][..., 8:] == 0.25).all() and (read[1][..., 12:] == 0.25).all()
    assert not torch.equal(model.decode_nll(batch, z), model.decode_nll(batch, z))
    model.eval()
    assert torch.equal(model.decode_nll(batch, z), model.decode_nll(batch, z))


def test_the_encoder_has_no_dropout():
    model, batch = make(dropout=0.5, word_dropout=0.5).train(), batch_of(*SENTENCES)
    assert torch.equal(model.posterior(batch).mean, model.posterior(batch).mean)


# ---- devices ----


@pytest.mark.parametrize("latent", [0, 3])
@layers
def test_a_step_runs_on_the_meta_device(layers, latent):
    with torch.device("meta"):
        model = make(layers=layers, latent=latent, dropout=0.5, word_dropout=0.5)
    batch = Batch(*(part.to("meta") for part in (batch_of(*SENTENCES).tokens, batch_of(*SENTENCES).lengths)))
    loss = objective.loss(objective.terms(model, batch), beta=0.5, free_bits=0.1)
    loss.backward()
    assert loss.shape == () and loss.is_meta
    assert all(parameter.grad.is_meta for parameter in model.parameters())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@layers
def test_a_step_on_cuda_equals_the_same_step_on_the_cpu(layers):
    model, found = make(layers=layers), {}
    for device in ("cpu", "cuda"):
        model.to(device)
        batch = Corpus(SENTENCES, WORDS, torch.device(device)).batch(np.arange(len(SENTENCES)))
        loss = objective.loss(objective.terms(model, batch, deterministic=True), beta=0.5)
        gradients = torch.autograd.grad(loss, model.parameters())
        found[device] = [part.cpu() for part in (loss.detach(), *gradients)]
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
