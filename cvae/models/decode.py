"""Generation: one word after another, the most likely one or a draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cvae.data.text import BOS, EOS, PAD

State = tuple[Tensor, ...]
COLDEST = 1e-6  # a temperature below it, or above its inverse, is as it is; float32 could not divide by it


class Generator(Protocol):
    """A model that can be asked for the next word. Every tensor of a state has the rows at dim -2."""

    def begin(self, batch: Any, z: Tensor) -> State:
        """The state before the first word, for z [B, Z]; `batch` is what it conditions on."""

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [B, V] of what follows the words [B], and the state that has read them."""


@dataclass(frozen=True)
class SamplingOptions:
    """How a word is chosen.

    temperature: 0 takes the most likely word; otherwise logits are divided by it and a word is drawn.
    top_p: draws come from the smallest set of words with at least this probability (Holtzman et al. 2020).
    forbid: numbers of words that are never chosen; `<pad>` and `<s>` never are.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    forbid: tuple[int, ...] = ()

    def choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """A word for each row: [B] from [B, V]."""
        logits = logits.float().index_fill(-1, logits.new_tensor([PAD, BOS, *self.forbid]).long(), -torch.inf)
        if not self.temperature:
            return logits.argmax(-1)
        shares = torch.softmax(logits / min(max(self.temperature, COLDEST), 1 / COLDEST), -1)
        if self.top_p < 1:
            ranked, words = shares.sort(dim=-1, descending=True, stable=True)
            beyond = ranked.cumsum(-1) - ranked >= self.top_p
            beyond[..., 0] = False  # of a share that rounds to 0, too
            shares = torch.zeros_like(shares).scatter(-1, words, ranked.masked_fill(beyond, 0.0))
        return torch.multinomial(shares, 1, generator=generator)[:, 0]


@torch.no_grad()
def generate(
    model: Generator,
    batch: Any,
    z: Tensor,
    longest: int,
    how: SamplingOptions,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """A sentence for each row of z [B, Z], of at most `longest` words: numbers, no `<s>` or `</s>`."""
    state = model.begin(batch, z)
    words = torch.full((len(z),), BOS, device=z.device)
    ended = torch.zeros_like(words, dtype=torch.bool)
    chosen = []
    for _ in range(longest):
        logits, state = model.step(words, state)
        words = how.choose(logits, generator).masked_fill(ended, EOS)
        ended |= words == EOS
        chosen.append(words)
        if ended.all():
            break
    rows = torch.stack(chosen, 1).tolist() if chosen else [[] for _ in z]
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]
