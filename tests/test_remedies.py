"""Each remedy does what its paper says, and goes together with what it can go together with."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cvae import gaussian, objective
from cvae.config import CAME_LATER, Config, SentenceModel, completed, identity, load
from cvae.data.text import BOS, EOS, Batch
from cvae.folder import FolderError, RunFolder
from cvae.models.sentence import SentenceVAE
from cvae.objective import Terms
from cvae.reading import ConfigError, UserError, flatten
from cvae.run import prepare

CONF = Path(__file__).parent.parent / "conf"
REMEDIES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONF / "remedy").glob("*.yaml"))}
EXCLUSIVE = ({"free_bits", "free_bits_total", "kl_target"}, {"aggressive", "semi_amortized"})
SMALL = (
    "experiment=ptb_debug",
    "dataset.sentences=60",
    "model.embed=6",
    "model.hidden=8",
    "model.latent=2",
    "train.batch_size=8",
    "train.epochs=3",
    "train.log_every=4",
    "train.save_every=5",
)


def container(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


def treated(base: dict[str, Any], *remedies: str, **values: Any) -> Config:
    """`base` with remedies as Hydra would merge them, then some dotted keys set."""
    merged = OmegaConf.merge(base, *(REMEDIES[name] for name in remedies))
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
        if name in ("word_dropout", "batch_norm", "skip"):
            treated(plain, name)
        else:
            with pytest.raises(ConfigError, match=r"schedule=none"):
                treated(plain, name)

    def test_every_two(self, base):
        for pair in itertools.combinations(REMEDIES, 2):
            if any(set(pair) <= group for group in EXCLUSIVE):
                with pytest.raises(ConfigError, match=r" and .* out"):
                    treated(base, *pair)
            else:
                treated(base, *pair)

    def test_all_that_go_together(self, base):
        treated(base, *(set(REMEDIES) - {"free_bits", "kl_target", "aggressive"}))

    @pytest.mark.parametrize(
        ("remedies", "values", "sentence"),
        [
            (
                ["free_bits", "kl_target"],
                {},
                "objective.free_bits and objective.kl_target each say how much KL",
            ),
            (["batch_norm"], {"dataset.sampler": "equal_length"}, "model.batch_norm needs several sentences"),
            (["batch_norm"], {"train.batch_size": 1}, "train.batch_size must be > 1"),
            (
                ["batch_norm", "skip"],
                {"model.latent": 0},
                "model.skip acts on z, and model.latent=0 has none",
            ),
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
            with pytest.raises(UserError, match=r"model\.batch_norm .* and 1 of 4 hold one"):
                prepare(config)


class TestOldRuns:
    """Keys that came later leave the identity of older runs alone."""

    def test_absent_and_off_are_the_same(self, base):
        old = {key: value for key, value in flatten(base).items() if key not in CAME_LATER}
        assert set(flatten(base)) - set(old) == set(CAME_LATER) - {"dataset.longest"}
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

    @pytest.mark.parametrize("task", ["task=toy", "task=ptb"])
    def test_a_folder_without_them_is_accepted_and_read(self, task, tmp_path):
        config = load(container(task))
        folder = RunFolder(tmp_path)
        folder.describe(config, "", {})
        record = folder.record
        for key in CAME_LATER:
            *groups, last = key.split(".")
            section = record["config"]
            for group in groups:
                section = section.get(group, {})
            section.pop(last, None)
        (tmp_path / "run.json").write_text(json.dumps(record))
        folder.refuse_other(config)
        with pytest.raises(FolderError, match=r"model\.skip is 'absent' there and True here"):
            folder.refuse_other(load(container(task, "remedy=[skip]")))
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
    """BN-VAE: the spread of the means, the bound, and the running values."""

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

    def test_running_values_at_evaluation(self):
        model, some = model_of(batch_norm=self.GAMMA), batch(*range(1, 9))
        for _ in range(200):
            trained = model.posterior(some).mean
        model.eval()
        # torch keeps the unbiased variance, n / (n - 1) of the batch's
        shrunk = model.encoder.normalise.shift + (trained - model.encoder.normalise.shift) * math.sqrt(7 / 8)
        torch.testing.assert_close(model.posterior(some).mean, shrunk, rtol=1e-3, atol=1e-3)
        alone = Batch(some.tokens[3:4], some.lengths[3:4])
        torch.testing.assert_close(model.posterior(alone).mean, model.posterior(some).mean[3:4])

    def test_measuring_leaves_the_running_values_alone(self, base, toy):
        for config in (treated(base, "batch_norm", **{"dataset.sentences": 60}), treated(toy, "batch_norm")):
            prepared = prepare(config)
            before = {name: value.clone() for name, value in prepared.model.named_buffers()}
            assert len(before) == 3
            prepared.model.posterior(prepared.batches["train"].at(0))
            after = {name: value.clone() for name, value in prepared.model.named_buffers()}
            assert not torch.equal(
                before["encoder.normalise.norm.running_mean"], after["encoder.normalise.norm.running_mean"]
            )
            prepared.evaluate("val")
            prepared.snapshot()
            for name, value in prepared.model.named_buffers():
                assert torch.equal(value, after[name])


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
        model, some = model_of(skip=True).eval(), batch(3, 5, 2)
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
    def test_samples_words_and_whole_sentences_agree(self, layers, words):
        model, some = model_of(words, skip=True, layers=layers).eval(), batch(3, 5, 2, words=words)
        z = torch.randn(2, 3, 3)
        with torch.no_grad():
            each = torch.stack([model.decode_nll(some, one) for one in z])
            torch.testing.assert_close(model.decode_nll(some, z), each)
            torch.testing.assert_close(model.decode_nll(some, z[0], plain=True), each[0])
            state, nll = model.begin(some, z[0]), torch.zeros(3)
            for read, wanted in zip(some.inputs.T, some.targets.T, strict=True):
                logits, state = model.step(read, state)
                losses = torch.nn.functional.cross_entropy(logits, wanted, ignore_index=0, reduction="none")
                nll += losses
            torch.testing.assert_close(nll, each[0])
            assert all(part.size(-2) == 3 for part in state)
