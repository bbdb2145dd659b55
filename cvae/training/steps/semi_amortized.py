"""Semi-amortized inference: gradient steps from the encoder's posterior to a better one per sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from cvae.data.text import Batch
from cvae.models import gaussian, kernels, objective
from cvae.models.gaussian import Gaussian
from cvae.models.objective import Terms
from cvae.models.refinement import refined
from cvae.training.steps.plain import TrainStep


class SemiAmortizedStep(TrainStep):
    """SA-VAE, Kim et al. (2018), Algorithm 1: the loss of the refined posterior and its exact gradient.

    The encoder learns through the refinement. Autograd keeps the graph, so the Hessian-vector products of the
    authors' reverse pass are exact here and no finite differences. Their clipping within that pass is left
    out (protocol A5.6); the whole gradient is clipped as in every step. Each refinement step draws new noise
    and new dropout masks, as theirs does, and uses the β of the training step. cuDNN's LSTM has no second
    derivative, so torch's own runs on a GPU.
    """

    def terms(self, batch: Batch, beta: float) -> Terms:
        """Return the terms of a batch at its refined posterior, with a new sample of z."""
        with torch.backends.cudnn.flags(enabled=False):
            batch = self.model.shared(batch)

            def loss(q: Gaussian) -> Tensor:
                with kernels.twice_differentiable():
                    return self.loss(objective.terms(self.model, batch, q=q), beta)

            q = gaussian.widened(self.model.posterior(batch))
            q = refined(q, loss, self.settings, learning=True)
            return objective.terms(self.model, batch, q=q)
