"""Pretrained networks: what they say is what transformers says, and what training may and may not change."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cvae
from cvae.config.schema import PretrainedModel, SemiAmortized
from cvae.data.text import Corpus
from cvae.data.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Pieces, Vocabulary
from cvae.errors import ConfigError, UserError
from cvae.models import backbone, gaussian, kernels, objective
from cvae.models.decode import SamplingOptions, generate
from cvae.models.pretrained import PretrainedVAE
from cvae.models.refinement import refined
from cvae.runs import hub
from cvae.runs.folder import RunFolder
from cvae.tasks.base import refined_metrics
from cvae.training import checkpoint
from cvae.training.export import export
from cvae.training.loop import Loop
from cvae.training.run import prepare, run
from cvae.training.steps import build
from tests.helpers import (
    TEXTS,
    batch_of,
    check_greedy,
    check_words_one_by_one,
    codes,
    logits_of,
    moved_logits,
    moved_means,
    unloadable,
)

pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
KINDS = {
    "gpt2 memory": ("gpt2", {"inject": "memory"}),
    "gpt2 prefix": ("gpt2", {"inject": "prefix", "prefix": 2}),
    "gpt2 no z": ("gpt2", {"latent": 0}),
    "t5 memory": ("t5", {"inject": "memory"}),
    "t5 prefix": ("t5", {"inject": "prefix"}),
}
OTHERS = {"mt5 memory": ("mt5", {"inject": "memory"})}
kinds = pytest.mark.parametrize("kind", KINDS)
with_z = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt2 no z"])
SENTENCES = [[2, 250, 40, 99, 260, 3], [2, 50, 3], [2, 3], [2, 60, 60, 180, 3], [2, 251, 110, 40, 3]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """A folder with tiny checkpoints, as transformers writes them, with weights large enough to matter."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = Pieces.trained(TEXTS, 270).tokenizer
    tokenizer.add_special_tokens(["<|endoftext|>"])
    end = tokenizer.get_vocab_size() - 1
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.4}
    settings = transformers.GPT2Config(vocab_size=end + 1, bos_token_id=end, eos_token_id=end, **sizes)
    transformers.GPT2LMHeadModel(settings).save_pretrained(folder / "gpt2")
    tokenizer.save(str(folder / "gpt2" / "tokenizer.json"))
    tokenizer = Pieces.trained(TEXTS, 270).tokenizer
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    size, pieces = tokenizer.get_vocab_size(), tokenizer.get_vocab()
    special = {"pad_token_id": pieces["<pad>"], "decoder_start_token_id": pieces["<pad>"]}
    special["eos_token_id"] = pieces["</s>"]
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 2.0}
    settings = transformers.T5Config(vocab_size=size, **sizes, **special)
    transformers.T5ForConditionalGeneration(settings).save_pretrained(folder / "t5")
    tokenizer.save(str(folder / "t5" / "tokenizer.json"))
    # of another size of heads, more layers on one side, and as many checkpoints are: in half precision
    sizes |= {"d_kv": 6, "num_decoder_layers": 3}
    settings = transformers.MT5Config(vocab_size=size, **sizes, **special)
    transformers.MT5ForConditionalGeneration(settings).bfloat16().save_pretrained(folder / "mt5")
    tokenizer.save(str(folder / "mt5" / "tokenizer.json"))
    return folder


@pytest.fixture
def make(checkpoints):
    """Build a model on a tiny checkpoint; what is new has weights large enough to matter."""

    def build(kind: str = "gpt2 memory", folder: Path | None = None, **values) -> PretrainedVAE:
        torch.manual_seed(0)
        family, own = (KINDS | OTHERS)[kind]
        folder = folder or checkpoints / family
        keys = {"encoder": None, "latent": 3, "dropout": 0.0, "word_dropout": 0.0, "inject": "memory"}
        keys |= {"prefix": 1, "freeze": []} | own | values
        vocabulary = Pieces.read(folder / "tokenizer.json")
        model = PretrainedVAE(PretrainedModel("pretrained", str(folder), **keys), vocabulary)
        with torch.no_grad():
            for layer in filter(None, (model.decoder.memory, model.decoder.prompt)):
                layer.weight.mul_(30)
        return model

    return build


