"""The sentence VAE: LSTM encoder, diagonal Gaussian z, LSTM decoder (Bowman et al. 2016).

Sizes and details follow the authors' PTB model (protocol A2): 8,801,874 parameters at a vocabulary of
10,002. With `latent: 0` it is the autoregressive language model that shares the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae import gaussian
from cvae.config import SentenceModel
from cvae.data.text import PAD, UNK, Batch
from cvae.gaussian import Gaussian
from cvae.models.output import output_nll

FUSED_WORDS = 4000  # with fewer the logits fit in a cache anyway, and the plain output layer is the faster


class Encoder(nn.Module):
    """q(z | x): a unidirectional LSTM reads `<s>` words `</s>`; its last output gives mean and logvar."""

    def __init__(self, config: SentenceModel, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, config.embed)
        self.lstm = nn.LSTM(config.embed, config.hidden, config.layers, batch_first=True)
        self.mean = nn.Linear(config.hidden, config.latent)
        self.logvar = nn.Linear(config.hidden, config.latent)

    def forward(self, batch: Batch) -> Gaussian:
        """mean and logvar [B, Z]; the state at `</s>` has not seen the pads behind it."""
        outputs, _ = self.lstm(self.embedding(batch.tokens))
        rows = torch.arange(len(batch.lengths), device=outputs.device)
        last = outputs[rows, batch.lengths - 1]
        return Gaussian(self.mean(last), self.logvar(last))


class Decoder(nn.Module):
    """p(x | z): z starts the LSTM's top-to-bottom states and is read beside every previous word."""

    def __init__(self, config: SentenceModel, words: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(words, config.embed)
        self.lstm = nn.LSTM(config.embed + config.latent, config.hidden, config.layers, batch_first=True)
        self.start = nn.Linear(config.latent, config.layers * config.hidden) if config.latent else None
        self.output = nn.Linear(config.hidden, words)

    def initial(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """h = linear(z) and c = 0, each [layers, B, hidden]."""
        shape = (len(z), self.config.layers, self.config.hidden)
        h = self.start(z).view(shape) if self.start is not None else z.new_zeros(shape)
        h = h.transpose(0, 1).contiguous()
        return h, torch.zeros_like(h)

    def states(self, inputs: Tensor, z: Tensor) -> Tensor:
        """What the output layer reads at each place: [B, T, hidden] for inputs [B, T] and z [B, Z]."""
        rate = self.config.dropout
        words = functional.dropout(self.embedding(inputs), rate, self.training)
        beside = z[:, None].expand(-1, inputs.size(1), -1)
        outputs, _ = self.lstm(torch.cat([words, beside], -1), self.initial(z))
        return functional.dropout(outputs, rate, self.training)


class SentenceVAE(nn.Module):
    """The three densities of the sentence VAE; see `cvae.objective.LatentModel`."""

    def __init__(self, config: SentenceModel, words: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, words) if config.latent else None
        self.decoder = Decoder(config, words)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.init, config.init)

    def prior(self, batch: Batch) -> Gaussian:
        """N(0, I): mean and logvar [B, Z]."""
        shape = (len(batch.lengths), self.config.latent)
        return gaussian.standard(self.decoder.output.weight.new_empty(shape))

    def posterior(self, batch: Batch) -> Gaussian:
        """q(z | x): mean and logvar [B, Z]; for the language model without z, Z = 0."""
        return self.encoder(batch) if self.encoder is not None else self.prior(batch)

    def decode_nll(self, batch: Batch, z: Tensor, plain: bool = False) -> Tensor:
        """-log p(x | z) in nats per sentence, `</s>` predicted and pads not: [B].

        `plain` asks for operations that can be differentiated twice; they cost more time and memory.
        """
        states = self.decoder.states(self._dropped(batch.inputs), z)
        layer, targets = self.decoder.output, batch.targets.flatten()
        # On a GPU the logits are no burden, and a backward pass that must not wait forms gradients twice.
        if plain or layer.out_features < FUSED_WORDS or states.device.type != "cpu":
            logits = layer(states).flatten(0, 1)
            nll = functional.cross_entropy(logits, targets, ignore_index=PAD, reduction="none")
        else:
            nll = output_nll(states.flatten(0, 1), layer.weight, layer.bias, targets)
        return nll.view(batch.targets.shape).sum(-1)

    def _dropped(self, inputs: Tensor) -> Tensor:
        """Word dropout (Bowman et al. 2016, section 3.1): in training, words but `<s>` become `<unk>`."""
        if not (self.training and self.config.word_dropout):
            return inputs
        gone = torch.rand(inputs.shape, device=inputs.device) < self.config.word_dropout
        gone[:, 0] = False
        return inputs.masked_fill(gone, UNK)
