"""Aggressive training of the encoder: it catches up with the decoder before the decoder moves on."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from cvae.data.text import Batch
from cvae.errors import UserError
from cvae.models.objective import Terms
from cvae.models.refinement import frozen
from cvae.training.steps.plain import TrainStep

log = logging.getLogger("cvae")


class AggressiveStep(TrainStep):
    """He et al. (2019), Algorithm 1: many updates of the encoder, then one of the decoder.

    The encoder alone is updated on further batches until the loss per token over `window` of them has risen,
    at most `most` times; then the batch at hand updates the decoder alone. Once I(x; z) of validation at the
    end of an epoch is below that of the epoch before, all further updates are plain (where validations are
    rarer than epochs, at validations). The default 15 and 99 are those of the authors' text code, text.py of
    vae-lagging-encoder, and so are both rules; its first inner batch is the batch at hand, ours are all drawn
    anew, as in Algorithm 1. Ours is Adam, with the gradient of what moves clipped, where theirs is SGD with
    those of both clipped together. β keeps to its schedule: one that rises lowers I(x; z) and so ends this.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(encoder := getattr(self.model, "encoder", None), nn.Module):
            raise UserError("update=aggressive needs a model with an encoder of its own, which this has not")
        others = [child for child in self.model.children() if child is not encoder]
        theirs = {id(p): p for child in others for p in child.parameters()}  # what both use is the decoder's
        self.decoder = list(theirs.values())
        self.encoder = [parameter for parameter in self.parameters if id(parameter) not in theirs]
        self.active, self.information = True, 0.0
        self.inner = self.updates = 0

    def __call__(
        self, batch: Batch, beta: float, lr: float, further: Iterable[Batch] = ()
    ) -> tuple[Terms, Tensor, Tensor]:
        self.updates += 1
        if not self.active:
            return super().__call__(batch, beta, lr)
        with frozen(self.decoder):
            self._catch_up(further, beta, lr)
        with frozen(self.encoder):
            return super().__call__(batch, beta, lr)

    def _catch_up(self, further: Iterable[Batch], beta: float, lr: float) -> None:
        """Updates of the encoder until the loss rises."""
        how, before, nats, tokens = self.config.update, math.inf, 0.0, 0.0
        for number, batch in enumerate(itertools.islice(further, how.most), start=1):
            found, loss, _ = super().__call__(batch, beta, lr)
            nats, tokens = nats + loss * len(found.tokens), tokens + found.tokens.sum()
            self.inner += 1
            if number % how.window == 0:
                now = float(nats / tokens)
                if now > before:
                    return
                before, nats, tokens = now, 0.0, 0.0

    def informed(self, information: float) -> None:
        """Ends the aggressive part for good when I(x; z), in nats, has fallen."""
        if information < self.information:
            self.active = False
            log.info(
                f"I(x; z) fell from {self.information:.4g} to {information:.4g}: plain updates from here"
            )
        self.information = information

    def pop_metrics(self) -> dict[str, float]:
        """How many updates of the encoder came before one of the decoder, on average."""
        mean = self.inner / self.updates
        self.inner = self.updates = 0
        return {"encoder_updates": mean}

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("active", "information", "inner", "updates")}

    def restore(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
