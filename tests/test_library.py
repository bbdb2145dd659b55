"""`cvae.load`: a trained model from Python, without its corpus."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import cvae
from cvae.errors import UserError
from cvae.evaluation import codec
from cvae.evaluation.samples import Sampler
from cvae.library import UnknownTokens
from cvae.training import checkpoint
from cvae.training.run import reopen
from tests.helpers import ROOT, TEXTS, text_run

OPTIONS = {
    "words": (),
    "chars": ("dataset.tokens=chars",),
    "bpe": ("dataset.tokens=bpe", "dataset.vocabulary=270", "remedy=[batch_norm]"),
}


@pytest.fixture(scope="module", params=OPTIONS)
def folder(request, tmp_path_factory, configured):
    """A run whose corpus is not there any more."""
    if request.param == "bpe":
        pytest.importorskip("tokenizers")
    folder = text_run(configured, tmp_path_factory.mktemp(request.param), *OPTIONS[request.param])
    shutil.rmtree(folder.path.parent / "corpus")
    return folder


@pytest.fixture(scope="module")
def vae(folder):
    return cvae.load(folder.path)


def test_the_import_alone_needs_neither_torch_nor_hydra():
    code = (
        "import sys, cvae; assert cvae.__version__ and not {'torch', 'hydra', 'numpy'} & set(sys.modules);"
        " assert {'load', 'VAE'} <= set(cvae.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = cvae.lod


def test_a_model_says_what_it_is(configured, tmp_path):
    vae = cvae.load(text_run(configured, tmp_path, "schedule=constant", "train.steps=1").path, device="cpu")
    assert repr(vae) == "VAE(z of 3, 17 tokens, constant, on cpu)"
    vae.codec.vocabulary.words.extend(map(str, range(1000)))
    assert "1,017 tokens" in repr(vae)


def test_encode_gives_the_posteriors_in_the_order_of_the_sentences(vae):
    sentences = [*TEXTS, "", "the cat"] * 8  # more than one batch
    mean, std = vae.encode(sentences)
    assert mean.shape == std.shape == (len(sentences), vae.latent) and mean.dtype == np.float32
    assert (std > 0).all() and np.ptp(mean, axis=0).max() > 0
    with torch.autocast("cpu", torch.bfloat16):  # which numpy does not know
        assert {values.dtype for values in vae.encode(TEXTS)} == {np.dtype(np.float32)}
    alone = np.concatenate([vae.encode([text]).mean for text in sentences[34:40]])
    np.testing.assert_allclose(mean[34:40], alone, atol=0.05)  # batch_norm magnifies differences of 1e-7
    assert vae.encode([]).mean.shape == (0, vae.latent)


def test_decode_sample_and_interpolate_are_seeded(vae, monkeypatch):
    mean, _ = vae.encode(TEXTS)
    texts = vae.decode(mean, longest=5)
    assert len(texts) == len(mean) and texts == vae.decode(mean.tolist(), longest=5)
    assert all(len(text.split()) <= 1 for text in vae.decode(mean, longest=1))  # the least
    drawn = {"temperature": 1.0, "top_p": 0.9, "longest": 9}
    assert vae.sample(9, **drawn) == vae.sample(9, **drawn) != vae.sample(9, **drawn, seed=1)
    assert "<unk>" not in "".join(vae.sample(50, **drawn, no_unk=True))
    way = vae.interpolate(*TEXTS[:2], points=3, longest=5)
    assert len(way) == 3 and [way[0], way[2]] == texts[:2]
    assert vae.interpolate(*TEXTS[:2], points=2, longest=5) == texts[:2]
    wide = {"beam": 3, "longest": 5}
    together = vae.decode(mean, **wide)
    assert together == [vae.decode(row[None], **wide)[0] for row in mean]
    for at_once in (2, 9):  # less than the beam; a few sentences at a time
        monkeypatch.setattr(codec, "WRITTEN_AT_ONCE", at_once)
        assert vae.decode(mean, **wide) == together
    assert vae.decode(np.zeros((0, vae.latent))) == []


def test_what_is_not_chosen_is_what_the_docstrings_say(vae, monkeypatch):
    mean, _ = vae.encode(TEXTS)
    said = {"temperature": 0.0, "top_p": 1.0, "beam": 1, "longest": 60, "no_unk": False, "seed": 0}
    assert (Sampler.longest, Sampler.seed) == (said["longest"], said["seed"])  # of the samples that runs keep
    made = []
    monkeypatch.setattr("cvae.library.Sampler", lambda *how: made.append(how) or Sampler(*how))
    assert vae.decode(mean) == vae.decode(mean, **said)
    assert vae.sample(9) == vae.sample(9, **said)
    assert vae.interpolate(*TEXTS[:2]) == vae.interpolate(*TEXTS[:2], points=7, **said)
    assert (vae.nll(TEXTS) == vae.nll(TEXTS, samples=1, seed=0)).all()
    assert made[::2] == made[1::2] and len(made) == 6  # also what these sentences do not show


def test_a_model_that_was_put_into_training_mode_answers_all_the_same(vae):
    for answer in (vae.encode, vae.nll, lambda _: vae.sample(1, longest=2)):
        vae.task.model.train()
        answer(TEXTS)
        assert not vae.task.model.training


def test_nll_is_the_bound_or_the_weighted_estimate(vae):
    one, many = vae.nll(TEXTS), vae.nll(TEXTS, samples=200)
    assert one.shape == many.shape == (len(TEXTS),) and (one > 0).all()
    assert many.mean() < one.mean() + 0.2
    assert (vae.nll(TEXTS) == one).all() and (vae.nll(TEXTS, samples=200) == many).all()
    assert (vae.nll(TEXTS, seed=1) != one).any()
    assert vae.nll([]).shape == (0,)


def test_one_sample_gives_the_closed_form_of_the_kl(vae, monkeypatch):
    mean, std = vae.encode(TEXTS)
    monkeypatch.setattr(vae.task.model, "decode_nll", lambda batch, z: z.new_zeros(len(z)))
    kl = (std**2 + mean**2 - 1 - 2 * np.log(std)).sum(1) / 2
    np.testing.assert_allclose(vae.nll(TEXTS), kl, atol=1e-5)


def test_it_is_the_model_that_was_measured(configured, tmp_path):
    folder = text_run(configured, tmp_path)
    task, vae = reopen(folder.configuration("cpu"), folder), cvae.load(folder.path)
    with task.eval_mode():
        batch = task.data.corpora["test"].batch(np.arange(4))
        q = task.model.posterior(batch)
    sentences = [task.data.vocabulary.sentence(row) for row in batch.tokens.tolist()]
    np.testing.assert_allclose(vae.encode(sentences).mean, q.mean.numpy(), atol=1e-5)
    results = folder.results
    assert vae.nll(TEXTS).mean() == pytest.approx(-results["test/elbo"], abs=0.2)  # another z
    assert vae.nll(TEXTS, samples=300).mean() == pytest.approx(results["test/iw_nll"], abs=0.5)


def test_random_numbers_and_threads_of_the_caller_stay(folder):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    cvae.load(folder.path, device="cpu").sample(2)
    assert (torch.get_rng_state() == state).all() and torch.get_num_threads() == threads


def test_the_checkpoint_and_the_device_are_those_that_are_asked_for(vae, folder, monkeypatch):
    taken = []
    monkeypatch.setattr("cvae.library.without_corpus", lambda *how: taken.append(how) or vae.task)
    assert cvae.load(folder.path).task is cvae.load(str(folder.path), "last", "cuda").task
    assert [(run.path, *how) for run, *how in taken] == [
        (folder.path, "auto", None),
        (folder.path, "cuda", "last"),
    ]


def test_unknown_tokens_are_counted_and_warned_about_once(vae):
    strange = ["zebra ξ", "the ζ saw ζ"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unknown = vae.unknown(strange)
        vae.encode(strange)
        vae.nll(strange)
    if type(vae.codec.vocabulary).__name__ == "Pieces":
        assert not unknown and not caught  # bytes are all known
        return
    assert unknown["ζ"] == 2 and unknown["ξ"] == 1 and next(iter(unknown)) == "ζ"
    (warning,) = caught
    assert warning.category is UnknownTokens and str(warning.message).startswith("read as <unk>: ζ ")
    assert warning.filename == __file__
    letters = [chr(0x10D0 + n) for n in range(23)]
    for given, said in ((letters[:10], letters[:10]), (letters, [*letters[10:20], "and 3 more"])):
        with pytest.warns(UnknownTokens) as caught:
            vae.encode([" ".join(given)])
        assert str(caught[0].message) == f"read as <unk>: {' '.join(said)}"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda vae: vae.decode([[0.0]]), r"z must be finite numbers \[N, 3\], found \[1, 1\]"),
        (lambda vae: vae.decode([0.0]), r"z must be finite numbers \[N, 3\], found \[1\]"),
        (lambda vae: vae.decode([[[0.0]] * 3]), r"z must be finite numbers \[N, 3\], found \[1, 3, 1\]"),
        (lambda vae: vae.decode([[0.0, math.nan, 0.0]]), r"z must be finite numbers \[N, 3\]"),
        (lambda vae: vae.encode("the cat"), "sentences must be a list of texts"),
        (lambda vae: vae.encode(["the cat", 3]), "sentences must be a list of texts"),
        (lambda vae: vae.encode(["the cat", "a <s> b"]), "sentence 2: <s>: of the special words"),
        (lambda vae: vae.sample(0), "n must be at least 1 sentence, found 0$"),
        (lambda vae: vae.sample(-2), "n must be at least 1 sentence, found -2$"),
        (lambda vae: vae.sample(1, temperature=-1.0), "temperature must be 0 or above"),
        (lambda vae: vae.sample(1, temperature=math.inf), "temperature must be 0 or above"),
        (lambda vae: vae.sample(1, top_p=0.0), "top_p above 0 and at most 1"),
        (lambda vae: vae.sample(1, top_p=1.1), "top_p above 0 and at most 1"),
        (lambda vae: vae.sample(1, beam=0), "beam and longest 1 or more"),
        (lambda vae: vae.sample(1, longest=0), "beam and longest 1 or more"),
        (lambda vae: vae.sample(1, beam=2, temperature=1.0), "a beam search draws nothing"),
        (
            lambda vae: vae.interpolate("a", "b", points=1),
            "points must be at least 2, .*, found 1$",
        ),
        (lambda vae: vae.nll(["a"], samples=-2), "samples must be at least 1, found -2$"),
    ],
)
def test_mistakes_end_in_a_sentence(vae, call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(vae)
    with pytest.raises(TypeError, match="unexpected topp"):
        vae.sample(1, topp=0.5)


def test_an_autoencoder_has_no_prior_and_no_likelihood(configured, tmp_path):
    vae = cvae.load(text_run(configured, tmp_path, "schedule=none").path)
    assert len(vae.decode(vae.encode(["the cat"]).mean)) == 1
    for call, what in ((lambda: vae.sample(1), "prior to draw from"), (lambda: vae.nll(["a"]), "likelihood")):
        with pytest.raises(UserError, match=rf"an autoencoder \(schedule=none\) has no {what}$"):
            call()


def test_statistics_of_batch_norm_that_are_not_saved_are_missed(folder):
    path = folder / "checkpoint_last.pt"
    content = checkpoint.load(path)
    if "encoder.normalise.spread" not in content["model"]:
        return
    cvae.load(folder.path, "last")
    content["model"]["encoder.normalise.spread"].fill_(-1.0)  # as a save between validations has it
    checkpoint.save(path, content)
    with pytest.raises(UserError, match=f"^{path} was saved between two validations, without the statistics"):
        cvae.load(folder.path, "last")


def test_a_folder_without_a_model_or_its_vocabulary_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match=r"is not a run folder: it has no run\.json"):
        cvae.load(tmp_path)
    copy = shutil.copytree(folder.path, tmp_path / "copy")
    name = "tokenizer.json" if (copy / "tokenizer.json").exists() else "vocabulary.txt"
    (copy / name).write_text("the\n")
    with pytest.raises(UserError, match=rf"{name} is no (vocabulary|tokenizer\.json)"):
        cvae.load(copy)
    (copy / name).write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=rf"{name} is n(ot UTF-8|o tokenizer)"):
        cvae.load(copy)
    (copy / name).unlink()
    words = f"^{copy} has no vocabulary that can be read: .* No such file or directory: '{copy / name}'$"
    with pytest.raises(UserError, match=words if name == "vocabulary.txt" else "cannot be read"):
        cvae.load(copy)
