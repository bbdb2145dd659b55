"""Each remedy does what its paper says, and goes together with what it can go together with."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from cvae.cli.overrides import slug
from cvae.config.load import completed, flatten, identity, load
from cvae.config.schema import Config, SemiAmortized, SentenceModel
from cvae.data.text import Batch, Batches, extra_batches
from cvae.data.vocabulary import BOS, EOS
from cvae.errors import ConfigError, Diverged, FolderError, UserError
from cvae.evaluation import latent
from cvae.models import gaussian, kernels, objective
from cvae.models.normalisation import NormalisedMean
from cvae.models.objective import Terms
from cvae.models.refinement import Refined, refined
from cvae.models.sentence import SentenceVAE
from cvae.report import figures, tables
from cvae.runs import fingerprints
from cvae.runs.compatibility import refuse_other_run
from cvae.runs.folder import RunFolder
from cvae.runs.provenance import describe
from cvae.runs.reader import Run, changes, find_runs
from cvae.tasks.language_model import LanguageTask
from cvae.training import checkpoint
from cvae.training.logger import Logger
from cvae.training.loop import Loop
from cvae.training.run import load_weights, prepare, reopen, run
from cvae.training.steps import TrainStep, build
from cvae.training.steps.semi_amortized import SemiAmortizedStep
from tests.helpers import CONF, DEBUG, DIALOGS, REMEDIES

EXCLUSIVE = ({"free_bits", "free_bits_total", "kl_target"}, {"aggressive", "semi_amortized"})
SMALL = (
    *DEBUG,
    "task.iw_samples=4",
)


@functools.cache
def container(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


def treated(base: dict[str, Any], *remedies: str, **values: Any) -> Config:
    """`base` with remedies as Hydra would merge them, then some dotted keys set."""
    merged = OmegaConf.merge(base, *(REMEDIES[name] for name in remedies))
    if "pretrained" in remedies:
        values = {"init_from": "outputs/somewhere"} | values
    for key, value in values.items():
        OmegaConf.update(merged, key, value, force_add=True)
    return load(merged)


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return container("task=ptb", "dataset=tiny")


@pytest.fixture(scope="module")
def toy() -> dict[str, Any]:
    return container("task=toy")


def terms(nll: list[float], kl: list[list[float]]) -> Terms:
    return Terms(torch.tensor(nll), torch.tensor(kl, requires_grad=True), torch.ones(len(nll)))


def batch(*lengths: int, words: int = 12, seed: int = 0) -> Batch:
    """Sentences of so many words, padded."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(len(lengths), max(lengths) + 2, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, 0], tokens[row, length + 1] = BOS, EOS
        tokens[row, 1 : length + 1] = torch.randint(4, words, (length,), generator=rng)
    return Batch(tokens, torch.tensor(lengths) + 2)


def model_of(words: int = 12, **values: Any) -> SentenceVAE:
    torch.manual_seed(0)
    sizes = {
        "embed": 5,
        "hidden": 7,
        "layers": 1,
        "latent": 3,
        "dropout": 0.0,
        "word_dropout": 0.0,
        "init": 0.5,
    }
    return SentenceVAE(SentenceModel("sentence", **(sizes | values)), words)


