"""The sentence VAE: LSTM encoder, diagonal Gaussian z, LSTM decoder (Bowman et al. 2016).

Sizes and details follow the authors' PTB model (protocol A2): 8,801,874 parameters at a vocabulary of
10,002. With `latent: 0` it is the autoregressive language model that shares the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae import gaussian
from cvae.config import ReviewModel, SentenceModel
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
    """p(x | z): z gives the LSTM its first states and is read beside every previous word."""

    def __init__(self, config: SentenceModel | ReviewModel, embedding: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.embedding = embedding
        self.lstm = nn.LSTM(config.embed + config.latent, config.hidden, config.layers, batch_first=True)
        self.start = nn.Linear(config.latent, config.layers * config.hidden) if config.latent else None
        self.output = output

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

    def places(self, inputs: Tensor, z: Tensor) -> Iterator[Tensor]:
        """`states` for K samples without dropout, place by place: T times [K, B, hidden] for z [K, B, Z].

        Of the first layer's input product W [word; z] the part of the words is formed once for all samples.
        """
        w_x, w_h, bias = zip(*(self._weights(layer) for layer in range(self.config.layers)), strict=True)
        embed = self.config.embed
        words = functional.linear(self.embedding(inputs.T), w_x[0][:, :embed], bias[0])
        beside = functional.linear(z, w_x[0][:, embed:])
        h, c = (list(state.unflatten(1, z.shape[:2])) for state in self.initial(z.flatten(0, 1)))
        for word in words:
            gates = word + beside
            for layer in range(self.config.layers):
                if layer:
                    gates = functional.linear(h[layer - 1], w_x[layer], bias[layer])
                i, f, g, o = (gates + functional.linear(h[layer], w_h[layer])).chunk(4, -1)
                c[layer] = f.sigmoid() * c[layer] + i.sigmoid() * g.tanh()
                h[layer] = o.sigmoid() * c[layer].tanh()
            yield h[-1]

    def _weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's weights of its input and of its state, and the sum of its biases."""
        w_x, w_h, b_x, b_h = self.lstm.all_weights[layer]
        return w_x, w_h, b_x + b_h


class TextVAE(nn.Module):
    """The three densities of an encoder, if any, and a decoder; see `cvae.objective.LatentModel`."""

    def __init__(
        self, config: SentenceModel | ReviewModel, encoder: nn.Module | None, decoder: Decoder
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.decoder = decoder

    def prior(self, batch: Batch) -> Gaussian:
        """N(0, I): mean and logvar [B, Z]."""
        shape = (len(batch.lengths), self.config.latent)
        return gaussian.standard(self.decoder.output.bias.new_empty(shape))

    def posterior(self, batch: Batch) -> Gaussian:
        """q(z | x): mean and logvar [B, Z]; for the language model without z, Z = 0."""
        return self.encoder(batch) if self.encoder is not None else self.prior(batch)

    def decode_nll(self, batch: Batch, z: Tensor, plain: bool = False) -> Tensor:
        """-log p(x | z) in nats per sentence, `</s>` predicted and pads not: [B]; for z [K, B, Z] [K, B].

        `plain` asks for operations that can be differentiated twice; they cost more time and memory.
        """
        if z.dim() == 3:
            return self._nll_of_samples(batch, z)
        states = self.decoder.states(self._dropped(batch.inputs), z)
        return self._output_nll(states.flatten(0, 1), batch.targets, plain).sum(-1)

    def _output_nll(self, states: Tensor, targets: Tensor, plain: bool = False) -> Tensor:
        """-log p(target | state) in nats, 0 for pads, shaped as `targets`; states [targets.numel(), H]."""
        layer, flat = self.decoder.output, targets.flatten()
        # On a GPU the logits are no burden, and a backward pass that must not wait forms gradients twice.
        if plain or layer.out_features < FUSED_WORDS or states.device.type != "cpu":
            nll = functional.cross_entropy(layer(states), flat, ignore_index=PAD, reduction="none")
        else:
            nll = output_nll(states, layer.weight, layer.bias, flat)
        return nll.view(targets.shape)

    def _nll_of_samples(self, batch: Batch, z: Tensor) -> Tensor:
        """`decode_nll` of K samples of z, [K, B] for [K, B, Z]; the logits of one place exist at a time.

        Raises ValueError in training mode, whose dropout it does not have.
        """
        if self.training:
            raise ValueError("several samples of z a sentence are for evaluation: call eval() first")
        total = z.new_zeros(z.shape[:2])
        for states, targets in zip(self.decoder.places(batch.inputs, z), batch.targets.T, strict=True):
            total = total + self._output_nll(states.flatten(0, 1), targets.expand(len(z), -1))
        return total

    def _dropped(self, inputs: Tensor) -> Tensor:
        """Word dropout (Bowman et al. 2016, section 3.1): in training, words but `<s>` become `<unk>`."""
        if not (self.training and self.config.word_dropout):
            return inputs
        gone = torch.rand(inputs.shape, device=inputs.device) < self.config.word_dropout
        gone[:, 0] = False
        return inputs.masked_fill(gone, UNK)


class SentenceVAE(TextVAE):
    """The sentence VAE, and without z the language model."""

    def __init__(self, config: SentenceModel, words: int) -> None:
        encoder = Encoder(config, words) if config.latent else None
        embedding, output = nn.Embedding(words, config.embed), nn.Linear(config.hidden, words)
        super().__init__(config, encoder, Decoder(config, embedding, output))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.init, config.init)
