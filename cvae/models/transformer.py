"""The transformer VAE: bidirectional encoder, diagonal Gaussian z, causal decoder (Optimus: Li et al. 2020).

Pre-norm layers and initial weights as in GPT-2, z as in Optimus, trained from scratch. With `latent: 0` it is
the autoregressive language model that shares the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.config.schema import TransformerModel
from cvae.data.text import Batch
from cvae.data.vocabulary import PAD
from cvae.models import kernels
from cvae.models.decode import State
from cvae.models.kernels.output import OutputLayer
from cvae.models.text import GaussianEncoder, TextVAE

LONGEST_WAVE = 10_000  # places; of the sinusoids, over 2 π
RESIDUAL = ("attended.weight", "narrow.weight")  # what writes into the residual stream


class PlacedEmbedding(nn.Embedding):
    """Word vectors times √H plus sinusoids of the word's place (Vaswani et al. 2017), at any length."""

    frequencies: Tensor

    def __init__(self, words: int, size: int) -> None:
        super().__init__(words, size)
        exponents = torch.arange(0, size, 2) / size
        self.register_buffer("frequencies", LONGEST_WAVE**-exponents, persistent=False)

    def forward(self, words: Tensor, first: int = 0) -> Tensor:
        """Return [B, T, H] for words [B, T], of which the leftmost are at place `first` of their sentence."""
        places = torch.arange(first, first + words.size(1), device=words.device)
        angles = places[:, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], -1)[:, : self.embedding_dim]
        return math.sqrt(self.embedding_dim) * super().forward(words) + waves


class Layer(nn.Module):
    """Attention, then an MLP of four times the width, each added to what it reads the norm of (pre-norm)."""

    def __init__(self, size: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(size)
        self.attention = nn.Linear(size, 3 * size)  # queries, keys, values
        self.attended = nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size)
        self.widen = nn.Linear(size, 4 * size)
        self.narrow = nn.Linear(4 * size, size)

    def forward(
        self, x: Tensor, mask: Tensor, past: Tensor | None = None, count: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what follows x [B, T, H], of the same shape, and the keys and values that it attended to.

        What follows is that of the first `count` places only, by default of all.
        `past` [2, B, heads, S, H / heads] are keys and values before those of x, which with them make S + T.
        `mask`, which broadcasts to [B, heads, T, S + T], is True where a place may attend to another.
        """
        projected = self.attention(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, read = projected.split((1, 2))  # the gradient of an index would be filled with zeros first
        if count is not None:
            query, x = query[..., :count, :], x[:, :count]
        if past is not None and past.size(-2):
            read = torch.cat([past, read], -2)
        keys, values = read.unbind()
        heads = kernels.attention(query.squeeze(0), keys, values, mask)
        x = x + self._drop(self.attended(heads.transpose(1, 2).flatten(-2)))
        return x + self._drop(self.narrow(functional.gelu(self.widen(self.mlp_norm(x))))), read

    def _drop(self, branch: Tensor) -> Tensor:
        return functional.dropout(branch, self.dropout, self.training)


class TransformerEncoder(GaussianEncoder):
    """q(z | x): bidirectional layers read `<s>` words `</s>`; the output at `<s>` gives mean and logvar.

    It has no dropout, as those of the other models have none: the posterior's noise is its own.
    """

    def __init__(self, config: TransformerModel, words: int) -> None:
        super().__init__()
        self.embedding = PlacedEmbedding(words, config.hidden)
        self.layers = nn.ModuleList(Layer(config.hidden, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)
        self.add_heads(config.hidden, config.latent, config.batch_norm)

    def summary(self, batch: Batch) -> Tensor:
        """Return the output at `<s>`, which attends to all tokens but pads: [B, H]."""
        x, mask = self.embedding(batch.tokens), (batch.tokens != PAD)[:, None, None]
        *layers, last = self.layers
        for layer in layers:
            x, _ = layer(x, mask)
        return self.norm(last(x, mask, count=1)[0][:, 0])


class TransformerDecoder(nn.Module):
    """p(x | z): causal layers over the previous words, which z reaches at every place.

    `inject: memory` makes z a key and a value of each layer, to which all places attend; `embedding` adds
    linear(z) to each word's vector; `both` does both. With `skip` the output layer reads z, too; if `tied`,
    its weights are the word vectors. Dropout acts on these and on what each layer adds, not on z.
    """

    output: OutputLayer

    def __init__(self, config: TransformerModel, words: int) -> None:
        super().__init__()
        self.config = config
        size, latent = config.hidden, config.latent
        self.embedding = PlacedEmbedding(words, size)
        self.layers = nn.ModuleList(Layer(size, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(size)
        self.memory = self.beside = None
        if latent and config.inject != "embedding":
            self.memory = nn.Linear(latent, config.layers * 2 * size, bias=False)
        if latent and config.inject != "memory":
            self.beside = nn.Linear(latent, size, bias=False)
        output = nn.Linear(size + config.skip * latent, words)
        if config.tied:
            output.weight = self.embedding.weight
        self.output = output

    def states(self, inputs: Tensor, z: Tensor) -> Tensor:
        """Return what the output layer reads, [B, T, H (+ Z)], for inputs [B, T] and z [B, Z]."""
        return self._read(inputs, z, self._memories(z))[0]

    def begin(self, z: Tensor) -> State:
        """Return z [B, Z] and, for each layer, keys and values of what was read, [2, heads, S, B, H / heads].

        S counts the words, and z where it is a memory.
        """
        return (z, *(memory.movedim(1, -2) for memory in self._memories(z)))

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return what the output layer reads after `words` [B], [B, H (+ Z)], and the longer state."""
        z, *caches = state
        outputs, pasts = self._read(words[:, None], z, [cache.movedim(-2, 1) for cache in caches])
        return outputs[:, 0], (z, *(past.movedim(1, -2) for past in pasts))

    def _memories(self, z: Tensor) -> Sequence[Tensor]:
        """Return each layer's key and value of z, [2, B, heads, 1, H / heads]; S = 0 where it has none."""
        layers, heads = self.config.layers, self.config.heads
        if self.memory is None:
            return [z.new_empty(2, len(z), heads, 0, self.config.hidden // heads)] * layers
        return self.memory(z).unflatten(-1, (layers, 2, heads, 1, -1)).movedim(0, 2).unbind()

    def _read(self, inputs: Tensor, z: Tensor, pasts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return what the output layer reads, [B, T, H (+ Z)], and all keys and values of each layer."""
        before = pasts[0].size(-2)
        words = self.embedding(inputs, before - (self.memory is not None))
        x = functional.dropout(words, self.config.dropout, self.training)
        if self.beside is not None:
            x = x + self.beside(z)[:, None]
        places, attended = inputs.size(1), []
        mask = torch.ones(places, before + places, dtype=torch.bool, device=x.device).tril(before)
        for layer, past in zip(self.layers, pasts, strict=True):
            x, read = layer(x, mask, past)
            attended.append(read)
        x = self.norm(x)
        return torch.cat([x, z[:, None].expand(-1, places, -1)], -1) if self.config.skip else x, attended


class TransformerVAE(TextVAE):
    """The transformer VAE or, without z, the language model."""

    def __init__(self, config: TransformerModel, words: int) -> None:
        encoder = TransformerEncoder(config, words) if config.latent else None
        super().__init__(config, encoder, TransformerDecoder(config, words))
        scale = 1 / math.sqrt(2 * config.layers)  # a deep model's residual stream starts no wider
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=config.init * (scale if name.endswith(RESIDUAL) else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
