"""The transformer VAE: what may influence what, the cache, and what pads and samples must not change."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import cvae
from cvae import models
from cvae.config.schema import SemiAmortized, TransformerModel
from cvae.data.text import Batch
from cvae.data.vocabulary import PAD, UNK
from cvae.models import gaussian, kernels, objective
from cvae.models.decode import SamplingOptions, beam_search
from cvae.models.refinement import refined
from cvae.models.transformer import Layer, PlacedEmbedding, TransformerVAE
from cvae.runs.folder import RunFolder
from cvae.training.export import export
from cvae.training.run import prepare, run
from cvae.training.transfer import load_weights
from tests.helpers import (
    SENTENCES,
    WORDS,
    batch_of,
    check_greedy,
    check_words_one_by_one,
    codes,
    logits_of,
    moved_logits,
    moved_means,
)

SMALL = {"hidden": 12, "layers": 2, "heads": 3, "latent": 3, "dropout": 0.0, "word_dropout": 0.0}
KINDS = {
    "memory": {"inject": "memory"},
    "embedding": {"inject": "embedding"},
    "both": {"inject": "both"},
    "tied": {"inject": "both", "tied": True},
    "skip": {"inject": "memory", "skip": True},
    "one layer": {"inject": "embedding", "layers": 1, "heads": 1, "skip": True},
    "no z": {"inject": "both", "latent": 0},
}
kinds = pytest.mark.parametrize("kind", KINDS)
with_z = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no z"])


def make(kind: str = "both", words: int = WORDS, **values) -> TransformerVAE:
    """A small model with weights large enough for every path to matter."""
    torch.manual_seed(0)
    keys = SMALL | {"init": 0.4} | KINDS[kind] | values
    return TransformerVAE(TransformerModel("transformer", **keys), words)


# ---- the parts ----


@kinds
def test_the_number_of_parameters(kind):
    with torch.device("meta"):
        model = make(kind, 1000, hidden=48, latent=KINDS[kind].get("latent", 5))
    config, h, z = model.config, 48, model.config.latent
    layers = config.layers * (12 * h * h + 13 * h)  # matrices; biases and two norms of each layer
    encoder = 1000 * h + layers + 2 * h + 2 * (h * z + z) if z else 0
    memory = 2 * h * config.layers * z if config.inject != "embedding" else 0
    beside = h * z if config.inject != "memory" else 0
    output = 1000 if config.tied else 1000 * (h + config.skip * z) + 1000
    decoder = 1000 * h + layers + 2 * h + memory + beside + output
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder


def test_weights_start_normal_and_less_where_a_branch_ends():
    model = make("both", 500, hidden=96, layers=8, init=0.02, latent=16)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            less = math.sqrt(16) if name.endswith(("attended.weight", "narrow.weight")) else 1
            assert parameter.std().item() == pytest.approx(0.02 / less, rel=0.1), name
        else:
            assert (parameter == ("norm.weight" in name)).all(), name


@pytest.mark.parametrize("size", [6, 7])
def test_words_are_told_apart_by_their_place_and_places_go_on_from_the_first(size):
    embedding = PlacedEmbedding(9, size)
    whole = embedding(torch.full((1, 600), 5))[0]
    assert whole.shape == (600, size) and torch.cdist(whole, whole).add(torch.eye(600)).min() > 0.1
    torch.testing.assert_close(embedding(torch.full((1, 3), 5), 597)[0], whole[597:])
    waves, half = whole - math.sqrt(size) * embedding.weight[5], (size + 1) // 2
    for n in range(size):  # as Vaswani et al., who have sines and cosines in turn
        angles = torch.arange(600.0) / 10_000 ** (2 * (n % half) / size)
        torch.testing.assert_close(waves[:, n], angles.sin() if n < half else angles.cos(), atol=1e-4, rtol=0)


def test_a_layer_is_attention_and_an_mlp_by_hand():
    layer, x = make("both").decoder.layers[0], torch.randn(1, 4, 12)
    past = torch.randn(2, 1, 3, 1, 4)
    mask = torch.ones(4, 5, dtype=torch.bool).tril(1)
    out, read = layer(x, mask, past)
    query, key, value = layer.attention(layer.norm(x[0])).split(12, -1)
    heads = []
    for head, columns in enumerate(torch.arange(12).split(4)):
        keys = torch.cat([past[0, 0, head], key[:, columns]])
        values = torch.cat([past[1, 0, head], value[:, columns]])
        torch.testing.assert_close(read[:, 0, head], torch.stack([keys, values]))
        scores = (query[:, columns] @ keys.T / 2).masked_fill(~mask, -torch.inf)
        heads.append(scores.softmax(-1) @ values)
    middle = x[0] + layer.attended(torch.cat(heads, -1))
    expected = middle + layer.narrow(functional.gelu(layer.widen(layer.mlp_norm(middle))))
    torch.testing.assert_close(out[0], expected)


# ---- what may influence what ----


@kinds
def test_a_later_word_changes_no_earlier_prediction_and_an_earlier_one_all_later(kind):
    for place, changed in moved_logits(make(kind).eval(), SENTENCES[0], 5):
        assert changed[:place].max() < 1e-6 and changed[place:].min() > 1e-4


@with_z
def test_z_reaches_every_prediction(kind):
    model, batch = make(kind), batch_of(SENTENCES[0])
    z = codes(model, 1).requires_grad_()
    for logits in logits_of(model, batch, z)[0]:
        (gradient,) = torch.autograd.grad(logits.logsumexp(0) - logits[7], z, retain_graph=True)
        assert gradient.abs().min() > 1e-4


def test_z_is_added_to_every_word_with_attention_cut():
    model, batch = make("embedding"), batch_of(SENTENCES[0])
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.attended.weight.zero_()
    z = codes(model, 1).requires_grad_()
    for logits in logits_of(model, batch, z)[0]:
        (gradient,) = torch.autograd.grad(logits[7] - logits[5], z, retain_graph=True)
        assert gradient.abs().min() > 1e-4


def test_each_way_of_z_is_one_of_its_own():
    model, batch = make("both").eval(), batch_of(SENTENCES[0])
    z = codes(model, 1).requires_grad_()
    for cut in ("memory", "beside"):
        with torch.no_grad():
            kept = getattr(model.decoder, cut).weight.clone()
            getattr(model.decoder, cut).weight.zero_()
        (gradient,) = torch.autograd.grad(model.decode_nll(batch, z).sum(), z)
        assert gradient.abs().min() > 1e-4
        with torch.no_grad():
            getattr(model.decoder, cut).weight.copy_(kept)
    assert make("memory").decoder.beside is None and make("embedding").decoder.memory is None


def test_the_posterior_depends_on_every_word_and_its_place():
    assert min(moved_means(make(), SENTENCES[0], 5)) > 1e-3


@kinds
def test_a_sentence_is_the_same_alone_and_padded_in_a_batch_and_so_are_its_gradients(kind):
    model, together = make(kind).double(), batch_of(*SENTENCES)
    z = codes(model, 5).double()

    def measured(batch: Batch, z: Tensor, row: int) -> list[Tensor]:
        q, nll = model.posterior(batch), model.decode_nll(batch, z)
        values = [nll[row], q.mean[row], q.logvar[row]]
        total = sum(value.square().sum() for value in values)
        return [*values, *torch.autograd.grad(total, model.parameters())]

    for n, sentence in enumerate(SENTENCES):
        alone, padded = measured(batch_of(sentence), z[n : n + 1], 0), measured(together, z, n)
        for one, other in zip(alone, padded, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    alone = batch_of(SENTENCES[1])
    with torch.no_grad():  # whatever a pad's vector is; tied it is the weight of its logit, too
        model.decoder.embedding.weight[PAD] += 1 - model.config.tied
        if model.encoder is not None:
            model.encoder.embedding.weight[PAD] += 1
    torch.testing.assert_close(model.decode_nll(together, z)[1], model.decode_nll(alone, z[1:2])[0])
    torch.testing.assert_close(model.posterior(together).mean[1], model.posterior(alone).mean[0])


# ---- the cache and the samples ----


@kinds
def test_words_one_by_one_say_what_the_whole_sentence_says(kind):
    check_words_one_by_one(make(kind).eval(), batch_of(SENTENCES[0], [2, 5, 1, 1, 8, 3]), atol=1e-5)


@kinds
@pytest.mark.parametrize("words", [WORDS, 4100])  # above 4,000 the output layer is the fused one
def test_samples_together_are_those_one_by_one(kind, words):
    model, batch = make(kind, words).eval(), batch_of(*SENTENCES)
    z = codes(model, 4, 5)
    with torch.no_grad():
        together = model.decode_nll(batch, z)
        assert torch.equal(together, torch.stack([model.decode_nll(batch, one) for one in z]))
        with kernels.disabled():
            torch.testing.assert_close(model.decode_nll(batch, z), together)
    with pytest.raises(ValueError, match="call eval"):
        model.train().decode_nll(batch, z)


@kinds
def test_greedy_and_beam_search_find_what_decode_nll_finds_likely(kind):
    model = make(kind).eval()
    z = codes(model, 6)
    check_greedy(model, z)
    # no fewer than all sentences of two words is exact
    found = beam_search(model, None, z, 2, SamplingOptions(beam=100))
    words = [number for number in range(WORDS) if number not in (PAD, 2)]
    prefixes = [[]] + [[word] for word in words if word != 3]
    for own, row in zip(z, found, strict=True):
        ended = {tuple(p): -_nll(model, [2, *p, 3], own) for p in prefixes}
        cut = {
            pair: -_nll(model, [2, *pair], own)
            for pair in itertools.product([word for word in words if word != 3], repeat=2)
        }
        assert tuple(row) == max((ended | cut).items(), key=lambda item: item[1])[0]


def _nll(model: TransformerVAE, tokens: list[int], z: Tensor) -> float:
    with torch.no_grad():
        return model.decode_nll(batch_of(tokens), z[None]).item()


# ---- training ----


@kinds
@pytest.mark.parametrize("words", [WORDS, 4100])
def test_gradients_reach_every_parameter_and_are_those_of_plain_torch(kind, words):
    model, batch = make(kind, words), batch_of(*SENTENCES)

    def gradients() -> tuple[Tensor, ...]:
        terms = objective.terms(model, batch, deterministic=True)
        return torch.autograd.grad(objective.loss(terms, 0.5), model.parameters())

    fused = gradients()
    with kernels.twice_differentiable():
        plain = gradients()
    for (name, _), one, other in zip(model.named_parameters(), fused, plain, strict=True):
        assert one.abs().sum() > 0, name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_tied_output_layer_learns_with_the_word_vectors():
    model, batch = make("tied", 4100), batch_of(*SENTENCES)
    assert model.decoder.output.weight is model.decoder.embedding.weight
    model.decode_nll(batch, codes(model, 5)).sum().backward()
    gradient = model.decoder.embedding.weight.grad
    unread = torch.ones(4100, dtype=torch.bool).index_fill(0, batch.tokens.flatten(), False)
    assert gradient[unread].abs().sum(-1).min() > 0  # by the output layer
    alone = make("tied", 4100)
    read = alone.decoder.embedding(batch.inputs)
    assert torch.autograd.grad(read.sum(), alone.decoder.embedding.weight)[0][7].abs().min() > 0


def test_the_gradient_of_a_refined_posterior_is_exact():
    """The second derivatives that semi_amortized takes are those of differences."""
    model, batch = make("both").double().eval(), batch_of(*SENTENCES)
    settings = SemiAmortized("semi_amortized", steps=2, lr=0.5, momentum=0.5, clip=5.0)

    def after() -> Tensor:
        def loss(q: gaussian.Gaussian) -> Tensor:
            return objective.loss(objective.terms(model, batch, deterministic=True, q=q), 0.5)

        q = refined(model.posterior(batch), loss, settings, learning=True)
        return objective.loss(objective.terms(model, batch, deterministic=True, q=q), 0.5)

    weight = model.decoder.layers[0].attention.weight
    with kernels.twice_differentiable():
        (gradient,) = torch.autograd.grad(after(), weight)
    with pytest.raises(RuntimeError, match="derivative"), kernels.disabled():
        torch.autograd.grad(after(), weight)
    for row, column in ((0, 0), (14, 3), (30, 11)):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[row, column] += step
            with kernels.twice_differentiable():
                values.append(after().item())
            with torch.no_grad():
                weight[row, column] -= step
        assert gradient[row, column].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


RUN = ("task=ptb", "dataset=tiny", "dataset.sentences=40", "dataset.sampler=bucketed", "train.batch_size=8")
RUN += ("model=transformer", "model.hidden=8", "model.layers=2", "model.heads=2", "model.latent=3")
RUN += ("train.epochs=null", "train.steps=4", "task.iw_samples=2", "task.path_sentences=4")


@pytest.mark.parametrize(
    "remedies",
    [
        ("free_bits,skip",),
        ("kl_target,batch_norm",),
        ("aggressive,word_dropout", "update.window=2", "update.most=5"),
        ("semi_amortized", "update.steps=2"),
        ("low_beta",),
    ],
    ids=lambda chosen: chosen[0],
)
def test_it_is_trained_with_every_remedy(remedies, configured, tmp_path):
    folder = RunFolder(tmp_path / "run")
    names, *keys = remedies
    run(configured(*RUN, f"remedy=[{names}]", *keys), folder)
    assert folder.state == "done" and math.isfinite(folder.results["test/iw_nll"])


def test_an_autoencoders_encoder_is_taken_over_by_a_new_decoder(configured, tmp_path):
    source = RunFolder(tmp_path / "source")
    run(configured(*RUN, "schedule=none"), source)
    config = configured(*RUN, "remedy=[pretrained,free_bits_total]", f"init_from={source.path}")
    task = prepare(config)
    before = {name: weight.clone() for name, weight in task.model.state_dict().items()}
    load_weights(source, task, encoder_only=True)
    changed = {
        name for name, weight in task.model.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert changed and all(name.startswith("encoder.") for name in changed)


def test_a_run_is_opened_without_its_corpus_and_exported(configured, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(configured(*RUN, "model.tied=true"), folder)
    export(folder, tmp_path / "exported")
    there, here = cvae.load(folder.path), cvae.load(tmp_path / "exported")
    texts = ["the dog sees a king", "a king"]
    assert (there.encode(texts).mean == here.encode(texts).mean).all()
    z = there.encode(texts).mean
    assert there.decode(z, beam=3) == here.decode(z, beam=3)


def test_dropout_acts_in_the_decoder_in_training_only_and_spares_z_and_the_encoder():
    model, batch = make("both", dropout=0.5, word_dropout=0.5).train(), batch_of(*SENTENCES)
    z = codes(model, 5)
    assert not torch.equal(model.decode_nll(batch, z), model.decode_nll(batch, z))
    assert torch.equal(model.posterior(batch).mean, model.posterior(batch).mean)
    read, words = [], []
    model.decoder.layers[0].register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    model.decoder.embedding.register_forward_pre_hook(lambda _module, inputs: words.append(inputs[0]))
    model.decode_nll(batch, z)
    dropped = read[0] - model.decoder.beside(z)[:, None]
    assert 0.3 < (dropped.abs() < 1e-6).double().mean() < 0.7  # words are, z is not
    assert (words[0] == UNK).double().mean() > 0.2 and (words[0][:, 0] == 2).all()
    model.eval()
    assert torch.equal(model.decode_nll(batch, z), model.decode_nll(batch, z))


def test_dropout_acts_on_both_branches_of_a_layer_and_not_on_the_stream_past_them():
    layer, x = Layer(12, 3, dropout=1.0).train(), torch.randn(2, 4, 12)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.equal(layer(x, mask)[0], x) and not torch.equal(layer.eval()(x, mask)[0], x)


@kinds
def test_a_step_runs_on_the_meta_device(kind):
    with torch.device("meta"):
        model = make(kind, dropout=0.5, word_dropout=0.5)
    batch = batch_of(*SENTENCES)
    batch = Batch(batch.tokens.to("meta"), batch.lengths.to("meta"))
    loss = objective.loss(objective.terms(model, batch), beta=0.5, free_bits=0.1)
    loss.backward()
    assert loss.is_meta and all(parameter.grad.is_meta for parameter in model.parameters())


def test_the_decoders_that_are_compared_have_one_size(configured):
    """experiment=transformers: within 5 % of the LSTM's, word vectors and output layer apart."""
    sizes, corpus = [], SimpleNamespace(vocabulary=range(2004))
    for chosen in (
        ["sentence_128"],
        *(["transformer_76", f"model.inject={z}"] for z in ("memory", "embedding")),
    ):
        model = models.build(
            configured("experiment=transformers", f"model={chosen[0]}", *chosen[1:]).model, corpus
        )
        counted = {name: p.numel() for name, p in model.decoder.named_parameters()}
        sizes.append(sum(n for name, n in counted.items() if not name.startswith(("embedding", "output"))))
    assert sizes[1:] == pytest.approx([sizes[0]] * 2, rel=0.05)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@kinds
def test_a_step_on_cuda_equals_the_same_step_on_the_cpu(kind):
    model, measured = make(kind), {}
    for device in ("cpu", "cuda"):
        model.to(device)
        batch = Batch(
            *(part.to(device) for part in (batch_of(*SENTENCES).tokens, batch_of(*SENTENCES).lengths))
        )
        loss = objective.loss(objective.terms(model, batch, deterministic=True), beta=0.5)
        gradients = torch.autograd.grad(loss, model.parameters())
        measured[device] = [part.cpu() for part in (loss.detach(), *gradients)]
    for one, other in zip(measured["cpu"], measured["cuda"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
