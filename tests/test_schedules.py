"""β and the learning rate: closed forms, the paper's published code, and the authors' PTB runs."""

from __future__ import annotations

import dataclasses
import math
import random
from fractions import Fraction
from typing import Annotated

import pytest
from annotated_types import Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cvae import ranges
from cvae.config import schema
from cvae.schedules import (
    Autoencoder,
    Constant,
    ConstantRate,
    CosineRestarts,
    Cyclical,
    Exponential,
    Monotonic,
    Rates,
    Stage,
)
from tests.helpers import CONF, configured

SHAPES = {
    "linear": lambda v: v,
    "sigmoid": lambda v: 1 / (1 + math.exp(-(12 * v - 6))),
    "cosine": lambda v: 0.5 - 0.5 * math.cos(math.pi * v),
}
BETAS = [Constant(0.7), Autoencoder(), Monotonic(), *(Cyclical(shape=shape) for shape in SHAPES)]
RATES = [
    ConstantRate(2e-3, warmup=7),
    CosineRestarts(2e-3, warmup=7),
    CosineRestarts(period=33),
    Exponential(decay=0.5, every=10),
]
quick = settings(deadline=None, max_examples=50)


def published(n: int, start: float, stop: float, cycles: int, ratio: float, shape: str) -> list[float]:
    """The paper's notebook: β of every update, accumulated step by step as it does."""
    found = [float(stop)] * n
    period = n / cycles
    step = (stop - start) / (period * ratio)
    for cycle in range(cycles):
        v, i = start, 0
        while v <= stop and int(i + cycle * period) < n:
            found[int(i + cycle * period)] = SHAPES[shape](v)
            v += step
            i += 1
    return found


# ---- β ----


@quick
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    start=st.floats(0, 2),
    stop=st.floats(0, 2),
    cycles=st.integers(1, 12),
    ratio=st.floats(0.01, 1),
    total=st.integers(1, 10**6),
    data=st.data(),
)
def test_cyclical_is_equations_6_and_7(shape, start, stop, cycles, ratio, total, data):
    step = data.draw(st.integers(0, total - 1))
    tau = float(Fraction(step * cycles, total) % 1)
    expected = start + (stop - start) * SHAPES[shape](tau / ratio) if tau < ratio else stop
    assert Cyclical(start, stop, cycles, ratio, shape)(step, total) == pytest.approx(expected, abs=1e-9)


