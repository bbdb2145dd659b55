"""The review VAE: CNN encoder, diagonal Gaussian z, LSTM decoder with tied word vectors (protocol C2).

Sizes and initialisation follow the authors' Yelp model: 5,761,633 parameters at a vocabulary of 3,641, and
1,024 more since `nn.LSTM` has its bias twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.config.schema import ReviewModel
from cvae.data.text import Batch
from cvae.models.decode import State
from cvae.models.gaussian import Gaussian
from cvae.models.sentence import LSTMDecoder, RecurrentVAE

LEFT_PADS, POSITIONS = 4, 25  # pads before the first word; positions that one window of the encoder reads
WINDOW_STRIDE = 4  # positions
INITIAL_BIAS = 0.001


class UnitEmbedding(nn.Embedding):
    """Word vectors that are divided by their length wherever they are used."""

    def __init__(self, words: int, size: int) -> None:
        super().__init__(words, size)
        nn.init.uniform_(self.weight, -0.001, 0.001)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return [..., E] for word numbers [...]."""
        return functional.normalize(super().forward(numbers), dim=-1)


class Convolution(nn.Linear):
    """A 1-d convolution without padding, as one matrix product of its windows.

    On one CPU core more than twice as fast as `nn.Conv1d` on the 25 positions of a sentence.
    """

    def __init__(self, channels: int, filters: int, width: int, stride: int) -> None:
        super().__init__(width * channels, filters)
        self.channels, self.stride = channels, stride
        limit = math.sqrt(6 / (width * (channels + filters)))  # Glorot's, for a convolution
        nn.init.uniform_(self.weight, -limit, limit)
        nn.init.constant_(self.bias, INITIAL_BIAS)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, (T - width) / stride + 1, filters] for x [B, T, channels]."""
        return super().forward(x.flatten(1).unfold(1, self.in_features, self.stride * self.channels))


class ReviewEncoder(nn.Module):
    """q(z | x): three convolutions over 25 positions: pads, words, `</s>`, pads.

    A longer sentence (the authors' corpus has none) is read through as many windows of 25 positions as it
    needs, whose features are pooled by their maximum (max over time: Kim 2014).
    """

    def __init__(self, config: ReviewModel, embedding: UnitEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        size = config.filters
        self.first = Convolution(config.embed, size, 5, 2)
        self.second = Convolution(size, 2 * size, 5, 2)
        self.third = Convolution(2 * size, 3 * size, 4, 1)
        self.mean = nn.Linear(3 * size, config.latent)
        self.logvar = nn.Linear(3 * size, config.latent)
        nn.init.constant_(self.first.weight, 0.001)  # all filters alike: the second layer tells them apart
        nn.init.zeros_(self.third.bias)
        for layer in (self.mean, self.logvar):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, INITIAL_BIAS)

    def forward(self, batch: Batch) -> Gaussian:
        """Return mean and logvar [B, Z]; the number of pads in the batch plays no part."""
        words = batch.tokens[:, 1:]
        extra = max(
            0, -(-(LEFT_PADS + words.size(1) - POSITIONS) // WINDOW_STRIDE)
        )  # windows after the first
        right_pads = POSITIONS + WINDOW_STRIDE * extra - LEFT_PADS - words.size(1)
        padded = functional.pad(words, (LEFT_PADS, right_pads))
        hidden = torch.relu(self.first(self.embedding(padded)))
        hidden = torch.relu(self.second(hidden))
        hidden = torch.tanh(self.third(hidden))
        if extra:
            read_before = POSITIONS + WINDOW_STRIDE * torch.arange(extra, device=padded.device)
            needed = LEFT_PADS + batch.lengths[:, None] - 1 > read_before
            later = hidden[:, 1:].masked_fill(~needed[:, :, None], -torch.inf)
            hidden = torch.cat([hidden[:, :1], later], 1).amax(1, keepdim=True)
        return Gaussian(self.mean(hidden[:, 0]), self.logvar(hidden[:, 0]))


class TiedOutput(nn.Module):
    """Logits from the words' own vectors: the product of each with the projected state."""

    def __init__(self, embedding: UnitEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.out_features = embedding.num_embeddings
        self.bias = nn.Parameter(torch.empty(self.out_features).uniform_(-0.001, 0.001))

    @property
    def weight(self) -> Tensor:
        """[V, E], rows of length 1."""
        return functional.normalize(self.embedding.weight, dim=-1)

    def forward(self, states: Tensor) -> Tensor:
        """Return [..., V] for projected states [..., E]."""
        return functional.linear(states, self.weight, self.bias)


class ReviewDecoder(LSTMDecoder):
    """The sentence VAE's decoder, with what the output layer reads projected to the size of words, E."""

    def __init__(self, config: ReviewModel, embedding: UnitEmbedding) -> None:
        super().__init__(config, embedding, TiedOutput(embedding), skip=False, beside=True)
        self.project = nn.Linear(config.hidden, config.embed, bias=False)
        nn.init.uniform_(self.project.weight, -0.001, 0.001)
        if self.start is not None:
            nn.init.xavier_uniform_(self.start.weight)
            nn.init.constant_(self.start.bias, INITIAL_BIAS)
        for layer in range(config.layers):
            self._initialise(*self.lstm.all_weights[layer])

    @staticmethod
    def _initialise(w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor) -> None:
        """Initialise by Glorot over inputs and state; bias 1 of forget gates (the second quarter), else 0."""
        hidden = w_h.size(1)
        limit = math.sqrt(6 / (w_x.size(1) + hidden + 4 * hidden))
        nn.init.uniform_(w_x, -limit, limit)
        nn.init.uniform_(w_h, -limit, limit)
        nn.init.zeros_(b_h)
        with torch.no_grad():
            b_x.zero_()[hidden : 2 * hidden] = 1.0

    def states(self, inputs: Tensor, z: Tensor) -> Tensor:
        return self.project(super().states(inputs, z))

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, state = super().step(words, state)
        return self.project(outputs), state


class ReviewVAE(RecurrentVAE):
    """The CNN-LSTM VAE of the paper's Yelp experiment."""

    def __init__(self, config: ReviewModel, words: int) -> None:
        embedding = UnitEmbedding(words, config.embed)
        super().__init__(config, ReviewEncoder(config, embedding), ReviewDecoder(config, embedding))
