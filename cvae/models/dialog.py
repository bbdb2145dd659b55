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
from cvae.data.text import UNK, Vocabulary
from cvae.errors import UserError
from cvae.models.decode import State
from cvae.models.gaussian import Gaussian
from cvae.models.kernels.gru import GRU
from cvae.models.kernels.output import layer_nll

PEOPLE = 8  # numbers that describe the responder and the other speaker


class DialogVAE(nn.Module):
    """p(response | z, c) with the learned prior p(z | c); c is the topic, the speakers and the context.

    z and c reach the decoder through its initial state only. `topics` are those of the train split; another
    one is a vector of zeros. Unlike TensorFlow's GRU, torch's applies the reset gate after the recurrent
    product and has a second bias for it.
    """

    def __init__(self, config: DialogModel, vocabulary: Vocabulary, topics: int) -> None:
        super().__init__()
        self.config, words = config, len(vocabulary)
        self.from_vectors = 0  # words whose vectors come from `config.vectors`
        self.embedding = nn.Embedding(words, config.embed)
        self.topic = nn.Embedding(topics, config.topic)
        self.utterance = GRU(config.embed, config.utterance, bidirectional=True)
        self.context = GRU(2 * config.utterance + 2, config.context)
        condition = config.topic + PEOPLE + config.context
        self.recognition = nn.Linear(condition + 2 * config.utterance, 2 * config.latent)
        self.prior_net = nn.Sequential(
            nn.Linear(condition, config.prior), nn.Tanh(), nn.Linear(config.prior, 2 * config.latent)
        )
        self.bag = None
        if config.bow:
            self.bag = nn.Sequential(
                nn.Linear(condition + config.latent, config.bow_hidden),
                nn.Tanh(),
                nn.Linear(config.bow_hidden, words),
            )
        self.start = nn.Linear(condition + config.latent, config.decoder)
        self.decoder = GRU(config.embed, config.decoder)
        self.output = nn.Linear(config.decoder, words)
        self._initialise(vocabulary)

    def _initialise(self, vocabulary: Vocabulary) -> None:
        """As the authors': uniform ±init, Xavier for the linear layers, gate biases 1, other biases 0."""
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
            self._take_vectors(vocabulary)

    def _take_vectors(self, vocabulary: Vocabulary) -> None:
        """Word vectors from `config.vectors`; a word that it does not have keeps its random one.

        The authors read GloVe, too, but their initialiser then overwrites it (protocol B5.1).
        """
        path = Path(self.config.vectors)
        found, known = vectors.read(path, vocabulary)
        if found.shape[1] != self.config.embed:
            raise UserError(
                f"model.embed must be {found.shape[1]}, as in model.vectors={path}, found {self.config.embed}"
            )
        with torch.no_grad():
            self.embedding.weight[torch.from_numpy(known)] = torch.from_numpy(found[known])
        self.from_vectors = int(known.sum())

    def shared(self, batch: ResponseBatch, plain: bool = False) -> ResponseBatch:
        """The batch with `condition` and `heard`: each different utterance is encoded once.

        `plain` asks for operations that can be differentiated twice; they cost more time.
        """
        if batch.condition is not None:
            return batch
        words = batch.texts._replace(data=self.embedding(batch.texts.data))
        texts = torch.cat(list(self.utterance(words, plain=plain)[1]), 1)
        floors = torch.stack([batch.floors, 1 - batch.floors], 1)
        before = torch.cat([texts[batch.contexts.data], floors], 1)
        context = self.context(batch.contexts._replace(data=before), plain=plain)[1][0]
        topic = self.topic(batch.topics.clamp(min=0)) * (batch.topics >= 0)[:, None]
        condition = torch.cat([topic, batch.people, context], 1)
        return replace(batch, condition=condition, heard=texts[batch.responses])

    @property
    def encoder(self) -> nn.Module:
        """What q(z | response, c) alone is made of."""
        return self.recognition

    def prior(self, batch: ResponseBatch) -> Gaussian:
        """p(z | c): mean and logvar [B, Z]."""
        return Gaussian(*self.prior_net(self.shared(batch).condition).chunk(2, -1))

    def posterior(self, batch: ResponseBatch) -> Gaussian:
        """q(z | response, c): mean and logvar [B, Z]."""
        batch = self.shared(batch)
        both = torch.cat([batch.condition, batch.heard], 1)
        return Gaussian(*self.recognition(both).chunk(2, -1))

    def decode_nll(self, batch: ResponseBatch, z: Tensor, plain: bool = False) -> Tensor:
        """-log p(response | z, c) in nats per response: [B]; for z [K, B, Z] [K, B].

        `plain` asks for operations that can be differentiated twice; they cost more time and memory.
        """
        several = z if z.dim() == 3 else z[None]
        samples, inputs = len(several), batch.inputs
        start = self._begin(self.shared(batch), several)[:, inputs.sorted_indices].transpose(0, 1)
        words = self._drop(self.embedding(self._without_some(inputs.data, len(start))))
        # the K samples of a response are neighbours, so that all K B of them are sorted by length, too
        packed = PackedSequence(words.repeat_interleave(samples, 0), inputs.batch_sizes * samples)
        states = self._drop(self.decoder(packed, start.flatten(0, 1)[None].contiguous(), plain)[0].data)
        targets = batch.targets.repeat_interleave(samples)
        nll = layer_nll(self.output, states, targets, plain).view(-1, samples)
        total = nll.new_zeros(len(batch.lengths), samples).index_add(0, batch.owners, nll).T
        return total if z.dim() == 3 else total[0]

    def extra_losses(self, batch: ResponseBatch, z: Tensor) -> dict[str, Tensor]:
        """Return the bag-of-words loss of z [B, Z] as `bow` [B], nothing for a model without it."""
        return {} if self.bag is None else {"bow": self.bag_nll(batch, z)}

    def bag_nll(self, batch: ResponseBatch, z: Tensor) -> Tensor:
        """Return -log p(word | z, c) summed over the tokens of each response, in nats: [B], for z [B, Z].

        One distribution for all words and `</s>`, whatever their order.
        """
        scores = self.bag(torch.cat([self.shared(batch).condition, z], -1)).to(z.dtype).log_softmax(-1)
        nll = -scores[batch.owners, batch.targets]
        return nll.new_zeros(len(z)).index_add(0, batch.owners, nll)

    def begin(self, batch: ResponseBatch, z: Tensor) -> State:
        """For `decode`: the state before the first word, z [B, Z]; it depends on `batch.condition`."""
        return (self._begin(self.shared(batch), z),)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [B, V] of what follows the words [B], and the state that has read them."""
        outputs, after = self.decoder(self.embedding(words)[None], state[0][None])
        return self.output(outputs[0]), (after[0],)

    def _begin(self, batch: ResponseBatch, z: Tensor) -> Tensor:
        """The decoder's first state: [..., B, H] for z [..., B, Z]."""
        condition = batch.condition.expand(*z.shape[:-1], -1)
        return self.start(torch.cat([condition, z], -1))

    def _drop(self, found: Tensor) -> Tensor:
        return functional.dropout(found, self.config.dropout, self.training)

    def _without_some(self, inputs: Tensor, firsts: int) -> Tensor:
        """Word dropout: in training, words become `<unk>`, but for the `firsts`, which are `<s>`."""
        if not (self.training and self.config.word_dropout):
            return inputs
        gone = torch.rand(inputs.shape, device=inputs.device) < self.config.word_dropout
        gone[:firsts] = False
        return inputs.masked_fill(gone, UNK)
