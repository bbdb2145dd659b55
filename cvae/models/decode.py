"""Generation word by word: greedy, sampled with a temperature and top-p, or by beam search."""

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
    beam: sentences that a beam search keeps; 1 is none. It draws nothing, so it needs temperature 0.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    forbid: tuple[int, ...] = ()
    beam: int = 1

    def choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a word for each row of the logits [B, V]: [B]."""
        logits = self.allowed(logits.to(torch.float32, copy=True))
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

    def allowed(self, logits: Tensor) -> Tensor:
        """Set logits or log-probabilities [..., V] of words that are never chosen to -inf, in place."""
        for number in (PAD, BOS, *self.forbid):  # a tensor of them would be a copy that a GPU waits for
            logits[..., number].fill_(-torch.inf)
        return logits


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
    if options.beam > 1:
        return beam_search(model, batch, z, longest, options)
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
    return _until_the_end(torch.stack(columns, 1)) if columns else [[] for _ in z]


@torch.no_grad()
def beam_search(
    model: Autoregressive, batch: Any, z: Tensor, longest: int, options: SamplingOptions
) -> list[list[int]]:
    """Return the likeliest sentence that a beam of K = `options.beam` finds for each row of z [B, Z].

    After each word the K likeliest beginnings are kept, ended ones among them: likeliest by the sum of the
    log-probabilities of all words and `</s>`, which is not divided by the length, so that a wider beam comes
    closer to the most likely sentence of the model, often a short one. What has not ended after `longest`
    words is cut there and counts with these. K = 1 is greedy; no fewer than all sentences is exact.
    """
    beam, first = options.beam, torch.arange(len(z), device=z.device)[:, None] * options.beam
    state = tuple(part.repeat_interleave(beam, -2) for part in model.begin(batch, z))
    words = torch.full((len(z) * beam,), BOS, device=z.device)
    scores = z.new_full((len(z), beam), -torch.inf, dtype=torch.float32)
    scores[:, 0] = 0  # the only beginning; the others are not there yet, and -inf keeps them so
    ended = torch.zeros_like(scores, dtype=torch.bool)
    beginnings = words.new_empty(len(z), beam, 0)
    for _ in range(longest):
        logits, state = model.step(words, state)
        steps = options.allowed(logits.float().log_softmax(-1)).view(len(z), beam, -1)
        stays = torch.full_like(steps[0, 0], -torch.inf).index_fill(0, words.new_tensor([EOS]), 0.0)
        steps = torch.where(ended[..., None], stays, steps)
        scores, best = (scores[..., None] + steps).flatten(1).topk(beam)
        parents, chosen = best // steps.size(-1), best % steps.size(-1)
        kept = beginnings.gather(1, parents[..., None].expand(-1, -1, beginnings.size(-1)))
        beginnings = torch.cat([kept, chosen[..., None]], -1)
        ended, words, rows = chosen == EOS, chosen.flatten(), (first + parents).flatten()
        state = tuple(part.index_select(-2, rows) for part in state)
        if ended[:, 0].all():  # scores only fall, so nothing overtakes a sentence that leads and has ended
            break
    return _until_the_end(beginnings[:, 0])


def _until_the_end(words: Tensor) -> list[list[int]]:
    """Return each row of word numbers [B, T] up to its first `</s>`."""
    rows: list[list[int]] = words.tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]
