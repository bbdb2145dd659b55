"""Points of the latent space: files for TensorBoard's projector, and a 2-d map by t-SNE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from cvae.io import write_atomically

MAP = "map.jsonl"
PROJECTOR_CONFIG = """embeddings {
  tensor_name: "posterior means"
  tensor_path: "projector_means.tsv"
  metadata_path: "projector_sentences.tsv"
}
"""


class Projection(NamedTuple):
    """Points of the latent space: means [N, Z], and the sentence and any class of each."""

    means: Tensor
    texts: Sequence[str]
    labels: np.ndarray | None = None
    classes: Sequence[str] = ()


def write(folder: Path, means: np.ndarray, texts: Sequence[str], labels: Sequence[str] = ()) -> None:
    """Write the projector's files for means [N, Z], each with its sentence and, if there are any, its label.

    They lie beside the events, where TensorBoard finds them; `add_embedding` would add a folder per start.
    """
    rows = ["\t".join(f"{value:.4g}" for value in row) for row in means.tolist()]
    # a tab would end the column, and TensorBoard skips blank lines
    lines = [" ".join(text.split()) or "(no words)" for text in texts]
    if labels:  # only a file of several columns has a head
        names = (" ".join(label.split()) for label in labels)
        lines = ["sentence\tlabel", *("\t".join(both) for both in zip(lines, names, strict=True))]
    write_atomically(folder / "projector_means.tsv", "\n".join(rows) + "\n")
    write_atomically(folder / "projector_sentences.tsv", "\n".join(lines) + "\n")
    write_atomically(folder / "projector_config.pbtxt", PROJECTOR_CONFIG)


def write_map(folder: Path, means: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Write map.jsonl unless it exists: the place of each mean [N, Z] in a t-SNE of all, and its class.

    t-SNE as the authors' (protocol C4): 2-d, from the principal components, else scikit-learn's defaults.
    """
    if (folder / MAP).exists():
        return
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(means) - 1) / 3)  # 30 is the default; t-SNE reads thrice as many neighbours
    places = TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(means)
    lines = [
        json.dumps({"x": round(x, 4), "y": round(y, 4), "label": label, "class": classes[label]})
        for (x, y), label in zip(places.tolist(), labels.tolist(), strict=True)
    ]
    write_atomically(folder / MAP, "\n".join(lines) + "\n")
