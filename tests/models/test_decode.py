"""Generation: what is said follows the model's probabilities, the seed and the options."""

from __future__ import annotations

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cvae.cli import sample
from cvae.data.vocabulary import BOS, EOS, PAD, UNK
from cvae.errors import UserError
from cvae.evaluation.samples import Sampler, glimpse, literal, markdown, overview, without_unknown
from cvae.models.decode import SamplingOptions, beam_search, generate
from cvae.runs.folder import RunFolder
from cvae.schedules import Autoencoder
from cvae.training.run import reopen, run
from cvae.training.standalone import without_corpus
from tests.helpers import WORDS, batch_of, layers, make, script

SMALL = (
    *("task=ptb", "dataset=tiny", "dataset.sentences=60", "model.embed=8", "model.hidden=12"),
    *("model.latent=3", "model.init=0.5", "train.steps=6", "train.validate_every=3", "task.iw_samples=2"),
)


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@layers
@pytest.mark.parametrize("latent", [0, 3])
def test_the_steps_of_a_sentence_have_the_probability_that_decode_nll_says(layers, latent):
    model, batch = (
        make(layers=layers, latent=latent).eval(),
        batch_of([2, 7, 4, 9, 10, 3], [2, 5, 1, 1, 8, 3]),
    )
    z = torch.randn(2, latent)
    state, total = model.begin(None, z), torch.zeros(2)
    for words, targets in zip(batch.inputs.T, batch.targets.T, strict=True):
        logits, state = model.step(words, state)
        total -= torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(total, model.decode_nll(batch, z))


def test_greedy_takes_the_most_likely_word_until_the_end_and_rows_do_not_mix():
    model, z = make().eval(), torch.randn(40, 3)
    rows = generate(model, None, z, 12, SamplingOptions())
    assert len({tuple(row) for row in rows}) > 1
    for row, own in zip(rows, z, strict=True):
        assert generate(model, None, own[None], 12, SamplingOptions()) == [row]
        state = model.begin(None, own[None])
        for word, following in zip([BOS, *row], [*row, EOS][:12], strict=False):
            logits, state = model.step(torch.tensor([word]), state)
            logits[:, [PAD, BOS]] = -torch.inf
            assert logits.argmax() == following


def test_at_temperature_0_words_that_are_as_likely_are_not_drawn_from():
    generator = noise()
    assert len(set(SamplingOptions().choose(torch.zeros(50, WORDS), generator).tolist())) == 1
    assert torch.equal(generator.get_state(), noise().get_state())


def test_draws_have_the_probabilities_of_the_tempered_softmax():
    logits = torch.randn(WORDS)
    logits[[PAD, BOS]] = -torch.inf
    drawn = SamplingOptions(temperature=0.7).choose(logits.expand(40_000, -1), noise())
    shares = drawn.bincount(minlength=WORDS) / len(drawn)
    torch.testing.assert_close(shares, torch.softmax(logits / 0.7, -1), atol=0.012, rtol=0)


def test_top_p_keeps_the_smallest_set_of_words_that_reaches_p():
    shares = torch.tensor([0.0, 0.05, 0.0, 0.4, 0.3, 0.25])
    logits = shares.log().expand(5_000, -1)
    for p, kept in (
        (0.3, {3}),
        (0.4, {3}),
        (0.41, {3, 4}),
        (0.7, {3, 4}),
        (0.9, {3, 4, 5}),
        (1.0, {1, 3, 4, 5}),
    ):
        assert set(SamplingOptions(temperature=1.0, top_p=p).choose(logits, noise()).tolist()) == kept


def test_top_p_is_of_the_tempered_probabilities():
    logits = torch.tensor([0.0, 0.05, 0.0, 0.4, 0.3, 0.25]).log().expand(1_000, -1)
    # the likeliest has 0.51 at temperature 0.5 and 0.33 at 2
    for temperature, p, kept in ((0.5, 0.5, {3}), (0.5, 0.52, {3, 4}), (2.0, 0.35, {3, 4})):
        assert set(SamplingOptions(temperature=temperature, top_p=p).choose(logits, noise()).tolist()) == kept


