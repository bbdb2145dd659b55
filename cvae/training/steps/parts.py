"""The plain training step on a batch in parts: one after another, or in several processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvae.data.text import Batches
from cvae.models import objective
from cvae.models.objective import Share, Terms
from cvae.runs import world
from cvae.training import collective
from cvae.training.precision import autocast
from cvae.training.steps.plain import TrainStep


class Part(NamedTuple):
    """Some rows of a batch: so many from the `first` on; `batch` has one even where they are 0."""

    batch: Any
    first: int
    rows: int


class Parts(NamedTuple):
    """The parts of a batch that this process works on; `rows` and `step` are those of the whole batch."""

    parts: list[Part]
    rows: int
    step: int


class StepInParts(TrainStep):
    """The plain step, with the gradient of the whole batch from parts that it is cut into.

    `train.accumulate` parts follow each other, so that memory holds the activations of one; torchrun's
    processes work on theirs at the same time and sum their gradients. The noise of z is drawn for the whole
    batch and cut, so without dropout the step is that of one process but for rounding. Each part draws
    dropout masks of its own.
    """

    def batch(self, batches: Batches, step: int) -> Parts:
        """Return the parts that this process works on. Where it has none, one without rows takes part."""
        drawn, each = batches.drawn(step), self.config.train.accumulate
        shares = np.array_split(np.arange(len(drawn)), world.size() * each)
        own = [rows for rows in shares[world.rank() * each :][:each] if len(rows)]
        parts = [Part(batches.corpus.batch(drawn[rows]), int(rows[0]), len(rows)) for rows in own]
        return Parts(parts or [Part(batches.corpus.batch(drawn[:1]), 0, 0)], len(drawn), step)

    def __call__(
        self, batch: Parts, beta: float, lr: float, extra_batches: Iterable[Any] = ()
    ) -> tuple[Terms, Tensor, Tensor]:
        """Make a step on a batch in parts without waiting for the device.

        Returns the terms of the parts, their share of the loss, and the gradient norm of the whole batch.
        """
        for parameter in self.parameters:
            parameter.grad = None
        noise = self._noise(batch.rows)
        with collective.own_noise(self.config.seed, batch.step):
            done = [self._learn(part, batch.rows, beta, noise) for part in batch.parts]
        collective.sum_gradients(self.parameters)
        terms, losses = zip(*done, strict=True)
        return _joined(terms), torch.stack(losses).sum(), self.optimizer_step(lr)

    def _noise(self, rows: int) -> Tensor | None:
        """Return the noise of z of the whole batch, [B, Z]; an autoencoder has none."""
        if self.config.autoencoder:
            return None
        return self.parameters[0].new_empty(rows, self.config.model.latent).normal_()

    def _learn(self, part: Part, rows: int, beta: float, noise: Tensor | None) -> tuple[Terms, Tensor]:
        """Add a part's share of the gradient; return its terms and its share of the loss."""
        read = len(part.batch.lengths)
        own = None if noise is None else noise[part.first : part.first + read]
        with autocast(self.config.precision, part.batch.lengths.device.type):
            terms = objective.terms(self.model, part.batch, self.config.autoencoder, noise=own)
            terms = _first(terms, part.rows)
            loss = self.loss(terms, beta, Share(rows, world.size(), collective.total))
        loss.backward()
        return terms, loss.detach()


def _first(value: Any, count: int) -> Any:
    """Return the first rows of a tensor, or of all tensors in a mapping or a NamedTuple, such as `Terms`."""
    if isinstance(value, Mapping):
        return {name: _first(part, count) for name, part in value.items()}
    if isinstance(value, tuple):
        return type(value)(*(_first(part, count) for part in value))
    return value if value is None else value[:count]


def _joined(parts: Sequence[Terms]) -> Terms:
    """Return what is recorded of all rows of some parts, without their graphs."""

    def joined(values: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(values)).detach()

    return Terms(
        joined(part.nll for part in parts),
        joined(part.kl for part in parts),
        joined(part.tokens for part in parts),
        {name: joined(part.extra_losses[name] for part in parts) for name in parts[0].extra_losses},
    )
