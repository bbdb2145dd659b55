"""Sums over training steps, kept on the device until a record needs their means."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cvae.evaluation.metrics import perplexity
from cvae.models.objective import Terms

SUMS = ("rec", "kl", "loss", "gradient norm", "tokens")  # then the extra losses of the model


class StepSums(NamedTuple):
    """Sums of one step over its sentences, `values` [S] by `names`; the gradient norm is the step's own."""

    names: tuple[str, ...]
    values: Tensor
    sentences: int

    @classmethod
    def of(cls, terms: Terms, loss: Tensor, norm: Tensor) -> StepSums:
        """Sum the terms of a step without waiting for the device."""
        size = len(terms.nll)
        with torch.no_grad():
            parts = [terms.nll.sum(), terms.kl.sum(), loss * size, norm, terms.tokens.sum()]
            parts += [extra.sum() for extra in terms.extra_losses.values()]
            return cls((*SUMS, *terms.extra_losses), torch.stack(parts).double(), size)


class RunningMeans:
    """Means over the steps since the last call of `pop_means`."""

    def __init__(self, device: torch.device) -> None:
        self.names: tuple[str, ...] = SUMS
        self.sums = torch.zeros((), dtype=torch.float64, device=device)  # [S] from the first step on
        self.sentences = self.steps = 0

    def add(self, step: StepSums) -> None:
        """Add the sums of one step."""
        self.names, self.sums = step.names, self.sums + step.values
        self.sentences += step.sentences
        self.steps += 1

    def pop_means(self, autoencoder: bool) -> tuple[dict[str, float], float]:
        """Return the means per sentence and the tokens per sentence, and start again from zero."""
        nll, kl, loss, norm, tokens, *extras = self.sums.tolist()
        count = self.sentences
        means = {"loss": loss / count, "rec": nll / count, "grad_norm": norm / self.steps}
        if not autoencoder:
            means |= {"elbo": -(nll + kl) / count, "kl": kl / count}
        means |= {name: total / count for name, total in zip(self.names[len(SUMS) :], extras, strict=True)}
        self.sums = torch.zeros_like(self.sums)
        self.sentences = self.steps = 0
        return means, tokens / count

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and counts, for a checkpoint."""
        return {"sums": self.sums.cpu(), "sentences": self.sentences, "updates": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums and counts of a checkpoint."""
        self.sums = state["sums"].to(self.sums.device)
        self.sentences, self.steps = state["sentences"], state["updates"]


def pop_epoch_means(running: RunningMeans, autoencoder: bool) -> dict[str, float]:
    """Return epoch/*: means over the training sentences since the last validation, dropout on."""
    means, tokens = running.pop_means(autoencoder)
    values = {f"epoch/{name}": means[name] for name in ("rec", "kl") if name in means}
    if "elbo" in means:
        values["epoch/ppl"] = perplexity(-means["elbo"], tokens)
    return values
