"""What models of sentences share: the three densities, from an encoder and a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cvae.config.schema import ReviewModel, SentenceModel
from cvae.data.text import Batch
from cvae.data.vocabulary import UNK
from cvae.models import gaussian
from cvae.models.decode import State
from cvae.models.gaussian import Gaussian
from cvae.models.kernels.output import layer_nll
from cvae.models.objective import LatentModel

if TYPE_CHECKING:
    from cvae.models.sentence import Decoder


class TextVAE(LatentModel):
    """A model of sentences, made of a decoder and, unless it has no z, an encoder."""

    def __init__(
        self, config: SentenceModel | ReviewModel, encoder: nn.Module | None, decoder: Decoder
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.decoder = decoder

    def inference_network(self) -> nn.Module | None:
        return self.encoder

    def prior(self, batch: Batch) -> Gaussian:
        """Return N(0, I): mean and logvar [B, Z]."""
        shape = (len(batch.lengths), self.config.latent)
        return gaussian.standard(self.decoder.output.bias.new_empty(shape))

    def posterior(self, batch: Batch) -> Gaussian:
        """Return q(z | x): mean and logvar [B, Z]; Z = 0 for the language model without z."""
        return self.encoder(batch) if self.encoder is not None else self.prior(batch)

    def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
        """Return -log p(x | z) in nats per sentence, `</s>` predicted: [B]; [K, B] in evaluation."""
        if z.dim() == 3:
            return self._nll_of_samples(batch, z)
        states = self.decoder.states(self._dropped(batch.inputs), z)
        return layer_nll(self.decoder.output, states.flatten(0, 1), batch.targets).sum(-1)

    def _nll_of_samples(self, batch: Batch, z: Tensor) -> Tensor:
        """Return `decode_nll` of K samples, [K, B] for z [K, B, Z]; logits exist for one place at a time.

        Raises ValueError in training mode: it has no dropout.
        """
        if self.training:
            raise ValueError("several samples of z a sentence are for evaluation: call eval() first")
        total = z.new_zeros(z.shape[:2])
        state = self.decoder.begin(z)
        for words, targets in zip(batch.inputs.T, batch.targets.T, strict=True):
            outputs, state = self.decoder.step(words, state)
            total = total + layer_nll(self.decoder.output, outputs.flatten(0, 1), targets.expand(len(z), -1))
        return total

    def begin(self, batch: Batch | None, z: Tensor) -> State:
        """Return the state before the first word, for z [B, Z]; the batch plays no part (`models.decode`)."""
        return self.decoder.begin(z)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits [B, V] of the word after `words` [B], and the state after reading these."""
        outputs, state = self.decoder.step(words, state)
        return self.decoder.output(outputs), state

    def _dropped(self, inputs: Tensor) -> Tensor:
        """Replace words but `<s>` by `<unk>` in training (word dropout: Bowman et al. 2016, section 3.1)."""
        if not (self.training and self.config.word_dropout):
            return inputs
        dropped = torch.rand(inputs.shape, device=inputs.device) < self.config.word_dropout
        dropped[:, 0] = False
        return inputs.masked_fill(dropped, UNK)
