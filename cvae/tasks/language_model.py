"""Language modelling: a VAE of single sentences."""

from __future__ import annotations

from typing import Any

from cvae.config.schema import Config
from cvae.data.text import Batch, Batches, Corpus, Splits, fixed_subset
from cvae.errors import UserError
from cvae.evaluation import samples
from cvae.evaluation.codec import Codec
from cvae.evaluation.metrics import perplexity
from cvae.models.normalisation import normalisation
from cvae.models.text import TextVAE
from cvae.tasks.base import Task, estimate_population


class LanguageTask(Task):
    """Language modelling: the ELBO, the likelihood, and how much of it goes through z."""

    model: TextVAE

    def __init__(self, config: Config, model: TextVAE, data: Splits) -> None:
        super().__init__(config, model, data)
        if "train" in self.batches and normalisation(model.inference_network()) is not None:
            refuse_single_sentences(self.batches["train"])

    @property
    def codec(self) -> Codec:
        """The model, put into evaluation mode, and its vocabulary."""
        self.model.eval()
        estimate_population(self, self.model.encoder)
        return Codec(self.model, self.data.vocabulary)

    def make_batches(self, corpus: Corpus) -> Batches:
        dataset: Any = self.config.dataset
        return Batches(corpus, dataset.sampler, self.config.train.batch_size, self.config.seed)

    def words(self, batch: Batch) -> list[str]:
        return [self.data.vocabulary.sentence(row) for row in batch.tokens.tolist()]

    def per_word(self, split: str, values: dict[str, float]) -> dict[str, float]:
        """Return word_ppl and iw_word_ppl: exp(nats / words of the raw text), each sentence's end a word.

        Equal to ppl and iw_ppl where tokens are words; comparable between runs whatever their tokens are,
        as long as none of these is unknown.
        """
        words, perplexities = self.data.corpora[split].words, {}
        for name, nats, count in (("word_ppl", "elbo", None), ("iw_word_ppl", "iw_nll", "iw_sentences")):
            rows = fixed_subset(getattr(self.settings, count) if count else None, len(words))
            for kind in ("", "refined_"):
                if kind + nats in values:
                    total = abs(values[kind + nats]) * len(rows)
                    perplexities[kind + name] = perplexity(total, int(words[rows].sum()) + len(rows))
        return perplexities

    def preview(self) -> str:
        with self.eval_mode():
            return samples.glimpse(self)

    def page(self) -> str:
        return samples.overview(self)


def refuse_single_sentences(batches: Batches) -> None:
    """Raise UserError where a batch holds one sentence only, be it several times: it has no variance."""
    if single := sum(bool((batch.tokens == batch.tokens[0]).all()) for batch in batches):
        raise UserError(
            "model.batch_norm needs different sentences in every training batch, and"
            f" {single} of {len(batches)} hold one only: another train.batch_size helps"
        )