class TestCombinations:
    """Every remedy alone and every two of them: a configuration, or a sentence."""

    def test_there_are_remedies(self):
        assert len(REMEDIES) >= 7

    @pytest.mark.parametrize("name", REMEDIES)
    def test_alone(self, name, base, toy):
        for other in (toy, base, base | {"schedule": {"name": "constant", "stop": 1.0}}):
            treated(other, name)
        if name in ("word_dropout", "low_beta"):
            treated(base, name, **{"model.latent": 0})
        else:
            with pytest.raises(ConfigError, match=r"model\.latent=0 has none"):
                treated(base, name, **{"model.latent": 0})

    @pytest.mark.parametrize("name", REMEDIES)
    def test_alone_with_the_autoencoder(self, name, base):
        plain = base | {"schedule": {"name": "none"}}
        if name in ("word_dropout", "batch_norm", "skip", "pretrained"):
            treated(plain, name)
        else:
            with pytest.raises(ConfigError, match=r"schedule=none"):
                treated(plain, name)

    def test_every_two(self, base):
        for pair in itertools.combinations(REMEDIES, 2):
            if any(set(pair) <= group for group in EXCLUSIVE):
                with pytest.raises(ConfigError, match=r"leave all but one out|a run takes one update"):
                    treated(base, *pair)
            else:
                treated(base, *pair)

    def test_all_that_go_together(self, base):
        treated(base, *(set(REMEDIES) - {"free_bits", "kl_target", "aggressive"}))

    def test_folders_of_a_sweep(self):
        swept = [
            ["remedy=[]"],
            ["remedy=[free_bits]", "schedule=cyclical"],
            ["remedy=[skip,batch_norm]", "seed=1"],
        ]
        assert [slug(overrides) for overrides in swept] == [
            "remedy-none",
            "remedy-free_bits_schedule-cyclical",
            "remedy-skip-batch_norm_seed-1",
        ]

    @pytest.mark.parametrize(
        ("remedies", "values", "sentence"),
        [
            (
                ["free_bits", "kl_target"],
                {},
                "objective.free_bits and objective.kl_target each say how much KL",
            ),
            (["batch_norm"], {"dataset.sampler": "equal_length"}, "model.batch_norm needs several sentences"),
            (
                ["pretrained"],
                {"init_from": None},
                "reset_decoder takes the encoder from a finished run: init_from",
            ),
            (
                ["pretrained"],
                {"model.latent": 0},
                "reset_decoder keeps the encoder, and model.latent=0 has none",
            ),
            (["batch_norm"], {"train.batch_size": 1}, "train.batch_size must be > 1"),
            (
                ["batch_norm", "skip"],
                {"model.latent": 0},
                "model.skip acts on z, and model.latent=0 has none",
            ),
            ([], {"model.latent": 0, "model.inject": "start"}, "model.inject=start acts on z, and"),
        ],
    )
    def test_refusals(self, remedies, values, sentence, base):
        with pytest.raises(ConfigError, match=sentence.replace(".", r"\.")):
            treated(base, *remedies, **values)

    @pytest.mark.parametrize("size", [2, 3])
    def test_a_training_batch_of_one_sentence(self, size, base):
        config = treated(base, "batch_norm", **{"dataset.sentences": 10, "train.batch_size": size})
        if size == 2:
            prepare(config)
        else:
            with pytest.raises(UserError, match=r"model\.batch_norm .* and 1 of 4 hold one only"):
                prepare(config)

    def test_a_training_batch_of_the_same_sentence_twice(self, tmp_path):
        lines = ["yes", "yes", "no no", "no yes", "yes no no", "no no no"]
        for name in ("train", "valid", "test"):
            (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
        base = container("task=ptb", "dataset=text", f"dataset.path={tmp_path}", "dataset.min_count=1")
        with pytest.raises(UserError, match=r"model\.batch_norm .* and 1 of 3 hold one only"):
            prepare(treated(base, "batch_norm", **{"train.batch_size": 2}))
        prepare(treated(base, "batch_norm", **{"train.batch_size": 3}))


# keys that came later than the first published runs
CAME_LATER = {
    "init_from",
    "reset_decoder",
    "continue_from",
    "continue_beta",
    "continue_lr",
    "tracker",
    "train.keep",
    "precision",
    "dataset.longest",
    "dataset.vocabulary",
    "dataset.whole_passages",
    "model.batch_norm",
    "model.skip",
    "objective.free_bits_total",
    "objective.kl_target",
    "update.name",
}


class TestOldRuns:
    """Keys that came later leave the identity of older runs alone."""

    def test_absent_and_off_are_the_same(self, base):
        old = {key: value for key, value in flatten(base).items() if key not in CAME_LATER}
        of_others = {"dataset.longest", "dataset.vocabulary", "dataset.whole_passages"}
        assert set(flatten(base)) - set(old) == set(CAME_LATER) - of_others
        assert identity(base) == identity(
            OmegaConf.to_container(
                OmegaConf.from_dotlist(
                    [f"{key}={'null' if value is None else value}" for key, value in old.items()]
                )
            )
        )

    def test_on_is_another_run(self, base):
        for name in REMEDIES:
            assert identity(treated(base, name).container) != identity(base)

    @pytest.mark.parametrize(
        "task", [("task=toy",), ("task=ptb",), ("task=ptb", "dataset=yahoo")], ids=" ".join
    )
    def test_a_folder_without_them_is_accepted_and_read(self, task, tmp_path):
        config = load(container(*task))
        folder = RunFolder(tmp_path)
        describe(folder, config, "", fingerprints.corpus(config))
        record = folder.record
        for key in CAME_LATER:
            *groups, last = key.split(".")
            section = record["config"]
            for group in groups:
                section = section.get(group, {})
            section.pop(last, None)
        del record["config"]["update"]
        (tmp_path / "run.json").write_text(json.dumps(record))
        refuse_other_run(folder, config)
        with pytest.raises(FolderError, match=r"model\.skip is False there and True here"):
            refuse_other_run(folder, load(container(*task, "remedy=[skip]")))
        assert completed(record["config"]) == config.container
        assert folder.configuration("cpu").model == config.model


class TestObjective:
    """The KL term by hand."""

    FOUND = ([4.0, 6.0], [[0.0, 0.2, 1.0], [0.1, 0.4, 2.0]])  # batch means 0.05, 0.3, 1.5: 1.85 in all

    @pytest.mark.parametrize(
        ("values", "kl"),
        [
            ({}, 1.85),
            ({"free_bits": 0.1}, 0.1 + 0.3 + 1.5),
            ({"free_bits_total": 1.0}, 1.85),
            ({"free_bits_total": 3.0}, 3.0),
            ({"kl_target": 3.0}, 1.15),
            ({"kl_target": 1.0}, 0.85),
        ],
    )
    def test_values(self, values, kl):
        assert objective.loss(terms(*self.FOUND), 0.5, **values).item() == pytest.approx(5 + 0.5 * kl)

    @pytest.mark.parametrize(
        ("values", "slope"),
        [
            ({}, 1),
            ({"free_bits_total": 1.0}, 1),
            ({"free_bits_total": 3.0}, 0),  # below the floor nothing pulls
            ({"kl_target": 1.0}, 1),
            ({"kl_target": 3.0}, -1),  # below the target KL is pushed up
        ],
    )
    def test_which_way_kl_is_pulled(self, values, slope):
        found = terms(*self.FOUND)
        objective.loss(found, 0.5, **values).backward()
        torch.testing.assert_close(found.kl.grad, torch.full((2, 3), 0.5 * slope / 2))

    def test_the_floor_of_each_dimension(self):
        found = terms(*self.FOUND)
        objective.loss(found, 1.0, free_bits=0.1).backward()
        torch.testing.assert_close(found.kl.grad, torch.tensor([[0.0, 0.5, 0.5]] * 2))

    @pytest.mark.parametrize(
        ("values", "least", "most"),
        [
            ({}, 0.0, 0.01),
            ({"free_bits": 0.3}, 3 * 0.29, 3 * 0.33),
            ({"free_bits_total": 0.9}, 0.88, 0.95),
            ({"kl_target": 0.9}, 0.88, 0.92),
        ],
    )
    def test_kl_ends_at_the_floor_or_the_target_where_nothing_wants_it(self, values, least, most):
        rng = torch.Generator().manual_seed(0)
        mean = torch.randn(4, 3, generator=rng).requires_grad_()
        logvar = torch.randn(4, 3, generator=rng).requires_grad_()
        optimizer = torch.optim.SGD([mean, logvar], lr=0.05)
        for _ in range(500):
            kl = gaussian.kl(gaussian.Gaussian(mean, logvar), gaussian.standard(mean))
            optimizer.zero_grad()
            objective.loss(Terms(torch.zeros(4), kl, torch.ones(4)), 1.0, **values).backward()
            optimizer.step()
        assert least <= kl.mean(0).sum().item() + 1e-6 <= most


class TestBatchNorm:
    """BN-VAE: the spread of the means, the bound, and the population at evaluation."""

    GAMMA = 0.6

    def test_means_have_the_fixed_spread_and_the_learnt_centre(self):
        model, some = model_of(batch_norm=self.GAMMA), batch(*range(1, 9))
        q = model.posterior(some)
        shift = model.encoder.normalise.shift
        torch.testing.assert_close(q.mean.mean(0), shift, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            q.mean.std(0, correction=0), torch.full((3,), self.GAMMA), rtol=1e-3, atol=0
        )
        assert shift.requires_grad and (shift.abs() <= 0.5).all() and shift.any()

    def test_the_bound_on_kl_holds_for_any_encoder(self):
        some = batch(*range(1, 9))
        for seed in range(20):
            model = model_of(batch_norm=self.GAMMA)
            torch.manual_seed(seed)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.8)
            kl = gaussian.kl(model.posterior(some), model.prior(some)).mean(0)
            bound = 0.5 * (self.GAMMA**2 * 0.999 + model.encoder.normalise.shift**2)
            assert (kl >= bound).all()

    @pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
    def test_nor_can_an_encoder_that_hardly_varies_fall_below_it(self, scale):
        model, some = model_of(batch_norm=self.GAMMA), batch(*range(1, 9))
        with torch.no_grad():
            model.encoder.mean.weight.mul_(scale)
            model.encoder.mean.bias.zero_()
        floor = torch.full((3,), self.GAMMA**2) + model.encoder.normalise.shift**2
        trained = model.posterior(some).mean
        torch.testing.assert_close(trained.square().mean(0), floor, rtol=1e-3, atol=0)
        model.encoder.estimate([some])
        torch.testing.assert_close(model.eval().posterior(some).mean, trained, rtol=1e-2, atol=1e-3)

    def test_means_that_are_all_the_same_end_the_run_in_a_sentence(self, base, tmp_path, monkeypatch):
        config = treated(base, "batch_norm", **{"dataset.sentences": 40, "train.epochs": 1, "device": "cpu"})
        real = LanguageTask.__init__

        def closed(task, config, model, data):
            real(task, config, model, data)
            with torch.no_grad():
                model.encoder.mean.weight[[5, 9]] = 0.0

        monkeypatch.setattr(LanguageTask, "__init__", closed)
        said = r"model\.batch_norm divides by .* in dimension 5 of z all of them are the same"
        with pytest.raises(Diverged, match=rf"is nan at step 0 .*; {said}$"):
            run(config, RunFolder(tmp_path))
        with pytest.raises(UserError, match=f"^{said}$"):
            prepare(config).evaluate("val")

    def test_a_dimension_that_was_the_same_once_is_told_however_late(self):
        layer, varied = NormalisedMean(3, self.GAMMA), torch.randn(5, 3)
        layer(varied)
        assert layer.trouble == ""
        layer(torch.cat([varied[:, :2], torch.ones(5, 1)], 1))
        layer(varied)
        assert "in dimension 2 of z" in layer.trouble

    def test_moments_of_means_that_autocast_made_bf16_have_more_digits(self):
        layer, half = NormalisedMean(3, self.GAMMA), (4 + torch.randn(500, 3)).bfloat16()
        assert torch.equal(layer(half), layer(half.float()))
        layer.estimate(half)
        torch.testing.assert_close(layer.centre, half.double().mean(0).float())
        torch.testing.assert_close(layer.spread, half.double().var(0, correction=0).float())

    def test_an_encoder_without_population_is_not_evaluated(self):
        model, some = model_of(batch_norm=self.GAMMA).eval(), batch(1, 2, 3)
        with pytest.raises(ValueError, match="unknown: call estimate"):
            model.posterior(some)

    @pytest.mark.parametrize("most", [20_000, 7])
    def test_measures_use_the_population_under_the_present_weights(self, most, base, toy, monkeypatch):
        monkeypatch.setattr("cvae.tasks.base.POPULATION", most, raising=False)
        small = {"dataset.sentences": 60, "train.batch_size": 8}
        for config in (treated(base, "batch_norm", **small), treated(toy, "batch_norm")):
            task = prepare(config)
            update, batches, seen = build(task.model, config), task.batches["train"], []
            for step in range(3):
                update(batches.at(step), 0.5, 3e-2)
                state = torch.get_rng_state(), np.random.get_state()[1].copy()
                means = torch.cat([task.means([one]) for one in task.fixed_subset("train", most)])
                assert torch.equal(state[0], torch.get_rng_state())
                assert (state[1] == np.random.get_state()[1]).all()
                shift = task.model.encoder.normalise.shift
                torch.testing.assert_close(means.mean(0), shift, rtol=0, atol=1e-3)
                spread = torch.full_like(shift, self.GAMMA)
                torch.testing.assert_close(means.std(0, correction=0), spread, rtol=1e-3, atol=0)
                seen.append(task.model.encoder.normalise.spread.clone())
            assert len(seen) == len({tuple(one.tolist()) for one in seen})
            update(batches.at(3), 0.5, 3e-2)
            assert torch.isfinite(task.codec.encode(["a"]).mean).all()  # measured before anything else is

    def test_kl_of_validation_is_near_that_of_training(self):
        config = tiny("batch_norm", **{"dataset.sentences": 400, "model.latent": 4})
        task = prepare(config)
        update, batches = build(task.model, config), task.batches["train"]
        trained = [update(batches.at(step), 1.0, 1e-2)[0].kl.sum(-1).mean().item() for step in range(40)]
        floor = 4 * self.GAMMA**2 / 2
        assert min(trained) >= floor * (1 - 1e-4)
        assert floor * (1 - 1e-4) <= task.evaluate("train")["kl"] < floor * 1.1
        assert floor / 2 < task.evaluate("val")["kl"] < 2 * floor

    def test_checkpoints_hold_the_population_of_their_weights(self, tmp_path):
        folder, name = RunFolder(tmp_path), "encoder.normalise.spread"
        values = {"train.validate_every": 6, "train.save_every": 4, "train.epochs": None, "train.steps": 12}
        run(tiny("batch_norm", **values, **{"train.stop_after": 8}), folder)
        config = tiny("batch_norm", **values)
        kept = {which: checkpoint.load(tmp_path / f"checkpoint_{which}.pt") for which in ("best", "last")}
        assert (kept["best"]["model"][name] > 0).all()
        assert kept["last"]["step"] == 8 and (kept["last"]["model"][name] < 0).all()  # saved unmeasured
        assert reopen(config, folder, "last").evaluate("val")["kl"] > 0.36
        run(config, folder)
        last = checkpoint.load(tmp_path / "checkpoint_last.pt")["model"]
        task = reopen(config, folder, "last")
        assert (last[name] > 0).all() and not task.model.encoder.normalise.unknown
        task.model.encoder.normalise.spread.fill_(-1.0)
        task.means(task.fixed_subset("val", 2))
        assert torch.equal(task.model.encoder.normalise.spread, last[name])

    def test_running_values_of_older_checkpoints_are_replaced(self, tmp_path, caplog):
        config, folder = tiny("batch_norm"), RunFolder(tmp_path)
        run(config, folder)
        path = tmp_path / "checkpoint_best.pt"
        content = checkpoint.load(path)
        content["model"]["encoder.normalise.batches"] = torch.tensor(99.0)
        content["model"]["encoder.normalise.spread"].fill_(7.0)
        content["model"]["encoder.normalise.centre"].fill_(7.0)
        checkpoint.save(path, content)
        assert "running statistics" not in caplog.text
        found = reopen(config, folder).evaluate("val")
        assert f"{path} holds running statistics of model.batch_norm" in caplog.text
        assert found["elbo"] == folder.results["val/elbo"]
        task = prepare(config)
        load_weights(folder, task, encoder_only=True)
        assert task.evaluate("val")["kl"] == found["kl"]


