"""Vocabularies: what the tokens of a sentence are (words, characters or pieces), and their numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cvae.config.schema import SentenceFiles
from cvae.data.parallel import in_chunks
from cvae.errors import UserError, in_a_line
from cvae.io import located, write_atomically

PAD, UNK, BOS, EOS = range(4)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
RESERVED = frozenset(SPECIALS) - {"<unk>"}
WHY_RESERVED = f"of the special words {', '.join(SPECIALS)} only <unk> may stand in a corpus"
BYTE_ORDER_MARK = "\ufeff"
TOKENIZER = "tokenizer.json"  # of a run whose tokens are pieces
MOST_FREQUENT = 10  # unknown tokens that a note names
ENCODED_TOGETHER = 1000  # texts; the tokenizers library takes several at once


def words_of(text: str) -> list[str]:
    """Return the words of a text: what stands between white space, without byte order marks."""
    return text.replace(BYTE_ORDER_MARK, "").split()


class Vocabulary:
    """Words and their numbers. A literal `<unk>` in a corpus is the same word as an unknown one.

    `source` is the run that it was taken from, empty where it is the run's own.
    """

    source = ""
    threaded = False  # whether it encodes texts on several cores by itself

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.index = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def of(
        cls, sentences: Iterable[Sequence[str]], min_count: int = 1, max_types: int | None = None
    ) -> Vocabulary:
        """Return the special words, then the types by falling frequency, ties in alphabetical order.

        Types must occur `min_count` times; at most `max_types` are kept, all of them where it is null.
        """
        return cls.ranked(Counter(itertools.chain.from_iterable(sentences)), min_count, max_types)

    @classmethod
    def ranked(cls, counts: Counter[str], min_count: int, max_types: int | None) -> Vocabulary:
        """Return what `of` does, given how often each type occurs."""
        for special in SPECIALS:
            counts.pop(special, None)
        frequent = (word for word, count in counts.items() if count >= min_count)
        ranked = sorted(frequent, key=lambda word: (-counts[word], word))
        return cls([*SPECIALS, *ranked[:max_types]])

    def __len__(self) -> int:
        return len(self.words)

    @property
    def text(self) -> str:
        """The tokens, one a line: a run's vocabulary.txt."""
        return "\n".join(self.words) + "\n"

    @property
    def content(self) -> str:
        """All that `restored` needs."""
        return self.text

    @staticmethod
    def split(text: str) -> list[str]:
        """Return the tokens of a text."""
        return words_of(text)

    def join(self, tokens: Iterable[str]) -> str:
        """Return tokens as text."""
        return " ".join(tokens)

    def known(self, tokens: Iterable[str]) -> list[str]:
        """Return tokens as the model reads them, unknown ones as `<unk>`."""
        return [token if token in self.index else SPECIALS[UNK] for token in tokens]

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the numbers of `<s>` tokens `</s>`."""
        return [BOS, *map(self.index.get, tokens, itertools.repeat(UNK)), EOS]

    def encode_texts(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Yield the numbers of each text, as `encode` returns them."""
        return (self.encode(self.split(text)) for text in texts)

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Return the tokens before the first `</s>`, without `<pad>` and `<s>`."""
        sentence = itertools.takewhile(lambda number: number != EOS, numbers)
        return [self.words[number] for number in sentence if number not in (PAD, BOS)]

    def sentence(self, numbers: Iterable[int]) -> str:
        """Return the text before the first `</s>`."""
        return self.join(self.decode(numbers))

    def save(self, folder: Path) -> None:
        """Write vocabulary.txt and all that `load` needs to a run's folder."""
        write_atomically(folder / "vocabulary.txt", self.text)


class Characters(Vocabulary):
    """Characters and their numbers; white space is one space."""

    @staticmethod
    def split(text: str) -> list[str]:
        return list(" ".join(words_of(text)))

    def join(self, tokens: Iterable[str]) -> str:
        return "".join(tokens)


