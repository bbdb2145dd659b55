"""Points of the latent space for looking at: files of TensorBoard's projector, and a map of the plane."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from cvae.io import write_atomically

MAP = "map.jsonl"
CONFIG = """embeddings {
  tensor_name: "posterior means"
  tensor_path: "projector_means.tsv"
  metadata_path: "projector_sentences.tsv"
}
"""


class Projection(NamedTuple):
    """Points of the latent space to look at: means [N, Z], the sentence of each, and its class, 0 or 1."""

    means: Tensor
    texts: Sequence[str]
    labels: np.ndarray | None = None


def write(folder: Path, means: np.ndarray, texts: Sequence[str], labels: Sequence[str] = ()) -> None:
    """What the projector shows of a run: means [N, Z], each with its sentence and, if there are any, label.

    TensorBoard finds these files beside the events; `add_embedding` would add a folder at each start.
    """
    rows = ["\t".join(f"{value:.4g}" for value in row) for row in means.tolist()]
    # a tab ends a column, and TensorBoard skips blank lines
    about = [" ".join(text.split()) or "(no words)" for text in texts]  # a head is for several columns only
    if labels:
        about = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in zip(about, labels, strict=True))]
    write_atomically(folder / "projector_means.tsv", "\n".join(rows) + "\n")
    write_atomically(folder / "projector_sentences.tsv", "\n".join(about) + "\n")
    write_atomically(folder / "projector_config.pbtxt", CONFIG)


def write_map(folder: Path, means: np.ndarray, labels: np.ndarray) -> None:
    """map.jsonl, unless it is there: for each mean [N, Z] its place in a t-SNE of all, and its label.

    t-SNE as the authors' (protocol C4): 2-d, from the principal components, else scikit-learn's defaults.
    """
    if (folder / MAP).exists():
        return
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(means) - 1) / 3)  # 30 is the default, and more than a third is refused
    places = TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(means)
    lines = [
        json.dumps({"x": round(x, 4), "y": round(y, 4), "label": label})
        for (x, y), label in zip(places.tolist(), labels.tolist(), strict=True)
    ]
    write_atomically(folder / MAP, "\n".join(lines) + "\n")
