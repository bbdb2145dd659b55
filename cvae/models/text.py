"""What models of sentences share: the three densities and generation, from an encoder and a decoder."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from cvae.config.schema import PretrainedModel, ReviewModel, SentenceModel, TransformerModel
from cvae.data.text import Batch
from cvae.data.vocabulary import UNK
from cvae.models import gaussian
from cvae.models.decode import State
from cvae.models.gaussian import Gaussian
from cvae.models.kernels.output import OutputLayer, layer_nll
from cvae.models.normalisation import NormalisedMean
from cvae.models.objective import LatentModel


class GaussianEncoder(nn.Module, abc.ABC):
    """q(z | x): mean and logvar, each linear in a summary of the sentence; batch_norm is optional."""

    mean: nn.Linear
    logvar: nn.Linear
    normalise: nn.Module

    @abc.abstractmethod
    def summary(self, batch: Batch) -> Tensor:
        """Return the vector of each sentence [B, size], which pads do not change."""

    def add_heads(self, size: int, latent: int, gamma: float) -> None:
        """Make the layers that read a summary of this size; `gamma` is that of batch_norm, 0 for none."""
        self.mean = nn.Linear(size, latent)
        self.logvar = nn.Linear(size, latent)
        self.normalise = NormalisedMean(latent, gamma) if gamma else nn.Identity()

    def forward(self, batch: Batch) -> Gaussian:
        """Return mean and logvar [B, Z]."""
        summary = self.summary(batch)
        return Gaussian(self.normalise(self.mean(summary)), self.logvar(summary))

    @torch.no_grad()
    def estimate(self, batches: Iterable[Batch]) -> None:
        """Estimate what batch_norm, if used, normalises by in evaluation, from these training sentences."""
        if isinstance(self.normalise, NormalisedMean):
            self.normalise.estimate(torch.cat([self.mean(self.summary(batch)) for batch in batches]))


class Decoder(Protocol):
    """p(x | z): a module that reads words from the left, whose states an output layer turns into logits."""

    output: OutputLayer

    def states(self, inputs: Tensor, z: Tensor) -> Tensor:
        """Return what the output layer reads, [B, T, H], for inputs [B, T] and z [B, Z]."""

    def begin(self, z: Tensor) -> State:
        """Return the state before the first word, without dropout, for z [B, Z] (`models.decode`)."""

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return what the output layer reads after `words` [B], [B, H], and the new state."""


class TextVAE(LatentModel):
    """A model of sentences, made of a decoder and, unless it has no z, an encoder."""

    def __init__(
        self,
        config: SentenceModel | ReviewModel | TransformerModel | PretrainedModel,
        encoder: nn.Module | None,
        decoder: Decoder,
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
        """Return -log p(x | z) in nats per sentence, `</s>` predicted: [B]; [K, B] in evaluation.

        Raises ValueError for several samples of z [K, B, Z] in training mode.
        """
        if z.dim() == 3:
            if self.training:
                raise ValueError("several samples of z a sentence are for evaluation: call eval() first")
            return self.nll_of_samples(batch, z)
        states = self.decoder.states(self._dropped(batch.inputs), z)
        return layer_nll(self.decoder.output, states.flatten(0, 1), batch.targets).sum(-1)

    def nll_of_samples(self, batch: Batch, z: Tensor) -> Tensor:
        """Return `decode_nll` of K samples in evaluation, [K, B] for z [K, B, Z]."""
        return torch.stack([self.decode_nll(batch, sample) for sample in z])

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