@quick
@given(total=st.integers(2, 3000), data=st.data())
def test_cycle_c_starts_at_the_first_update_not_before_c_times_t_over_m(total, data):
    cycles = data.draw(st.integers(1, min(total - 1, 40)))
    schedule = Cyclical(cycles=cycles, ratio=1.0)
    beta = [schedule(step, total) for step in range(total)]
    falls = [step for step in range(1, total) if beta[step] < beta[step - 1]]
    assert falls == [-(-cycle * total // cycles) for cycle in range(1, cycles)]


@quick
@given(cycles=st.integers(1, 12), length=st.integers(1, 3000))
def test_where_t_over_m_is_whole_every_cycle_is_the_same(cycles, length):
    schedule, total = Cyclical(cycles=cycles), cycles * length
    assert [schedule(step, total) for step in range(length)] == [
        schedule(step, total) for step in range(total - length, total)
    ]


@quick
@given(
    cycles=st.integers(1, 8),
    length=st.integers(1, 200),
    ratio=st.one_of(st.floats(0.01, 1), st.sampled_from([0.25, 0.5, 1.0])),
    start=st.floats(0, 0.5),
    stop=st.floats(0.6, 2),
)
def test_linear_equals_the_published_code(cycles, length, ratio, start, stop):
    total = cycles * length
    expected = published(total, start, stop, cycles, ratio, "linear")
    schedule = Cyclical(start, stop, cycles, ratio)
    # where a ramp ends exactly on an update, the published sum may pass `stop` by rounding: stop as well
    assert [schedule(step, total) for step in range(total)] == pytest.approx(expected, abs=1e-9)


@quick
@given(
    shape=st.sampled_from(["sigmoid", "cosine"]),
    cycles=st.integers(1, 8),
    length=st.integers(1, 200),
    ratio=st.one_of(st.floats(0.01, 1), st.sampled_from([0.25, 0.5, 1.0])),
)
def test_sigmoid_and_cosine_equal_the_published_code(shape, cycles, length, ratio):
    total = cycles * length
    expected = published(total, 0.0, 1.0, cycles, ratio, shape)
    schedule = Cyclical(cycles=cycles, ratio=ratio, shape=shape)
    for step in range(total):
        reaches_stop = abs(step % length - length * ratio) < 1e-6
        if shape == "cosine" or not reaches_stop:
            assert schedule(step, total) == pytest.approx(expected[step], abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_papers_figure_of_40000_updates_equals_the_published_code(shape):
    expected = published(40_000, 0.0, 1.0, 4, 0.5, shape)
    schedule = Cyclical(cycles=4, ratio=0.5, shape=shape)
    apart = [
        step
        for step in range(40_000)
        if not math.isclose(schedule(step, 40_000), expected[step], abs_tol=1e-9)
    ]
    assert set(apart) <= ({5_000, 15_000, 25_000, 35_000} if shape == "sigmoid" else set())


@quick
@given(st.sampled_from(sorted(SHAPES)), st.floats(0, 1), st.floats(0.01, 1), st.integers(1, 500), st.data())
def test_monotonic_is_cyclical_with_one_cycle(shape, start, ratio, total, data):
    step = data.draw(st.integers(0, total + 10))
    once = Cyclical(start=start, cycles=1, ratio=ratio, shape=shape)
    assert Monotonic(start=start, ratio=ratio, shape=shape)(step, total) == once(step, total)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_ramp_that_ends_on_an_update_has_reached_stop_there(shape):
    schedule = Cyclical(cycles=4, ratio=0.5, shape=shape)
    assert [schedule(step, 40_000) for step in (5_000, 15_000, 25_000, 35_000)] == [1.0] * 4
    assert all(schedule(step, 40_000) < 1 for step in (4_999, 14_999, 24_999, 34_999))


def test_constant_is_its_value_and_off_is_0():
    assert {Constant(0.25)(step, 100) for step in range(120)} == {0.25}
    assert {Autoencoder()(step, 100) for step in range(120)} == {0.0}


@pytest.mark.parametrize("schedule", [Cyclical(stop=0.8, ratio=1.0), Monotonic(stop=0.8, ratio=1.0)])
def test_past_the_end_beta_is_stop(schedule):
    assert schedule(99, 100) < 0.8
    assert [schedule(step, 100) for step in (100, 101, 125, 10_000)] == [0.8] * 4


# ---- both ----


@pytest.mark.parametrize("group", ["schedule", "lr"])
def test_what_is_not_said_in_python_is_what_the_command_line_has(group):
    for name, kind in schema.options(schema.fields(schema.Config)[group]).items():
        values = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"), resolve=True)
        assert {"name": name} | vars(kind()) == values


@pytest.mark.parametrize("schedule", BETAS + RATES, ids=repr)
def test_a_value_depends_on_the_arguments_only_and_not_on_the_order_of_calls(schedule):
    steps = list(range(200))
    in_order = [schedule(step, 200) for step in steps]
    shuffled = random.Random(0).sample(steps, len(steps))
    elsewhere = {step: schedule(step, 200) for step in shuffled if schedule(step + 1, 77) >= 0}
    assert [elsewhere[step] for step in steps] == in_order
    assert [dataclasses.replace(schedule)(step, 200) for step in steps] == in_order


@pytest.mark.parametrize("schedule", BETAS + RATES, ids=repr)
@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_a_negative_step_or_no_updates_are_refused(schedule, step, total):
    with pytest.raises(ValueError, match=f"step >= 0 and total >= 1, found {step} and {total}$"):
        schedule(step, total)


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (Constant, {"stop": -0.1}, "Constant: stop must be >= 0, found -0.1"),
        (Constant, {"stop": math.nan}, "Constant: stop must be >= 0, found nan"),
        (Cyclical, {"start": -1.0}, "Cyclical: start must be >= 0, found -1.0"),
        (Cyclical, {"cycles": 0}, "Cyclical: cycles must be >= 1, found 0"),
        (Cyclical, {"ratio": 0.0}, "Cyclical: ratio must be > 0 and <= 1, found 0.0"),
        (Cyclical, {"ratio": 1.5}, "Cyclical: ratio must be > 0 and <= 1, found 1.5"),
        (Cyclical, {"shape": "cubic"}, "shape must be linear, sigmoid or cosine, found 'cubic'"),
        (Monotonic, {"ratio": 0.0}, "Monotonic: ratio must be > 0 and <= 1, found 0.0"),
        (Monotonic, {"shape": "cubic"}, "shape must be linear, sigmoid or cosine, found 'cubic'"),
        (ConstantRate, {"value": 0.0}, "ConstantRate: value must be > 0, found 0.0"),
        (ConstantRate, {"warmup": -1}, "ConstantRate: warmup must be >= 0, found -1"),
        (CosineRestarts, {"cycles": 0}, "CosineRestarts: cycles must be >= 1, found 0"),
        (CosineRestarts, {"period": 0}, "CosineRestarts: period must be >= 1, found 0"),
        (Exponential, {"decay": 1.1}, "Exponential: decay must be > 0 and <= 1, found 1.1"),
        (Exponential, {"every": 0}, "Exponential: every must be >= 1, found 0"),
    ],
)
def test_a_value_out_of_range_is_refused_in_a_sentence(kind, values, sentence):
    with pytest.raises(ValueError) as refusal:
        kind(**values)
    assert str(refusal.value) == sentence


def test_every_violation_is_named():
    with pytest.raises(ValueError, match=r"stop must be .*; cycles must be .*; ratio must be "):
        Cyclical(stop=-1.0, cycles=0, ratio=2.0)


def test_the_ends_of_a_range_are_allowed():
    Cyclical(start=0.0, stop=0.0, cycles=1, ratio=1.0)
    Exponential(decay=1.0, every=1)
    CosineRestarts(period=None)


@dataclasses.dataclass
class Below(ranges.Checked):
    """A number that an upper end is no part of."""

    value: Annotated[float, Lt(0.5)] | None = None


def test_an_end_below_which_a_value_must_be_is_refused():
    assert Below(0.4).value == 0.4 and Below().value is None
    with pytest.raises(ValueError, match=r"^Below: value must be < 0\.5, found 0\.5$"):
        Below(0.5)


# ---- the learning rate ----


def test_a_constant_rate_is_constant_and_warm_up_is_linear_to_its_value():
    assert {ConstantRate(3e-4)(step, 50) for step in range(50)} == {3e-4}
    rates = [ConstantRate(1.0, warmup=4)(step, 50) for step in range(50)]
    assert rates == [0.25, 0.5, 0.75] + [1.0] * 47


@pytest.mark.parametrize("rate", [CosineRestarts(2e-3), Exponential(2e-3)], ids=repr)
def test_warm_up_multiplies_every_rule(rate):
    warm = dataclasses.replace(rate, warmup=10)
    for step in range(40):
        assert warm(step, 40) == pytest.approx(rate(step, 40) * min(1, (step + 1) / 10), rel=1e-12)


def test_cosine_restarts_follow_their_closed_form_by_cycles():
    for step in range(1000):
        expected = 1e-3 * 0.5 * (1 + math.cos(math.pi * (step % 250) / 250))
        assert CosineRestarts(1e-3, cycles=4)(step, 1000) == pytest.approx(expected, abs=1e-12)


def test_cosine_restarts_follow_their_closed_form_by_period_in_updates_whatever_the_total():
    # dialog, protocol B3: 1e-3 * 0.5 (1 + cos(pi ((t - 1) mod 5148) / 5148)), t from 1
    rate = CosineRestarts(1e-3, period=5148)
    for t in range(1, 11_000, 7):
        expected = 1e-3 * 0.5 * (1 + math.cos(math.pi * ((t - 1) % 5148) / 5148))
        assert rate(t - 1, 102_960) == rate(t - 1, 20_000) == pytest.approx(expected, abs=1e-12)


def test_cosine_restarts_per_epoch_change_only_where_an_epoch_starts():
    for how in ({"cycles": 2}, {"period": 25}):
        rate, smooth = CosineRestarts(1e-3, per="epoch", **how), CosineRestarts(1e-3, **how)
        for step in range(80):
            assert rate(step, 80, epoch=10) == smooth(step // 10 * 10, 80)
            # what says nothing of epochs has them of one update
            assert rate(step, 80) == Rates(Constant(), rate, 80)(step)[1] == smooth(step, 80)


def test_exponential_multiplies_by_decay_over_every_updates_continuously():
    # Yelp, protocol C3: 1e-4 * 0.99^(t / 2774), 6.05e-5 at the end
    rate = Exponential(1e-4, decay=0.99, every=2774)
    for step in range(0, 138_701, 1387):
        assert rate(step, 138_700) == pytest.approx(1e-4 * math.exp(step / 2774 * math.log(0.99)), rel=1e-9)
    assert rate(138_700, 138_700) == pytest.approx(6.05e-5, abs=5e-8)


# ---- the authors' PTB runs, protocol A3, at every update ----

EPOCH, TOTAL = 1_359, 54_360


def test_the_preset_ptb_monotonic_is_the_authors_baseline_at_every_update():
    found = configured("experiment=original/ptb_monotonic")
    assert found.train.steps is None and found.train.epochs * EPOCH == TOTAL
    for step in range(TOTAL):
        t = step + 1
        assert abs(found.schedule(step, TOTAL) - min(1, 0.1 + t / 13_590)) < 1e-9
        assert found.lr(step, TOTAL, EPOCH) == 1e-3


def test_the_preset_ptb_cyclical_is_the_authors_run_at_every_update():
    found = configured("experiment=original/ptb_cyclical")
    assert found.train.steps is None and found.train.epochs * EPOCH == TOTAL
    for step in range(TOTAL):
        j, epoch = step % 13_590 + 1, step // EPOCH + 1
        lr = 1e-3 * 0.5 * (1 + math.cos(math.pi * ((epoch - 1) % 10) / 10))
        assert abs(found.schedule(step, TOTAL) - min(1, 0.1 + j / 6_795)) < 1e-9
        assert abs(found.lr(step, TOTAL, EPOCH) - lr) < 1e-9


@pytest.mark.parametrize(
    ("crossed", "beta", "rate"),
    [("monotonic_restarts", "monotonic", "cyclical"), ("cyclical_constant", "cyclical", "monotonic")],
)
def test_the_crossed_presets_have_one_runs_beta_and_the_others_learning_rate(crossed, beta, rate):
    names = (crossed, beta, rate)
    found, of_beta, of_rate = (configured(f"experiment=original/ptb_{name}") for name in names)
    assert found == dataclasses.replace(of_beta, name=f"original/ptb_{crossed}", lr=found.lr)
    for step in range(0, TOTAL, 7):
        assert found.schedule(step, TOTAL) == of_beta.schedule(step, TOTAL)
        assert found.lr(step, TOTAL, EPOCH) == of_rate.lr(step, TOTAL, EPOCH)


def test_the_presets_without_a_rise_and_without_z_are_else_the_authors_baseline():
    names = ("monotonic", "constant", "lm")
    baseline, constant, plain = (configured(f"experiment=original/ptb_{name}") for name in names)
    same = {"name": baseline.name, "schedule": baseline.schedule}
    assert dataclasses.replace(constant, **same) == baseline
    assert plain.model == dataclasses.replace(baseline.model, latent=0)
    assert dataclasses.replace(plain, **same, model=baseline.model) == baseline
    assert {found.schedule(step, TOTAL) for found in (constant, plain) for step in (0, TOTAL - 1)} == {1}


# ---- runs that continue others ----


@quick
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    start=st.floats(0, 2),
    cycles=st.integers(1, 12),
    ratio=st.floats(0.01, 1),
    total=st.integers(1, 10**5),
    times=st.integers(2, 5),
    data=st.data(),
)
def test_cycles_that_go_on_are_those_of_one_longer_run(shape, start, cycles, ratio, total, times, data):
    beta = Cyclical(start, 1.0, cycles, ratio, shape)
    ends = tuple(Stage(number * total, True, True) for number in range(1, times))
    rates = Rates(beta, CosineRestarts(cycles=cycles), total, stages=ends)
    longer = Cyclical(start, 1.0, times * cycles, ratio, shape)
    restarts = CosineRestarts(cycles=times * cycles)
    for step in data.draw(st.lists(st.integers(0, times * total - 1), min_size=1)):
        assert rates(step) == (longer(step, times * total), restarts(step, times * total))


@pytest.mark.parametrize("lr", RATES, ids=lambda lr: lr.name)
@pytest.mark.parametrize("beta", BETAS, ids=lambda beta: beta.name)
@quick
@given(total=st.integers(1, 10**5), end=st.integers(1, 10**5), later=st.integers(0, 10**6), data=st.data())
def test_nothing_changes_before_an_old_end_and_what_holds_is_constant_after_it(
    beta, lr, total, end, later, data
):
    before = Rates(beta, lr, total, epoch=7)
    for goes_on in (False, True):
        rates = Rates(beta, lr, total, 7, (Stage(end, False, goes_on),))
        step = data.draw(st.integers(0, end - 1))
        assert rates(step) == before(step)
        assert rates(end + later)[0] == before(end - 1)[0]
    assert Rates(beta, lr, total, 7, (Stage(end, False, False),))(end + later) == before(end - 1)


@pytest.mark.parametrize("lr", RATES, ids=lambda lr: lr.name)
@quick
@given(total=st.integers(1, 10**5), later=st.integers(0, 10**6))
def test_a_rate_that_goes_on_never_warms_up_again_and_keeps_its_own_length(lr, total, later):
    rates, rule = Rates(Constant(), lr, total, 3, (Stage(total, False, True),)), dataclasses.replace(lr)
    assert rates(total + later)[1] == rule(total + later, total, 3)


@quick
@given(
    total=st.integers(1, 60),
    ends=st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=4),
    cycles=st.integers(1, 5),
)
def test_the_clock_is_that_of_a_walk_through_all_steps(total, ends, cycles):
    """A chain of runs, each longer than the one before; the clock moves or stands as each one says."""
    starts = sorted({end for end, _ in ends})
    stages = [Stage(start, dict(ends)[start], False) for start in starts]
    schedule = Cyclical(cycles=cycles)
    rates = Rates(schedule, ConstantRate(), total, 1, tuple(stages))
    clock, moves = -1, True
    for step in range(200):
        moves = next((stage.beta for stage in stages if stage.end == step), moves)
        clock += moves
        assert rates(step)[0] == schedule(clock % total, total)


def test_a_run_that_stopped_early_keeps_its_plan_when_it_goes_on_to_less():
    """T was 100, and it stopped after 60: up to 100 β is that of T = 100, wherever the next run ends."""
    beta = Monotonic(ratio=1.0)
    rates = Rates(beta, ConstantRate(), 100, 1, (Stage(100, False, True), Stage(80, False, True)))
    assert [rates(step)[0] for step in (59, 79, 80, 99)] == [0.59, 0.79, 0.79, 0.79]


@pytest.mark.parametrize(
    "lr", [CosineRestarts(per="epoch"), Exponential(decay=0.5, every=20), ConstantRate()]
)
def test_both_rates_are_those_of_schedule_and_learning_rate_with_its_epochs(lr):
    rates = Rates(Cyclical(), lr, 120, 10)
    assert all(rates(step) == (Cyclical()(step, 120), lr(step, 120, 10)) for step in range(120))


def test_a_rate_by_epochs_is_constant_within_one():
    rates = Rates(Cyclical(), CosineRestarts(per="epoch"), 120, 10)
    values = [rates(step)[1] for step in range(120)]
    assert all(len(set(values[start : start + 10])) == 1 for start in range(0, 120, 10))
    assert len(set(values)) > 2
