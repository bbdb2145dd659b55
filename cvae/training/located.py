"""The files that a model starts from: word vectors beside the data, and pretrained checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cvae.config.schema import Config, Dataset, DialogModel, ModelConfig, PretrainedModel, SentenceFiles
from cvae.data.vocabulary import TOKENIZER
from cvae.runs import hub
from cvae.runs.folder import RunFolder


def located(config: Config, folder: RunFolder | None) -> ModelConfig:
    """Return the model's configuration with the full paths of word vectors or checkpoints it starts from."""
    if isinstance(config.model, PretrainedModel):
        return hub.pretrained(config.model, folder)
    if not isinstance(config.model, DialogModel) or config.model.vectors is None:
        return config.model
    return dataclasses.replace(config.model, vectors=str(config.beside_data(config.model.vectors)))


def with_tokenizer(dataset: Dataset, model: ModelConfig) -> Dataset:
    """Return the dataset's configuration, with the tokenizer of a pretrained model if it names none."""
    if not (isinstance(model, PretrainedModel) and isinstance(dataset, SentenceFiles)) or dataset.tokenizer:
        return dataset
    return dataclasses.replace(dataset, tokenizer=str(Path(model.decoder) / TOKENIZER))
