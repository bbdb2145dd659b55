"""A VAE of pretrained transformers: GPT-2 as decoder and encoder (Optimus: Li et al. 2020), or T5.

The run's vocabulary is the checkpoint's own pieces, numbered as the checkpoint does.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.config.schema import ARCHITECTURE, PretrainedModel
from cvae.data.text import Batch, Corpus
from cvae.data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from cvae.errors import UserError
from cvae.models.backbone import marks, network, never, numbers
from cvae.models.decode import State
from cvae.models.kernels.output import OutputLayer
from cvae.models.text import GaussianEncoder, TextVAE

STD = 0.02  # of new weights, as in GPT-2 and Optimus


class PretrainedEncoder(GaussianEncoder):
    """q(z | x): mean and logvar, linear in what a pretrained network says of a sentence; without dropout.

    A causal network has read all of it at `</s>` only. Of T5's encoder, which no token sums up, the mean over
    words and `</s>` is taken (Sentence-T5: Ni et al. 2022); it never saw an `<s>`, and is shown none.
    """

    ids: Tensor
    network: Any

    def __init__(self, config: PretrainedModel, vocabulary: Vocabulary) -> None:
        super().__init__()
        source = config.encoder or config.decoder
        self.network = network("encoder", source, 0.0)
        settings = self.network.config
        self.causal = settings.model_type == "gpt2"
        self.register_buffer("ids", numbers("model.encoder", source, vocabulary, settings))
        self.add_heads(settings.hidden_size, config.latent, config.batch_norm)

    def summary(self, batch: Batch) -> Tensor:
        """Return the vector of each sentence, [B, H]."""
        tokens = batch.tokens if self.causal else batch.tokens[:, 1:]
        mask = tokens != PAD
        states = self.network(input_ids=self.ids[tokens], attention_mask=mask.long()).last_hidden_state
        if self.causal:
            last = mask.sum(-1) - 1
            return cast(Tensor, states[torch.arange(len(last), device=last.device), last])
        return (states * mask[..., None]).sum(1) / mask.sum(-1, keepdim=True)


class PieceOutput(nn.Module):
    """The checkpoint's output layer, of the run's tokens only."""

    ids: Tensor
    bias: Tensor

    def __init__(self, head: nn.Linear, ids: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.head, self.out_features = head, len(ids)
        self.register_buffer("ids", ids)
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:
        """The weights of our tokens, [V, H]."""
        return self.head.weight[self.ids]

    def forward(self, states: Tensor) -> Tensor:
        """Return logits [..., V] of states [..., H]."""
        return functional.linear(states, self.head.weight)[..., self.ids] + self.bias


class PretrainedDecoder(nn.Module):
    """p(x | z): a pretrained causal network, which z reaches at every place.

    `inject: memory` makes z a key and a value of each of GPT-2's layers, as in Optimus, and of T5 what its
    cross-attention reads in place of an encoder's states; words keep the places of pretraining. `prefix` puts
    vectors linear in z before `<s>`; T5's cross-attention then has nothing to read, and is left out.
    """

    output: OutputLayer

    def __init__(self, config: PretrainedModel, vocabulary: Vocabulary) -> None:
        super().__init__()
        whole: Any = network("decoder", config.decoder, config.dropout)
        self.settings = settings = whole.config
        self.crosses = settings.is_encoder_decoder
        self.base = whole.decoder if self.crosses else whole.base_model
        ids = numbers("model.decoder", config.decoder, vocabulary, settings)
        output = PieceOutput(whole.get_output_embeddings(), ids, never(vocabulary, ids))
        self.output = cast(OutputLayer, output)
        self.cached_as = (
            "cache" if "cache" in inspect.signature(self.base.forward).parameters else "past_key_values"
        )
        scaled = self.crosses and getattr(settings, "scale_decoder_outputs", False)
        self.scale = settings.hidden_size**-0.5 if scaled else 1.0
        self.layers = settings.num_decoder_layers if self.crosses else settings.num_hidden_layers
        self.heads = settings.num_attention_heads
        self.size = settings.d_kv if self.crosses else settings.hidden_size // self.heads
        self.memory = self.prompt = self.unknown = None
        if config.latent and config.inject == "memory":
            memories = settings.hidden_size if self.crosses else self.layers * 2 * self.heads * self.size
            self.memory = nn.Linear(config.latent, memories, bias=False)
        if config.latent and config.inject == "prefix":
            self.prompt = nn.Linear(config.latent, config.prefix * settings.hidden_size, bias=False)
        if ids[UNK] == ids[EOS]:  # word dropout needs a vector that stands for no word
            self.unknown = nn.Parameter(self.embedding.weight.detach().mean(0))

    @property
    def embedding(self) -> nn.Embedding:
        """The vectors of the checkpoint's pieces."""
        return cast(nn.Embedding, self.base.get_input_embeddings())

    def states(self, inputs: Tensor, z: Tensor) -> Tensor:
        """Return what the output layer reads, [B, T, H], for inputs [B, T] and z [B, Z]."""
        prefix = self._prefix(z)
        x = torch.cat([prefix, self._vectors(inputs)], 1)
        return self._read(x, z, self._memories(z))[0][:, prefix.size(1) :]

    def begin(self, z: Tensor) -> State:
        """Return z [B, Z] and, for each layer, keys and values of what was read, [2, heads, S, B, size].

        S counts the words, the prefix, and z where it is a memory of the layer.
        """
        pasts, prefix = self._memories(z), self._prefix(z)
        if prefix.size(1):
            pasts = self._read(prefix, z, pasts)[1]
        return (z, *(past.movedim(1, -2) for past in pasts))

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return what the output layer reads after `words` [B], [B, H], and the longer state."""
        z, *caches = state
        pasts = [cache.movedim(-2, 1) for cache in caches]
        outputs, pasts = self._read(self._vectors(words[:, None]), z, pasts)
        return outputs[:, 0], (z, *(past.movedim(1, -2) for past in pasts))

    def _vectors(self, words: Tensor) -> Tensor:
        """Return the vectors of words [B, T]: [B, T, H]."""
        vectors = self.embedding(cast(Any, self.output).ids[words])
        if self.unknown is None:
            return cast(Tensor, vectors)
        return torch.where((words == UNK)[..., None], self.unknown, vectors)

    def _prefix(self, z: Tensor) -> Tensor:
        """Return the vectors before `<s>`, [B, k, H]; k = 0 for none."""
        width = self.settings.hidden_size
        return (
            z.new_empty(len(z), 0, width)
            if self.prompt is None
            else self.prompt(z).unflatten(-1, (-1, width))
        )

    def _memories(self, z: Tensor) -> list[Tensor]:
        """Return each layer's key and value of z, [2, B, heads, 1, size]; S = 0 where it has none."""
        if self.memory is None or self.crosses:
            return [z.new_empty(2, len(z), self.heads, 0, self.size)] * self.layers
        memories = self.memory(z).unflatten(-1, (self.layers, 2, self.heads, 1, -1))
        return list(memories.movedim(0, 2).unbind())

    def _read(self, x: Tensor, z: Tensor, pasts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return what the output layer reads, [B, T, H], and all keys and values of each layer."""
        from transformers import DynamicCache, EncoderDecoderCache

        cache: Any = DynamicCache()
        for layer, (keys, values) in enumerate(pasts):
            if keys.size(-2):  # an empty one would have its dtype prevail over autocast's
                cache.update(keys, values, layer)
        inputs: dict[str, Any] = {"inputs_embeds": x, "use_cache": True, self.cached_as: cache}
        if self.crosses:
            inputs[self.cached_as] = EncoderDecoderCache(cache, DynamicCache())
            inputs["encoder_hidden_states"] = None if self.memory is None else self.memory(z)[:, None]
        else:
            first = pasts[0].size(-2) - (self.memory is not None)
            places = torch.arange(first, first + x.size(1), device=x.device)[None]
            inputs["position_ids"] = places.clamp(max=self.settings.n_positions - 1)  # of generated words
        outputs = self.base(**inputs).last_hidden_state * self.scale
        return outputs, [torch.stack([layer.keys, layer.values]) for layer in cache.layers]


def _places(settings: Any) -> float:
    """Return how many tokens a network has places for; T5, whose places are relative, has no limit."""
    return float(settings.n_positions) if settings.model_type == "gpt2" else math.inf


class PretrainedVAE(TextVAE):
    """The VAE of pretrained networks or, without z, the language model. Encoder and decoder share no weights.

    `freeze` names the parts of the checkpoints that are not trained: `encoder`, `decoder` (with its output
    layer) or `embeddings` (of words and places, of both, which are GPT-2's and T5's output layer, too). What
    is new is always trained: mean and logvar, what z reaches the decoder by, and the vector of `<unk>`.
    """

    encoder: Any
    decoder: Any

    def __init__(self, config: PretrainedModel, vocabulary: Vocabulary) -> None:
        decoder = PretrainedDecoder(config, vocabulary)
        super().__init__(config, PretrainedEncoder(config, vocabulary) if config.latent else None, decoder)
        self._initialise()
        self._freeze(config.freeze)
        self.places = _places(decoder.settings) + 1 - (config.prefix if decoder.prompt is not None else 0)
        if self.encoder is not None:
            self.places = min(self.places, _places(self.encoder.network.config))
        self.marks = marks(vocabulary, cast(Any, decoder.output).ids)

    def refuse(self, corpus: Corpus, where: str) -> None:
        """Raise UserError for sentences that are longer than the networks, or hold a mark of a text's end."""
        if longer := int((corpus.lengths > self.places).sum()):
            raise UserError(
                f"{where}: {longer:,} sentences need more than the {self.places:.0f} places of the pretrained"
                f" network, up to {corpus.lengths.max():,}: leave them out (dataset.longest counts words)"
            )
        for number, word in self.marks.items():
            own = len(corpus) if number in (BOS, EOS) else 0  # where each sentence begins and ends
            if inside := int((corpus.tokens == number).sum()) - own:
                raise UserError(
                    f"{where}: {word} marks the end of a text for the pretrained network, and stands in"
                    f" sentences, {inside:,} in all: leave it out"
                )

    def _initialise(self) -> None:
        """Draw the weights that are new."""
        new = [self.decoder.memory, self.decoder.prompt]
        new += [self.encoder.mean, self.encoder.logvar] if self.encoder is not None else []
        for layer in filter(None, new):
            nn.init.normal_(layer.weight, std=STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def _freeze(self, parts: Sequence[str]) -> None:
        networks = [self.decoder.base] + ([self.encoder.network] if self.encoder is not None else [])
        if "decoder" in parts:
            self.decoder.base.requires_grad_(False)
            self.decoder.output.requires_grad_(False)
        if "encoder" in parts and self.encoder is not None:
            self.encoder.network.requires_grad_(False)
        if "embeddings" in parts:
            for part in networks:
                part.get_input_embeddings().requires_grad_(False)
                if hasattr(part, "wpe"):
                    part.wpe.requires_grad_(False)

    def files(self) -> dict[str, str]:
        """Return the architecture of both networks, which a run keeps beside its weights."""
        parts = {"decoder": self.decoder.settings.to_dict()}
        if self.encoder is not None:
            parts["encoder"] = self.encoder.network.config.to_dict()
        return {ARCHITECTURE: json.dumps(parts, indent=1, default=str) + "\n"}
