"""The sentence VAE: LSTM encoder, diagonal Gaussian z, LSTM decoder (Bowman et al. 2016).

Sizes and details follow the authors' PTB model (protocol A2): 8,801,874 parameters at a vocabulary of
10,002. With `latent: 0` it is the autoregressive language model that shares the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.config.schema import ReviewModel, SentenceModel
from cvae.data.text import UNK, Batch
from cvae.models import gaussian
from cvae.models.decode import State
from cvae.models.gaussian import Gaussian
from cvae.models.kernels.output import layer_nll
from cvae.models.normalisation import NormalisedMean


class Encoder(nn.Module):
    """q(z | x): a unidirectional LSTM reads `<s>` words `</s>`; its last output gives mean and logvar."""

    def __init__(self, config: SentenceModel, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, config.embed)
        self.lstm = nn.LSTM(config.embed, config.hidden, config.layers, batch_first=True)
        self.mean = nn.Linear(config.hidden, config.latent)
        self.logvar = nn.Linear(config.hidden, config.latent)
        gamma = config.batch_norm
        self.normalise = NormalisedMean(config.latent, gamma) if gamma else nn.Identity()

    def forward(self, batch: Batch) -> Gaussian:
        """mean and logvar [B, Z]."""
        last = self._last(batch)
        return Gaussian(self.normalise(self.mean(last)), self.logvar(last))

    @torch.no_grad()
    def estimate(self, batches: Iterable[Batch]) -> None:
        """With batch_norm: take what it needs at evaluation from these training sentences."""
        self.normalise.estimate(torch.cat([self.mean(self._last(batch)) for batch in batches]))

    def _last(self, batch: Batch) -> Tensor:
        """Return the state at `</s>`, which has not seen the pads behind it: [B, hidden]."""
        outputs, _ = self.lstm(self.embedding(batch.tokens))
        rows = torch.arange(len(batch.lengths), device=outputs.device)
        return outputs[rows, batch.lengths - 1]


class Decoder(nn.Module):
    """p(x | z): z gives the LSTM its first states and is read beside every previous word.

    With `skip` the output layer reads z too, beside the LSTM's output (Dieng et al. 2019: a path from z that
    no hidden layer can close). Off by default, as in the authors' model.
    """

    def __init__(
        self,
        config: SentenceModel | ReviewModel,
        embedding: nn.Module,
        output: nn.Module,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.skip = config, skip
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
        """What the output layer reads at each place: [B, T, hidden (+ Z)] for inputs [B, T] and z [B, Z]."""
        rate = self.config.dropout
        words = functional.dropout(self.embedding(inputs), rate, self.training)
        beside = z[:, None].expand(-1, inputs.size(1), -1)
        outputs, _ = self.lstm(torch.cat([words, beside], -1), self.initial(z))
        outputs = functional.dropout(outputs, rate, self.training)
        return torch.cat([outputs, beside], -1) if self.skip else outputs

    def begin(self, z: Tensor) -> State:
        """Before the first word, without dropout, for z [..., B, Z].

        The part of z in the first layer's input product W [word; z], [..., B, 4 hidden], which is formed
        once; h and c [layers, ..., B, hidden]; with `skip` z itself.
        """
        beside = functional.linear(z, self.lstm.weight_ih_l0[:, self.config.embed :])
        h, c = (state.unflatten(1, z.shape[:-1]) for state in self.initial(z.flatten(0, -2)))
        return (beside, h, c, z) if self.skip else (beside, h, c)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """What the output layer reads after the words [B], [..., B, hidden (+ Z)], and the next state."""
        beside, h, c, *skipped = state
        w_x, w_h, bias = zip(*(self._weights(layer) for layer in range(self.config.layers)), strict=True)
        gates = functional.linear(self.embedding(words), w_x[0][:, : self.config.embed], bias[0]) + beside
        states: list[tuple[Tensor, Tensor]] = []
        for layer in range(self.config.layers):
            if layer:
                gates = functional.linear(states[-1][0], w_x[layer], bias[layer])
            i, f, g, o = (gates + functional.linear(h[layer], w_h[layer])).chunk(4, -1)
            cell = f.sigmoid() * c[layer] + i.sigmoid() * g.tanh()
            states.append((o.sigmoid() * cell.tanh(), cell))
        h, c = map(torch.stack, zip(*states, strict=True))
        return torch.cat([h[-1], *skipped], -1) if skipped else h[-1], (beside, h, c, *skipped)

    def _weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's weights of its input and of its state, and the sum of its biases."""
        w_x, w_h, b_x, b_h = self.lstm.all_weights[layer]
        return w_x, w_h, b_x + b_h


class TextVAE(nn.Module):
    """The three densities of an encoder, if any, and a decoder; see `cvae.models.objective.LatentModel`."""

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
        return layer_nll(self.decoder.output, states.flatten(0, 1), batch.targets, plain).sum(-1)

    def _nll_of_samples(self, batch: Batch, z: Tensor) -> Tensor:
        """`decode_nll` of K samples of z, [K, B] for [K, B, Z]; the logits of one place exist at a time.

        Raises ValueError in training mode, whose dropout it does not have.
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
        """For `decode`: the state before the first word, z [B, Z]; the batch plays no part."""
        return self.decoder.begin(z)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [B, V] of what follows the words [B], and the state that has read them."""
        outputs, state = self.decoder.step(words, state)
        return self.decoder.output(outputs), state

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
        embedding = nn.Embedding(words, config.embed)
        output = nn.Linear(config.hidden + config.skip * config.latent, words)
        super().__init__(config, encoder, Decoder(config, embedding, output, config.skip))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.init, config.init)