def test_transformers_is_as_talkative_afterwards_as_before(make):
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        for switch, on in ((logging.disable_progress_bar, False), (logging.enable_progress_bar, True)):
            switch()
            make("gpt2 no z")  # one network: what is turned round twice is as before
            assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, on)
            with backbone._reading("model.decoder", Path("gpt2")):
                assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
    finally:
        logging.set_verbosity(before)
        if not bars:
            logging.disable_progress_bar()


def test_a_checkpoint_may_lie_in_several_files(make, checkpoints, tmp_path):
    whole = transformers.GPT2LMHeadModel.from_pretrained(checkpoints / "gpt2")
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    shutil.copy(checkpoints / "gpt2" / "tokenizer.json", tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = make("gpt2 no z", tmp_path).decoder.base.state_dict()
    for name, weight in whole.transformer.state_dict().items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize(("family", "lost"), [("gpt2", None), ("t5", "<unk>")])
def test_where_a_text_begins_ends_or_is_unknown_may_be_three_tokens_or_two(
    family, lost, make, checkpoints, tmp_path
):
    folder = Path(shutil.copytree(checkpoints / family, tmp_path / family))
    config = json.loads((folder / "config.json").read_text())
    if lost is None:  # another beginning than the end
        config["bos_token_id"] = start = 0
        (folder / "config.json").write_text(json.dumps(config))
    else:
        start = config["pad_token_id"]
        content = (folder / "tokenizer.json").read_text().replace(f'"{lost}"', '"<other>"')
        (folder / "tokenizer.json").write_text(content)
    model = make(f"{family} memory", folder).eval()
    ids, batch = model.decoder.output.ids, batch_of(SENTENCES[0])
    assert (ids[BOS], ids[EOS], ids[UNK]) == (start, config["eos_token_id"], config["eos_token_id"])
    assert model.decoder.unknown is not None  # a dropped word is no end of a text
    chances = logits_of(model, batch, codes(model, 1)).softmax(-1)
    assert not chances[..., [PAD, BOS, UNK]].any() and (chances[..., EOS] > 0).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "no z" not in kind])
def test_what_is_new_starts_small_without_a_bias(kind, make):
    model = make(kind, latent=64)
    made = [model.decoder.memory, model.decoder.prompt, model.encoder.mean, model.encoder.logvar]
    for layer, scale in zip(made, (30, 30, 1, 1), strict=True):
        if layer is not None:
            assert layer.weight.std().item() == pytest.approx(0.02 * scale, rel=0.15)
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("kind", ["gpt2 no z", "gpt2 prefix", "t5 memory"])
def test_without_keys_of_z_the_first_ones_have_autocast_s_precision(kind, make):
    decoder = make(kind).decoder
    z = torch.randn(2, make(kind).config.latent)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, pasts = decoder._read(torch.randn(2, 3, 16), z, decoder._memories(z))
    assert {past.dtype for past in pasts} == {torch.bfloat16}


# ---- what transformers says ----


def test_without_z_the_loss_is_gpt2_s_own(make, checkpoints):
    model = make("gpt2 no z").eval()
    theirs = transformers.GPT2LMHeadModel.from_pretrained(checkpoints / "gpt2").eval()
    for sentence in [*SENTENCES, [2, *range(40, 79), 3]]:  # the last has a word at each of the 40 places
        batch = batch_of(sentence)
        ids = model.decoder.output.ids[batch.tokens][0]
        expected = functional.cross_entropy(theirs(input_ids=ids[None, :-1]).logits[0], ids[1:]) * len(
            ids[1:]
        )
        torch.testing.assert_close(model.decode_nll(batch, codes(model, 1))[0], expected)


