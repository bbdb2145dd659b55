"""Generation word by word: greedy, or sampled with a temperature and top-p."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cvae.data.vocabulary import BOS, EOS, PAD

State = tuple[Tensor, ...]
CHECK_EVERY = 8  # words after which a GPU is asked whether all sentences have ended: the answer waits for it
LOWEST_TEMPERATURE = 1e-6  # float32 overflows when divided by less; its inverse is the highest


class Autoregressive(Protocol):
    """A model that predicts one word at a time. Every tensor of a state has the rows at dim -2."""

    def begin(self, batch: Any, z: Tensor) -> State:
        """Return the state before the first word, for z [B, Z] and what the model conditions on, `batch`."""

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits [B, V] of the word after `words` [B], and the state after reading these."""


@dataclass(frozen=True)
class SamplingOptions:
    """How the next word is chosen.

    temperature: 0 takes the most likely word; otherwise a word is drawn from softmax(logits / temperature).
    top_p: draw from the smallest set of words with at least this probability (Holtzman et al. 2020).
    forbid: numbers of words that are never chosen, beside `<pad>` and `<s>`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    forbid: tuple[int, ...] = ()

    def choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a word for each row of the logits [B, V]: [B]."""
        logits = logits.to(torch.float32, copy=True)
        for number in (PAD, BOS, *self.forbid):  # a tensor of them would be a copy that a GPU waits for
            logits[..., number].fill_(-torch.inf)
        if not self.temperature:
            return logits.argmax(-1)
        temperature = min(max(self.temperature, LOWEST_TEMPERATURE), 1 / LOWEST_TEMPERATURE)
        probabilities = torch.softmax(logits / temperature, -1)
        if self.top_p < 1:
            ranked, words = probabilities.sort(dim=-1, descending=True, stable=True)
            beyond = ranked.cumsum(-1) - ranked >= self.top_p
            beyond[..., 0] = False  # even where top_p rounds to 0
            kept = ranked.masked_fill(beyond, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, words, kept)
        # torch.multinomial draws the same words, but looks at the probabilities first, which waits for a GPU
        noise = torch.empty_like(probabilities).exponential_(generator=generator)
        return (probabilities / noise).argmax(-1)


@torch.no_grad()
def generate(
    model: Autoregressive,
    batch: Any,
    z: Tensor,
    longest: int,
    options: SamplingOptions,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Return a sentence for each row of z [B, Z]: at most `longest` word numbers, no `<s>` or `</s>`."""
    state = model.begin(batch, z)
    words = torch.full((len(z),), BOS, device=z.device)
    ended = torch.zeros_like(words, dtype=torch.bool)
    columns, check_every = [], 1 if z.device.type == "cpu" else CHECK_EVERY
    for number in range(1, longest + 1):
        logits, state = model.step(words, state)
        words = options.choose(logits, generator).masked_fill(ended, EOS)
        ended |= words == EOS
        columns.append(words)
        if number % check_every == 0 and ended.all():
            break
    rows: list[list[int]] = torch.stack(columns, 1).tolist() if columns else [[] for _ in z]
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]