class TestSkip:
    """z beside what the LSTM says, at the output layer only."""

    def test_where_z_goes(self):
        plain, model = model_of(), model_of(skip=True)
        assert model.decoder.output.in_features == plain.decoder.output.in_features + 3
        shapes = {name: p.shape for name, p in model.named_parameters() if name != "decoder.output.weight"}
        assert shapes == {
            name: p.shape for name, p in plain.named_parameters() if name != "decoder.output.weight"
        }

    def test_z_reaches_every_word_with_the_recurrent_path_cut(self):
        model, some = model_of(skip=True, dropout=0.5).train(), batch(3, 5, 2)  # dropout spares z
        with torch.no_grad():
            model.decoder.start.weight.zero_()
            model.decoder.lstm.weight_ih_l0[:, 5:].zero_()
        z = torch.randn(3, 3, requires_grad=True)
        states = model.decoder.states(some.inputs, z)
        torch.testing.assert_close(states[..., 7:], z[:, None].expand(-1, 6, -1))
        (through_lstm,) = torch.autograd.grad(states[..., :7].sum(), z, retain_graph=True)
        assert not through_lstm.any()
        (gradient,) = torch.autograd.grad(model.decode_nll(some, z).sum(), z)
        assert (gradient.abs() > 1e-4).all()

    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize("words", [12, 4100])  # above 4,000 the output layer is the fused one
    @pytest.mark.parametrize("inject", ["inputs", "start"])
    def test_samples_words_and_whole_sentences_agree(self, layers, words, inject):
        model = model_of(words, skip=True, layers=layers, inject=inject).eval()
        some = batch(3, 5, 2, words=words)
        z = torch.randn(2, 3, 3)
        with torch.no_grad():
            each = torch.stack([model.decode_nll(some, one) for one in z])
            torch.testing.assert_close(model.decode_nll(some, z), each)
            with kernels.twice_differentiable():
                torch.testing.assert_close(model.decode_nll(some, z[0]), each[0])
            state, nll = model.begin(some, z[0]), torch.zeros(3)
            for read, wanted in zip(some.inputs.T, some.targets.T, strict=True):
                logits, state = model.step(read, state)
                losses = torch.nn.functional.cross_entropy(logits, wanted, ignore_index=0, reduction="none")
                nll += losses
            torch.testing.assert_close(nll, each[0])
            assert all(part.size(-2) == 3 for part in state)


