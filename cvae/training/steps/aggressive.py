"""Aggressive training of the encoder: it catches up with the decoder before each step of the decoder."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cvae.config.schema import Config
from cvae.data.text import Batch
from cvae.errors import UserError
from cvae.models.objective import LatentModel, Terms
from cvae.models.refinement import frozen
from cvae.training.steps.plain import TrainStep

log = logging.getLogger("cvae")


class AggressiveStep(TrainStep):
    """He et al. (2019), Algorithm 1: many steps of the encoder, then one of the decoder.

    The encoder alone is trained on extra batches until the loss per token over a window of `window` batches
    has risen, for at most `most` steps; then the decoder alone is trained on the batch at hand. Once I(x; z)
    of validation is lower than an epoch ago, all further steps are plain (where validations are rarer than
    epochs: than at the last validation). The defaults of 15 and 99 and both rules are those of text.py of
    vae-lagging-encoder. Three things differ from it: its first inner batch is the batch at hand, ours are all
    drawn anew, as in Algorithm 1; it uses SGD, we use Adam; it clips the gradients of encoder and decoder
    together, we clip those of the part that moves. β follows its schedule, so a rising β lowers I(x; z) and
    ends this phase.
    """

    def __init__(self, model: LatentModel, config: Config) -> None:
        super().__init__(model, config)
        if (encoder := model.inference_network()) is None:
            raise UserError("update=aggressive needs a model with an encoder of its own, which this has not")
        others = [child for child in model.children() if child is not encoder]
        # parameters that both use, such as a shared embedding, are the decoder's
        decoder = {id(p): p for child in others for p in child.parameters()}
        self.decoder = list(decoder.values())
        self.encoder = [parameter for parameter in self.parameters if id(parameter) not in decoder]
        self.active, self.information = True, 0.0
        self.inner = self.updates = 0  # steps of the encoder and of the decoder since the last record

    @property
    def needs_mutual_information(self) -> bool:
        return self.active

    def __call__(
        self, batch: Batch, beta: float, lr: float, extra_batches: Iterable[Batch] = ()
    ) -> tuple[Terms, Tensor, Tensor]:
        self.updates += 1
        if not self.active:
            return super().__call__(batch, beta, lr)
        with frozen(self.decoder):
            self._catch_up(extra_batches, beta, lr)
        with frozen(self.encoder):
            return super().__call__(batch, beta, lr)

    def _catch_up(self, extra_batches: Iterable[Batch], beta: float, lr: float) -> None:
        """Train the encoder until the loss per token rises from one window to the next."""
        previous, nats, tokens = math.inf, torch.zeros(()), torch.zeros(())
        for number, batch in enumerate(itertools.islice(extra_batches, self.settings.most), start=1):
            terms, loss, _ = super().__call__(batch, beta, lr)
            nats, tokens = nats + loss * len(terms.tokens), tokens + terms.tokens.sum()
            self.inner += 1
            if number % self.settings.window == 0:
                current = float(nats / tokens)
                if current > previous:
                    return
                previous, nats, tokens = current, torch.zeros(()), torch.zeros(())

    def observe(self, mutual_information: float) -> None:
        """End the aggressive phase for good when I(x; z) of validation, in nats, has fallen."""
        if mutual_information < self.information:
            self.active = False
            log.info(
                f"I(x; z) fell from {self.information:.4g} to {mutual_information:.4g}:"
                " plain updates from here"
            )
        self.information = mutual_information

    def pop_metrics(self) -> dict[str, float]:
        """Return the mean number of encoder steps before a step of the decoder."""
        mean = self.inner / self.updates
        self.inner = self.updates = 0
        return {"encoder_updates": mean}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("active", "information", "inner", "updates")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
