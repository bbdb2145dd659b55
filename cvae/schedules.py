"""The weight β of the KL term, and the learning rate, as pure functions of the optimizer step.

Fu et al. (2019), "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing". No torch, no
Hydra, no state: `Cyclical(cycles=4, ratio=0.5)(step, total)` is β at `step` of `total`; the first is step 0.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from cvae.ranges import Checked, Count, Share

Shape = Literal["linear", "sigmoid", "cosine"]
Beta = Annotated[float, Ge(0)]
Rate = Annotated[float, Gt(0)]


def ramp(shape: Shape, v: float) -> float:
    """Return how far a ramp has risen after the share `v` in [0, 1) of its length.

    The sigmoid is the logistic of 12v - 6 without normalisation (0.0025 to 0.9975) and the cosine is
    1/2 - 1/2 cos(πv), as in the paper's notebook.
    """
    if shape == "linear":
        return v
    if shape == "sigmoid":
        return 1 / (1 + math.exp(6 - 12 * v))
    if shape == "cosine":
        return 0.5 - 0.5 * math.cos(math.pi * v)
    raise ValueError(f"shape must be linear, sigmoid or cosine, found {shape!r}")


def cycle_position(step: int, total: int, cycles: int) -> float:
    """Return τ in [0, 1): the share of the current cycle that lies behind `step`.

    Integer arithmetic, so that cycle c starts at the first step >= c * total / cycles for any total.
    """
    return (step * cycles) % total / total


def check_step(step: int, total: int) -> None:
    """Raise ValueError where `step` is negative or there is nothing to schedule."""
    if step < 0 or total < 1:
        raise ValueError(f"a schedule needs step >= 0 and total >= 1, found {step} and {total}")


@dataclass(frozen=True)
class Constant(Checked):
    """β = `stop` at every step; 1 is the plain VAE, below 1 the β-VAE of Higgins et al. (2017)."""

    stop: Beta = 1.0
    name: Literal["constant"] = field(default="constant", kw_only=True)

    def __call__(self, step: int, total: int) -> float:
        check_step(step, total)
        return self.stop


@dataclass(frozen=True)
class Cyclical(Checked):
    """β rises from `start` to `stop` during the share `ratio` of each of `cycles` cycles, then stays.

    β = start + (stop - start) * shape(τ / ratio) while τ < ratio, else stop, with τ the position in the
    cycle (Fu et al. 2019, equations 6 and 7). After the last step β is `stop`.
    """

    start: Beta = 0.0
    stop: Beta = 1.0
    cycles: Count = 4
    ratio: Share = 0.5
    shape: Shape = "linear"
    name: Literal["cyclical"] = field(default="cyclical", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        ramp(self.shape, 0.0)

    def __call__(self, step: int, total: int) -> float:
        check_step(step, total)
        tau = cycle_position(step, total, self.cycles)
        if step >= total or tau >= self.ratio:
            return self.stop
        return self.start + (self.stop - self.start) * ramp(self.shape, tau / self.ratio)


@dataclass(frozen=True)
class Monotonic(Checked):
    """β rises once, during the first share `ratio` of training: one cycle of `Cyclical`."""

    start: Beta = 0.0
    stop: Beta = 1.0
    ratio: Share = 0.25
    shape: Shape = "linear"
    name: Literal["monotonic"] = field(default="monotonic", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        ramp(self.shape, 0.0)

    def __call__(self, step: int, total: int) -> float:
        return Cyclical(self.start, self.stop, 1, self.ratio, self.shape)(step, total)


@dataclass(frozen=True)
class Autoencoder(Checked):
    """β = 0: `schedule=none`, the deterministic autoencoder, whose z is the posterior mean."""

    name: Literal["none"] = field(default="none", kw_only=True)

    def __call__(self, step: int, total: int) -> float:
        check_step(step, total)
        return 0.0


@dataclass(frozen=True)
class _Rate(Checked, abc.ABC):
    """Base of learning rates: the initial value and a linear warm-up, in steps."""

    value: Rate = 1e-3
    warmup: Annotated[int, Ge(0)] = 0

    @abc.abstractmethod
    def factor(self, step: int, total: int, epoch: int) -> float:
        """Return the share of `value` at `step` of `total`, before warm-up."""

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        """Return the learning rate at `step` of `total`; `epoch` is the number of steps in an epoch."""
        check_step(step, total)
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.value * rise * self.factor(step, total, epoch)


@dataclass(frozen=True)
class ConstantRate(_Rate):
    """The same learning rate at every step."""

    name: Literal["constant"] = field(default="constant", kw_only=True)

    def factor(self, step: int, total: int, epoch: int) -> float:
        return 1.0


@dataclass(frozen=True)
class CosineRestarts(_Rate):
    """Cosine decay to 0 with warm restarts: SGDR, Loshchilov and Hutter (2017), equation 5.

    A period lasts `period` steps or, where that is None, one of `cycles` equal parts of training. With
    `per="epoch"` the rate changes at the first step of an epoch only, as in the authors' PTB script.
    """

    period: Count | None = None
    cycles: Count = 4
    per: Literal["update", "epoch"] = "update"
    name: Literal["cosine_restarts"] = field(default="cosine_restarts", kw_only=True)

    def factor(self, step: int, total: int, epoch: int) -> float:
        if self.per == "epoch":
            step -= step % epoch
        position = (
            cycle_position(step, total, self.cycles)
            if self.period is None
            else step % self.period / self.period
        )
        return 0.5 * (1 + math.cos(math.pi * position))


@dataclass(frozen=True)
class Exponential(_Rate):
    """The rate is multiplied by `decay` over `every` steps, continuously."""

    decay: Annotated[float, Gt(0), Le(1)] = 0.99
    every: Count = 1000
    name: Literal["exponential"] = field(default="exponential", kw_only=True)

    def factor(self, step: int, total: int, epoch: int) -> float:
        return self.decay ** (step / self.every)


Schedule = Constant | Monotonic | Cyclical | Autoencoder
LearningRate = ConstantRate | CosineRestarts | Exponential


@dataclass(frozen=True)
class Stage:
    """What follows the `end` of a run that another one continues: does `beta`, does `lr` go on, or hold?"""

    end: Count
    beta: bool
    lr: bool


@dataclass(frozen=True)
class Rates:
    """β and the learning rate of every step of a run, which may continue others.

    `total` is the T of the first of them, with one stage for each run that was continued. Up to a stage's end
    nothing changes, however much longer T becomes: both are read off a clock that counts the steps and, where
    a stage holds, stands still at its last value. Cycles of β repeat those of the first `total` steps.
    """

    schedule: Schedule
    lr: LearningRate
    total: int
    epoch: int = 1
    stages: tuple[Stage, ...] = ()

    def __call__(self, step: int) -> tuple[float, float]:
        """Return β and the learning rate of a step."""
        beta = self._clock(step, [stage.beta for stage in self.stages]) % self.total
        lr = self._clock(step, [stage.lr for stage in self.stages])
        return self.schedule(beta, self.total), self.lr(lr, self.total, self.epoch)

    def _clock(self, step: int, goes_on: list[bool]) -> int:
        """Return how far the clock is at `step`: behind it by the steps that it stood still."""
        ends = [*(stage.end for stage in self.stages), step + 1]
        stood = [
            0 if moves else max(0, min(step + 1, following) - end)
            for moves, end, following in zip(goes_on, ends, ends[1:], strict=False)
        ]
        return step - sum(stood)