def tiny(*remedies: str, **values: Any) -> Config:
    """A small run on generated sentences."""
    return treated(container(*SMALL), *remedies, **values)


def snapshot(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def same(before: Iterable[Tensor], after: Iterable[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny("aggressive", **{"update.window": 2, "update.most": 7})


@pytest.fixture(scope="module")
def misled() -> LanguageTask:
    """A trained model whose encoder then errs: its posteriors can be refined."""
    config = tiny("semi_amortized", **{"update.lr": 2.0})
    task = prepare(config)
    update, batches = TrainStep(task.model, config), task.batches["train"]
    for step in range(40):
        update(batches.at(step), 0.1, 1e-2)
    with torch.no_grad():
        task.model.encoder.mean.bias += 2.0
    return task


class TestAggressive:
    """He et al.: who moves when, until when, and at the end a plain run."""

    def test_further_batches_depend_on_seed_and_step_only(self, config):
        batches = prepare(config).batches["train"]

        def drawn(step: int) -> list[list]:
            return [some.tokens.tolist() for some in itertools.islice(extra_batches(batches, step), 6)]

        once = drawn(3)
        batches.at(5)
        assert drawn(3) == once != drawn(4)
        assert sum(some != once[0] for some in once) >= 3
        other = Batches(batches.corpus, config.dataset.sampler, config.train.batch_size, seed=1)
        other.members = batches.members
        assert [some.tokens.tolist() for some in itertools.islice(extra_batches(other, 3), 6)] != once

    def test_the_encoder_alone_then_the_decoder_alone(self, config, monkeypatch):
        task = prepare(config)
        update, moved = build(task.model, config), []
        parts = {"encoder": update.encoder, "decoder": update.decoder}
        assert sum(map(len, parts.values())) == len(list(task.model.parameters()))
        optimizer_step = TrainStep.optimizer_step

        def watched(self, lr):
            before = {name: snapshot(part) for name, part in parts.items()}
            norm = optimizer_step(self, lr)
            moved.append({name for name, part in parts.items() if not same(before[name], part)})
            return norm

        monkeypatch.setattr(TrainStep, "optimizer_step", watched)
        batches = task.batches["train"]
        update(batches.at(0), 0.5, 1e-3, extra_batches(batches, 0))
        assert moved[:-1] == [{"encoder"}] * (len(moved) - 1) and 2 <= len(moved) - 1 <= 7
        assert moved[-1] == {"decoder"}
        assert all(parameter.requires_grad for parameter in task.model.parameters())
        assert update.pop_metrics() == {"encoder_updates": len(moved) - 1}
        moved.clear()
        update(batches.at(1), 0.5, 1e-3, extra_batches(batches, 1))
        assert update.pop_metrics() == {"encoder_updates": len(moved) - 1}

    @pytest.mark.parametrize(
        ("losses", "expected"),
        [
            ([5.0, 5.0, 4.0, 4.0, 4.0, 4.1, 1.0], 6),  # windows of 5, 4 and 4.05
            ([5.0, 5.0, 5.0, 5.0, 5.0, 5.1, 1.0], 6),  # equal is no rise
            ([5.0, 2.0, 4.4, 3.0, 4.4, 3.1, 1.0], 6),  # per token it falls once: 12, 11.8 and 11.9 of 18
            ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0], 7),  # at most
        ],
    )
    def test_the_encoder_stops_when_the_loss_rises(self, losses, expected, config, monkeypatch):
        task, left = prepare(config), iter(losses)
        update = build(task.model, config)
        several = itertools.cycle([batch(3, 3), batch(9)])  # 2 sentences of 4 tokens, 1 of 10

        def scripted(self, some, beta, lr, extra_batches=()):
            found = Terms(some.counted * 0.0, torch.zeros(len(some.lengths), 3), some.counted)
            return found, torch.tensor(next(left)), torch.tensor(0.0)

        monkeypatch.setattr(TrainStep, "__call__", scripted)
        update._catch_up(several, 0.5, 1e-3)
        assert update.inner == expected

    def test_once_mutual_information_falls_updates_are_plain_for_good(self, config, caplog):
        task = prepare(config)
        update, batches = build(task.model, config), task.batches["train"]
        caplog.set_level("INFO", "cvae")
        for information, active in [(0.1, True), (0.3, True), (0.3, True), (0.2, False), (0.9, False)]:
            update.observe(information)
            assert update.active is active
        assert caplog.messages == ["I(x; z) fell from 0.3 to 0.2: plain updates from here"]
        twin = copy.deepcopy(task.model)
        torch.manual_seed(3)
        update(batches.at(0), 0.5, 1e-3, extra_batches(batches, 0))
        torch.manual_seed(3)
        TrainStep(twin, config)(batches.at(0), 0.5, 1e-3)
        assert same(task.model.parameters(), twin.parameters())

    def test_its_state_goes_through_a_checkpoint(self, config):
        one, other = (build(prepare(config).model, config) for _ in range(2))
        one.observe(0.2)
        one.observe(0.1)
        other.load_state_dict(one.state_dict())
        assert (other.active, other.information) == (False, 0.1)
        one.inner, one.updates = 5, 2
        other.load_state_dict(one.state_dict())
        assert other.pop_metrics() == one.pop_metrics() == {"encoder_updates": 2.5}

    def test_the_defaults_are_those_of_the_authors_text_code(self):
        assert REMEDIES["aggressive"]["update"] == {"name": "aggressive", "window": 15, "most": 99}

    @pytest.mark.parametrize(
        ("every", "looks"),
        [
            (3, [6, 12, 18]),  # six updates are an epoch, and two validations
            (4, [6, 12, 18]),  # a validation comes at one of these
            (12, [12, 24]),  # rarer than epochs
        ],
    )
    def test_information_is_looked_at_once_an_epoch_until_it_falls(self, every, looks, tmp_path, monkeypatch):
        values = {"dataset.sentences": 48, "dataset.sampler": "bucketed", "train.epochs": 5}
        values |= {"train.validate_every": every, "train.steps": None}
        config = tiny("aggressive", **values, **{"update.window": 1, "update.most": 1})
        told, scripted = [], iter([0.1, 0.3, 0.2])

        def measure(task, split):
            told.append(loop.state.step)
            return next(scripted)

        monkeypatch.setattr(LanguageTask, "mutual_information", measure)
        loop = Loop(config, prepare(config), RunFolder(tmp_path))
        with loop.folder.held(), Logger(loop.folder, config, 0, {}) as recorder:
            loop.end = 24
            loop.run(recorder)
        assert loop.epoch == 6 and told == looks
        assert loop.train_step.active is (every == 12)
        saved = checkpoint.load(tmp_path / "checkpoint_last.pt")
        assert saved["update"] == loop.train_step.state_dict()  # what it saw at this step, too
        records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        found = {record["step"] for record in records if "val/mi" in record}
        assert found == {*range(every, 25, every), *looks}
        assert sum("val/mi" in record for record in records) == len(found)

    @pytest.mark.parametrize("task", ["task=toy", "task=ptb"])
    def test_it_is_what_a_validation_measures(self, task, base, toy):
        given = toy if task == "task=toy" else base | {"dataset": base["dataset"] | {"sentences": 60}}
        prepared = prepare(treated(given, "aggressive"))
        assert prepared.mutual_information("val") == prepared.evaluate("val")["mi"]

    def test_a_model_without_an_encoder_of_its_own(self, config):
        with pytest.raises(UserError, match="update=aggressive needs a model with an encoder"):
            build(model_of(latent=0), config)


class TestSemiAmortized:
    """Kim et al.: the steps, their gradient, and the bound they give."""

    HOW = SemiAmortized("semi_amortized", steps=3, lr=0.7, momentum=0.5, clip=5.0)

    def test_the_steps_by_hand(self):
        start = gaussian.Gaussian(
            torch.tensor([[3.0, 0.0], [0.0, -4.5]]), torch.tensor([[0.5, 0.0], [0.0, 1.0]])
        )

        def loss(q: gaussian.Gaussian) -> Tensor:  # gradients: mean, and 30 for each logvar
            return 0.5 * q.mean.square().sum() + 30 * q.logvar.sum()

        first, second, logvar, v, w, u = 3.0, -4.5, [[0.5, 0.0], [0.0, 1.0]], 0.0, 0.0, 0.0
        for step in range(3):
            # norms over the whole batch: of the mean 5.4 at first, each row's below 5; of logvar always 60
            norm = math.hypot(first, second)
            assert (norm > 5) == (step == 0)
            scale = min(1, 5 / norm)
            v, w, u = 0.5 * v - scale * first, 0.5 * w - scale * second, 0.5 * u - 5 / math.sqrt(4)
            first, second = first + 0.7 * v, second + 0.7 * w
            logvar = [[part + 0.7 * u for part in row] for row in logvar]
        found = refined(start, loss, self.HOW)
        torch.testing.assert_close(found.mean, torch.tensor([[first, 0.0], [0.0, second]]))
        torch.testing.assert_close(found.logvar, torch.tensor(logvar))

    @pytest.mark.parametrize(("clip", "words"), [(5.0, 12), (0.05, 12), (5.0, 4100)])
    def test_the_gradient_of_the_whole_procedure(self, clip, words):
        """Against central differences in float64, dropout and noise held fixed; 4,100 words: fused output."""
        config = tiny(
            "semi_amortized", **{"update.steps": 3, "update.clip": clip, "objective.free_bits": 0.01}
        )
        model = model_of(words, dropout=0.3, word_dropout=0.2, layers=1).double()
        update, some = SemiAmortizedStep(model, config), batch(3, 5, 2, 5, words=words)

        def loss() -> Tensor:
            torch.manual_seed(5)
            return update.loss(update.terms(some, 0.4), 0.4)

        gradients = torch.autograd.grad(loss(), update.parameters)
        rng = torch.Generator().manual_seed(1)
        encoder = set(map(id, model.encoder.parameters()))
        for inside in (lambda p: id(p) in encoder, lambda p: id(p) not in encoder):
            direction = [
                torch.randn(p.shape, generator=rng, dtype=torch.float64) * inside(p)
                for p in update.parameters
            ]
            slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    for p, d in zip(update.parameters, direction, strict=True):
                        p.add_(d, alpha=sign * 1e-6)
                ends.append(loss().item())
                with torch.no_grad():
                    for p, d in zip(update.parameters, direction, strict=True):
                        p.sub_(d, alpha=sign * 1e-6)
            assert abs(slope) > 1e-4
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)

    def test_the_terms_are_those_of_the_posterior_refined_at_the_updates_beta(self):
        config, model, some = tiny("semi_amortized", **{"update.steps": 3}), model_of(), batch(3, 5, 2)
        kl = {}
        for beta in (0.0, 0.4, 1.0):

            def loss(q: gaussian.Gaussian, beta: float = beta) -> Tensor:
                return objective.loss(objective.terms(model, some, q=q), beta)

            torch.manual_seed(5)
            wanted = objective.terms(model, some, q=refined(model.posterior(some), loss, config.update))
            torch.manual_seed(5)
            found = SemiAmortizedStep(model, config).terms(some, beta)
            torch.testing.assert_close(found.nll, wanted.nll)
            torch.testing.assert_close(found.kl, wanted.kl)
            kl[beta] = wanted.kl.sum().item()
        assert kl[1.0] < 0.9 * kl[0.4] and kl[0.4] < 0.9 * kl[0.0]

    def test_the_encoder_learns_through_the_refinement_only(self):
        config = tiny("semi_amortized", **{"update.steps": 2})
        task = prepare(config)
        update = build(task.model, config)
        before = snapshot(task.model.encoder.parameters())
        found, loss, norm = update(task.batches["train"].at(0), 0.5, 1e-2)
        assert not same(before, task.model.encoder.parameters())
        assert not loss.requires_grad and norm.isfinite() and len(found.nll) > 0

    def test_the_refined_bound_is_the_better_one_and_selects(self, misled, monkeypatch):
        means, collect = [], latent.collect_posteriors

        def watched(model, batches, deterministic: bool, noise: torch.Generator) -> tuple:
            means.append(deterministic)
            return collect(model, batches, deterministic, noise)

        monkeypatch.setattr(latent, "collect_posteriors", watched)
        found = misled.evaluate("train", thorough=True)
        assert means == [False, False]  # both bounds are of samples
        assert found["refined_elbo"] > found["elbo"] + 0.5
        assert found["refined_elbo"] == pytest.approx(-(found["refined_rec"] + found["refined_kl"]))
        assert misled.score(found) == -found["refined_elbo"]
        assert {"refined_ppl", "refined_iw_nll", "refined_iw_ppl"} <= found.keys()
        # of other z than the bound's, hence the room
        assert found["refined_iw_nll"] < -found["refined_elbo"] + 0.05

    def test_evaluation_refines_the_encoders_posterior_at_beta_1(self):
        model, some = model_of().eval(), batch(3, 5, 2)
        first, second = (torch.Generator().manual_seed(3) for _ in range(2))

        def loss(q: gaussian.Gaussian) -> Tensor:
            return objective.loss(objective.terms(model, some, generator=second, q=q), 1.0)

        found = Refined(model, self.HOW, first).posterior(some)
        wanted = refined(model.posterior(some), loss, self.HOW)
        torch.testing.assert_close(found.mean, wanted.mean.detach())
        torch.testing.assert_close(found.logvar, wanted.logvar.detach())
        assert not found.mean.requires_grad and not torch.equal(found.mean, model.posterior(some).mean)

    def test_refining_at_evaluation_changes_nothing_else(self, misled):
        before, state = snapshot(misled.model.parameters()), torch.get_rng_state()
        once = misled.evaluate("val")
        assert once == misled.evaluate("val")
        config = dataclasses.replace(misled.config, seed=5)
        other = LanguageTask(config, misled.model, misled.data).evaluate("val")
        assert other["refined_elbo"] != once["refined_elbo"]  # the noise is of the run's seed
        assert same(before, misled.model.parameters()) and torch.equal(state, torch.get_rng_state())
        assert all(
            parameter.requires_grad and not parameter.grad.isnan().any()
            for parameter in misled.model.parameters()
        )
        plain = LanguageTask(tiny(), misled.model, misled.data).evaluate("val")
        assert plain == {name: value for name, value in once.items() if not name.startswith("refined_")}

    @pytest.mark.cuda
    def test_on_a_gpu(self):
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        config = tiny("semi_amortized", device="cuda")
        task = prepare(config)
        update = build(task.model, config)
        _, loss, _ = update(task.batches["train"].at(0), 0.5, 1e-2)
        assert loss.isfinite()
        assert "refined_elbo" in task.evaluate("val")