def test_top_p_is_reached_by_words_that_add_up_to_it_exactly():
    logits = torch.full((100, 8), -torch.inf)
    logits[:, 3:7] = 0.0  # a quarter each
    for p, kept in ((0.25, 1), (0.5, 2), (0.5001, 3), (0.75, 3)):
        assert len(set(SamplingOptions(temperature=1.0, top_p=p).choose(logits, noise()).tolist())) == kept


def test_a_forbidden_word_and_the_pad_are_never_said():
    model, z = make(seed=1).eval(), torch.randn(50, 3)
    how = SamplingOptions(temperature=2.0, forbid=(UNK, 5))
    said = {word for row in generate(model, None, z, 30, how, noise()) for word in row}
    assert said and not said & {PAD, BOS, EOS, UNK, 5}
    assert UNK in {
        word for row in generate(model, None, z, 30, SamplingOptions(2.0), noise()) for word in row
    }


@pytest.mark.parametrize(
    "how", [SamplingOptions(temperature=1e-320), SamplingOptions(temperature=1e-9, top_p=1e-300)]
)
def test_the_coldest_draws_and_the_smallest_shares_are_the_likeliest_word(how):
    logits = torch.randn(50, 20, generator=noise()) * 30
    assert torch.equal(how.choose(logits, noise()), SamplingOptions().choose(logits, None))


def test_the_hottest_draws_are_of_all_words_that_are_allowed():
    drawn = SamplingOptions(temperature=1e308, forbid=(UNK,)).choose(
        torch.randn(20).expand(3000, -1), noise()
    )
    assert set(drawn.tolist()) == set(range(20)) - {PAD, BOS, UNK}


def test_no_sentence_is_longer_than_asked_and_the_seed_decides_the_draws():
    model, z, how = make().eval(), torch.randn(30, 3), SamplingOptions(temperature=1.5)
    first = generate(model, None, z, 7, how, noise(1))
    assert max(map(len, first)) == 7
    assert generate(model, None, z, 0, how, noise(1)) == [[]] * 30
    assert generate(model, None, z, 7, how, noise(1)) == first != generate(model, None, z, 7, how, noise(2))


def score(model, z, row: list[int], longest: int) -> float:
    """Return log p of the words, and of the end of a sentence that is not cut."""
    state, total = model.begin(None, z[None]), 0.0
    following = [*row, EOS] if len(row) < longest else row
    for word, target in zip([BOS, *row], following, strict=False):
        logits, state = model.step(torch.tensor([word]), state)
        total += float(logits.log_softmax(-1)[0, target])
    return total


@torch.no_grad()
@pytest.mark.parametrize("latent", [0, 3])
def test_a_beam_as_wide_as_there_are_sentences_is_exact(latent):
    model, z, longest = make(words=6, seed=3, latent=latent).eval(), 3 * torch.randn(5, latent), 3
    model.decoder.output.bias[EOS] -= 6  # so that the empty sentence is not the likeliest
    words = [word for word in range(6) if word not in (PAD, BOS, EOS)]
    every = [list(row) for n in range(longest + 1) for row in itertools.product(words, repeat=n)]
    found = beam_search(model, None, z, longest, SamplingOptions(beam=6**longest))
    for row, own in zip(found, z, strict=True):
        scores = {tuple(other): score(model, own, other, longest) for other in every}
        assert row and scores[tuple(row)] == pytest.approx(max(scores.values()), abs=1e-5)


@torch.no_grad()
def test_a_beam_of_one_is_greedy_and_wider_ones_are_likelier():
    model, z = make(seed=2).eval(), torch.randn(20, 3)
    greedy = generate(model, None, z, 8, SamplingOptions())
    assert beam_search(model, None, z, 8, SamplingOptions(beam=1)) == greedy
    rows = [greedy, *(generate(model, None, z, 8, SamplingOptions(beam=k)) for k in (3, 500))]
    scores = [sum(score(model, own, row, 8) for own, row in zip(z, part, strict=True)) for part in rows]
    assert scores[0] < scores[1] <= scores[2] + 1e-4


