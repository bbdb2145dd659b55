"""Measures against closed forms, on a linear-Gaussian model; what they must not depend on."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from cvae.data.text import Batch, Corpus, bucketed, fixed_subset
from cvae.data.vocabulary import BOS, PAD, UNK
from cvae.evaluation import latent, metrics
from cvae.models import gaussian, objective
from cvae.models.gaussian import Gaussian
from cvae.models.objective import LatentModel
from cvae.models.sentence import SentenceVAE
from cvae.tasks import base
from cvae.tasks.base import kl_by_dimension
from cvae.tasks.language_model import LanguageTask
from tests.helpers import SENTENCES, batch_of, config_of, make, parts

SIGMA = 0.8
# orthogonal columns, so that the exact posterior has independent dimensions; the last one is not used
W = torch.tensor([[1.5, 0.2, 0], [1.5, -0.2, 0], [0, 0.6, 0], [0, 0, 0]], dtype=torch.float64)
SIZE, LATENT = W.shape


class Linear(LatentModel):
    """p(z) = N(0, I), p(x | z) = N(W z, σ² I); the posterior is exact, or shifted and scaled.

    A "batch" holds x [B, D] under `tokens`. `decoded` counts the sequences of each call of decode_nll.
    """

    def __init__(self, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale
        self.decoded: list[int] = []

    def prior(self, batch: Batch) -> Gaussian:
        return gaussian.standard(batch.tokens.new_empty(len(batch.tokens), LATENT))

    def posterior(self, batch: Batch) -> Gaussian:
        precision = 1 + (W**2).sum(0) / SIGMA**2
        mean = batch.tokens @ W / SIGMA**2 / precision + self.shift
        return Gaussian(mean, (self.scale**2 / precision).log().expand_as(mean))

    def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
        self.decoded.append(z.shape[:-1].numel())
        # element by element: a matrix product may round differently in chunks
        mean = (z[..., None, :] * W).sum(-1)
        return -gaussian.log_prob(Gaussian(mean, torch.full_like(mean, 2 * math.log(SIGMA))), batch.tokens)


MARGINAL = torch.distributions.MultivariateNormal(
    torch.zeros(SIZE, dtype=torch.float64),
    W @ W.T + SIGMA**2 * torch.eye(SIZE, dtype=torch.float64),
)


def observations(count: int) -> Tensor:
    """x [N, D] from the model, with other noise than the measures draw."""
    rng = torch.Generator().manual_seed(100)
    z = torch.empty(count, LATENT, dtype=torch.float64).normal_(generator=rng)
    return z @ W.T + SIGMA * torch.empty(count, SIZE, dtype=torch.float64).normal_(generator=rng)


def batches(x: Tensor, size: int = 16) -> list[Batch]:
    return [Batch(part, torch.full((len(part),), 6)) for part in x.split(size)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighted(model: Linear, x: Tensor, samples: int, chunk: int = 100, seed: int = 0) -> dict[str, float]:
    return latent.importance_weighted(model, batches(x), samples, chunk, rng(seed))


def test_three_densities_are_enough_of_a_model():
    model, (batch,) = Linear(), batches(observations(3))
    assert model.shared(batch) is batch
    assert model.extra_losses(batch, torch.zeros(3, LATENT)) == {} == model.files()
    assert model.inference_network() is None
    model.refuse(None, "train")


# ---- the likelihood ----


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_with_the_exact_posterior_the_weighted_nll_is_the_nll_for_any_number_of_samples(samples):
    x = observations(50)
    nll = -MARGINAL.log_prob(x).mean().item()
    found = weighted(Linear(), x, samples)
    assert found["iw_nll"] == pytest.approx(nll, abs=1e-9)
    assert found["iw_elbo"] == pytest.approx(-nll, abs=1e-9)
    assert found["iw_ppl"] == pytest.approx(math.exp(nll / 5))  # five counted tokens each


def test_with_a_wrong_posterior_it_falls_from_the_elbo_to_the_nll_as_samples_grow():
    x, model = observations(300), Linear(shift=0.4, scale=1.3)
    nll = -MARGINAL.log_prob(x).mean().item()
    found = {samples: weighted(model, x, samples) for samples in (1, 4, 32, 512)}
    values = [found[samples]["iw_nll"] for samples in found]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(-found[1]["iw_elbo"])
    assert values[0] > nll + 0.3
    assert values[-1] == pytest.approx(nll, abs=0.05)
    # the ELBO in closed form: NLL + KL(q || exact posterior)
    exact, q = Linear().posterior(batches(x, 300)[0]), model.posterior(batches(x, 300)[0])
    gap = gaussian.kl(q, exact).sum(-1).mean().item()
    assert -found[512]["iw_elbo"] == pytest.approx(nll + gap, abs=0.01)


@pytest.mark.parametrize("chunk", [1, 15, 16, 33, 112, 10_000])
def test_the_chunk_bounds_what_is_decoded_at_once_and_changes_nothing(chunk):
    model, x = Linear(shift=0.4), observations(40)
    assert weighted(model, x, 7, chunk) == weighted(Linear(shift=0.4), x, 7, 48)
    assert max(model.decoded) <= max(chunk, 16) and sum(model.decoded) == 7 * 40


def test_a_density_too_small_for_a_float_is_still_counted():
    x = observations(4) + 60
    nll = -MARGINAL.log_prob(x).mean().item()
    assert nll > 1000 and weighted(Linear(), x, 5)["iw_nll"] == pytest.approx(nll)


# ---- the bound ----


def test_the_survey_holds_every_sequence_and_its_bound_is_the_closed_one():
    x, model = observations(3000), Linear(shift=0.3)
    found, q = latent.collect_posteriors(model, batches(x), False, rng())
    assert q.mean.shape == found.kl.shape == (3000, LATENT) and found.nll.shape == (3000,)
    assert torch.equal(q.mean, model.posterior(Batch(x, x[:, 0])).mean)
    values = latent.elbo_metrics(found)
    whole = batches(x, 3000)[0]
    gap = gaussian.kl(q, Linear().posterior(whole)).sum(-1).mean().item()
    nll = -MARGINAL.log_prob(x).mean().item()
    assert -values["elbo"] == pytest.approx(nll + gap, abs=0.05)
    assert values["ppl"] == pytest.approx(math.exp(-values["elbo"] / 5))
    assert values["rec"] + values["kl"] == pytest.approx(-values["elbo"])


def test_a_posterior_at_hand_changes_nothing_in_the_terms():
    batch, model = batches(observations(8))[0], Linear()
    first = objective.terms(model, batch, generator=rng())
    again = objective.terms(model, batch, generator=rng(), q=model.posterior(batch))
    for one, other in zip(first[:3], again[:3], strict=True):
        assert torch.equal(one, other)


# ---- mutual information and active units ----


def test_mutual_information_is_the_closed_one_and_not_bounded_by_a_batch():
    """I(x; z) = ½ Σ log(aggregated variance / posterior variance), the prior being the aggregate."""
    exact = 0.5 * (1 + (W**2).sum(0) / SIGMA**2).log().sum().item()
    _, q = latent.collect_posteriors(Linear(), batches(observations(1500), 2), False, rng())
    found = metrics.mutual_information(q, rng())
    assert found == pytest.approx(exact, abs=0.08)
    assert found > math.log(2)  # what two sentences at a time could show at most
    kl = gaussian.kl(q, gaussian.standard(q.mean)).sum(-1).mean().item()
    assert found == pytest.approx(kl, abs=0.1)  # no hole between aggregate and prior


def test_mutual_information_is_at_most_the_log_of_the_examples():
    apart = Gaussian(torch.arange(6.0)[:, None] * 50, torch.zeros(6, 1))
    assert metrics.mutual_information(apart, rng()) == pytest.approx(math.log(6))
    assert metrics.mutual_information(gaussian.standard(torch.empty(6, 3)), rng()) == pytest.approx(0)


@pytest.mark.parametrize("cells", [1, 40, 2**22])
def test_densities_in_pieces_are_the_same(cells):
    q = Gaussian(torch.randn(13, 3, generator=rng()), torch.randn(13, 3, generator=rng(1)))
    assert metrics.separation(q, 5, rng(), cells) == pytest.approx(metrics.separation(q, 5, rng()), rel=1e-12)


def test_densities_by_products_are_the_densities():
    q = Gaussian(100 + torch.randn(7, 3, generator=rng()), -6 + torch.randn(7, 3, generator=rng(1)))
    z = 100 + torch.randn(5, 3, generator=rng(2))
    exact = gaussian.log_prob(Gaussian(q.mean.double(), q.logvar.double()), z.double()[:, None])
    torch.testing.assert_close(metrics.densities(q, z), exact, rtol=1e-9, atol=1e-6)


def test_active_units_are_the_dimensions_whose_mean_moves():
    x = observations(4000)
    precision = (W**2).sum(0) / SIGMA**2
    q = Linear(shift=3.0).posterior(batches(x, 4000)[0])
    torch.testing.assert_close(q.mean.var(0), precision / (1 + precision), rtol=0.1, atol=1e-9)
    assert metrics.active_units(q) == 2  # the third column of W is 0
    mean = torch.tensor([[0.0, 0.0, 5.0], [0.21, 0.19, 5.0]])  # variances 0.011, 0.009 and 0
    assert metrics.active_units(Gaussian(mean, torch.zeros(2, 3))) == 1


# ---- the two paths ----


class Reader(LatentModel):
    """A decoder whose NLL is what it reads of z, and one nat for each `<unk>` among the previous words."""

    def __init__(self, of_z: float, of_words: float, latent: int = 2) -> None:
        super().__init__()
        self.of_z, self.of_words, self.latent = of_z, of_words, latent

    def prior(self, batch: Batch) -> Gaussian:
        return gaussian.standard(torch.empty(len(batch.tokens), self.latent))

    def posterior(self, batch: Batch) -> Gaussian:
        mean = batch.tokens[:, 1:2].expand(-1, self.latent).float()
        return Gaussian(mean, torch.full_like(mean, -60.0))

    def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
        missed = ((z - batch.tokens[:, 1:2]) ** 2).sum(-1)
        return 1000 * self.of_z * missed + self.of_words * (batch.inputs == UNK).sum(-1)


LINES = Corpus(
    [[BOS, first, *range(4, 4 + first % 5), 3] for first in range(10, 50)], 60, torch.device("cpu")
)


def cut(model: Reader, size: int = 8, deterministic: bool = False) -> dict[str, float]:
    return latent.paths(model, LINES.batches(np.arange(40), size), deterministic, rng())


def test_a_decoder_that_ignores_z_has_no_path_a_and_one_that_ignores_words_no_path_b():
    without_z, without_words = cut(Reader(0, 1)), cut(Reader(1, 0))
    assert without_z["path_a"] == without_z["path_a_prior"] == without_words["path_b"] == 0
    assert without_words["path_a"] > 1 and without_words["path_a_prior"] > 1
    # every word but <s> is dropped; the pads behind a sentence are no loss of a real decoder
    assert without_z["path_b"] > 1


def test_every_sentence_counts_the_same_whatever_the_size_of_its_batch():
    batches = LINES.batches(np.arange(40), 7)
    dropped = [(len(batch.inputs), batch.inputs.size(1) - 1) for batch in batches]
    wanted = sum(rows * words for rows, words in dropped) / 40
    assert cut(Reader(0, 1), 7)["path_b"] == pytest.approx(wanted)
    assert abs(np.mean([words for _, words in dropped]) - wanted) > 0.01


def test_no_sentence_keeps_its_z_and_batches_do_not_decide_whose_it_gets():
    found = []
    for size in (1, 7, 40):
        z = [batch.tokens[:, 1:2] for batch in LINES.batches(np.arange(40), size)]
        pairs = torch.cat([torch.cat(z), torch.cat(latent._exchanged(z))], 1)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert set(pairs[:, 1].tolist()) == set(range(10, 50))
        found.append(cut(Reader(1, 1), size)["path_a"])
    assert found[0] == pytest.approx(found[2], rel=0.5)  # the order within a length decides the rest


def test_z_is_passed_on_along_one_random_cycle_through_all_sentences():
    z = [torch.arange(start, start + size)[:, None] for start, size in ((0, 7), (7, 30), (37, 3))]
    partner = torch.cat(latent._exchanged(z))[:, 0].tolist()
    place, visited = 0, set()
    while place not in visited:
        visited.add(place)
        place = partner[place]
    assert len(visited) == 40
    assert (
        sum(abs(other - own) == 1 for own, other in enumerate(partner)) < 8
    )  # sorted by length: no neighbours


@pytest.mark.parametrize("deterministic", [False, True])
def test_path_a_starts_from_a_sample_and_that_of_an_autoencoder_from_the_mean(deterministic):
    read, x = [], observations(6)

    class Listening(Linear):
        def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
            read.append(z)
            return super().decode_nll(batch, z)

    model = Listening()
    latent.paths(model, batches(x), deterministic, rng())
    mean, spread = model.posterior(batches(x)[0])
    own, exchanged, *prior = read[0]
    assert torch.equal(own, mean) == deterministic and torch.equal(own, read[1][0])
    assert ((own - mean).abs() < 5 * torch.exp(0.5 * spread)).all()
    assert sorted(map(tuple, exchanged.tolist())) == sorted(map(tuple, own.tolist()))
    assert len(prior) == (not deterministic)


def test_an_autoencoder_has_no_prior_to_draw_from_and_a_language_model_no_z():
    assert set(cut(Reader(1, 1), deterministic=True)) == {"path_a", "path_b"}
    assert set(cut(Reader(0, 1, latent=0))) == {"path_b"}


def test_without_words_the_encoder_still_reads_them_and_they_are_still_predicted():
    batch = batch_of(*SENTENCES)
    blind = batch.without_words()
    assert torch.equal(blind.tokens, batch.tokens) and torch.equal(blind.targets, batch.targets)
    assert (blind.inputs[:, 0] == BOS).all() and (blind.inputs[:, 1:] == UNK).all()
    assert blind.inputs.shape == batch.inputs.shape
    model, z = make().eval(), torch.randn(5, 3)
    assert torch.equal(model.posterior(blind).mean, model.posterior(batch).mean)
    rows = [[BOS, *[UNK] * (len(s) - 2), 3] for s in SENTENCES]
    torch.testing.assert_close(
        blind.inputs * (blind.targets != PAD), batch_of(*rows).inputs * (batch.targets != PAD)
    )
    assert not torch.allclose(model.decode_nll(blind, z), model.decode_nll(batch, z))


# ---- which sentences ----


def test_the_fixed_sentences_depend_on_their_number_and_the_size_of_the_split_only():
    found = fixed_subset(20, 100)
    assert len(set(found)) == 20 and set(found) <= set(range(100))
    np.random.seed(3)
    assert np.array_equal(fixed_subset(20, 100), found)
    assert np.array_equal(fixed_subset(8, 100), found[:8])
    assert sorted(fixed_subset(None, 7)) == sorted(fixed_subset(100, 7)) == list(range(7))


def test_runs_of_different_seeds_and_batches_measure_the_same_sentences():
    def texts(seed: int, sampler: str) -> Iterator[tuple[int, ...]]:
        base = config_of()
        config = config_of(seed=seed, dataset=type(base.dataset)("tiny", 60, sampler))
        for batch in parts(config)[2].fixed_subset("train", 20):
            yield from (tuple(row[row != PAD].tolist()) for row in batch.tokens)

    assert list(texts(0, "bucketed")) == list(texts(5, "equal_length"))


# ---- the sentence model ----


@pytest.mark.parametrize("latent", [0, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_several_samples_at_once_are_each_of_them_alone(layers, latent):
    model, batch = make(layers=layers, latent=latent, dropout=0.5).eval(), batch_of(*SENTENCES)
    z = torch.randn(4, 5, latent)
    with torch.no_grad():
        together = model.decode_nll(batch, z)
        torch.testing.assert_close(together, torch.stack([model.decode_nll(batch, part) for part in z]))


def test_several_samples_share_the_products_of_the_words():
    model, batch, read = make().eval(), batch_of(*SENTENCES), []
    model.decoder.embedding.register_forward_hook(lambda _module, _inputs, output: read.append(output.shape))
    model.decode_nll(batch, torch.randn(50, 5, 3))
    assert sum(shape.numel() for shape in read) == batch.inputs.numel() * 8


def test_several_samples_are_refused_in_training():
    with pytest.raises(ValueError, match="call eval"):
        make().train().decode_nll(batch_of(*SENTENCES), torch.randn(2, 5, 3))


# ---- the task ----


@pytest.fixture(scope="module")
def trained() -> tuple[SentenceVAE, LanguageTask]:
    model, _, task = parts(config_of())
    return model, task


def test_everything_at_once_is_recorded_with_how_much_it_saw_and_leaves_no_trace(trained):
    model, task = trained
    state = torch.get_rng_state()
    found = task.evaluate("train", thorough=True)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert task.evaluate("train", thorough=True) == found
    names = {"elbo", "rec", "kl", "ppl", "word_ppl", "mi", "au", "path_a", "path_a_prior", "path_b"}
    assert set(task.evaluate("train")) == names
    sizes = {"mi_examples": 60, "path_sentences": 4, "iw_samples": 3, "iw_sentences": 2, "iw_chunk": 4}
    assert {key: found[key] for key in sizes} == sizes
    dimensions = [found[f"kl_dim/{place:02}"] for place in range(3)]
    assert sum(dimensions) == pytest.approx(found["kl"])
    weighted = {"iw_nll", "iw_ppl", "iw_word_ppl", "iw_elbo"}
    assert set(found) == names | set(sizes) | weighted | {f"kl_dim/0{i}" for i in range(3)}
    assert found["iw_nll"] < -found["iw_elbo"]
    # tokens are words, of the two sentences, too
    assert found["word_ppl"] == pytest.approx(found["ppl"])
    assert found["iw_word_ppl"] == pytest.approx(found["iw_ppl"])


def test_noise_is_of_the_seed_that_is_asked_for_or_else_the_runs():
    *_, task = parts(config_of(seed=3))
    assert [task.generator(seed).initial_seed() for seed in (None, 0, 7)] == [3, 0, 7]


@pytest.mark.parametrize("examples", [None, 20])
def test_fewer_examples_of_mi_are_the_fixed_ones_of_the_corpus(examples, trained, monkeypatch):
    model, task = trained
    model.eval()
    monkeypatch.setattr(task, "settings", dataclasses.replace(task.settings, mi_examples=examples))
    _, q = latent.collect_posteriors(model, task.batches["train"], False, task.generator())
    corpus = task.data.corpora["train"]
    some = model.posterior(corpus.batch(fixed_subset(examples, len(corpus))))
    expected = metrics.mutual_information(some, task.generator())
    assert task.latent_metrics("train", q)["mi"] == pytest.approx(expected, abs=1e-4)
    model.train()


def test_perplexities_of_words_are_of_all_sentences_or_of_those_that_are_weighted(trained):
    _, task = trained
    corpus = task.data.corpora["train"]
    some = fixed_subset(task.settings.iw_sentences, len(corpus))
    nats = {"elbo": -9.0, "refined_elbo": -7.0, "iw_nll": 5.0, "refined_iw_nll": 4.0, "rec": 3.0}
    means = (corpus.words.mean() + 1, corpus.words[some].mean() + 1)  # and the end
    assert means[0] != means[1] and len(some) == 2
    assert task.per_word("train", nats) == pytest.approx(
        {
            "word_ppl": math.exp(9 / means[0]),
            "refined_word_ppl": math.exp(7 / means[0]),
            "iw_word_ppl": math.exp(5 / means[1]),
            "refined_iw_word_ppl": math.exp(4 / means[1]),
        }
    )
    assert task.per_word("train", {"rec": 3.0}) == {}


@pytest.mark.parametrize(("progress", "terminal"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_drawn_where_progress_is_asked_for_and_stderr_is_a_terminal(
    progress, terminal, trained, monkeypatch
):
    model, task = trained
    shown = []
    monkeypatch.setattr(base, "tqdm", lambda some, *_, disable, **__: shown.append(not disable) or some)
    monkeypatch.setattr(base.sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    train = dataclasses.replace(task.config.train, progress=progress)
    monkeypatch.setattr(task, "config", dataclasses.replace(task.config, train=train))
    with task.eval_mode():
        base.importance_weighted(task, "val", model)
    assert shown == [progress and terminal]


@pytest.mark.parametrize(
    ("precision", "device", "wanted"),
    [("float32", "cpu", False), ("bf16", "cpu", True), ("bf16", "cuda", False), ("tf32", "cuda", False)],
)
def test_products_of_the_weighted_nll_are_in_bf16_where_the_run_is(
    precision, device, wanted, trained, monkeypatch
):
    model, task = trained
    asked, noise = [], task.generator()
    monkeypatch.setattr(task, "generator", lambda: noise)
    monkeypatch.setattr(type(task), "device", property(lambda _: torch.device(device)))
    monkeypatch.setattr(base, "products_in_bf16", lambda wanted: asked.append(wanted) or nullcontext())
    monkeypatch.setattr(task, "config", dataclasses.replace(task.config, precision=precision))
    with task.eval_mode():
        base.importance_weighted(task, "val", model)
    assert asked == [wanted]


def test_codes_are_those_of_the_texts_beside_them(trained):
    model, task = trained
    means, texts = task.codes("train", 9)
    np.testing.assert_allclose(means, task.codec.arrays(texts)[0], atol=1e-5)
    assert len(set(texts)) > 2
    model.train()


@pytest.mark.parametrize(("latent", "last"), [(1, "00"), (10, "09"), (100, "99"), (101, "100")])
def test_names_of_dimensions_are_as_wide_as_the_last_and_two_digits_at_least(latent, last):
    kl = torch.arange(2.0 * latent).view(2, latent)
    found = kl_by_dimension(objective.Terms(torch.zeros(2), kl, torch.ones(2)))
    assert list(found) == sorted(found) and list(found)[-1] == f"kl_dim/{last}"
    assert list(found.values()) == [dimension + latent / 2 for dimension in range(latent)]


def test_a_language_model_has_the_same_likelihood_with_and_without_weights():
    _, _, task = parts(config_of(latent=0))
    found = task.evaluate("val", thorough=True)
    assert not {"mi", "au", "path_a", "path_a_prior", "mi_examples"} & set(found)
    assert found["iw_samples"] == 1 and found["iw_nll"] == pytest.approx(-found["iw_elbo"])
    everything = latent.importance_weighted(
        task.model.eval(), task.fixed_subset("val", None), 1, 100, task.generator()
    )
    assert everything["iw_ppl"] == pytest.approx(found["ppl"])


def test_no_samples_is_no_measure():
    config = config_of()
    task = type(config.task)(
        "ptb", mi_examples=3, path_sentences=None, iw_samples=0, iw_sentences=2, iw_chunk=1
    )
    found = parts(config_of(task=task))[2].evaluate("train", thorough=True)
    assert not [key for key in found if key.startswith("iw_")]
    assert (found["mi_examples"], found["path_sentences"]) == (3, 60) and found["mi"] <= math.log(3)


def test_batches_of_chosen_sentences_hold_each_once():
    members = bucketed(LINES.lengths[:10], 3, seed=0)
    assert sorted(np.concatenate(members)) == list(range(10))
    chosen = np.array([5, 30, 2, 7])
    rows = torch.cat([batch.tokens[:, 1] for batch in LINES.batches(chosen, 3)])
    assert sorted(rows.tolist()) == sorted((chosen + 10).tolist())


def estimates(examples: int, latent: int, nats: float, repetitions: int = 40) -> Tensor:
    """I(x; z) estimated of means drawn anew from N(0, s² I) and variances of 1, of which it is `nats`."""
    noise = torch.Generator().manual_seed(1)
    spread = math.sqrt(math.expm1(2 * nats / latent))  # I = Z/2 log(1 + s²)
    shape = (examples, latent)
    return torch.tensor(
        [
            metrics.mutual_information(
                Gaussian(spread * torch.randn(shape, generator=noise), torch.zeros(shape)), noise
            )
            for _ in range(repetitions)
        ]
    )


# standard error times √N, and bias as an estimate for all x
@pytest.mark.parametrize(("nats", "error", "bias"), [(1.0, 1.3, 0.0), (4.6, 2.0, -0.6)])
def test_the_error_of_mutual_information_where_it_is_known(nats, error, bias):
    found = estimates(400, 32, nats)
    assert found.std().item() * math.sqrt(400) == pytest.approx(error, rel=0.3)
    assert found.mean().item() - nats == pytest.approx(bias, abs=0.06)
    assert found.max() <= math.log(400)


if __name__ == "__main__":  # arguments N Z I: the numbers in the docstring of the measure
    size, dimensions, truth = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    found = estimates(size, dimensions, truth)
    print(f"bias {found.mean() - truth:+.3f} ± {found.std() / math.sqrt(len(found)):.3f} nats,", end=" ")
    print(f"standard error {found.std():.3f} = {found.std() * math.sqrt(size):.2f} / √N")


def test_how_many_sentences_the_projector_shows_and_a_population_has(monkeypatch):
    *_, task = parts(config_of())
    asked = []
    monkeypatch.setattr(task, "codes", lambda *some: asked.append(some) or (None, []))
    monkeypatch.setattr(task, "fixed_subset", lambda *some: asked.append(some))
    monkeypatch.setattr(base, "normalisation", lambda encoder: SimpleNamespace(unknown=True))
    task.projection()
    base.estimate_population(task, SimpleNamespace(estimate=lambda batches: None))
    assert asked == [("val", 2000), ("train", 20_000)]


@pytest.mark.parametrize(("dimensions", "shown"), [(0, False), (1, False), (2, False), (3, True)])
def test_the_projector_shows_what_is_more_than_a_plane(dimensions, shown):
    *_, task = parts(config_of(latent=dimensions))
    projection = task.projection()
    assert (projection is not None) == shown
    if projection is not None:
        assert projection.means.shape == (len(projection.texts), dimensions)
        val = task.data.corpora["val"]
        assert sorted(projection.texts) == sorted(task.words(val.batch(np.arange(len(val)))))