class TestPretrained:
    """Li et al.: the encoder of a finished run, and a decoder of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("ae")
        run(load(container(*SMALL, "schedule=none", "train.steps=20")), RunFolder(folder))
        return folder

    @pytest.mark.parametrize("reset", [False, True])
    def test_what_is_taken(self, reset, source):
        config = tiny(init_from=str(source), reset_decoder=reset, seed=5)
        task, fresh = prepare(config), prepare(config).model.state_dict()
        load_weights(RunFolder(source), task, reset)
        saved = checkpoint.load(source / "checkpoint_best.pt")["model"]
        for name, weight in task.model.state_dict().items():
            assert torch.equal(weight, (fresh if reset and name.startswith("decoder") else saved)[name])
        assert not torch.equal(fresh["encoder.mean.weight"], saved["encoder.mean.weight"])

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_run_starts_there_and_its_continuation_does_not_need_it(
        self, reset, source, tmp_path, monkeypatch
    ):
        values = {"init_from": str(source), "reset_decoder": reset}
        values |= {"train.steps": 6, "schedule.cycles": 1, "lr.value": 1e-9}
        run(tiny("pretrained", **values, **{"train.stop_after": 2}), RunFolder(tmp_path))
        saved = checkpoint.load(source / "checkpoint_best.pt")["model"]
        begun = checkpoint.load(tmp_path / "checkpoint_last.pt")["model"]
        assert begun["encoder.mean.weight"].sub(saved["encoder.mean.weight"]).abs().max() < 1e-6
        apart = begun["decoder.output.weight"].sub(saved["decoder.output.weight"]).abs().max()
        assert apart > 1e-3 if reset else apart < 1e-6
        monkeypatch.setattr("cvae.training.run.load_weights", None)
        run(tiny("pretrained", **values), RunFolder(tmp_path))
        assert RunFolder(tmp_path).results["finished"]

    def test_a_run_that_starts_anew_starts_there_anew(self, source, tmp_path, monkeypatch):
        taken = []
        monkeypatch.setattr(
            "cvae.training.run.load_weights", lambda *arguments, **named: taken.append(arguments)
        )
        values = {"init_from": str(source), "train.stop_after": 1}
        for overwrite, times in ((False, 1), (False, 1), (True, 2)):
            run(tiny("pretrained", **values, overwrite=overwrite), RunFolder(tmp_path))
            assert len(taken) == times
        # what a process leaves that is killed between the two renames of a checkpoint
        (tmp_path / "checkpoint_last.pt").rename(tmp_path / "checkpoint_previous.pt")
        run(tiny("pretrained", **values), RunFolder(tmp_path))
        assert len(taken) == 2

    def test_the_weights_taken_are_those_that_the_task_reports(self, tmp_path):
        small = ("train.steps=4", "train.validate_every=2", "dataset.draws=1", "task.samples=10")
        run(load(container(*small)), RunFolder(tmp_path))  # the toy, which reports its last checkpoint
        (tmp_path / "checkpoint_best.pt").unlink()
        task = prepare(load(container(*small, f"init_from={tmp_path}")))
        load_weights(RunFolder(tmp_path), task, False)
        saved = checkpoint.load(tmp_path / "checkpoint_last.pt")["model"]
        assert same(saved.values(), task.model.state_dict().values())

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            (
                {"model.latent": 3},
                "another shape: decoder.lstm.weight_ih_l0, decoder.start.weight, encoder.log",
            ),
            ({"model.batch_norm": 0.6, "dataset.sampler": "bucketed"}, "shape: encoder.normalise.centre"),
            ({"dataset.sentences": 70}, "was trained on other data: train and val and test changed"),
        ],
    )
    def test_misfits(self, values, sentence, source):
        with pytest.raises(FolderError, match=sentence.replace(".", r"\.")):
            load_weights(RunFolder(source), prepare(tiny(**values)), False)

    def test_a_model_of_dialogs_has_no_encoder_of_its_own(self, tmp_path):
        sizes = ("embed", "utterance", "context", "topic", "latent", "prior", "decoder", "bow_hidden")
        small = (f"model.{size}=4" for size in sizes)
        config = load(container("task=switchboard", f"dataset.path={DIALOGS}", *small))
        task, folder = prepare(config), RunFolder(tmp_path)
        describe(folder, config, "", task.data.fingerprints)
        folder.write_results({"finished": True})
        task.data.vocabulary.save(tmp_path)
        content = {"config": config.container, "model": task.model.state_dict()}
        checkpoint.save(tmp_path / "checkpoint_best.pt", content)
        load_weights(folder, task, False)
        with pytest.raises(FolderError, match=r"another shape: there is no encoder to take$"):
            load_weights(folder, task, True)

    def test_other_words_and_unfinished_runs(self, source, tmp_path):
        task = prepare(tiny())
        folder = RunFolder(shutil.copytree(source, tmp_path / "copy"))
        (folder / "vocabulary.txt").write_text("other\n")
        with pytest.raises(FolderError, match=r"has another vocabulary\.txt"):
            load_weights(folder, task, False)
        folder.write_results({"finished": False})
        for unusable in (folder, RunFolder(tmp_path / "none")):
            with pytest.raises(FolderError, match="is not the folder of a finished run"):
                load_weights(unusable, task, False)


class TestReports:
    """What tables and the rate-distortion picture make of a folder full of remedies."""

    SECONDS = {"": 100.0, "skip": 150.0, "batch_norm": 120.0, "aggressive": 300.0, "free_bits": 110.0}  # noqa: RUF012

    @pytest.fixture
    def runs(self, base, tmp_path) -> list[Run]:
        for schedule in ({"name": "constant", "stop": 1.0}, base["schedule"]):
            for name, seconds in self.SECONDS.items():
                folder = tmp_path / schedule["name"] / (name or "none")
                folder.mkdir(parents=True)
                config = treated(base | {"schedule": schedule}, *filter(None, [name])).container
                (folder / "run.json").write_text(json.dumps({"config": config}))
                results = {"finished": True, "test/kl": len(name) / 4, "test/rec": 90.0 - len(name) / 5}
                (folder / "results.json").write_text(json.dumps(results | {"time/training_seconds": seconds}))
        return find_runs([tmp_path])

    def test_what_sets_a_run_apart(self, runs):
        said = dict(zip((run.folder.name for run in runs), changes(runs), strict=True))
        assert said == {
            "none": "plain",
            "skip": "skip",
            "batch_norm": "batch_norm=0.6, sampler=bucketed",
            "aggressive": "update=aggressive",
            "free_bits": "free_bits=0.1",
        }
        two = [run for run in runs if run.folder.name in ("none", "batch_norm")][:2]
        assert sorted(changes(two)) == ["batch_norm=0.6, sampler=bucketed", "plain"]

    def test_an_autoencoder_is_not_set_apart_by_keys_of_beta(self, base, tmp_path):
        schedules = {"a": {"stop": 1.0}, "b": {"stop": 1.0}, "c": {"stop": 0.4}, "d": None}
        for name, values in schedules.items():
            schedule = {"name": "none"} if values is None else base["schedule"] | values
            (tmp_path / name).mkdir()
            config = base | {"schedule": schedule, "seed": ord(name)}
            (tmp_path / name / "run.json").write_text(json.dumps({"config": config}))
        assert changes(find_runs([tmp_path])) == ["plain", "plain", "stop=0.4", "plain"]

    def test_two_keys_that_end_alike_stay_whole(self, base, tmp_path):
        for name, cycles in {"a": 4, "b": 4, "c": 1}.items():
            (tmp_path / name).mkdir()
            changed = {"schedule": base["schedule"] | {"cycles": cycles}, "seed": ord(name)}
            changed |= {"lr": {"name": "cosine_restarts", "value": 0.1, "cycles": cycles, "epochs": cycles}}
            (tmp_path / name / "run.json").write_text(json.dumps({"config": base | changed}))
        assert changes(find_runs([tmp_path])) == [
            "plain",
            "plain",
            "schedule.cycles=1, lr.cycles=1, epochs=1",
        ]

    def test_many_keys_share_a_column_and_time_is_that_of_plain(self, runs):
        table = tables.results_table(runs, ("constant", "cyclical"), ["test/kl", "time/relative"])
        assert table.head == ["schedule.name", "changed", "n", "test/kl", "time/relative"]
        assert [row[:2] for row in table.body][:2] == [
            ["constant", "plain"],
            ["constant", "batch_norm=0.6, sampler=bucketed"],
        ]
        assert {row[1]: str(row[4]) for row in table.body} == {
            "plain": "1.00",
            "skip": "1.50",
            "batch_norm=0.6, sampler=bucketed": "1.20",
            "update=aggressive": "3.00",
            "free_bits=0.1": "1.10",
        }
        alone = tables.results_table(
            [run for run in runs if run.folder.name == "skip"], (), ["time/relative"]
        )
        assert {str(row[-1]) for row in alone.body} == {"1.00"}  # the plainest of them

    def test_time_is_that_of_plain_with_the_same_schedule_and_rate(self, runs):
        plain, skip = (next(run for run in runs if run.folder.name == name) for name in ("none", "skip"))
        slower = dataclasses.replace(plain, results=plain.results | {"time/training_seconds": 300.0})
        groups = {
            (schedule, lr, change): [run]
            for schedule, lr, base in (
                ("cyclical", "a", plain),
                ("cyclical", "b", slower),
                ("none", "b", plain),
            )
            for change, run in (("plain", base), ("skip", skip))
        }
        begun = dataclasses.replace(plain, results=plain.results | {"finished": False})
        groups |= {
            ("none", "a", "skip"): [skip],
            ("none", "c", "plain"): [begun],
            ("none", "c", "skip"): [skip],
        }
        found = {names[:2]: tables.relative_time(groups, names).values for names in groups if "skip" in names}
        assert found == {
            ("cyclical", "a"): (1.5,),
            ("cyclical", "b"): (0.5,),
            ("none", "b"): (1.5,),
            ("none", "a"): (),
            ("none", "c"): (),  # the plain one is not there, or not finished
        }

    def test_few_keys_have_a_column_each(self, runs):
        few = [run for run in runs if run.folder.name in ("none", "skip")]
        assert tables.results_table(few, (), ["test/kl"]).head == [
            "schedule.name",
            "model.skip",
            "n",
            "test/kl",
        ]

    def test_the_picture_has_a_point_for_each_run_and_lines_of_equal_bounds(self, runs):
        figure = figures.rate_figure(runs)
        (ax,) = figure.axes
        points = {
            tuple(np.ravel(line.get_data())) for line in ax.get_lines() if line.get_linestyle() == "None"
        }
        assert points == {(run.results["test/kl"], run.results["test/rec"]) for run in runs}
        lines = [np.array(line.get_data()) for line in ax.get_lines() if line.get_linestyle() != "None"]
        assert len(lines) >= 3 and all(np.ptp(line.sum(0)) < 1e-9 for line in lines)
        words = {text.get_text() for text in figure.legends[0].get_texts()}
        assert words == {*changes(runs), "Constant", "Cyclical"}
        with pytest.raises(UserError, match="none of these runs is finished"):
            figures.rate_figure([dataclasses.replace(run, results={}) for run in runs])
        null = [dataclasses.replace(run, results=run.results | {"test/rec": None}) for run in runs]
        with pytest.raises(UserError, match="none of these runs is finished"):
            figures.rate_figure(null)
