"""The conditional VAE of the paper's dialog experiment: protocol B2, the CVAE of Zhao et al. (2017)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from cvae.config.schema import DialogModel
from cvae.data import vectors
from cvae.data.dialogs import ResponseBatch
from cvae.data.vocabulary import UNK, Vocabulary
from cvae.errors import UserError
from cvae.models.decode import State
from cvae.models.gaussian import Gaussian
from cvae.models.kernels.gru import GRU
from cvae.models.kernels.output import layer_nll
from cvae.models.objective import LatentModel


class DialogVAE(LatentModel):
    """p(response | z, c) with the learned prior p(z | c); c is the topic, the speakers and the context.

    z and c reach the decoder through its initial state only. `topics` counts those of the train split; others
    are a vector of 0. `people` numbers describe the speakers. c has no topic, or nothing of the speakers,
    where these are 0. Unlike TensorFlow's GRU, torch's resets after the recurrent product, with its own bias.
    """

    def __init__(self, config: DialogModel, vocabulary: Vocabulary, topics: int, people: int) -> None:
        super().__init__()
        self.config, words = config, len(vocabulary)
        self.from_vectors = 0  # words whose vectors come from `config.vectors`
        self.embedding = nn.Embedding(words, config.embed)
        self.topic = nn.Embedding(topics, config.topic) if topics else None
        self.utterance = GRU(config.embed, config.utterance, bidirectional=True)
        self.context = GRU(2 * config.utterance + 2, config.context)
        condition = (config.topic if topics else 0) + people + config.context
        self.recognition = nn.Linear(condition + 2 * config.utterance, 2 * config.latent)
        self.prior_net = _tanh_network(condition, config.prior, 2 * config.latent)
        bag = _tanh_network(condition + config.latent, config.bow_hidden, words) if config.bow else None
        self.bag = bag
        self.start = nn.Linear(condition + config.latent, config.decoder)
        self.decoder = GRU(config.embed, config.decoder)
        self.output = nn.Linear(config.decoder, words)
        self._initialise(vocabulary)

    def _initialise(self, vocabulary: Vocabulary) -> None:
        """Initialise as the authors: uniform ±init, Xavier for linear layers, gate biases 1, others 0."""
        limit = self.config.init
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.uniform_(module.weight, -limit, limit)
            elif isinstance(module, GRU):
                for name, parameter in module.named_parameters():
                    if name.startswith("weight"):
                        nn.init.uniform_(parameter, -limit, limit)
                    else:
                        nn.init.zeros_(parameter)
                        if name.startswith("bias_ih"):
                            nn.init.ones_(parameter[: 2 * module.hidden_size])
        nn.init.uniform_(self.output.weight, -limit, limit)
        if self.config.vectors is not None:
            self._load_vectors(Path(self.config.vectors), vocabulary)

    def _load_vectors(self, path: Path, vocabulary: Vocabulary) -> None:
        """Copy word vectors from a file; a word that it lacks keeps its random vector.

        The authors read GloVe too, but their initialiser then overwrites it (protocol B5.1).
        """
        rows, known = vectors.read(path, vocabulary)
        if rows.shape[1] != self.config.embed:
            raise UserError(
                f"model.embed must be {rows.shape[1]}, as in model.vectors={path}, found {self.config.embed}"
            )
        with torch.no_grad():
            self.embedding.weight[torch.from_numpy(known)] = torch.from_numpy(rows[known])
        self.from_vectors = int(known.sum())

    def shared(self, batch: ResponseBatch) -> ResponseBatch:
        """Return the batch with `condition` and `heard`: each different utterance is encoded once."""
        if len(batch.condition):
            return batch
        words = batch.texts._replace(data=self.embedding(batch.texts.data))
        texts = torch.cat(list(self.utterance(words)[1]), 1)
        floors = torch.stack([batch.floors, 1 - batch.floors], 1)
        before = torch.cat([texts[batch.contexts.data], floors], 1)
        context = self.context(batch.contexts._replace(data=before))[1][0]
        parts = [batch.people, context]
        if self.topic is not None:
            parts.insert(0, self.topic(batch.topics.clamp(min=0)) * (batch.topics >= 0)[:, None])
        condition = torch.cat(parts, 1)
        return replace(batch, condition=condition, heard=texts[batch.responses])

    def inference_network(self) -> nn.Module:
        return self.recognition

    def prior(self, batch: ResponseBatch) -> Gaussian:
        """Return p(z | c): mean and logvar [B, Z]."""
        return Gaussian(*self.prior_net(self.shared(batch).condition).chunk(2, -1))

    def posterior(self, batch: ResponseBatch) -> Gaussian:
        """Return q(z | response, c): mean and logvar [B, Z]."""
        batch = self.shared(batch)
        both = torch.cat([batch.condition, batch.heard], 1)
        return Gaussian(*self.recognition(both).chunk(2, -1))

    def decode_nll(self, batch: ResponseBatch, z: Tensor) -> Tensor:
        """Return -log p(response | z, c) in nats per response: [B]; for z [K, B, Z] [K, B]."""
        several = z if z.dim() == 3 else z[None]
        samples, inputs = len(several), batch.inputs
        start = self._begin(self.shared(batch), several)[:, inputs.sorted_indices].transpose(0, 1)
        words = self._drop(self.embedding(self._dropped(inputs.data, len(start))))
        # the K samples of a response are neighbours, so that all K B rows are sorted by length, too
        packed = PackedSequence(words.repeat_interleave(samples, 0), inputs.batch_sizes * samples)
        states = self._drop(self.decoder(packed, start.flatten(0, 1)[None].contiguous())[0].data)
        targets = batch.targets.repeat_interleave(samples)
        nll = layer_nll(self.output, states, targets).view(-1, samples)
        total = nll.new_zeros(len(batch.lengths), samples).index_add(0, batch.owners, nll).T
        return total if z.dim() == 3 else total[0]

    def extra_losses(self, batch: ResponseBatch, z: Tensor) -> dict[str, Tensor]:
        """Return `bow`, -log p(word | z, c) summed over the tokens of each response, in nats: [B].

        One distribution for all words and `</s>`, whatever their order. Nothing without `model.bow`.
        """
        if self.bag is None:
            return {}
        scores = self.bag(torch.cat([self.shared(batch).condition, z], -1)).to(z.dtype).log_softmax(-1)
        nll = -scores[batch.owners, batch.targets]
        return {"bow": nll.new_zeros(len(z)).index_add(0, batch.owners, nll)}

    def begin(self, batch: ResponseBatch, z: Tensor) -> State:
        """Return the state before the first word, for z [B, Z] and `batch.condition` (`models.decode`)."""
        return (self._begin(self.shared(batch), z),)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits [B, V] of the word after `words` [B], and the state after reading these."""
        outputs, after = self.decoder(self.embedding(words)[None], state[0][None])
        return self.output(outputs[0]), (after[0],)

    def _begin(self, batch: ResponseBatch, z: Tensor) -> Tensor:
        """Return the decoder's initial state, [..., B, H], for z [..., B, Z]."""
        condition = batch.condition.expand(*z.shape[:-1], -1)
        return self.start(torch.cat([condition, z], -1))

    def _drop(self, features: Tensor) -> Tensor:
        return functional.dropout(features, self.config.dropout, self.training)

    def _dropped(self, inputs: Tensor, firsts: int) -> Tensor:
        """Replace words by `<unk>` in training (word dropout), except the first `firsts`, which are `<s>`."""
        if not (self.training and self.config.word_dropout):
            return inputs
        dropped = torch.rand(inputs.shape, device=inputs.device) < self.config.word_dropout
        dropped[:firsts] = False
        return inputs.masked_fill(dropped, UNK)


def _tanh_network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
