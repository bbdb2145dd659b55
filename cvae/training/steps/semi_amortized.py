"""Semi-amortised inference: the encoder's posterior is only where a descent for each sentence starts."""

from __future__ import annotations

import torch
from torch import Tensor

from cvae.data.text import Batch
from cvae.models import gaussian, objective
from cvae.models.gaussian import Gaussian
from cvae.models.objective import Terms
from cvae.models.refinement import refined
from cvae.training.steps.plain import TrainStep


class SemiAmortizedStep(TrainStep):
    """SA-VAE, Kim et al. (2018), Algorithm 1: the loss of the refined posterior, and its exact gradient.

    The encoder learns through the refinement: autograd keeps its graph, so that the Hessian-vector products
    of the authors' reverse pass are exact and not finite differences. Their clipping of that pass is left
    out (the protocol's A5.6 says what it did); the whole gradient is clipped as every update's is. Each
    refinement step draws new noise and new dropout masks, as theirs do. β is that of the update. cuDNN's
    LSTM cannot be differentiated twice, so on a GPU torch's own runs here.
    """

    def terms(self, batch: Batch, beta: float) -> Terms:
        """The batch's terms at its refined posterior, with one more sample of z."""
        with torch.backends.cudnn.flags(enabled=False):
            batch = objective.shared(self.model, batch)

            def loss(q: Gaussian) -> Tensor:
                return self.loss(objective.terms(self.model, batch, q=q, plain=True), beta)

            q = refined(
                gaussian.widened(self.model.posterior(batch)), loss, self.config.update, learning=True
            )
            return objective.terms(self.model, batch, q=q)
