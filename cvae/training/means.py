"""Sums over training steps, kept on the device until a record needs their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cvae.evaluation.metrics import perplexity
from cvae.models.objective import Terms
from cvae.runs import world
from cvae.training import collective

SUMS = ("rec", "kl", "loss", "gradient norm", "tokens")  # then the extra losses of the model


class StepSums(NamedTuple):
    """Sums of one step over its sentences, [S] by `names`, but for the mean loss and the gradient norm.

    In several processes they are those of one: its share of the mean loss, and of the `sentences`.
    """

    names: tuple[str, ...]
    values: Tensor
    sentences: int

    @classmethod
    def of(cls, terms: Terms, loss: Tensor, norm: Tensor) -> StepSums:
        """Sum the terms of a step without waiting for the device."""
        with torch.no_grad():
            parts = [terms.nll.sum(), terms.kl.sum(), loss, norm, terms.tokens.sum()]
            parts += [extra.sum() for extra in terms.extra_losses.values()]
            return cls((*SUMS, *terms.extra_losses), torch.stack(parts), len(terms.nll))


def read(steps: Sequence[StepSums]) -> list[tuple[StepSums, list[float]]]:
    """Return each step with its values over all processes, its loss as a sum over sentences.

    It waits for the device once.
    """
    if not steps:
        return []
    values = torch.stack([step.values for step in steps]).cpu()
    values[:, SUMS.index("gradient norm")] /= world.size()  # all processes have the same
    values = collective.summed(values)
    sentences = collective.summed(torch.tensor([step.sentences for step in steps]))
    values[:, SUMS.index("loss")] *= sentences
    whole = [step._replace(sentences=count) for step, count in zip(steps, sentences.tolist(), strict=True)]
    return list(zip(whole, values.double().tolist(), strict=True))


class RunningMeans:
    """Means over the steps since the last call of `pop_means`."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = SUMS
        self.sums: list[float] = []  # [S] from the first step on
        self.sentences = self.steps = 0

    def add(self, step: StepSums, values: Sequence[float]) -> None:
        """Add the sums of one step, whose `values` are read."""
        sums = self.sums or [0.0] * len(values)
        self.names, self.sums = step.names, [a + b for a, b in zip(sums, values, strict=True)]
        self.sentences += step.sentences
        self.steps += 1

    def pop_means(self, autoencoder: bool) -> tuple[dict[str, float], float]:
        """Return the means per sentence and the tokens per sentence, and start again from zero."""
        nll, kl, loss, norm, tokens, *extras = self.sums
        count = self.sentences
        means = {"loss": loss / count, "rec": nll / count, "grad_norm": norm / self.steps}
        if not autoencoder:
            means |= {"elbo": -(nll + kl) / count, "kl": kl / count}
        means |= {name: total / count for name, total in zip(self.names[len(SUMS) :], extras, strict=True)}
        self.sums = [0.0] * len(self.sums)
        self.sentences = self.steps = 0
        return means, tokens / count

    def state_dict(self) -> dict[str, Any]:
        """Return the sums and counts, for a checkpoint."""
        sums = torch.tensor(self.sums, dtype=torch.float64)
        return {"sums": sums, "sentences": self.sentences, "updates": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums and counts of a checkpoint."""
        self.sums = state["sums"].tolist()
        self.sentences, self.steps = state["sentences"], state["updates"]


def pop_epoch_means(running: RunningMeans, autoencoder: bool) -> dict[str, float]:
    """Return epoch/*: means over the training sentences since the last validation, dropout on."""
    means, tokens = running.pop_means(autoencoder)
    values = {f"epoch/{name}": means[name] for name in ("rec", "kl") if name in means}
    if "elbo" in means:
        values["epoch/ppl"] = perplexity(-means["elbo"], tokens)
    return values
