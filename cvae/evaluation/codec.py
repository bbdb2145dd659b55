"""From sentences to z and back: a model with its vocabulary, no corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cvae.config.messages import listing
from cvae.data.text import Batch, Corpus, bucketed
from cvae.data.vocabulary import RESERVED, WHY_RESERVED, Vocabulary, words_of
from cvae.errors import UserError
from cvae.evaluation import latent
from cvae.models import objective
from cvae.models.decode import SamplingOptions, generate
from cvae.models.gaussian import Gaussian
from cvae.models.text import TextVAE

READ_AT_ONCE = 256  # sentences
WRITTEN_AT_ONCE = 1024  # sentences, divided by the width of the beam


@dataclass(frozen=True)
class Codec:
    """A model of single sentences in evaluation mode, and the vocabulary that it reads and writes by."""

    model: TextVAE
    vocabulary: Vocabulary

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def known(self, text: str) -> str:
        """Return a text as the model reads it."""
        return self.vocabulary.join(self.vocabulary.known(self.vocabulary.split(text)))

    def unknown(self, texts: Iterable[str]) -> Counter[str]:
        """Return the tokens that the model reads as `<unk>`, and how often each occurs."""
        index = self.vocabulary.index
        return Counter(token for text in texts for token in self.vocabulary.split(text) if token not in index)

    def corpus(self, texts: Sequence[str]) -> Corpus:
        """Return texts as numbers. Raises UserError for reserved words and what the model cannot read."""
        for number, text in enumerate(texts, start=1):
            if reserved := RESERVED & set(words_of(text)):
                raise UserError(f"sentence {number}: {listing(reserved)}: {WHY_RESERVED}")
        corpus = Corpus(self.vocabulary.encode_texts(texts), len(self.vocabulary), self.device)
        self.model.refuse(corpus, "text")
        return corpus

    def encode(self, texts: Sequence[str]) -> Gaussian:
        """Return q(z | x) of each text: mean and logvar [N, Z]."""
        return Gaussian(*self._of_batches(texts, self.model.posterior))

    def arrays(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of q(z | x) of each text, float32 [N, Z]."""
        q = self.encode(texts)
        return q.mean.float().cpu().numpy(), torch.exp(0.5 * q.logvar.float()).cpu().numpy()

    def bound(self, texts: Sequence[str], noise: torch.Generator) -> Tensor:
        """Return -ELBO of each text with one sample of z, in nats, the NLL where there is no z: [N]."""

        def measure(batch: Batch) -> tuple[Tensor]:
            terms = objective.terms(self.model, batch, generator=noise)
            return (terms.nll.double() + terms.kl.double().sum(-1),)

        return self._of_batches(texts, measure)[0]

    def nll(self, texts: Sequence[str], samples: int, chunk: int, noise: torch.Generator) -> Tensor:
        """Return the importance-weighted NLL of each text, in nats: [N] (see `latent.log_weights`)."""

        def measure(batch: Batch) -> tuple[Tensor]:
            return (latent.weighted_nll(latent.log_weights(self.model, batch, samples, chunk, noise)),)

        return self._of_batches(texts, measure)[0]

    @torch.no_grad()
    def decode(self, z: Tensor, options: SamplingOptions, longest: int, noise: torch.Generator) -> list[str]:
        """Return a sentence for each row of z [N, Z], of at most `longest` tokens."""
        parts = z.split(max(1, WRITTEN_AT_ONCE // options.beam))
        rows = [row for part in parts for row in generate(self.model, None, part, longest, options, noise)]
        return [self.vocabulary.sentence(row) for row in rows]

    @torch.no_grad()
    def _of_batches(
        self, texts: Sequence[str], measure: Callable[[Batch], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Return what is measured of batches of similar length, its rows in the order of the texts."""
        self.model.eval()
        corpus = self.corpus(texts)
        members = bucketed(corpus.lengths, READ_AT_ONCE, seed=0)
        parts = zip(*(measure(corpus.batch(rows)) for rows in members), strict=True)
        order = torch.from_numpy(np.argsort(np.concatenate(members))).to(self.device)
        return tuple(torch.cat(part)[order] for part in parts)
