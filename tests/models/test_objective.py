"""Gaussians, the objective, the measures, evaluation, and one optimiser step."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, distributions

from cvae.config.schema import (
    Config,
    ToyData,
    ToyTaskConfig,
)
from cvae.data.text import Batch
from cvae.evaluation import latent, metrics
from cvae.models import gaussian, objective
from cvae.models.gaussian import Gaussian
from cvae.models.objective import LatentModel, Terms
from cvae.models.sentence import SentenceVAE
from cvae.schedules import Autoencoder
from cvae.tasks.toy import ToyTask
from cvae.training.steps import TrainStep
from tests.helpers import MEASURED, config_of, parts

PATHS = {"path_a", "path_a_prior", "path_b"}
TOY = {
    "dataset": ToyData("toy", sequences=5, draws=4, sampler="equal_length"),
    "task": ToyTaskConfig("toy", samples=50, **MEASURED),
}


def densities(*shape: int, seed: int = 0) -> Gaussian:
    """Some Gaussian with means and log-variances of order 1."""
    rng = torch.Generator().manual_seed(seed)
    return Gaussian(torch.randn(shape, generator=rng), torch.randn(shape, generator=rng))


def known(q: Gaussian) -> distributions.Normal:
    """The same density by torch."""
    return distributions.Normal(q.mean, (0.5 * q.logvar).exp())


# ---- gaussian ----


def test_kl_equals_torchs_and_is_0_only_between_equals():
    q, p = densities(6, 3, seed=1), densities(6, 3, seed=2)
    torch.testing.assert_close(gaussian.kl(q, p), distributions.kl_divergence(known(q), known(p)))
    assert not gaussian.kl(q, q).any()
    assert (gaussian.kl(q, p) > 0).all()


def test_kl_is_the_mean_log_ratio_of_samples():
    q, p, rng = densities(4, 3, seed=1), densities(4, 3, seed=2), torch.Generator().manual_seed(0)
    many = Gaussian(q.mean.expand(50_000, 4, 3), q.logvar.expand(50_000, 4, 3))
    z = gaussian.sample(many, rng)
    ratios = gaussian.log_prob(q, z) - gaussian.log_prob(p, z)
    error = ratios.std(0) / math.sqrt(50_000)
    assert ((ratios.mean(0) - gaussian.kl(q, p).sum(-1)).abs() < 5 * error).all()


def test_log_prob_equals_torchs_and_broadcasts_over_samples():
    q, z = densities(6, 3), torch.randn(10, 6, 3)
    found = gaussian.log_prob(q, z)
    assert found.shape == (10, 6)
    torch.testing.assert_close(found, known(q).log_prob(z).sum(-1))


def test_samples_have_the_mean_and_variance_of_the_density():
    q = densities(3)
    z = gaussian.sample(Gaussian(*(part.expand(100_000, 3) for part in q)), torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), q.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(z.var(0), q.logvar.exp(), rtol=0.02, atol=0)


def test_sampling_is_reparameterised():
    mean, logvar = (part.requires_grad_() for part in densities(1, 3))
    z = gaussian.sample(Gaussian(mean, logvar))
    to_mean, to_logvar = torch.autograd.grad(z.sum(), [mean, logvar])
    torch.testing.assert_close(to_mean, torch.ones(1, 3))
    torch.testing.assert_close(to_logvar, 0.5 * (z - mean).detach())


def test_a_generator_decides_the_sample_and_spares_the_global_one():
    q, before = densities(4, 3), torch.get_rng_state()
    draws = [gaussian.sample(q, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(gaussian.sample(q), gaussian.sample(q))
    assert not torch.equal(torch.get_rng_state(), before)


# ---- objective ----


class Known(LatentModel):
    """A model whose three densities are given; -log p(x | z) is the sum of z."""

    def __init__(self, q: Gaussian, p: Gaussian) -> None:
        super().__init__()
        self.q, self.p = q, p

    def prior(self, batch: Batch) -> Gaussian:
        return self.p

    def posterior(self, batch: Batch) -> Gaussian:
        return self.q

    def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
        return z.sum(-1)


BATCH = Batch(torch.tensor([[2, 5, 3, 0], [2, 5, 5, 3]]), torch.tensor([3, 4]))


def test_terms_are_one_sample_from_the_posterior_and_the_kl_to_the_models_prior():
    q, p = densities(2, 3, seed=1), densities(2, 3, seed=2)
    found = objective.terms(Known(q, p), BATCH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.nll, gaussian.sample(q, torch.Generator().manual_seed(0)).sum(-1))
    assert torch.equal(found.kl, gaussian.kl(q, p))
    assert found.tokens.tolist() == [2, 3]


def test_densities_that_autocast_made_bf16_lose_no_further_digits():
    q, p = (Gaussian(*(part.bfloat16() for part in densities(2, 3, seed=seed))) for seed in (1, 2))
    found = objective.terms(Known(q, p), BATCH, deterministic=True)
    exact = gaussian.kl(*(Gaussian(side.mean.double(), side.logvar.double()) for side in (q, p)))
    torch.testing.assert_close(found.kl.double(), exact, rtol=1e-6, atol=1e-6)
    assert found.kl.dtype == found.nll.dtype == torch.float32


def test_deterministic_terms_use_the_posterior_mean_and_draw_nothing():
    q, before = densities(2, 3), torch.get_rng_state()
    found = objective.terms(Known(q, q), BATCH, deterministic=True)
    assert torch.equal(found.nll, q.mean.sum(-1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 2.0])
def test_the_loss_is_rec_plus_beta_times_kl(beta):
    found = Terms(torch.tensor([3.0, 5.0]), torch.tensor([[1.0, 0.25], [2.0, 0.75]]), torch.tensor([1, 9]))
    # nats per sequence: means over the batch, not over tokens; sums over dimensions
    assert objective.loss(found, beta).item() == pytest.approx(4.0 + beta * 2.0, abs=1e-6)


def test_free_bits_count_the_batch_mean_of_each_dimension_as_at_least_lambda():
    # means over the batch: 1.5, 0.05, 0.5; the second is below although one sentence is above
    kl = torch.tensor([[1.0, 0.0, 0.2], [2.0, 0.1, 0.8]], requires_grad=True)
    found = Terms(torch.tensor([3.0, 5.0]), kl, torch.tensor([1, 9]))
    loss = objective.loss(found, beta=0.5, free_bits=0.06)
    assert loss.item() == pytest.approx(4 + 0.5 * (1.5 + 0.06 + 0.5))
    (gradient,) = torch.autograd.grad(loss, kl)
    assert gradient.tolist() == [[0.25, 0.0, 0.25], [0.25, 0.0, 0.25]]


def test_free_bits_of_0_change_nothing():
    found = Terms(torch.ones(2), torch.rand(2, 3), torch.ones(2))
    assert torch.equal(objective.loss(found, 0.7, free_bits=0.0), objective.loss(found, 0.7))


# ---- metrics ----


def separation(q: Gaussian, draws: int = 200) -> dict[str, float]:
    return metrics.separation(q, draws, torch.Generator().manual_seed(0))


def test_perplexity_is_exp_of_nats_per_token():
    assert metrics.perplexity(20 * math.log(7), 20) == pytest.approx(7)
    assert metrics.perplexity(1e9, 3) == math.inf


def test_examples_far_apart_are_all_told_apart():
    far = Gaussian(100 * torch.arange(8.0)[:, None] * torch.ones(1, 2), torch.zeros(8, 2))
    found = separation(far)
    assert found["mi"] == pytest.approx(math.log(8), abs=1e-5)
    assert found["accuracy"] == 1.0


def test_examples_with_the_same_posterior_cannot_be_told_apart():
    found = separation(gaussian.standard(torch.empty(8, 2)))
    assert found["mi"] == pytest.approx(0, abs=1e-5)
    assert found["accuracy"] == pytest.approx(1 / 8)
    assert found["prior_gap"] == pytest.approx(0, abs=1e-5)


def test_two_overlapping_examples_have_the_accuracy_of_the_nearest_mean():
    # means ±1, variance 1: z is nearest to its own mean with probability Φ(1)
    found = separation(Gaussian(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1)), draws=50_000)
    assert found["accuracy"] == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=0.006)
    assert 0 < found["mi"] < math.log(2)


def test_mi_and_prior_gap_add_up_to_the_mean_kl():
    q = densities(6, 2)
    found = separation(q, draws=20_000)
    kl = gaussian.kl(q, gaussian.standard(q.mean)).sum(-1).mean().item()
    assert found["mi"] + found["prior_gap"] == pytest.approx(kl, rel=0.01)
    assert 0 < found["mi"] < math.log(6) and found["prior_gap"] > 0


# ---- evaluation ----


def test_the_bound_is_totals_over_sentences_and_over_tokens():
    config = config_of()
    model, _, task = parts(config)
    model.eval()
    nll = kl = tokens = sentences = 0
    rng = task.generator()
    with torch.no_grad():
        found = latent.elbo_metrics(
            latent.collect_posteriors(model, task.batches["train"], False, task.generator())[0]
        )
        for batch in task.batches["train"]:
            q = model.posterior(batch)
            nll += model.decode_nll(batch, gaussian.sample(q, rng)).sum().item()
            kl += distributions.kl_divergence(known(q), distributions.Normal(0, 1)).sum().item()
            tokens += batch.counted.sum().item()
            sentences += len(batch.lengths)
    assert (sentences, tokens) == (60, task.counts()["train/tokens"])
    assert sentences % config.train.batch_size  # the last batch is small: a mean of means would differ
    assert found == pytest.approx(
        {
            "rec": nll / sentences,
            "kl": kl / sentences,
            "elbo": -(nll + kl) / sentences,
            "ppl": math.exp((nll + kl) / tokens),
        },
        rel=1e-6,
    )


def test_an_autoencoder_is_measured_at_the_posterior_mean_sentence_by_sentence():
    model, splits, task = parts(config_of(schedule=Autoencoder()))
    found = task.evaluate("val")
    corpus, total = splits.corpora["val"], 0.0
    model.eval()
    with torch.no_grad():
        for start, length in zip(corpus.lengths.cumsum() - corpus.lengths, corpus.lengths, strict=True):
            tokens = corpus.tokens[start : start + length].long()[None]
            alone = Batch(tokens, torch.tensor([int(length)]))
            total += model.decode_nll(alone, model.posterior(alone).mean).item()
    assert set(found) == {"rec", "path_a", "path_b"}
    assert found["rec"] == pytest.approx(total / len(corpus), rel=1e-5)
    assert task.score(found) == found["rec"]


@pytest.mark.parametrize(
    "values", [{}, {"latent": 0}, {"schedule": Autoencoder()}, TOY], ids=["vae", "lm", "ae", "toy"]
)
def test_evaluation_is_repeatable_and_leaves_no_trace_in_training(values):
    model, _, task = parts(config_of(**values))
    state, weights = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    first = task.evaluate("val")
    torch.manual_seed(99)
    assert task.evaluate("val") == first  # no dropout, its own noise
    torch.set_rng_state(state)
    assert task.evaluate("val") == first
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_noise_of_a_measure_is_of_the_runs_seed_or_of_the_one_that_is_asked_for():
    task = parts(config_of(seed=5))[2]
    assert [task.generator(seed).initial_seed() for seed in (None, 0, 3)] == [5, 0, 3]


def test_training_mode_comes_back_even_after_an_error():
    model, _, task = parts(config_of())
    with pytest.raises(KeyError):
        task.evaluate("no such split")
    assert model.training


def test_without_z_the_bound_is_the_likelihood():
    _, _, task = parts(config_of(latent=0))
    found = task.evaluate("val")
    assert found["kl"] == 0 and found["elbo"] == -found["rec"]
    assert task.score(found) == found["rec"]


def test_the_score_prefers_the_higher_elbo():
    task = parts(config_of())[2]
    assert task.score({"elbo": -90.0}) < task.score({"elbo": -100.0})


def test_counts_are_of_the_data():
    _, splits, task = parts(config_of())
    counts = task.counts()
    assert counts["vocabulary"] == len(splits.vocabulary)
    assert (counts["train/sentences"], counts["train/batches"]) == (60, 8)
    assert counts["val/tokens"] == splits.corpora["val"].counted
    for split, corpus in splits.corpora.items():
        assert counts[f"{split}/unknown_share"] == corpus.unknown_share
    assert {key: share for key, share in counts.items() if key.endswith("in_train_share")} == {
        f"{split}/in_train_share": share for split, share in splits.in_train.items()
    }
    assert set(splits.in_train) == {"val", "test"}


def test_the_toy_task_adds_how_well_z_tells_the_sequences_apart_and_keeps_their_posteriors():
    model, splits, task = parts(config_of(**TOY))
    assert isinstance(task, ToyTask)
    found, kept = task.evaluate("val"), task.snapshot()
    assert set(found) == {"elbo", "rec", "kl", "ppl", "word_ppl", "mi", "au", "accuracy", "prior_gap"} | PATHS
    q = Gaussian(torch.tensor(kept["mean"]), torch.tensor(kept["logvar"]))
    assert {name: found[name] for name in ("mi", "accuracy", "prior_gap")} == pytest.approx(
        metrics.separation(q, 50, task.generator()), abs=1e-6
    )
    corpus = splits.corpora["train"]
    for n in kept["label"]:
        start = int(corpus.lengths[:n].sum())
        tokens = corpus.tokens[start : start + corpus.lengths[n]].long()[None]
        alone = model.posterior(Batch(tokens, torch.tensor([tokens.size(1)])))
        torch.testing.assert_close(alone.mean[0], q.mean[n])
        torch.testing.assert_close(alone.logvar[0], q.logvar[n])


def test_the_toy_task_measures_an_autoencoder_by_what_needs_no_prior():
    found = parts(config_of(**TOY, schedule=Autoencoder()))[2].evaluate("val", thorough=True)
    assert set(found) == {"rec", "path_a", "path_b", "path_sentences"}


# ---- one optimiser step ----


def gradients(model: SentenceVAE, batch: Batch, config: Config, beta: float) -> list[Tensor]:
    """The gradient of rec + β KL, term by term, drawing what `TrainStep` draws."""
    q = model.posterior(batch)
    z = q.mean if config.autoencoder else gaussian.sample(q)
    rec = model.decode_nll(batch, z).mean()
    kl = gaussian.kl(q, model.prior(batch)).mean(0).clamp(min=config.objective.free_bits).sum()
    return list(torch.autograd.grad(rec + beta * kl, list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize(
    "config",
    [
        config_of(clip=0.5),
        config_of(clip=None),
        config_of(clip=0.5, free_bits=0.3),
        config_of(clip=0.5, latent=0),
        config_of(clip=0.5, schedule=Autoencoder()),
    ],
    ids=["clipped", "unclipped", "free bits", "lm", "ae"],
)
def test_updates_are_adam_by_hand_on_clipped_gradients(config):
    model, _, task = parts(config)
    byhand = copy.deepcopy(model)
    update, batches = TrainStep(model, config), task.batches["train"]
    first = [torch.zeros_like(parameter) for parameter in byhand.parameters()]
    second = [torch.zeros_like(parameter) for parameter in byhand.parameters()]
    # Adam does not feel the scale of its first gradient, so clipping shows from the second on
    for t, (beta, lr) in enumerate([(0.1, 1e-2), (0.9, 3e-2), (0.4, 1e-3), (1.0, 1e-2)], start=1):
        batch = batches.at(t)
        torch.manual_seed(t)
        expected = gradients(byhand, batch, config, beta)
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in expected))
        scale = min(1.0, config.train.clip / norm) if config.train.clip else 1.0
        with torch.no_grad():
            for parameter, gradient, m, v in zip(byhand.parameters(), expected, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * scale * gradient)
                v.mul_(0.999).add_(0.001 * (scale * gradient).square())
                corrected = v / (1 - 0.999**t)
                parameter -= lr * m / (1 - 0.9**t) / (corrected.sqrt() + 1e-8)
        torch.manual_seed(t)
        found, loss, before_clipping = update(batch, beta, lr)
        assert before_clipping.item() == pytest.approx(norm, rel=1e-4)
        assert norm > 0.5  # so that clipping at 0.5 does something
        assert loss.item() == pytest.approx(
            objective.loss(found, beta, free_bits=config.objective.free_bits).item()
        )
        assert not loss.requires_grad
    for (name, one), other in zip(model.named_parameters(), byhand.parameters(), strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_adam_keeps_the_authors_constants():
    group = TrainStep(parts(config_of())[0], config_of()).optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0)


@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e3, None])
def test_clipping_within_adams_pass_is_clipping_before_it(limit):
    config = config_of(clip=limit)
    model, _, task = parts(config)
    update, other, batch = TrainStep(model, config), copy.deepcopy(model), task.batches["train"].at(0)
    adam = torch.optim.Adam(other.parameters(), lr=1e-2)
    for seed in range(3):
        torch.manual_seed(seed)
        norm = update(batch, 1.0, 1e-2)[2]
        torch.manual_seed(seed)
        found = gradients(other, batch, config, 1.0)
        for parameter, gradient in zip(other.parameters(), found, strict=True):
            parameter.grad = gradient
        assert norm.item() == pytest.approx(
            torch.nn.utils.clip_grad_norm_(other.parameters(), limit or math.inf).item(), rel=1e-6
        )
        adam.step()
        for one, parameter in zip(update.parameters, other.parameters(), strict=True):
            torch.testing.assert_close(one.grad, parameter.grad, rtol=3e-4, atol=1e-8)
            torch.testing.assert_close(one, parameter, rtol=1e-4, atol=1e-6)


def test_the_optimisers_state_is_a_plain_adams():
    config = config_of(clip=0.5)
    model, _, task = parts(config)
    update = TrainStep(model, config)
    update(task.batches["train"].at(0), 1.0, 1e-2)
    state = update.optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    assert all(entry.keys() == {"step", "exp_avg", "exp_avg_sq"} for entry in state["state"].values())
    torch.optim.Adam(model.parameters(), fused=True).load_state_dict(state)


def test_updates_learn():
    config = config_of(model=dataclasses.replace(config_of().model, dropout=0.0, word_dropout=0.0))
    model, _, task = parts(config)
    update, batch = TrainStep(model, config), task.batches["train"].at(0)
    losses = [update(batch, 1.0, 1e-2)[1].item() for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]