class Pieces(Vocabulary):
    """The pieces of a tokenizer of the `tokenizers` library, numbered after the special words."""

    threaded = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        numbers = tokenizer.get_vocab()
        super().__init__([*SPECIALS, *(p for p in sorted(numbers, key=numbers.get) if p not in SPECIALS)])

    @classmethod
    def trained(cls, texts: Iterable[str], size: int) -> Pieces:
        """Return byte-pair encoding of `size` pieces (Sennrich et al. 2016), of bytes: nothing is unknown."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def read(cls, path: Path) -> Pieces:
        """Return the tokenizer in a file. Raises UserError for a file that is none."""
        import tokenizers

        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except Exception as error:  # the library raises nothing narrower, and UnicodeDecodeError is one
            raise UserError(
                f"{path} is no tokenizer.json of the tokenizers library: {in_a_line(error)}"
            ) from None

    def split(self, text: str) -> list[str]:  # type: ignore[override]  # a tokenizer is not the class's
        return self.tokenizer.encode(" ".join(words_of(text)), add_special_tokens=False).tokens

    def join(self, tokens: Iterable[str]) -> str:
        decoder = self.tokenizer.decoder
        parts = []  # `<unk>` is none of the decoder's pieces
        for unknown, group in itertools.groupby(tokens, lambda token: token == SPECIALS[UNK]):
            pieces = list(group)
            parts.append(" ".join(pieces) if unknown or decoder is None else decoder.decode(pieces).strip())
        return " ".join(parts)

    def encode_texts(self, texts: Iterable[str]) -> Iterator[list[int]]:
        remaining = (" ".join(words_of(text)) for text in texts)
        while batch := list(itertools.islice(remaining, ENCODED_TOGETHER)):
            for encoding in self.tokenizer.encode_batch(batch, add_special_tokens=False):
                yield self.encode(encoding.tokens)

    @property
    def content(self) -> str:
        return self.tokenizer.to_str(pretty=True)

    def save(self, folder: Path) -> None:
        super().save(folder)
        write_atomically(folder / TOKENIZER, self.content)


KINDS = {"words": Vocabulary, "chars": Characters}


def count(texts: Iterable[str], split: Callable[[str], list[str]]) -> Counter[str]:
    """Return how often each token occurs, in the order of the first of each."""
    counts: Counter[str] = Counter()
    for part in in_chunks(partial(_count, split), texts):
        counts.update(part)
    return counts


def _count(split: Callable[[str], list[str]], texts: list[str]) -> Counter[str]:
    return Counter(itertools.chain.from_iterable(map(split, texts)))


def build(config: SentenceFiles, texts: Iterable[str]) -> Vocabulary:
    """Return the vocabulary of the training sentences, with tokens as a dataset's configuration says.

    Raises UserError for a tokenizer that cannot be read, or where the tokenizers library is missing.
    """
    if config.tokens != "bpe":
        kind = KINDS[config.tokens]
        return kind.ranked(count(texts, kind.split), config.min_count, config.vocabulary)
    refuse_without_tokenizers()
    if config.tokenizer is not None:
        return Pieces.read(located(config.tokenizer))
    assert config.vocabulary is not None, "a rule of the configuration"
    return Pieces.trained(texts, config.vocabulary)


def load(folder: Path, tokens: str) -> Vocabulary:
    """Return the vocabulary that `Vocabulary.save` wrote; `tokens` are those of the dataset.

    Raises FileNotFoundError where it is not there, UserError for a file that is none.
    """
    if tokens == "bpe":
        refuse_without_tokenizers()
        return Pieces.read(folder / TOKENIZER)
    path = folder / "vocabulary.txt"
    try:
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8") from None
    if tuple(words[: len(SPECIALS)]) != SPECIALS or len(set(words)) < len(words):
        raise UserError(f"{path} is no vocabulary: {', '.join(SPECIALS)} come first, and no token twice")
    return KINDS[tokens](words)


def restored(content: str, tokens: str) -> Vocabulary:
    """Return the vocabulary that has this `content`; `tokens` are those of the dataset."""
    if tokens != "bpe":
        return KINDS[tokens](content.removesuffix("\n").split("\n"))
    refuse_without_tokenizers()
    import tokenizers

    return Pieces(tokenizers.Tokenizer.from_str(content))


def strangers(vocabulary: Vocabulary | None, texts: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return a note on what another run's vocabulary does not know of some texts, none for a run's own."""
    if vocabulary is None or not vocabulary.source:
        return ()
    missed: Counter[str] = Counter()
    shares = []
    for split, sentences in texts.items():
        counts = Counter(token for text in sentences for token in vocabulary.split(text))
        unknown = Counter({t: n for t, n in counts.items() if vocabulary.index.get(t, UNK) == UNK})
        shares.append(f"{unknown.total() / max(1, counts.total()):.2%} of {split}")
        missed += unknown
    del missed[SPECIALS[UNK]]  # the texts' own, which the share counts
    most = ", ".join(f"{token!r} ({count:,})" for token, count in missed.most_common(MOST_FREQUENT))
    often = f"; most often {most}" if most else ""
    where = f"the vocabulary of {vocabulary.source} is kept, {len(vocabulary):,} tokens"
    return (f"{where}: unknown to it are {', '.join(shares)}{often}",)


def refuse_without_tokenizers() -> None:
    """Raise UserError where the tokenizers library is not installed."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise UserError(
            "dataset.tokens=bpe needs the tokenizers library: pip install 'cvae-lab[tokens]'"
        ) from None
