"""The sentence VAE: LSTM encoder, diagonal Gaussian z, LSTM decoder (Bowman et al. 2016).

Sizes and details follow the authors' PTB model (protocol A2): 8,801,874 parameters at a vocabulary of
10,002. With `latent: 0` it is the autoregressive language model that shares the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.config.schema import ReviewModel, SentenceModel
from cvae.data.text import Batch
from cvae.models import kernels
from cvae.models.decode import State
from cvae.models.kernels.output import OutputLayer, layer_nll
from cvae.models.text import GaussianEncoder, TextVAE


class LSTMEncoder(GaussianEncoder):
    """q(z | x): a unidirectional LSTM reads `<s>` words `</s>`; its last output gives mean and logvar."""

    def __init__(self, config: SentenceModel, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, config.embed)
        self.lstm = nn.LSTM(config.embed, config.hidden, config.layers, batch_first=True)
        self.add_heads(config.hidden, config.latent, config.batch_norm)

    def summary(self, batch: Batch) -> Tensor:
        """Return the state at `</s>`, which has not read the pads behind it: [B, hidden]."""
        outputs, _ = kernels.call_rnn(self.lstm, self.embedding(batch.tokens))
        rows = torch.arange(len(batch.lengths), device=outputs.device)
        return outputs[rows, batch.lengths - 1]


class LSTMDecoder(nn.Module):
    """p(x | z): z gives the LSTM its initial states and, with `beside`, is read beside every previous word.

    With `skip` the output layer reads z too, beside the LSTM's output (Dieng et al. 2019: a path from z that
    no hidden layer can close). Off by default, as in the authors' model.
    """

    output: OutputLayer

    def __init__(
        self,
        config: SentenceModel | ReviewModel,
        embedding: nn.Embedding,
        output: OutputLayer,
        skip: bool,
        beside: bool,
    ) -> None:
        super().__init__()
        self.config, self.skip = config, skip
        self.embedding, self.beside = embedding, beside * config.latent  # dimensions of z beside each word
        self.lstm = nn.LSTM(config.embed + self.beside, config.hidden, config.layers, batch_first=True)
        self.start = nn.Linear(config.latent, config.layers * config.hidden) if config.latent else None
        self.output = output

    def initial(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return h = linear(z) and c = 0, each [layers, B, hidden]."""
        shape = (len(z), self.config.layers, self.config.hidden)
        h = self.start(z).view(shape) if self.start is not None else z.new_zeros(shape)
        h = h.transpose(0, 1).contiguous()
        return h, torch.zeros_like(h)

    def states(self, inputs: Tensor, z: Tensor) -> Tensor:
        """Return what the output layer reads, [B, T, hidden (+ Z)], for inputs [B, T] and z [B, Z]."""
        rate = self.config.dropout
        words = functional.dropout(self.embedding(inputs), rate, self.training)
        codes = z[:, None].expand(-1, inputs.size(1), -1)
        read = torch.cat([words, codes[..., : self.beside]], -1)
        outputs, _ = kernels.call_rnn(self.lstm, read, self.initial(z))
        outputs = functional.dropout(outputs, rate, self.training)
        return torch.cat([outputs, codes], -1) if self.skip else outputs

    def begin(self, z: Tensor) -> State:
        """Return the state before the first word, without dropout, for z [..., B, Z].

        Its parts: z's share of the first layer's input product W [word; z], [..., B, 4 hidden], which is
        formed once; h and c [layers, ..., B, hidden]; with `skip` z itself.
        """
        beside = functional.linear(z[..., : self.beside], self.lstm.all_weights[0][0][:, self.config.embed :])
        h, c = (state.unflatten(1, z.shape[:-1]) for state in self.initial(z.flatten(0, -2)))
        return (beside, h, c, z) if self.skip else (beside, h, c)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return what the output layer reads after `words` [B], [..., B, hidden (+ Z)], and the new state."""
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
        """Return a layer's input weight, its recurrent weight, and the sum of its biases."""
        w_x, w_h, b_x, b_h = self.lstm.all_weights[layer]
        return w_x, w_h, b_x + b_h


class RecurrentVAE(TextVAE):
    """A model of sentences with an LSTM decoder, which decodes several samples of z in one pass."""

    decoder: LSTMDecoder

    def nll_of_samples(self, batch: Batch, z: Tensor) -> Tensor:
        """Return `decode_nll` of K samples, [K, B]; logits exist for one place at a time."""
        total = z.new_zeros(z.shape[:2])
        state = self.decoder.begin(z)
        for words, targets in zip(batch.inputs.T, batch.targets.T, strict=True):
            outputs, state = self.decoder.step(words, state)
            total = total + layer_nll(self.decoder.output, outputs.flatten(0, 1), targets.expand(len(z), -1))
        return total


class SentenceVAE(RecurrentVAE):
    """The sentence VAE or, without z, the language model."""

    def __init__(self, config: SentenceModel, words: int) -> None:
        encoder = LSTMEncoder(config, words) if config.latent else None
        embedding = nn.Embedding(words, config.embed)
        output = nn.Linear(config.hidden + config.skip * config.latent, words)
        beside = config.inject == "inputs"
        super().__init__(config, encoder, LSTMDecoder(config, embedding, output, config.skip, beside))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.init, config.init)
