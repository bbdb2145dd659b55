"""Words, characters and pieces: the same corpus with other tokens."""

from __future__ import annotations

import sys
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvae.config.schema import OwnText
from cvae.data import vocabulary
from cvae.data.vocabulary import BOS, EOS, SPECIALS, UNK, Characters, Pieces, Vocabulary
from cvae.errors import UserError
from cvae.evaluation.codec import Codec
from tests.helpers import unloadable

LINES = [
    f"the {a} {b} saw a {c}" for a in ("old", "red") for b in ("cat", "dog", "fox") for c in ("sea", "hill")
] * 4
WORDS = Vocabulary.of([["the"]])
pytest.importorskip("tokenizers")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keeps what `datasets` caches out of the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces.trained(LINES, 300)


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30).map(lambda t: " ".join(t.split()))


@settings(deadline=None, max_examples=60)
@given(text)
def test_pieces_of_bytes_say_every_text_and_nothing_is_unknown(pieces, sentence):
    numbers = next(pieces.encode_texts([sentence]))
    assert numbers == pieces.encode(pieces.split(sentence))
    assert UNK not in numbers and numbers[0] == BOS and numbers[-1] == EOS
    assert pieces.sentence(numbers) == sentence.strip()


@settings(deadline=None, max_examples=60)
@given(text)
def test_characters_are_joined_to_the_text_they_come_from(sentence):
    letters = Characters.of([Characters.split(sentence)])
    assert letters.sentence(letters.encode(letters.split(sentence))) == sentence


@pytest.mark.parametrize(
    "spaced", ["the old  cat", " the old cat ", "the\told\r\ncat", "\ufeffthe old\u2003cat"]
)
def test_white_space_is_one_space_whatever_the_tokens(pieces, spaced):
    for known in (pieces, Characters.of([Characters.split("the old cat")]), Vocabulary.of([["a"]])):
        assert known.split(spaced) == known.split("the old cat")
        assert list(known.encode_texts([spaced])) == [known.encode(known.split("the old cat"))]


def test_a_text_is_shown_as_it_is_read_whatever_the_tokens(pieces):
    model: Any = None  # showing a text asks no model
    letters = Characters.of([Characters.split("the old cat")])
    for known, shown in ((pieces, "the old ox"), (letters, "the old o<unk>"), (WORDS, "the <unk> <unk>")):
        assert Codec(model, known).known("the  old ox") == shown
    unknown = [*pieces.split("the cat"), "<unk>", "<unk>", *pieces.split("saw")]
    assert pieces.join(unknown) == "the cat <unk> <unk> saw"


def test_a_word_is_of_the_same_pieces_wherever_it_stands(pieces):
    assert pieces.split("cat cat") == 2 * pieces.split("cat")


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_pieces_are_those_of_each_text_however_many_are_encoded_together(count, pieces, monkeypatch):
    monkeypatch.setattr(vocabulary, "ENCODED_TOGETHER", 3)
    assert list(pieces.encode_texts(LINES[:count])) == [pieces.encode(pieces.split(t)) for t in LINES[:count]]


def test_the_special_words_come_first_whatever_the_tokens(pieces):
    for known in (pieces, Characters.of([["a", "b"]]), Vocabulary.of([["a"]])):
        assert tuple(known.words[:4]) == SPECIALS and len(set(known.words)) == len(known)
    assert 256 + 4 < len(pieces) <= 300 + 4


def test_a_vocabulary_is_loaded_as_it_was_saved(tmp_path, pieces):
    letters, words = Characters([*SPECIALS, "é", " "]), Vocabulary.of([["a"]])  # the space comes last
    for name, known in (("bpe", pieces), ("chars", letters), ("words", words)):
        known.save(tmp_path)
        for again in (vocabulary.load(tmp_path, name), vocabulary.restored(known.content, name)):
            assert type(again) is type(known) and again.words == known.words
            assert list(again.encode_texts(LINES[:3])) == list(known.encode_texts(LINES[:3]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<pad>\n<unk>\n<s>\na\n</s>\n", "is no vocabulary: <pad>, <unk>, <s>, </s> come first, and no"),
        (b"<pad>\n<unk>\n</s>\n<s>\na\n", "is no vocabulary: "),
        (b"<pad>\n<unk>\n<s>\n</s>\na\nb\na\n", "is no vocabulary: "),
        (b"<pad>\n<unk>\n<s>\n</s>\n\xff\n", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(content, sentence, tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} {sentence}"):
        vocabulary.load(tmp_path, "words")


def test_of_unknown_tokens_the_ten_most_frequent_are_named():
    known = Vocabulary([*SPECIALS, "a"])
    known.source = "runs/old"
    texts = {"train": ["a b0 b0 <unk> <unk> <unk>"] + ["a"] * 4, "val": [f"b{n}" for n in range(11)]}
    named = ", ".join(["'b0' (3)", *(f"'b{n}' (1)" for n in range(1, 10))])
    unknown = f"50.00% of train, 100.00% of val; most often {named}"
    assert vocabulary.strangers(known, texts) == (
        f"the vocabulary of runs/old is kept, 5 tokens: unknown to it are {unknown}",
    )


def test_a_tokenizer_of_ones_own_is_used_and_its_unknown_token_is_unknown(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "<unk>": 1, "hen": 2, "cat": 3}, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing("[UNK] $A", special_tokens=[("[UNK]", 0)])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(1)
    tokenizer.save(str(tmp_path / "own.json"))
    found = Pieces.read(tmp_path / "own.json")
    assert found.words == [*SPECIALS, "[UNK]", "hen", "cat"]  # in the tokenizer's own order
    assert found.encode(found.split("cat dog cat")) == [BOS, 6, UNK, 6, EOS]
    assert list(found.encode_texts(["cat dog cat", "cat"])) == [[BOS, 6, UNK, 6, EOS], [BOS, 6, EOS]]
    assert found.join(["cat", "hen", "<unk>", "cat"]) == "cat hen <unk> cat"
    (tmp_path / "own.json").write_text('{"model": 3}')
    with pytest.raises(
        UserError, match=r"own\.json is no tokenizer\.json of .* library: .* line 1 column 12$"
    ):
        Pieces.read(tmp_path / "own.json")
    for path, why in ((tmp_path / "absent.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=f"^{path} cannot be read: {why}"):
            Pieces.read(path)


@pytest.mark.parametrize("installed", [False, True])  # but it cannot be loaded
def test_a_machine_without_the_library_is_told_what_to_install(monkeypatch, tmp_path, installed):
    if installed:
        unloadable(monkeypatch, "tokenizers")
    else:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
    config = OwnText(
        name="text", path="x", max_words=9, held_out=0.1, sampler="bucketed", tokens="bpe", vocabulary=300
    )
    for made in (
        lambda: vocabulary.build(config, LINES),
        lambda: vocabulary.load(tmp_path, "bpe"),
        lambda: vocabulary.restored("{}", "bpe"),
    ):
        with pytest.raises(
            UserError, match=r"tokens=bpe needs the tokenizers library: pip install 'cvae-lab\[tokens\]'"
        ):
            made()
