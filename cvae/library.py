"""A trained model of sentences, to be used from Python.

    import cvae

    vae = cvae.load("outputs/ptb/default")      # a run, an exported folder, or owner/name of the hub
    mean, std = vae.encode(["stocks fell", "the company said it agreed"])
    vae.decode(mean)                            # list[str]
    vae.sample(10, temperature=1.0, top_p=0.9)
    vae.interpolate("stocks fell", "the company said it agreed", 7)
    vae.nll(["stocks fell"], samples=100)       # nats

Sentences are text as the corpus was written: they are split by the run's own vocabulary or tokenizer, and
tokens that it does not know are read as `<unk>`. Each of these is warned about once (`UnknownTokens`);
`unknown` counts them. No corpus is needed. Mistakes raise `cvae.errors.UserError`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cvae.config.schema import Config
from cvae.data.vocabulary import UNK
from cvae.errors import UserError
from cvae.evaluation.samples import Sampler
from cvae.models.decode import SamplingOptions
from cvae.runs import hub
from cvae.runs.folder import RunFolder
from cvae.tasks.language_model import LanguageTask
from cvae.training.standalone import without_corpus

Floats = NDArray[np.float32]
SHOWN = 10  # unknown tokens that a warning names


class UnknownTokens(UserWarning):
    """Tokens of a sentence are read as `<unk>`."""


class Codes(NamedTuple):
    """Posteriors q(z | x) of N sentences: mean and standard deviation [N, Z]."""

    mean: Floats
    std: Floats


class Choice(TypedDict, total=False):
    """How words are chosen. All of it may be left out.

    temperature: 0, the default, takes the likeliest word; otherwise words are drawn at this temperature.
    top_p: words are drawn from the smallest set with this probability; 1.
    beam: sentences that a beam search keeps; 1, which is none.
    longest: tokens at most; 60.
    no_unk: whether `<unk>` is never chosen; False.
    seed: of drawn words, and of z from the prior; 0.
    """

    temperature: float
    top_p: float
    beam: int
    longest: int
    no_unk: bool
    seed: int


def load(
    source: str | Path,
    checkpoint: Literal["best", "last"] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> VAE:
    """Return the model of a run folder, of a folder that `export` wrote, or of the Hugging Face hub.

    A name `owner/name` or `owner/name@revision` that is no folder here is fetched: safetensors, JSON and
    text only. `checkpoint` is by default the one that the run's results are of. Raises UserError for what is
    no model of single sentences, and for unusable files.
    """
    return VAE(without_corpus(RunFolder(hub.local(str(source))), device, checkpoint))


class VAE:
    """A trained model of sentences; `load` makes it. `latent` is the size Z of z, `config` its run's."""

    def __init__(self, task: LanguageTask) -> None:
        self.task, self.codec = task, task.codec
        self.config: Config = task.config
        self.latent: int = task.config.model.latent
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        words, device = len(self.codec.vocabulary), self.codec.device
        return f"VAE(z of {self.latent}, {words:,} tokens, {self.config.schedule.name}, on {device})"

    def encode(self, sentences: Sequence[str]) -> Codes:
        """Return mean and std [N, Z] of q(z | x). The empty sentence has a z, too."""
        if not (texts := self._read(sentences)):
            return Codes(*np.zeros((2, 0, self.latent), np.float32))
        return Codes(*self.codec.arrays(texts))

    def decode(self, z: ArrayLike, **choice: Unpack[Choice]) -> list[str]:
        """Return a sentence for each row of z [N, Z]. For `choice` see `Choice`."""
        rows = np.asarray(z, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.latent or not np.isfinite(rows).all():
            raise UserError(f"z must be finite numbers [N, {self.latent}], found {list(rows.shape)}")
        if not len(rows):
            return []
        sampler = self._sampler(choice)
        return sampler.decoded(torch.from_numpy(rows.copy()).to(self.codec.device))

    def sample(self, n: int, **choice: Unpack[Choice]) -> list[str]:
        """Return n sentences with z from N(0, I), drawn by the seed. For `choice` see `Choice`."""
        self._refuse_autoencoder("no prior to draw from")
        if n < 1:
            raise UserError(f"n must be at least 1 sentence, found {n}")
        return self._sampler(choice).prior(n)["prior"]

    def interpolate(self, a: str, b: str, points: int = 7, **choice: Unpack[Choice]) -> list[str]:
        """Return the decodings of `points` places on the line between two posterior means, both included."""
        if points < 2:
            raise UserError(f"points must be at least 2, the two ends, found {points}")
        first, last = self._read([a, b])
        places = self._sampler(choice).interpolation(first, last, points)["interpolation"]["places"]
        return [place["sentence"] for place in places]

    def nll(self, sentences: Sequence[str], samples: int = 1, seed: int = 0) -> NDArray[np.float64]:
        """Return -log p(x) of each sentence and its end, in nats: [N], or what bounds it from above.

        With one sample this is -ELBO, rec + KL at β = 1; with more the importance-weighted NLL (Burda et al.
        2016), which falls to -log p(x) as samples grow; without z it is exact. The same sentences in the
        same order give the same numbers. Raises UserError for an autoencoder, which has no likelihood.
        """
        self._refuse_autoencoder("no likelihood")
        if samples < 1:
            raise UserError(f"samples must be at least 1, found {samples}")
        if not (texts := self._read(sentences)):
            return np.zeros(0)
        noise = self.task.generator(seed)
        if samples == 1 or not self.latent:
            return self.codec.bound(texts, noise).cpu().numpy()
        return self.codec.nll(texts, samples, self.config.task.iw_chunk, noise).cpu().numpy()

    def unknown(self, sentences: Sequence[str]) -> dict[str, int]:
        """Return the tokens that the model does not know and how often each occurs, most frequent first."""
        return dict(self.codec.unknown(_texts(sentences)).most_common())

    def _read(self, sentences: Sequence[str]) -> list[str]:
        """Return the sentences as a list; warn about tokens that are unknown and not yet warned about."""
        texts = _texts(sentences)
        if new := [token for token in self.unknown(texts) if token not in self._warned]:
            self._warned.update(new)
            more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
            message = f"read as <unk>: {' '.join(new[:SHOWN])}{more}"
            warnings.warn(message, UnknownTokens, stacklevel=3)
        return texts

    def _refuse_autoencoder(self, what: str) -> None:
        if self.config.autoencoder:
            raise UserError(f"an autoencoder (schedule=none) has {what}")

    def _sampler(self, choice: Choice) -> Sampler:
        """Return what decodes as chosen. Raises UserError for values that make no sense."""
        if unread := choice.keys() - Choice.__annotations__.keys():
            raise TypeError(f"unexpected {', '.join(sorted(unread))}: see cvae.library.Choice")
        temperature, top_p = choice.get("temperature", 0.0), choice.get("top_p", 1.0)
        beam, longest = choice.get("beam", 1), choice.get("longest", 60)
        if not (0 <= temperature < float("inf") and 0 < top_p <= 1 and beam >= 1 and longest >= 1):
            raise UserError(
                "temperature must be 0 or above, top_p above 0 and at most 1, beam and longest 1 or more"
            )
        if beam > 1 and temperature:
            raise UserError("a beam search draws nothing: temperature must be 0 with it")
        forbid = (UNK,) if choice.get("no_unk") else ()
        options = SamplingOptions(temperature, top_p, forbid, beam)
        return Sampler(self.task, options, longest, choice.get("seed", 0))


def _texts(sentences: Sequence[str]) -> list[str]:
    """Return sentences as a list. Raises UserError for one text, whose letters would be sentences."""
    if isinstance(sentences, str) or not all(isinstance(text, str) for text in sentences):
        raise UserError("sentences must be a list of texts, as in ['stocks fell']")
    return list(sentences)