def test_memory_is_gpt2_with_past_keys_and_values(make, checkpoints):
    model, batch = make().eval(), batch_of(SENTENCES[0])
    z, ids = codes(model, 1), model.decoder.output.ids
    theirs = transformers.GPT2LMHeadModel.from_pretrained(checkpoints / "gpt2").eval()
    past = transformers.DynamicCache()
    for layer, (key, value) in enumerate(model.decoder.memory(z).view(2, 2, 1, 2, 1, 8)):
        past.update(key, value, layer)
    places = torch.arange(batch.inputs.size(1))[None]
    cache = {model.decoder.cached_as: past}
    logits = theirs(input_ids=ids[batch.inputs], position_ids=places, **cache).logits
    losses = functional.cross_entropy(logits[0], ids[batch.targets][0], reduction="sum")
    torch.testing.assert_close(model.decode_nll(batch, z)[0], losses)


def test_a_prefix_is_gpt2_on_further_vectors(make, checkpoints):
    model, batch = make("gpt2 prefix").eval(), batch_of(SENTENCES[0])
    z, ids = codes(model, 1), model.decoder.output.ids
    theirs = transformers.GPT2LMHeadModel.from_pretrained(checkpoints / "gpt2").eval()
    words = theirs.transformer.wte(ids[batch.inputs])
    logits = theirs(inputs_embeds=torch.cat([model.decoder.prompt(z).view(1, 2, 16), words], 1)).logits[:, 2:]
    losses = functional.cross_entropy(logits[0], ids[batch.targets][0], reduction="sum")
    torch.testing.assert_close(model.decode_nll(batch, z)[0], losses)


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_memory_of_t5_stands_in_for_the_encoders_states(family, make, checkpoints):
    model, batch = make(f"{family} memory").eval(), batch_of(SENTENCES[0])
    name = f"{family.upper()}ForConditionalGeneration"
    theirs = getattr(transformers, name).from_pretrained(checkpoints / family, dtype=torch.float32).eval()
    ids = model.decoder.output.ids
    assert ids[BOS] == theirs.config.decoder_start_token_id != ids[EOS] == theirs.config.eos_token_id
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for z in (codes(model, 1), torch.zeros(1, 3)):
        states = (model.decoder.memory(z)[:, None],)
        logits = theirs(decoder_input_ids=ids[batch.inputs], encoder_outputs=states).logits[..., ids]
        torch.testing.assert_close(logits_of(model, batch, z)[..., 4:], logits[..., 4:])
        torch.testing.assert_close(logits_of(model, batch, z)[..., EOS], logits[..., EOS])


@pytest.mark.parametrize("kind", ["gpt2 memory", "t5 memory", "mt5 memory"])
def test_the_summary_is_the_last_state_of_gpt2_and_the_mean_of_t5_s(kind, make, checkpoints):
    model, batch = make(kind).eval(), batch_of(SENTENCES[0])
    family, ids = kind.split()[0], model.encoder.ids
    if family == "gpt2":
        theirs = transformers.GPT2Model.from_pretrained(checkpoints / family).eval()
        expected = theirs(input_ids=ids[batch.tokens]).last_hidden_state[:, -1]
    else:
        cls = getattr(transformers, f"{family.upper()}EncoderModel")
        theirs = cls.from_pretrained(checkpoints / family, dtype=torch.float32).eval()
        expected = theirs(input_ids=ids[batch.tokens[:, 1:]]).last_hidden_state.mean(1)
    torch.testing.assert_close(model.encoder.summary(batch), expected)