def test_a_beam_says_nothing_forbidden_goes_on_behind_no_end_and_keeps_rows_apart():
    model, z = make(seed=1).eval(), torch.randn(12, 3)
    how = SamplingOptions(beam=4, forbid=(UNK, 5))
    rows = generate(model, None, z, 6, how)
    assert not {word for row in rows for word in row} & {PAD, BOS, EOS, UNK, 5}
    assert max(map(len, rows)) <= 6
    assert [generate(model, None, own[None], 6, how)[0] for own in z] == rows
    assert generate(model, None, z, 0, how) == [[]] * 12


class Endings:
    """A model that ends at once with probability 0.40, else begins with 4 or 5; 5 follows 4 and is last."""

    def begin(self, batch: object, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (z,)

    def step(self, words: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        shares = torch.full((len(words), 6), 1e-9)
        first = words == BOS
        shares[first, EOS], shares[first, 4], shares[first, 5] = 0.40, 0.35, 0.25
        shares[words == 4, 5] = shares[words == 5, EOS] = shares[words == EOS, 4] = 1.0
        return shares.log(), state


def test_an_ended_sentence_keeps_its_score_and_competes_with_longer_ones():
    z = torch.zeros(3, 1)
    for beam, longest in ((2, 9), (3, 9), (3, 1), (50, 2)):
        assert beam_search(Endings(), None, z, longest, SamplingOptions(beam=beam)) == [[]] * 3
    no_end = SamplingOptions(beam=3, forbid=(EOS,))
    assert beam_search(Endings(), None, z, 2, no_end) == [[4, 5]] * 3


class Refused(Endings):
    """A model that begins with 4 or, a little less likely, with 6, which ends; 5 mostly follows 4."""

    def step(self, words: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        shares = torch.full((len(words), 7), 1e-9)
        first = words == BOS
        shares[first, 4], shares[first, 6] = 0.55, 0.45
        shares[words == 4, 5], shares[words == 4, EOS], shares[words == 6, EOS] = 0.9, 0.1, 1.0
        return shares.log(), state


def test_a_forbidden_words_probability_is_not_shared_out():
    z = torch.zeros(2, 1)
    assert beam_search(Refused(), None, z, 2, SamplingOptions(beam=3)) == [[4, 5]] * 2
    assert beam_search(Refused(), None, z, 2, SamplingOptions(beam=3, forbid=(5,))) == [[6]] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configured) -> str:
    """A finished run on the generated corpus."""
    path = tmp_path_factory.mktemp("sampled") / "run"
    run(configured(*SMALL), RunFolder(path))
    return str(path)


def said(folder: str, capsys, *arguments: str) -> dict:
    assert script("sample").main([folder, *arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert "\\u" not in out  # letters are written as they are
    return json.loads(out)


def test_a_finished_run_keeps_samples_without_unk(folder):
    page = (RunFolder(folder) / "samples.md").read_text()
    assert page.count("## z from the prior") == 2 and page.count("## From") == 2
    assert "<unk>" not in page.partition("## Sentences")[0].partition("\n")[2]
    greedy, drawn = (part.split("\n\n")[1].splitlines() for part in page.split("## z from the prior")[1:])
    assert len(greedy) == len(drawn) == 10 and greedy != drawn
    task = without_corpus(RunFolder(folder), "cpu", None)
    how = without_unknown(SamplingOptions(temperature=1.0, top_p=0.9))
    expected, whole = (Sampler(task, options) for options in (how, dataclasses.replace(how, top_p=1.0)))
    assert markdown(expected.prior(10)) in page
    assert markdown(whole.prior(10)) not in page
    own = reopen(RunFolder(folder).configuration("cpu"), RunFolder(folder))
    likeliest = Sampler(own, without_unknown(SamplingOptions()))
    some = likeliest.sentences("val", 10)
    parts = [likeliest.prior(10), likeliest.reconstructions(some)]
    parts += [likeliest.interpolation(*some[n : n + 2], points=7) for n in (0, 2)]
    assert all(f"\n{markdown(part)}" in page for part in parts)


def test_each_validation_leaves_a_glimpse_of_the_likeliest_words(folder, monkeypatch):
    task = reopen(RunFolder(folder).configuration("cpu"), RunFolder(folder), "last")
    records = (RunFolder(folder).path / "samples.jsonl").read_text().splitlines()
    sampler = Sampler(task, without_unknown(SamplingOptions()))
    some = sampler.sentences("val", 4)
    wanted = markdown(sampler.prior(4) | sampler.reconstructions(some))
    assert len(records) == 2 and json.loads(records[-1]) == {"step": 6, "text": wanted}
    autoencoder = dataclasses.replace(task.config, schedule=Autoencoder())
    plain = SimpleNamespace(config=autoencoder, data=task.data, codec=task.codec)
    assert glimpse(plain) == markdown(sampler.reconstructions(some))
    assert "from the prior" not in overview(plain) and "## From" in overview(plain)
    for count, ways in ((1, 0), (2, 1), (3, 1), (4, 2)):  # a way has two ends
        monkeypatch.setattr(Sampler, "sentences", lambda *_, own=some[:count]: own)
        assert overview(plain).count("## From") == ways


def test_the_checkpoint_asked_for_is_sampled(folder, capsys, monkeypatch):
    taken = []

    def taking(folder, device, which):
        taken.append(which)
        return without_corpus(folder, device, which)

    monkeypatch.setattr("cvae.training.standalone.without_corpus", taking)
    for flags in ((), ("--checkpoint", "last")):
        said(folder, capsys, "prior", "--count", "1", *flags)
    assert taken == [None, "last"]  # the one that the task reports, and the one asked for


def test_the_ends_of_an_interpolation_are_the_reconstructions(folder, capsys):
    ends = ["the old dog sleeps", "a king sees every river"]
    pairs = said(folder, capsys, "reconstruct", *ends)["reconstructions"]
    assert [pair["sentence"] for pair in pairs] == ends
    between = said(folder, capsys, "interpolate", *ends, "--count", "5")["interpolation"]
    places = between["places"]
    assert (between["from"], between["to"]) == tuple(ends)
    assert [place["share"] for place in places] == [0, 0.25, 0.5, 0.75, 1]
    assert [places[0]["sentence"], places[-1]["sentence"]] == [pair["reconstruction"] for pair in pairs]


def test_neighbours_are_nearest_first_and_a_sentence_is_its_own(folder, capsys):
    every = (RunFolder(folder) / "projector_sentences.tsv").read_text().splitlines()
    some = every[:2]
    found = said(folder, capsys, "neighbours", *some, "--count", "4")["neighbours"]
    assert [one["sentence"] for one in found] == some
    for one in found:
        far = [near["distance"] for near in one["nearest"]]
        assert (len(far), far, far[0]) == (4, sorted(far), 0)
    assert some[0] in [near["sentence"] for near in found[0]["nearest"] if near["distance"] == 0]
    (all_of_them,) = said(folder, capsys, "neighbours", some[0], "--count", "1000")["neighbours"]
    assert sorted(near["sentence"] for near in all_of_them["nearest"]) == sorted(every)
    assert len(said(folder, capsys, "neighbours")["neighbours"]) == 3


def test_arithmetic_moves_z_along_the_way_from_one_set_to_another(folder, tmp_path, capsys):
    sentence, (a, b) = "the old dog sleeps", (tmp_path / "a.txt", tmp_path / "β é.txt")
    a.write_text("the old dog sleeps\n\n")
    b.write_text("a king sees every river\nthe old dog sleeps\n")
    way = ("arithmetic", sentence, "--from", str(a), "--to", str(b), "--count", "3")
    found = said(folder, capsys, *way)["arithmetic"]
    assert (found["from"], found["to"]) == (str(a), str(b))
    (moved,) = found["sentences"]
    assert moved["sentence"] == sentence
    (pair,) = said(folder, capsys, "reconstruct", sentence)["reconstructions"]
    middle = said(folder, capsys, "interpolate", sentence, "a king sees every river", "--count", "3")
    places = middle["interpolation"]["places"]
    assert [place["times"] for place in moved["places"]] == [0, 1, 2]
    assert moved["places"][0]["sentence"] == pair["reconstruction"]
    assert moved["places"][1]["sentence"] == places[1]["sentence"]  # half-way, where the mean of b lies
    assert moved["places"][2]["sentence"] == places[2]["sentence"]
    assert script("sample").main([folder, *way]) == 0  # as Markdown
    lines = capsys.readouterr().out.splitlines()
    for place in moved["places"]:
        assert any(
            line.startswith(f"  - {place['times']:.2f}") and place["sentence"] in line for line in lines
        )
    some = said(folder, capsys, "arithmetic", "--from", str(a), "--to", str(b))["arithmetic"]["sentences"]
    assert len(some) == 3
    for mode in (["neighbours"], way[:1] + way[2:]):  # the sentences that none are given for, too
        found = said(folder, capsys, *mode, "--split", "test")[mode[0]]
        first = [one["sentence"] for one in (found["sentences"] if mode[0] == "arithmetic" else found)]
        pairs = said(folder, capsys, "reconstruct", "--split", "test")["reconstructions"]
        assert first == [pair["sentence"] for pair in pairs[:3]]
    assert script("sample").main([folder, *way[:-3], "1"]) == 1
    assert capsys.readouterr().err == "1 is no file\n"
    a.write_text("\n \n")
    assert script("sample").main([folder, *way]) == 1
    assert capsys.readouterr().err == f"{a} has no sentence in it\n"


@pytest.mark.parametrize(
    ("words", "span"),
    [("a b", "`a b`"), ("it `s", "`` it `s ``"), ("`` is ` and ``", "``` `` is ` and `` ```"), (" ", "")],
)
def test_a_code_span_is_fenced_by_more_backticks_than_its_words_have(words, span):
    assert literal(words) == span


def test_a_label_stands_for_the_training_sentences_that_have_it(folder, tmp_path):
    task = reopen(RunFolder(folder).configuration("cpu"), RunFolder(folder))
    train, sampler = task.data.corpora["train"], Sampler(task, SamplingOptions())
    train.labels = np.arange(len(train)) % 2
    task.data = dataclasses.replace(task.data, classes=("dull", "fine"))
    every = task.means([train.batch(np.arange(len(train)))])
    for name in ("1", "fine"):
        torch.testing.assert_close(sampler.centre(name), every[1::2].mean(0))
    with pytest.raises(UserError, match=r"2 is no file and no class: dull, fine"):
        sampler.centre("2")
    (tmp_path / "long.txt").write_text("a king sleeps\na king sleeps here\n")
    task.config = dataclasses.replace(task.config, dataset=SimpleNamespace(max_words=3))
    with pytest.raises(UserError, match=r"long\.txt, line 2: 4 words, dataset\.max_words allows 3"):
        sampler.centre(str(tmp_path / "long.txt"))
    task.data = dataclasses.replace(task.data, classes=("1", "2"))  # stars: a name comes before a number
    torch.testing.assert_close(sampler.centre("1"), every[::2].mean(0))


def test_sampling_is_seeded_and_counts(folder, capsys):
    drawn = ("prior", "--temperature", "1", "--top-p", "0.9", "--no-unk", "--count", "6")
    first = said(folder, capsys, *drawn)["prior"]
    assert len(first) == 6 and "<unk>" not in " ".join(first)
    short = said(folder, capsys, *drawn, "--longest", "2")["prior"]
    assert max(len(text.split()) for text in short) == 2 < max(len(text.split()) for text in first)
    assert (
        said(folder, capsys, *drawn)["prior"] == first != said(folder, capsys, *drawn, "--seed", "3")["prior"]
    )
    for count in (1, 4):
        found = said(folder, capsys, "--count", str(count))
        assert [len(found["prior"]), len(found["reconstructions"])] == [count, count]
        assert len(found["interpolation"]["places"]) == 7  # between two sentences, whatever the count


def test_unknown_words_are_named_and_read_as_unk(folder, capsys):
    assert script("sample").main([folder, "reconstruct", "the zebra sleeps"]) == 0
    out, err = capsys.readouterr()
    assert "- the <unk> sleeps" in out and err == "read as <unk>: zebra\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["interpolate", "a b"], "interpolate takes 2 sentences, each in quotes; found 1"),
        (["prior", "a b"], "prior takes no sentences"),
        (["--top-p", "0.5"], "--top-p is for drawn words: give --temperature too"),
        (["interpolate", "a", "b", "--count", "1"], "--count must be at least 2 places"),
        (["reconstruct", " "], "a sentence has no words"),
        (["arithmetic", "a", "--to", "b"], "arithmetic goes --from one set of sentences --to another"),
        (["arithmetic", "a", "--from", "b"], "arithmetic goes --from one set of sentences --to another"),
        (["reconstruct", "a", " "], "a sentence has no words"),
        (["--chat", "--json"], "--chat is with one run, in text"),
        (["--chat", "--beside", "other"], "--chat is with one run, in text"),
        (["--longest", "0"], "argument --longest: invalid"),
        (["--beam", "0"], "argument --beam: invalid"),
        (["--temperature", "-1"], "argument --temperature: invalid"),
        (["--top-p", "0"], "argument --top-p: invalid"),
    ],
)
def test_wrong_arguments_are_answered_in_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        script("sample").main(["nowhere", *arguments])
    assert sentence in capsys.readouterr().err


# by hand: what each mode reads beside the run
CHOICE = "temperature top-p beam no-unk longest seed"
READS = {
    "all": f"count split answers {CHOICE}",
    "prior": f"count {CHOICE}",
    "reconstruct": f"count split {CHOICE}",
    "reconstruct a": CHOICE,
    "interpolate a b": f"count {CHOICE}",
    "neighbours": "count split",
    "neighbours a": "count split",
    "arithmetic --from 0 --to 1": f"count split {CHOICE}",
    "arithmetic a --from 0 --to 1": f"count {CHOICE}",
    "all --chat": f"topic answers {CHOICE.replace(' beam', '')}",
}
VALUES = {"split": ["test"], "top-p": ["1"], "no-unk": []}


@pytest.mark.parametrize("mode", READS)
def test_an_option_that_a_mode_does_not_read_is_refused_and_any_other_taken(mode, capsys):
    for name in f"count split answers topic from to {CHOICE}".split():
        arguments = ["nowhere", *mode.split(), f"--{name}", *VALUES.get(name, ["2"])]
        if name in READS[mode].split() or f"--{name}" in mode:
            drawn = ["--temperature", "1"] if name in ("top-p", "seed") else []
            sample.parse([*arguments, *drawn])
            continue
        with pytest.raises(SystemExit, match="2"):
            sample.parse(arguments)
        assert capsys.readouterr().err.startswith(f"cvae sample: --{name}: not read by ")


@pytest.mark.parametrize(
    "mode", ["reconstruct", "reconstruct a", "interpolate a b", "arithmetic --from 0 --to 1"]
)
def test_a_seed_is_read_where_something_is_drawn(mode, capsys):
    for drawn in ("prior", "all", "all --chat", f"{mode} --temperature 1"):
        assert sample.parse(["nowhere", *drawn.split(), "--seed", "3"]).seed == 3
    with pytest.raises(SystemExit, match="2"):
        sample.parse(["nowhere", *mode.split(), "--seed", "3"])
    assert " draws nothing without --temperature\n" in capsys.readouterr().err


def test_sentences_drawn_by_default_are_ten_of_the_validation():
    options = sample.parse(["nowhere"])
    assert (options.mode, options.count, options.split, options.seed) == ("all", 10, "val", 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["interpolate", "a", "b", "--count", "2"],
        ["--temperature", "0"],
        ["--temperature", "1", "--top-p", "1"],
        ["--beam", "1", "--temperature", "1"],
        ["--seed", "0"],
        ["--count", "1"],
    ],
)
def test_the_least_and_the_most_are_allowed(arguments, capsys):
    assert script("sample").main(["nowhere", *arguments]) == 1
    assert capsys.readouterr().err == "nowhere is not a run folder: it has no run.json\n"


def test_what_cannot_be_sampled_is_refused(tmp_path, configured, capsys):
    assert script("sample").main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path} is not a run folder: it has no run.json\n"
    folder = RunFolder(tmp_path / "run")
    run(configured(*SMALL, "schedule=none"), folder)
    assert script("sample").main([str(folder.path), "prior"]) == 1
    assert capsys.readouterr().err.endswith(f"{folder.path}: schedule=none has no prior to draw from\n")
    assert said(str(folder.path), capsys, "--count", "2").keys() == {"reconstructions", "interpolation"}
    task = reopen(folder.configuration("cpu"), folder)
    assert Sampler(task, SamplingOptions()).reconstructions(["a"])["reconstructions"]
