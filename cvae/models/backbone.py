"""Pretrained backbones: networks and pieces of GPT-2 and T5, read from a checkpoint's folder.

Needs the `transformers` library, imported only when a model is built; it reads safetensors and JSON, and no
code of a checkpoint is ever run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from cvae.config.schema import ARCHITECTURE
from cvae.data.vocabulary import BOS, EOS, PAD, SPECIALS, TOKENIZER, UNK, Pieces, Vocabulary
from cvae.errors import UserError, in_a_line
from cvae.io import read_json

DECODERS = {
    "gpt2": "GPT2LMHeadModel",
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
}
ENCODERS = {"gpt2": "GPT2Model", "t5": "T5EncoderModel", "mt5": "MT5EncoderModel"}
STARTS = {"gpt2": "bos_token_id", "t5": "pad_token_id", "mt5": "pad_token_id"}  # what stands for <s>
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout_rate")  # by GPT-2's and T5's names
NEVER = -1e4  # the logit of what is no piece, whose exponential is 0


# ---- checkpoints ----


def network(part: str, source: str, dropout: float) -> nn.Module:
    """Return the decoder or encoder, `part`, of a checkpoint's folder, with its weights.

    From a run's `pretrained.json` it is the same architecture without them. Raises UserError for what cannot
    be used.
    """
    transformers = _library()
    key, path = f"model.{part}", Path(source)
    config = _architecture(part, path) if path.name == ARCHITECTURE else _config(key, path)
    classes = DECODERS if part == "decoder" else ENCODERS
    kind = config.get("model_type")
    if kind not in classes:
        raise UserError(f"{key}={source} is of the kind {kind}, which is none of {', '.join(classes)}")
    cls = getattr(transformers, classes[kind])
    changed = dict.fromkeys(DROPOUTS, dropout) | {"use_cache": part == "decoder"}
    with _reading(key, path):
        settings = cls.config_class.from_dict({**config, **changed})
        if path.name == ARCHITECTURE:
            return cast(nn.Module, cls(settings))
    return _weights(key, path, cls, settings)


def _library() -> Any:
    """Return the transformers library. Raises UserError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            "model=pretrained needs the transformers package: pip install 'cvae-lab[pretrained]'"
        ) from None
    return transformers


def _architecture(part: str, path: Path) -> dict[str, Any]:
    """Return what a run keeps of a checkpoint's configuration. Raises UserError where that is lost."""
    if not isinstance(config := (read_json(path) or {}).get(part), dict):
        raise UserError(f"{path} is missing, or does not say what the {part} is")
    return config


def _config(key: str, folder: Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint. Raises UserError unless it can be read without pickle."""
    if (config := read_json(folder / "config.json")) is None:
        raise UserError(
            f"{key}={folder} has no config.json: it must be the folder of a checkpoint of the transformers"
            " library, or its name owner/name on the Hugging Face hub"
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{key}={folder} has no weights in safetensors, and pickled ones are never read")
    return config


def _weights(key: str, folder: Path, cls: Any, settings: Any) -> nn.Module:
    """Return a network with the weights of a folder. Raises UserError where they do not fit."""
    with _reading(key, folder):
        loaded, report = cls.from_pretrained(
            folder,
            config=settings,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # transformers' own refusal names none of them
        )
    if others := sorted(report["mismatched_keys"]):
        name, found, size = others[0]
        sizes = " x ".join(map(str, found)), " x ".join(map(str, size))
        raise UserError(f"{key}={folder}: {name} is {sizes[0]}, and by config.json it would be {sizes[1]}")
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{key}={folder} lacks weights of {cls.__name__}: {', '.join(missing[:3])}")
    return cast(nn.Module, loaded.train())  # it comes in evaluation mode


@contextlib.contextmanager
def _reading(key: str, path: Path) -> Iterator[None]:
    """Keep what transformers prints off the console. Raises UserError for what it raises."""
    logging = _library().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # many kinds, of several libraries
        raise UserError(f"{key}={path} cannot be read: {in_a_line(error)}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


# ---- pieces ----


def numbers(key: str, source: str, vocabulary: Vocabulary, config: Any) -> Tensor:
    """Return the checkpoint's number of each of our tokens: [V].

    `<unk>` without a piece of its own, and `<pad>`, which nothing reads, get that of `</s>`. Raises
    UserError where our tokens are not the checkpoint's pieces.
    """
    if not isinstance(vocabulary, Pieces):
        raise UserError(f"model=pretrained reads the pieces of {key}: dataset.tokens must be bpe")
    rebuilt = Path(source).name == ARCHITECTURE  # these numbers are among the weights that follow
    tokenizer = vocabulary.tokenizer if rebuilt else Pieces.read(Path(source) / TOKENIZER).tokenizer
    pieces = tokenizer.get_vocab()
    added = {token.content for token in vocabulary.tokenizer.get_added_tokens_decoder().values()}
    words = vocabulary.words[len(SPECIALS) :]
    if foreign := [word for word in words if word not in pieces and word not in added]:
        raise UserError(
            f"{key}={source} has other pieces than the run, such as {foreign[0]!r}: dataset.tokenizer"
            " must be left out, or be the checkpoint's own"
        )
    start, end = (_number(key, source, config, name) for name in (STARTS[config.model_type], "eos_token_id"))
    firsts = {PAD: end, UNK: pieces.get(SPECIALS[UNK], end), BOS: start, EOS: end}
    result = [
        *(firsts[number] for number in range(len(SPECIALS))),
        *(pieces.get(word, end) for word in words),
    ]
    if max(result) >= config.vocab_size and not rebuilt:
        raise UserError(f"{key}={source} has {config.vocab_size} word vectors, too few for its {TOKENIZER}")
    return torch.tensor(result)


def marks(vocabulary: Vocabulary, ids: Tensor) -> dict[int, str]:
    """Return our tokens that mark where a text begins or ends, by number, `</s>` by other names included."""
    added = {
        token.content for token in cast(Pieces, vocabulary).tokenizer.get_added_tokens_decoder().values()
    }
    ends = (ids == ids[EOS]).nonzero()[:, 0].tolist()
    aliases = [number for number in ends if vocabulary.words[number] in added]
    return {number: vocabulary.words[number] for number in (PAD, BOS, EOS, *aliases)}


def _number(key: str, source: str, config: Any, name: str) -> int:
    """Return a special token's number. Raises UserError where the configuration names none."""
    value = getattr(config, name, None)
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, int):
        raise UserError(f"{key}={source} does not say where sentences begin and end: it has no {name}")
    return value


def never(vocabulary: Vocabulary, ids: Tensor) -> Tensor:
    """Return the output bias: 0, and NEVER for `<pad>`, `<s>` and whatever is `</s>` by another name: [V]."""
    bias = torch.zeros(len(ids))
    bias[ids == ids[EOS]] = NEVER
    bias[[PAD, BOS]] = NEVER
    bias[EOS] = 0
    return bias