@kinds
def test_what_is_no_piece_is_never_predicted_and_the_rest_is_a_distribution(kind, make):
    model, batch = make(kind).eval(), batch_of(SENTENCES[0])
    chances = logits_of(model, batch, codes(model, 1)).softmax(-1)
    never = [PAD, BOS] + ([len(model.decoder.output.ids) - 1, UNK] if kind.startswith("gpt2") else [])
    assert (chances[..., never] == 0).all() and (chances[..., EOS] > 0).all()
    ids = model.decoder.output.ids[(model.decoder.output.bias == 0).nonzero()[:, 0]]
    assert len(set(ids.tolist())) == len(ids)


def test_the_encoder_may_be_another_checkpoint_that_numbers_the_same_pieces_its_own_way(make, checkpoints):
    model, alone = make("gpt2 memory", encoder=str(checkpoints / "t5")).eval(), make("t5 memory").eval()
    words = [model.decoder.output.ids.tolist(), alone.encoder.ids.tolist()]
    assert (
        words[0][4:50] == words[1][4:50] and words[0][EOS] != model.encoder.ids[EOS] == alone.encoder.ids[EOS]
    )
    batch = batch_of(SENTENCES[0])
    assert torch.equal(model.encoder.summary(batch), alone.encoder.summary(batch))


# ---- what may influence what ----


@kinds
def test_a_later_word_changes_no_earlier_prediction_and_an_earlier_one_all_later(kind, make):
    for place, changed in moved_logits(make(kind).eval(), SENTENCES[0], 55):
        assert changed[:place].max() < 1e-5 and changed[place:].min() > 1e-4


@with_z
def test_z_reaches_every_prediction(kind, make):
    model, batch = make(kind).eval(), batch_of(SENTENCES[0])
    z = codes(model, 1).requires_grad_()
    for logits in logits_of(model, batch, z)[0]:
        (gradient,) = torch.autograd.grad(logits[70] - logits[50], z, retain_graph=True)
        assert gradient.abs().min() > 1e-5


@with_z
def test_the_posterior_depends_on_every_word_and_its_place(kind, make):
    *replaced, swapped = moved_means(make(kind).eval(), SENTENCES[0], 55)
    assert min(replaced) > 1e-4 and swapped > 1e-5


