"""Measures of any `LatentModel`: the ELBO, the importance-weighted likelihood, and how much z matters.

They expect evaluation mode without gradients and draw noise from the given generator only. Nats are per
sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from cvae.data import AnyBatch
from cvae.data.text import order
from cvae.evaluation import metrics
from cvae.models import gaussian, objective
from cvae.models.gaussian import Gaussian
from cvae.models.objective import LatentModel, Terms


def collect_posteriors(
    model: LatentModel, batches: Iterable[AnyBatch], deterministic: bool, generator: torch.Generator
) -> tuple[Terms, Gaussian]:
    """Return terms and posteriors of all N sequences, in the order of the batches: nll [N], mean [N, Z]."""
    terms, posteriors = [], []
    for batch in batches:
        batch = model.shared(batch)
        posteriors.append(model.posterior(batch))
        terms.append(objective.terms(model, batch, deterministic, generator, posteriors[-1]))
    names = terms[0].extra_losses
    q = Gaussian(*map(torch.cat, zip(*posteriors, strict=True)))
    return Terms(
        nll=torch.cat([part.nll for part in terms]),
        kl=torch.cat([part.kl for part in terms]),
        tokens=torch.cat([part.tokens for part in terms]),
        extra_losses={name: torch.cat([part.extra_losses[name] for part in terms]) for name in names},
    ), q


def elbo_metrics(terms: Terms) -> dict[str, float]:
    """Return the ELBO and its parts as the authors report them (protocol A4).

    rec = total NLL / sentences, kl = total KL / sentences, ppl = exp((NLL + KL) / tokens). Extra losses are
    reported by their names and are no part of the ELBO.
    """
    parts = (terms.nll, terms.kl, terms.tokens, *terms.extra_losses.values())
    nll, kl, tokens, *extras = torch.stack([part.double().sum() for part in parts]).tolist()
    count = len(terms.nll)
    return {
        "elbo": -(nll + kl) / count,
        "rec": nll / count,
        "kl": kl / count,
        "ppl": metrics.perplexity(nll + kl, tokens),
        **{name: total / count for name, total in zip(terms.extra_losses, extras, strict=True)},
    }


def log_weights(
    model: LatentModel, batch: AnyBatch, samples: int, chunk: int, generator: torch.Generator
) -> Tensor:
    """Return log p(x | z) + log p(z) - log q(z | x) of K `samples` from each posterior: [K, B], float64.

    About `chunk` sequences are decoded at once; all noise is drawn before, so this changes no result.
    """
    batch = model.shared(batch)
    q, p = model.posterior(batch), model.prior(batch)
    noise = torch.empty((samples, *q.mean.shape), dtype=q.mean.dtype, device=q.mean.device)
    z = q.mean + torch.exp(0.5 * q.logvar) * noise.normal_(generator=generator)
    q, p = (Gaussian(density.mean.double(), density.logvar.double()) for density in (q, p))
    ratio = gaussian.log_prob(p, z) - gaussian.log_prob(q, z)
    at_once = max(1, chunk // len(q.mean))
    return ratio - torch.cat([model.decode_nll(batch, part).double() for part in z.split(at_once)])


def weighted_nll(weights: Tensor) -> Tensor:
    """Return -log 1/K Σ_k exp(w_k) [B] of the log-weights [K, B]."""
    return math.log(len(weights)) - torch.logsumexp(weights, 0)


def importance_weighted(
    model: LatentModel, batches: Iterable[AnyBatch], samples: int, chunk: int, generator: torch.Generator
) -> dict[str, float]:
    """Return a tighter bound on the NLL than -ELBO, which falls to the NLL as `samples` K grows.

    iw_nll: -log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), the mean over sequences (Burda et al. 2016, equation
    8). iw_ppl: exp of its total per token. iw_elbo: the ELBO of these sequences, over the same z.
    """
    total, sentences = torch.zeros(()), 0
    for batch in batches:
        weights = log_weights(model, batch, samples, chunk, generator)
        nll = weighted_nll(weights)
        total = total + torch.stack([nll.sum(), weights.mean(0).sum(), batch.counted.double().sum()])
        sentences += len(batch.lengths)
    total_nll, total_elbo, tokens = total.tolist()
    return {
        "iw_nll": total_nll / sentences,
        "iw_ppl": metrics.perplexity(total_nll, tokens),
        "iw_elbo": total_elbo / sentences,
    }


def paths(
    model: LatentModel, batches: Sequence[AnyBatch], deterministic: bool, generator: torch.Generator
) -> dict[str, float]:
    """Return how much the decoder relies on z (path A) and on previous words (path B): the mean rise in NLL.

    The two paths are those of the authors' blog post; each is cut while the other stays open.
    path_a: z, a posterior sample (its mean where `deterministic`), is that of another sequence.
    path_a_prior: z is drawn from the prior; absent where `deterministic`.
    path_b: every previous word is `<unk>`; z stays. A model without z has only this one.
    """
    batches = [model.shared(batch) for batch in batches]
    q = [model.posterior(batch) for batch in batches]
    own = [part.mean if deterministic else gaussian.sample(part, generator) for part in q]
    cut = {"path_a": _exchanged(own)}
    if not deterministic:
        cut["path_a_prior"] = [gaussian.sample(model.prior(batch), generator) for batch in batches]
    if not own[0].size(-1):
        cut = {}
    rises = []
    for batch, z, *others in zip(batches, own, *cut.values(), strict=True):
        nll = model.decode_nll(batch, torch.stack([z, *others])).double()
        blind = model.decode_nll(batch.without_words(), z[None]).double()
        rises.append(torch.cat([nll[1:], blind]) - nll[0])
    means = torch.cat(rises, 1).mean(1).tolist()
    return dict(zip([*cut, "path_b"], means, strict=True))


def _exchanged(z: Sequence[Tensor]) -> list[Tensor]:
    """Return every row [Z] replaced by that of another sequence, from any of the batches.

    Along one random cycle through all of them, so that neither batches nor lengths stay together; it
    depends on their number only. A single sequence keeps its own.
    """
    together = torch.cat(list(z))
    cycle = order(len(together), seed=0, epoch=1)
    partner = np.empty_like(cycle)
    partner[cycle] = np.roll(cycle, 1)
    return list(together[torch.from_numpy(partner).to(together.device)].split([len(part) for part in z]))
