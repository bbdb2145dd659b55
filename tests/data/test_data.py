"""Corpora and batches: the vocabulary, encoding, samplers, generated data and text files."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvae import data
from cvae.config.schema import OwnText, TextData, TinyData, ToyData
from cvae.data import files, toy
from cvae.data.encoding import compact, encode
from cvae.data.text import (
    SAMPLERS,
    Batches,
    Corpus,
    Splits,
    bucketed,
    equal_length,
    extra_batches,
    order,
    splits,
)
from cvae.data.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary, words_of
from cvae.errors import UserError
from tests.helpers import CPU

TINY = TinyData(name="tiny", sentences=100, sampler="equal_length")
quick = settings(deadline=None, max_examples=50)
many_lengths = st.lists(st.integers(2, 12), min_size=1, max_size=200).map(np.array)
samplers = pytest.mark.parametrize("sampler", SAMPLERS)


def corpus_of(lengths: list[int], words: int = 500) -> Corpus:
    """Sentence n is `<s>`, then the number n + 4 repeated, then `</s>`."""
    sentences = [[BOS, *[n + 4] * (length - 2), EOS] for n, length in enumerate(lengths)]
    return Corpus(sentences, words, CPU)


def numbered(texts: dict[str, list[str]], max_types: int | None = None) -> Splits:
    """The data set of these texts, numbered by the words of train."""
    words = Vocabulary.of((text.split() for text in texts["train"]), max_types=max_types)
    return splits(texts, words, CPU, {})


def words_in(texts: Iterable[str]) -> list[list[str]]:
    """The words of each text."""
    return [words_of(text) for text in texts]


# ---- vocabulary ----


def test_words_are_ranked_by_frequency_and_ties_alphabetically():
    found = Vocabulary.of([["b", "c", "a"], ["b", "d"], ["d", "b"]])
    assert found.words == [*SPECIALS, "b", "d", "a", "c"]


def test_the_order_of_the_sentences_does_not_change_the_numbers():
    sentences = [["b", "c", "a"], ["b", "d"], ["e"], ["c"]]
    assert Vocabulary.of(sentences).words == Vocabulary.of(sentences[::-1]).words


def test_a_literal_unk_is_the_unknown_word_however_frequent():
    found = Vocabulary.of([["<unk>", "the", "<unk>", "<unk>"]])
    assert found.words == [*SPECIALS, "the"]
    assert found.encode(["<unk>", "the", "never-seen"]) == [BOS, UNK, 4, UNK, EOS]
    assert UNK == 1


def test_decoding_stops_at_the_end_and_undoes_encoding():
    found = Vocabulary.of([["a", "b"]])
    assert found.decode(found.encode(["a", "<unk>", "b"])) == ["a", "<unk>", "b"]
    assert found.decode([BOS, 5, EOS, 4, 4]) == ["b"]
    assert found.decode([4, PAD, PAD]) == ["a"]


def test_the_vocabulary_comes_from_the_train_split_only():
    found = numbered({"train": ["a b"], "val": ["c a"], "test": ["d"]})
    assert found.vocabulary.words == [*SPECIALS, "a", "b"]
    assert found.corpora["val"].batch(np.array([0])).tokens.tolist() == [[BOS, UNK, 4, EOS]]


def test_the_corpus_s_own_unk_is_an_unknown_word_and_the_end_is_none():
    texts = {"train": ["a a b", "<unk> a"], "val": ["a c", "", "<unk> b b"], "test": ["a"]}
    found = numbered(texts)
    shares = {split: corpus.unknown_share for split, corpus in found.corpora.items()}
    assert shares == {"train": 1 / 5, "val": 2 / 5, "test": 0.0}
    fewer = numbered(texts, max_types=1)  # only "a"
    assert fewer.corpora["train"].unknown_share == 2 / 5


def test_only_sentences_of_the_same_words_in_the_same_order_count_as_in_train():
    texts = {"train": ["a b", "c", "c"], "val": ["b a", "a  b", "ab", "a b c"], "test": ["d e", "c", "c"]}
    for kept in (None, 0):  # of a vocabulary of no words at all, every sentence of two looks alike
        assert numbered(texts, max_types=kept).in_train == {"val": 1 / 4, "test": 2 / 3}


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CVAE_DATA"), reason="CVAE_DATA is not set")
def test_unknown_words_and_overlap_of_the_real_corpora(configured):
    small = data.build(configured("task=ptb_small").dataset, CPU)
    assert small.corpora["train"].unknown_share == pytest.approx(0.187, abs=5e-4)
    reviews = data.build(configured("experiment=yelp_quick", "schedule=cyclical").dataset, CPU)
    assert reviews.in_train["test"] == pytest.approx(0.101, abs=5e-4)


# ---- corpus and batch ----


def test_a_batch_holds_its_sentences_in_the_order_asked_for_and_pads_behind_them():
    corpus = Corpus([[2, 7, 3], [2, 5, 6, 4, 3], [2, 3]], 10, CPU)
    batch = corpus.batch(np.array([2, 1, 0, 2]))
    assert batch.tokens.tolist() == [[2, 3, 0, 0, 0], [2, 5, 6, 4, 3], [2, 7, 3, 0, 0], [2, 3, 0, 0, 0]]
    assert batch.lengths.tolist() == [2, 5, 3, 2]
    assert batch.inputs.tolist()[2] == [2, 7, 3, 0] and batch.targets.tolist()[2] == [7, 3, 0, 0]
    assert batch.counted.tolist() == [1, 4, 2, 1]
    assert batch.tokens.dtype == batch.lengths.dtype == torch.int64


def test_equal_lengths_need_no_pads():
    batch = Corpus([[2, 7, 3], [2, 3], [2, 8, 3]], 10, CPU).batch(np.array([2, 0]))
    assert batch.tokens.tolist() == [[2, 8, 3], [2, 7, 3]]


@quick
@given(many_lengths, st.data())
def test_any_batch_is_the_sentences_themselves(lengths, data):
    corpus = corpus_of(list(lengths))
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=9))
    batch = corpus.batch(np.array(chosen))
    for n, row, length in zip(chosen, batch.tokens.tolist(), batch.lengths.tolist(), strict=True):
        assert row[:length] == [BOS, *[n + 4] * (lengths[n] - 2), EOS]
        assert set(row[length:]) <= {PAD}
    assert batch.tokens.size(1) == max(lengths[chosen])


@pytest.mark.parametrize(("words", "dtype"), [(32_767, torch.int16), (32_768, torch.int32)])
def test_tokens_take_two_bytes_below_32768_words_and_four_above(words, dtype):
    corpus = Corpus([[2, words - 1, 3]], words, CPU)
    assert corpus.tokens.dtype == dtype
    assert corpus.batch(np.array([0])).tokens.tolist() == [[2, words - 1, 3]]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_numbers_take_no_more_bytes_than_the_largest_needs(size):
    largest = 2 ** (size - 1) - 1
    for numbers, bits in ([largest, 0], size), ([largest // 2 + 1], size), ([largest + 1], 2 * size):
        if bits <= 64:
            assert compact(np.array(numbers)).tolist() == numbers
            assert compact(np.array(numbers)).dtype.itemsize == bits // 8
    assert compact(np.array([], dtype=np.int64)).dtype == np.int16


def test_counted_tokens_are_the_words_and_the_end():
    corpus = corpus_of([2, 5, 9])
    assert corpus.counted == 1 + 4 + 8 and corpus.words.tolist() == [0, 3, 7]
    assert corpus.counted == sum(int(batch.counted.sum()) for batch in Batches(corpus, "bucketed", 2, 0))


# ---- samplers ----


@samplers
@quick
@given(lengths=many_lengths, size=st.integers(1, 40), seed=st.integers(0, 2**63 - 1))
def test_every_sentence_is_in_exactly_one_batch(sampler, lengths, size, seed):
    batches = SAMPLERS[sampler](lengths, size, seed)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)


@quick
@given(many_lengths, st.integers(1, 40), st.integers(0, 99))
def test_equal_length_batches_have_one_length_and_only_the_last_of_a_length_is_small(lengths, size, seed):
    batches = equal_length(lengths, size, seed)
    assert all(len(set(lengths[batch])) == 1 for batch in batches)
    assert len(batches) == sum(-(-count // size) for count in Counter(lengths.tolist()).values())


@quick
@given(many_lengths, st.integers(1, 40), st.integers(0, 99))
def test_bucketed_batches_are_full_and_sorted_by_length(lengths, size, seed):
    batches = bucketed(lengths, size, seed)
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert (np.diff(lengths[np.concatenate(batches)]) >= 0).all()


@samplers
def test_the_seed_alone_decides_who_shares_a_batch(sampler):
    lengths = np.array([3, 4] * 50)
    groups = [[set(batch) for batch in SAMPLERS[sampler](lengths, 8, seed)] for seed in (0, 0, 1)]
    assert groups[0] == groups[1] != groups[2]


def test_order_is_a_pure_permutation_of_its_own_for_each_seed_and_epoch():
    found = {(seed, epoch): order(50, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert all(sorted(places) == list(range(50)) for places in found.values())
    assert len({tuple(places) for places in found.values()}) == 9
    np.random.default_rng(0).permutation(50)
    for seed, epoch in [(2, 2), (0, 1), (1, 0)]:
        assert (order(50, seed, epoch) == found[seed, epoch]).all()


@samplers
def test_the_batch_of_a_step_does_not_depend_on_what_was_asked_before(sampler):
    lengths = [2 + n % 5 for n in range(60)]
    batches = Batches(corpus_of(lengths), sampler, 8, seed=3)
    steps = range(3 * len(batches))
    forward = [batches.at(step).tokens.tolist() for step in steps]
    for step in reversed(steps):
        assert batches.at(step).tokens.tolist() == forward[step]
        assert Batches(corpus_of(lengths), sampler, 8, seed=3).at(step).tokens.tolist() == forward[step]


@samplers
def test_an_epoch_is_every_batch_once_and_the_next_has_them_in_another_order(sampler):
    batches = Batches(corpus_of([2 + n % 5 for n in range(60)]), sampler, 8, seed=3)
    tokens = [batches.at(step).tokens.tolist() for step in range(2 * len(batches))]
    first, second = tokens[: len(batches)], tokens[len(batches) :]
    assert sorted(first) == sorted(second) == sorted(batch.tokens.tolist() for batch in batches)
    assert first != second


def test_further_batches_are_of_the_same_epoch_and_of_the_seed_and_the_step():
    class Numbered:
        def __init__(self, seed: int) -> None:
            self.seed = seed

        def __len__(self) -> int:
            return 5

        def at(self, step: int) -> int:
            return step

    found = set()
    for seed in range(3):
        for step in range(15):
            drawn = list(itertools.islice(extra_batches(Numbered(seed), step), 60))
            first = step // 5 * 5
            assert set(drawn) == set(range(first, first + 5))
            found.add(tuple(number - first for number in drawn))
    assert len(found) == 3 * 15


# ---- generated corpora ----


def test_the_toy_sequences_are_one_hot_and_val_and_test_repeat_them():
    config = ToyData(name="toy", sequences=10, draws=3, sampler="equal_length")
    found, copied = toy.toy(config), toy.toy(dataclasses.replace(config, copies=2))
    assert (copied["train"][::2], copied["train"][1::2]) == (found["train"], found["train"])
    assert copied["val"] == found["val"]
    assert [row.index("1") for row in found["train"]] == list(range(10))
    assert all(row.count("0") == 9 and len(row) == 10 for row in found["train"])
    assert found["val"] == found["test"] and len(found["val"]) == 30
    assert Counter(map(tuple, found["val"])) == {tuple(row): 3 for row in found["train"]}
    built = data.build(config, CPU)
    assert built.vocabulary.words == [*SPECIALS, "0", "1"]
    assert len(built.corpora["train"]) == 10 and len(built.corpora["test"]) == 30


def test_the_tiny_corpus_is_the_same_at_every_call_and_varied():
    torch.manual_seed(0)
    first = toy.tiny(TINY)
    torch.manual_seed(1)
    assert toy.tiny(TINY) == first
    assert {split: len(rows) for split, rows in first.items()} == {"train": 100, "val": 10, "test": 10}
    assert all(2 <= len(row) <= 40 for rows in first.values() for row in rows)
    many = toy.tiny(dataclasses.replace(TINY, sentences=2000))["train"]
    assert max(map(len, many)) == 40  # longer ones are cut
    assert len({tuple(row) for row in first["train"]}) > 80
    assert first["val"] != first["test"]


def test_the_tiny_corpus_has_no_word_in_val_that_train_lacks():
    built = data.build(TinyData(name="tiny", sentences=2000, sampler="bucketed"), CPU)
    assert all((corpus.tokens != UNK).all() for corpus in built.corpora.values())


def test_fingerprints_tell_corpora_apart():
    assert toy.fingerprint([["a", "b"], ["c"]]) == hashlib.sha256(b"a b\nc").hexdigest()
    prints = [data.build(config, CPU).fingerprints for config in (TINY, TINY)]
    assert prints[0] == prints[1]
    assert set(prints[0]) == {"train", "val", "test"} and len(set(prints[0].values())) == 3
    assert toy.fingerprint([["a"], ["b"]]) != toy.fingerprint([["a", "b"]])


# ---- text files ----


def write(folder: Path, **contents: bytes) -> TextData:
    """train.txt, valid.txt and test.txt in `folder`, and the configuration that reads them."""
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_bytes(contents.get(name, b"a\n"))
    return TextData(name="ptb", path=str(folder), max_words=200, sampler="equal_length")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Keeps what `datasets` caches out of the home folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("cache")
def test_line_ends_blank_lines_and_a_missing_last_newline_change_nothing(tmp_path):
    plain = "the naïve dog\n<unk> sat\nthe end\n".encode()
    config = write(
        tmp_path,
        train=plain,
        valid=plain.replace(b"\n", b"\r\n"),
        test=b"\xef\xbb\xbf\n  \r" + plain.replace(b"\n", b"\r\r").rstrip() + b" ",
    )
    found, prints, _ = files.read(config)
    sentences = {split: words_in(rows) for split, rows in found.items()}
    assert sentences["train"] == [["the", "naïve", "dog"], ["<unk>", "sat"], ["the", "end"]]
    assert sentences["train"] == sentences["val"] == sentences["test"]
    assert prints["train"] == hashlib.sha256(plain).hexdigest()
    assert len(set(prints.values())) == 3
    built = data.build(config, CPU)
    assert built.vocabulary.words == [*SPECIALS, "the", "dog", "end", "naïve", "sat"]
    assert built.fingerprints == prints


@pytest.mark.usefixtures("cache")
def test_byte_order_marks_are_no_part_of_a_word_wherever_they_stand(tmp_path):
    marked = "\ufeffthe dog\n\ufeff\n\ufeffthe end\ufeff\nthe \ufeff d\ufeffog \ufeff\n".encode()
    config = write(tmp_path, train=marked)
    checked = files.check(tmp_path / "train.txt", max_words=2)
    assert checked == (hashlib.sha256(marked).hexdigest(), 3, 1, 0, 0)
    found, *_ = files.read(config)
    assert words_in(found["train"]) == [["the", "dog"], ["the", "end"], ["the", "dog"]]
    assert data.build(config, CPU).vocabulary.words == [*SPECIALS, "the", "dog", "end"]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["a::b.txt", "zip::http:b.txt", "a[1]*?.txt", "a b.txt", "ä~#.txt"])
def test_a_file_is_read_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text("\n".join(f"word{n} said" for n in range(30)))
    found, *_ = files.read(own(tmp_path / name))
    assert sorted(words for rows in found.values() for words in words_in(rows)) == sorted(
        [f"word{n}", "said"] for n in range(30)
    )


@pytest.mark.usefixtures("cache")
def test_a_text_that_begins_like_an_archive_is_a_text(tmp_path):
    config = write(tmp_path, train=b"BZh91AY is a word\nBZh\n")
    assert words_in(files.read(config)[0]["train"]) == [["BZh91AY", "is", "a", "word"], ["BZh"]]


@pytest.mark.usefixtures("cache")
def test_a_sentence_is_a_line_and_nothing_else_ends_it(tmp_path):
    unusual = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\xa0h\u3000i\ng\u200bh\n"
    config = write(tmp_path, train=unusual.encode())
    assert words_in(files.read(config)[0]["train"]) == [list("abcdefghi"), ["g\u200bh"]]
    assert files.check(tmp_path / "train.txt", max_words=9).sentences == 2


@pytest.mark.usefixtures("cache")
def test_long_sentences_are_left_out_before_the_most_frequent_words_are_chosen(tmp_path):
    config = write(tmp_path, train=b"the\nthe dog\nlong long long long\nthe dog sat\n", test=b"the cat sat\n")
    built = data.build(dataclasses.replace(config, longest=3, vocabulary=2), CPU)
    assert built.vocabulary.words == [*SPECIALS, "the", "dog"]
    assert len(built.corpora["train"]) == 3
    assert built.vocabulary.encode(["the", "cat", "dog"])[1:-1] == [4, UNK, 5]


@pytest.mark.usefixtures("cache")
def test_a_file_replaced_by_another_of_the_same_time_is_read_anew(tmp_path):
    for content in (b"old text\n", b"new text\n"):
        config = write(tmp_path, train=content)
        for path in config.files().values():
            os.utime(path, (1_000_000_000, 1_000_000_000))  # as unpacking an archive does
        sentences, *_ = files.read(config)
        assert words_in(sentences["train"]) == [content.decode().split()]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a b\nc \xff d\n", "{path}, line 2: not UTF-8 (byte 0xff at place 2)"),
        (b"", "{path} has no sentence in it"),
        (b"\n \r\n\n", "{path} has no sentence in it"),
        (b"a\n\n" + b"w " * 6 + b"\n", "{path}, line 3: 6 words, dataset.max_words allows 5"),
        (b"a\r\nb\r" + b"w " * 6, "{path}, line 3: 6 words, dataset.max_words allows 5"),
        (
            b"a <s> b\n",
            "{path}, line 1: <s>: of the special words <pad>, <unk>, <s>, </s> only",
        ),
        (b"a\nb </s> <pad>\n", "{path}, line 2: </s>, <pad>: of the special words "),
        ("the cat\nsat\n".encode("utf-16-le"), "{path}, line 1: a NUL character; text is UTF-8, and this"),
        (b"\xef\xbb\xbf\n\n\xef\xbb\xbf", "{path} has no sentence in it"),
    ],
    ids=["bytes", "empty", "blank", "long", "line-ends", "reserved", "two-reserved", "utf-16", "marks"],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_name_and_line(tmp_path, content, sentence):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        files.check(path, max_words=5)
    assert str(refusal.value).startswith(sentence.format(path=path))


def test_special_words_stand_in_no_sentence():
    with pytest.raises(UserError, match=r"^</s>, <pad> in a sentence: of the special words .* only <unk> "):
        encode(Vocabulary([*SPECIALS, "a"]), ["a <unk>", "a <pad> </s> a <pad>"])


def test_a_sentence_may_have_more_tokens_than_sixteen_bits_count():
    long = np.iinfo(np.int16).max + 1
    encoded = encode(Vocabulary([*SPECIALS, "a"]), ["a", " ".join(["a"] * long)])
    assert list(encoded.words) == [1, long] and list(encoded.lengths) == [1 + 2, long + 2]


def test_a_split_without_a_sentence_is_named():
    with pytest.raises(UserError, match=r"^the split val has no sentence in it$"):
        splits({"train": ["a"], "val": []}, Vocabulary([*SPECIALS, "a"]), CPU, {})


def test_a_data_set_that_nobody_reads_is_named():
    class NewData:
        """A dataset that is not registered."""

    with pytest.raises(KeyError, match=r"NewData has no reader in REGISTRY of cvae\.data"):
        data.build(NewData(), CPU)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_cache_that_is_full_is_told_in_a_sentence(tmp_path, monkeypatch, wrapped):
    import datasets

    def fail(*_, **__):
        full = OSError(28, "No space left on device")
        if wrapped:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from full
        raise full

    path = tmp_path / "a.txt"
    path.write_text("the cat sat\n")
    monkeypatch.setattr(datasets.Dataset, "from_generator", fail)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    full = rf"^{path} cannot be kept in the cache {tmp_path}/cache: .*No space left on device; HF_"
    with pytest.raises(UserError, match=full):
        list(files.Texts((path,), "0" * 64))


def test_the_longest_allowed_sentence_and_a_literal_unk_pass(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"w w <unk> w w\n")
    assert files.check(path, max_words=5)[:2] == (hashlib.sha256(b"w w <unk> w w\n").hexdigest(), 1)


def test_a_file_of_longer_sentences_only_is_refused_with_their_limit(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("one two three\n\n")
    with pytest.raises(UserError, match=r"train\.txt has no sentence of at most 2 words in it$"):
        files.check(path, max_words=5, longest=2)


def test_a_bad_file_is_found_in_any_split_before_anything_is_read(tmp_path):
    config = write(tmp_path, test=b"\xff\n")
    with pytest.raises(UserError, match=r"test\.txt, line 1: not UTF-8"):
        files.read(config)


# ---- anybody's text ----


def own(path: Path, **values) -> OwnText:
    base = {"max_words": 200, "min_count": 1, "vocabulary": None, "held_out": 0.1, "sampler": "bucketed"}
    return OwnText(name="text", path=str(path), **(base | values))


@pytest.mark.usefixtures("cache")
def test_splits_without_a_file_are_held_out_of_the_training_sentences(tmp_path):
    lines = [f"word{n} common" for n in range(40)]
    (tmp_path / "my text.txt").write_text("\n\none too long\n".join(lines), encoding="utf-8")
    alone, *_ = files.read(own(tmp_path / "my text.txt", longest=2))
    parts = {split: list(rows) for split, rows in alone.items()}
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 32, "val": 4, "test": 4}
    assert sorted(line for part in parts.values() for line in part) == sorted(lines)
    assert parts["train"] == [line for line in lines if line in parts["train"]]
    assert not {tuple(parts["val"]), tuple(parts["test"])} & {tuple(lines[i : i + 4]) for i in range(40)}

    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "test.txt").write_text("a test\n", encoding="utf-8")
    folder, prints, _ = files.read(own(tmp_path))
    assert list(folder["test"]) == ["a test"]
    assert list(folder["val"]) == parts["val"]
    assert len(list(folder["train"])) == 36
    assert prints["train"] == prints["val"] != prints["test"]


@pytest.mark.parametrize(
    ("count", "share", "size"),
    [(40, 0.1, 4), (26, 0.1, 3), (24, 0.1, 2), (4, 0.1, 1), (50, 0.3, 15)],
)
@pytest.mark.parametrize("missing", [["val"], ["val", "test"]])
def test_a_held_out_share_is_rounded_and_one_sentence_at_least(count, share, size, missing):
    parts = files.held_out(Path("text"), count, share, missing)
    assert [len(parts[split]) for split in missing] == [size] * len(missing)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(count))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["valid.txt", "val.txt", "validation.txt", "dev.txt"])
def test_the_validation_text_is_read_by_any_of_its_names_and_what_is_held_out_is_said(tmp_path, name):
    (tmp_path / "train.txt").write_text("the cat sat\n" * 39 + "the end\n")
    (tmp_path / "test.txt").write_text("a dog\n")
    said = data.build(own(tmp_path), CPU).notes
    held = "val 4 held out of train (dataset.held_out)"
    assert said == (f"train 36 sentences of train.txt; test 1 sentences of test.txt; {held}",)
    (tmp_path / name).write_text("a cat\nthe dog\n")
    built = data.build(own(tmp_path), CPU)
    assert (
        "held out" not in built.notes[0]
        and len(built.corpora["val"]) == 2
        and len(built.corpora["train"]) == 40
    )
    assert built.fingerprints["val"] == hashlib.sha256(b"a cat\nthe dog\n").hexdigest()
    (tmp_path / "test.txt").unlink()
    said = data.build(own(tmp_path), CPU).notes
    assert said[0].endswith("; test 4 held out of train (dataset.held_out)")


def test_two_validation_texts_are_refused(tmp_path):
    for name in ("train.txt", "valid.txt", "val.txt"):
        (tmp_path / name).write_text("the cat sat\n")
    with pytest.raises(
        UserError, match=r"has valid\.txt and val\.txt: one of them must be the validation text"
    ):
        files.read(own(tmp_path))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"min_count": 2}, ["a", "b"]),
        ({"vocabulary": 3}, ["a", "b", "c"]),
        ({"min_count": 3, "vocabulary": 3}, ["a"]),
    ],
)
def test_rare_words_are_unknown(tmp_path, values, words):
    (tmp_path / "train.txt").write_text("a b\na b d\na c <unk>\n")
    for name in ("valid", "test"):
        (tmp_path / f"{name}.txt").write_text("d x\n")
    built = data.build(own(tmp_path, **values), CPU)
    assert built.vocabulary.words == [*SPECIALS, *words]
    known = built.vocabulary.index.get("d", UNK)
    assert built.corpora["val"].tokens.tolist() == [BOS, known, UNK, EOS]


def test_text_that_is_not_there_or_too_little_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no text at .*nowhere: dataset.path must be a file with a sentence"):
        files.read(own(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no text at .*train\.txt: dataset.path must be a file"):
        files.read(own(tmp_path))
    (tmp_path / "train.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="has 2 sentences: too few to hold 1 out for val and test each"):
        files.read(own(tmp_path))


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CVAE_DATA"), reason="CVAE_DATA is not set")
@pytest.mark.usefixtures("cache")
def test_ptb_has_the_sizes_of_the_authors_experiment():
    folder = Path(os.environ["CVAE_DATA"]) / "ptb"
    found = data.build(TextData(name="ptb", path=str(folder), max_words=200, sampler="equal_length"), CPU)
    assert len(found.vocabulary) == 10_002
    # protocol A1: sentences, batches, counted tokens
    expected = {
        "train": (42_068, 1_359, 929_589),
        "val": (3_370, 142, 73_760),
        "test": (3_761, 155, 82_430),
    }
    cut = {split: Batches(corpus, "equal_length", 32, seed=0) for split, corpus in found.corpora.items()}
    sizes = {
        split: (len(batches.corpus), len(batches), batches.corpus.counted) for split, batches in cut.items()
    }
    assert sizes == expected
    assert sum(len(members) == 32 for members in cut["train"].members) == 1_282