@kinds
def test_a_sentence_is_the_same_alone_and_padded_in_a_batch(kind, make):
    model, together = make(kind).double(), batch_of(*SENTENCES)
    z = codes(model, 5).double()
    q, nll = model.posterior(together), model.decode_nll(together, z)
    for n, sentence in enumerate(SENTENCES):
        batch = batch_of(sentence)
        alone, own = model.decode_nll(batch, z[n : n + 1]), model.posterior(batch)
        torch.testing.assert_close(nll[n], alone[0], rtol=1e-6, atol=1e-6)  # T5's norm is float32
        torch.testing.assert_close(q.mean[n], own.mean[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(q.logvar[n], own.logvar[0], rtol=1e-6, atol=1e-6)


# ---- the cache ----


@kinds
def test_words_one_by_one_say_what_the_whole_sentence_says(kind, make):
    check_words_one_by_one(make(kind).eval(), batch_of(SENTENCES[0], [2, 50, 90, 90, 80, 3]), atol=1e-4)


@kinds
def test_greedy_and_beam_search_agree_in_a_batch_and_alone(kind, make):
    model = make(kind).eval()
    z = codes(model, 4)
    check_greedy(model, z)
    assert len(generate(model, None, z, 50, SamplingOptions())) == 4  # past the 40 places of this GPT-2


@kinds
def test_bf16_is_about_the_same(kind, make):
    model, batch = make(kind).eval(), batch_of(*SENTENCES)
    z = codes(model, 5)
    with torch.autocast("cpu", torch.bfloat16):
        nll, (_, state) = model.decode_nll(batch, z), model.step(batch.inputs[:, 0], model.begin(None, z))
    assert torch.isfinite(state[-1]).all()
    torch.testing.assert_close(nll.float(), model.decode_nll(batch, z), rtol=0.05, atol=0.5)


# ---- gradients ----


@with_z
def test_gradients_by_the_fused_output_layer_are_those_of_plain_torch(kind, make, monkeypatch):
    monkeypatch.setattr("cvae.models.kernels.output.FUSED_WORDS", 1)
    model, batch = make(kind), batch_of(*SENTENCES)

    def gradients() -> tuple[Tensor | None, ...]:
        terms = objective.terms(model, batch, deterministic=True)
        return torch.autograd.grad(objective.loss(terms, 0.5), model.parameters(), allow_unused=True)

    fused = gradients()
    with kernels.twice_differentiable():
        plain = gradients()
    for (name, _), one, other in zip(model.named_parameters(), fused, plain, strict=True):
        unread = (
            kind == "t5 prefix" and name.startswith("decoder.base") and ".layer.1." in name
        )  # cross-attention
        assert (one is None) == unread or "unknown" in name, name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_a_refined_posterior_can_be_learnt(make):
    model, batch = make(), batch_of(*SENTENCES)
    settings = SemiAmortized("semi_amortized", steps=1, lr=0.1, momentum=0.5, clip=5.0)

    def loss(q: gaussian.Gaussian) -> Tensor:
        return objective.loss(objective.terms(model, batch, deterministic=True, q=q), 0.5)

    with kernels.twice_differentiable():
        loss(refined(model.posterior(batch), loss, settings, learning=True)).backward()
    assert model.encoder.mean.weight.grad.abs().sum() > 0


def test_dropped_words_have_a_vector_of_their_own(make):
    model, batch = make("gpt2 memory", word_dropout=1.0), batch_of(SENTENCES[0])
    assert torch.equal(model.decoder.unknown, model.decoder.embedding.weight.mean(0))
    nll = model.decode_nll(batch, codes(model, 1))
    nll.sum().backward()
    assert model.decoder.unknown.grad.abs().sum() > 0
    assert make("t5 memory").decoder.unknown is None  # its tokenizer has <unk>


def test_dropout_is_in_the_decoder_only(make):
    model, batch = make("gpt2 memory", dropout=0.5), batch_of(SENTENCES[0])
    z = codes(model, 1)
    assert not torch.equal(model.decode_nll(batch, z), model.decode_nll(batch, z))
    assert torch.equal(model.posterior(batch).mean, model.posterior(batch).mean)
    dropouts = [part.p for part in model.decoder.modules() if isinstance(part, nn.Dropout)]
    assert set(dropouts) == {0.5}  # of the words, within attention and after each layer


# ---- runs ----


@pytest.fixture(scope="module")
def command(tmp_path_factory, checkpoints):
    """The overrides of a run by the family of its checkpoint."""
    corpus = tmp_path_factory.mktemp("corpus")
    for name, lines in (("train", TEXTS), ("valid", TEXTS[::5]), ("test", TEXTS[::7])):
        (corpus / f"{name}.txt").write_text("\n".join(lines))
    sizes = (
        "task.iw_samples=2",
        "task.iw_sentences=4",
        "task.path_sentences=4",
        "model.latent=3",
        "threads=1",
    )
    sizes += ("train.batch_size=8", "train.epochs=null", "train.steps=4", "train.save_every=2")
    given = ("task=ptb", "dataset=text", f"dataset.path={corpus}", "dataset.tokens=bpe", "model=pretrained")
    return lambda kind: (*given, f"model.decoder={checkpoints / kind}", *sizes)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_run_is_resumed_loaded_and_exported_without_the_checkpoint(
    kind, command, configured, tmp_path, checkpoints
):
    away = Path(shutil.copytree(checkpoints / kind, tmp_path / kind))
    given = (*command(kind), f"model.decoder={away}")
    if kind == "gpt2":
        shutil.copytree(checkpoints / "t5", away / "encoder")
        given += (f"model.encoder={away / 'encoder'}",)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    run(configured(*given), whole)
    run(configured(*given, "train.stop_after=2"), stopped)
    shutil.rmtree(away)
    run(configured(*given), stopped)
    there, here = (checkpoint.load(folder / "checkpoint_last.pt")["model"] for folder in (whole, stopped))
    assert all(torch.equal(here[name], weight) for name, weight in there.items())
    for name in ("test/word_ppl", "test/iw_word_ppl", "test/iw_nll"):
        assert whole.results[name] == stopped.results[name] > 0
    assert whole.results["test/word_ppl"] > whole.results["test/ppl"]  # a word has several pieces
    export(whole, tmp_path / "shared")
    for name in ("README.md", "run.json"):  # nobody else has that folder
        assert str(tmp_path) not in (tmp_path / "shared" / name).read_text(encoding="utf-8")
    network = "Pretrained GPT-2 or T5 as encoder and decoder, with a diagonal Gaussian z between them"
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert f"{network}; z has 3 dimensions." in card.splitlines()
    texts = ["the old cat saw it", "no red hen"]
    own, other = cvae.load(whole.path), cvae.load(tmp_path / "shared")
    assert (own.encode(texts).mean == other.encode(texts).mean).all()
    assert own.decode(own.encode(texts).mean) == other.decode(own.encode(texts).mean)


@pytest.mark.parametrize(
    ("kind", "frozen", "update"),
    [
        *(("gpt2", part, "plain") for part in ("encoder", "decoder", "embeddings")),
        *(("gpt2", "decoder", update) for update in ("aggressive", "semi_amortized")),
        ("t5", "decoder", "plain"),
    ],
)
def test_frozen_parts_stay_and_have_no_state_in_adam(kind, frozen, update, command, configured):
    remedy = () if update == "plain" else (f"remedy=[{update}]",)
    remedy += ("update.steps=1",) if update == "semi_amortized" else ()
    config = configured(*command(kind), f"model.freeze=[{frozen}]", *remedy)
    task = prepare(config)
    before = {name: weight.clone() for name, weight in task.model.named_parameters()}
    step = build(task.model, config)
    for number in range(3):
        batches = task.batches["train"]
        step(batches.at(number), 1.0, 0.01, [batches.at(number)])
        if number == 0 and update == "semi_amortized":  # a validation refines posteriors, too
            refined_metrics(task, "val", thorough=False)
    weights = dict(task.model.named_parameters())
    kept = {name for name, weight in weights.items() if not weight.requires_grad}
    moved = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert not kept & moved and {"encoder.mean.weight", "decoder.memory.weight"} <= moved
    parts = {"encoder": ("encoder.network.",), "decoder": ("decoder.base.",), "embeddings": ("wte.", "wpe.")}
    assert kept == {name for name in weights if any(part in name for part in parts[frozen])}
    assert not any(weights[name] is weight for name in kept for weight in step.optimizer.state)


def test_an_output_layer_of_its_own_is_frozen_with_the_decoder(make, checkpoints, tmp_path):
    settings = transformers.GPT2Config.from_pretrained(checkpoints / "gpt2", tie_word_embeddings=False)
    transformers.GPT2LMHeadModel(settings).save_pretrained(tmp_path)
    shutil.copy(checkpoints / "gpt2" / "tokenizer.json", tmp_path)
    for part, learns in (("encoder", True), ("embeddings", True), ("decoder", False)):
        assert make(folder=tmp_path, freeze=[part]).decoder.output.head.weight.requires_grad == learns


def test_what_cannot_be_used_is_said_in_a_sentence(command, configured, tmp_path, checkpoints, monkeypatch):
    def refused(match: str, *overrides: str) -> None:
        with pytest.raises(UserError, match=match) as error:
            prepare(configured(*command("gpt2"), *overrides))
        assert "\n" not in str(error.value)

    def changed(name: str, **keys) -> str:
        folder = Path(shutil.copytree(checkpoints / "gpt2", tmp_path / name))
        config = json.loads((folder / "config.json").read_text()) | keys
        (folder / "config.json").write_text(json.dumps(config))
        return f"model.decoder={folder}"

    refused("neither a folder here nor owner/name", "model.decoder=absent")
    refused("has no tokenizer|cannot be read", f"model.decoder={tmp_path}")
    refused(
        rf"^model\.encoder={re.escape(str(tmp_path))} has no config\.json: it must be the folder of a"
        r" checkpoint of the transformers library, or its name owner/name on the Hugging Face hub$",
        f"model.encoder={tmp_path}",
    )
    larger = Pieces.read(checkpoints / "gpt2" / "tokenizer.json").tokenizer
    larger.add_special_tokens(["<|more|>"])
    small = changed("small")
    larger.save(str(tmp_path / "small" / "tokenizer.json"))
    size = larger.get_vocab_size() - 1
    refused(rf"^model\.decoder=\S+/small has {size} word vectors, too few for its tokenizer\.json$", small)
    kind = r"^model\.decoder=\S+/bert is of the kind bert, which is none of gpt2, t5, mt5$"
    refused(kind, changed("bert", model_type="bert"))
    ends = r"^model\.decoder=\S+/endless does not say where sentences begin and end: it has no eos_token_id$"
    refused(ends, changed("endless", eos_token_id=None))
    sizes = r"transformer\.h\.0\.attn\.c_attn\.bias is 48, and by config\.json it would be 96$"
    refused(rf"^model\.decoder=\S+/wide: {sizes}", changed("wide", n_embd=32))
    refused(r"model\.decoder=\S+odd cannot be read: .*\w \w", changed("odd", n_head="two"))
    lost = ", ".join(
        rf"transformer\.h\.2\.attn\.{name}" for name in (r"c_attn\.bias", r"c_attn\.weight", "c_proj")
    )
    refused(
        rf"^model\.decoder=\S+/deep lacks weights of GPT2LMHeadModel: {lost}\.bias$",
        changed("deep", n_layer=3),
    )
    task = prepare(configured(*command("gpt2"), changed("several", eos_token_id=[size - 1, 0])))
    assert task.model.decoder.output.ids[EOS] == size - 1  # the first of several ends
    pickled = changed("pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    refused(
        r"^model\.decoder=\S+/pickled has no weights in safetensors, and pickled ones are never read$",
        pickled,
    )
    Pieces.trained(["unlike"] * 9, 260).tokenizer.save(str(tmp_path / "other.json"))
    refused(
        r"^model\.decoder=\S+/gpt2 has other pieces than the run",
        f"dataset.tokenizer={tmp_path / 'other.json'}",
    )
    other = changed("other").replace("decoder", "encoder")
    shutil.copy(tmp_path / "other.json", tmp_path / "other" / "tokenizer.json")
    refused(r"^model\.encoder=\S+/other has other pieces than the run, such as '", other)
    unloadable(monkeypatch, "transformers")
    refused(r"needs the transformers package: pip install 'cvae-lab\[pretrained\]'")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(r"needs the transformers package: pip install 'cvae-lab\[pretrained\]'")


def test_a_record_of_an_architecture_that_cannot_be_used_is_said_in_a_sentence(tmp_path):
    for content in ("absent", "{}", '{"decoder": 1}'):
        path = tmp_path / content[:3] / "pretrained.json"
        if content != "absent":
            path.parent.mkdir()
            path.write_text(content)
        with pytest.raises(UserError, match=r"pretrained\.json is missing, or does not say what the decoder"):
            backbone.network("decoder", str(path), 0.0)
    path.write_text('{"decoder": {"model_type": "gpt2", "n_head": "two"}}')
    with pytest.raises(UserError, match=r"^model\.decoder=\S+pretrained\.json cannot be read: .*\w \w"):
        backbone.network("decoder", str(path), 0.0)


def test_words_are_no_pieces_of_a_checkpoint(checkpoints):
    words = Vocabulary([*SPECIALS, "cat"])
    with pytest.raises(UserError, match=r"^model=pretrained reads the pieces of model\.decoder: dataset"):
        backbone.numbers("model.decoder", str(checkpoints / "gpt2"), words, None)


def test_of_a_checkpoint_of_the_hub_only_what_cannot_run_is_fetched(checkpoints, monkeypatch, tmp_path):
    asked = []

    def download(name: str, revision: str | None = None, allow_patterns: list[str] | None = None) -> str:
        asked.append((name, revision, allow_patterns))
        return str(checkpoints / "gpt2")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub._fetched.cache_clear()
    try:
        assert hub.checkpoint("model.decoder", "owner/gpt2@v1") == checkpoints / "gpt2"
    finally:
        hub._fetched.cache_clear()
    ((name, revision, patterns),) = asked
    assert (name, revision) == ("owner/gpt2", "v1")
    weights = {"*.safetensors", "*.safetensors.index.json"}  # whole or in several files
    assert set(patterns) == {"config.json", "tokenizer.json", *weights}


@pytest.mark.parametrize(
    ("kind", "longest"), [("gpt2 memory", 40), ("gpt2 prefix", 39), ("gpt2 no z", 41), ("t5 memory", 1000)]
)
def test_sentences_longer_than_the_networks_are_refused_before_a_batch_is_read(kind, longest, make):
    model = make(kind).eval()

    def corpus(*lengths: int) -> Corpus:
        sentences = [[BOS, *[50] * (length - 2), EOS] for length in lengths]
        return Corpus(sentences, len(model.decoder.output.ids), torch.device("cpu"))

    model.refuse(corpus(3, longest), "train")
    batch = corpus(3, longest).batch(np.arange(2))
    assert torch.isfinite(model.decode_nll(batch, model.posterior(batch).mean)).all()
    if kind != "t5 memory":
        with pytest.raises(UserError, match=f"train: 2 sentences .* the {longest} places .*, up to 99"):
            model.refuse(corpus(3, longest + 1, 99), "train")


@pytest.mark.parametrize(
    ("kind", "text"),
    [("gpt2", "the <|endoftext|> cat"), ("t5", "the</s>cat"), ("t5", "the<pad> cat")],
)
def test_what_marks_the_end_of_a_text_stands_in_no_sentence(kind, text, command, configured, tmp_path):
    corpus = Path(shutil.copytree(configured(*command(kind)).dataset.path, tmp_path / "corpus"))
    (corpus / "valid.txt").write_text(f"the old cat saw it\n{text}\n")
    with pytest.raises(UserError, match=r"^val: <\S+> marks the end of a text .*, 1 in all"):
        prepare(configured(*command(kind), f"dataset.path={corpus}"))
    task = prepare(configured(*command(kind)))
    with pytest.raises(UserError, match=r"^text: <"):
        task.codec.encode([text])


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (("dataset.tokens=words",), "dataset.tokens must be bpe"),
        (("dataset.vocabulary=300",), "leave out dataset.vocabulary"),
        (("model.freeze=[head]",), "model.freeze"),
    ],
)
def test_contradictions_are_found_before_anything_is_read(overrides, match, command, configured):
    with pytest.raises(ConfigError, match=match):
        configured(*command("gpt2"), *overrides)


def test_other_models_do_not_import_transformers(forks, tmp_path):
    code = "import sys, cvae.models, cvae.training.run, cvae.library; print('transformers' in sys.modules)"
    (tmp_path / "imports.py").write_text(code)
    done = forks.run(tmp_path / "imports.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "False\n")


def test_a_run_without_a_checkpoint_of_its_own_starts_again_from_the_pretrained_weights(
    command, configured, tmp_path, monkeypatch
):
    given, whole, killed = command("gpt2"), RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    run(configured(*given), whole)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", lambda loop, logger: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(configured(*given), killed)
    run(configured(*given), killed)
    assert killed.results["test/iw_nll"] == whole.results["test/iw_nll"]
