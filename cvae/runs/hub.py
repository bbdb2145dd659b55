"""Models that others share: names of the Hugging Face hub as folders. Torch-free."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

from cvae.config.schema import ARCHITECTURE, Config, PretrainedModel
from cvae.errors import FolderError, in_a_line
from cvae.io import located
from cvae.runs.folder import EXPORTED, WEIGHTS, RunFolder

# of a checkpoint of the transformers library: nothing that is pickled or could run
CHECKPOINT = ["config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]
NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def local(source: str) -> Path:
    """Return the folder of a run or of an exported model; `owner/name` or `owner/name@revision` is fetched.

    What begins with a folder that is here is a path. Of a model of the hub only the files of an export are
    fetched: safetensors, JSON and text, nothing that could run. Raises FolderError where it cannot be had.
    """
    name = _name(source)
    if name is None:
        return located(source)
    folder = _fetched(*name, tuple(EXPORTED))
    if not (folder / WEIGHTS).exists():
        raise FolderError(f"{name[0]} of the hub has no {WEIGHTS}: it is no model that `export` wrote")
    return folder


def checkpoint(key: str, source: str) -> Path:
    """Return the folder of a pretrained checkpoint, fetched where it is a name of the hub.

    Raises FolderError, naming the `key`, where it cannot be had.
    """
    name = _name(source)
    if name is None and not located(source).is_dir():
        raise FolderError(f"{key}={source} is neither a folder here nor owner/name on the Hugging Face hub")
    return located(source) if name is None else _fetched(*name, tuple(CHECKPOINT))


def pretrained(model: PretrainedModel, folder: RunFolder | None) -> PretrainedModel:
    """Return the configuration with the folders of the checkpoints, or with what a run keeps of them.

    A run that has saved a checkpoint, or was exported, has weights of its own. Raises FolderError as
    `checkpoint` does.
    """
    if folder is not None and (folder.has_checkpoint or folder.finished or folder.exported):
        return dataclasses.replace(model, decoder=str(folder / ARCHITECTURE), encoder=None)
    decoder = str(checkpoint("model.decoder", model.decoder))
    encoder = str(checkpoint("model.encoder", model.encoder)) if model.encoder is not None else None
    return dataclasses.replace(model, decoder=decoder, encoder=encoder)


def source(config: Config) -> Path:
    """Return the folder that `init_from` or `continue_from` names. Raises FolderError as `local` does."""
    return local(config.init_from) if config.init_from is not None else config.source


def cached(source: str) -> Path:
    """Return what `local` does without asking the network; a folder that may not be there."""
    name = _name(source)
    if name is None:
        return located(source)
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(name[0], WEIGHTS, revision=name[1])
    return Path(found).parent if isinstance(found, str) else located(source)


def _name(source: str) -> tuple[str, str | None] | None:
    """Return name and revision of a model of the hub, None for a path."""
    name = NAME.fullmatch(source)
    if name is None or located(source.partition("/")[0]).exists():
        return None
    return name[1], name[2]


@functools.cache
def _fetched(name: str, revision: str | None, files: tuple[str, ...]) -> Path:
    """Return the folder with these files of a model of the hub, from the cache where there is no network."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except Exception as error:  # many kinds, of several libraries
        what = f"{name} is no folder here, and cannot be had from the hub"
        raise FolderError(f"{what}: {in_a_line(error)}") from None
