"""Golden values: twenty steps of every task and remedy in float64, on one thread, to 1e-9.

`python -m tests.test_golden` writes them anew, for a change that is meant to change results.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cvae.data.dialogs import DialogCorpus
from cvae.runs.folder import RunFolder
from cvae.training.run import run
from tests.helpers import DIALOGS, ROOT, configured

GOLDEN = ROOT / "tests" / "golden.json"
# without clipping: fused Adam takes the norm in float32
COMMON = (
    "device=cpu",
    "train.epochs=null",
    "train.steps=20",
    "train.log_every=1",
    "train.validate_every=20",
    "train.clip=null",
)
TINY = ("task=ptb", "dataset=tiny", "dataset.sentences=80", "dataset.sampler=bucketed", "train.batch_size=8")
TINY += ("model.embed=8", "model.hidden=12", "model.latent=4", "task.iw_samples=4", "lr.value=0.01")
TRANSFORMER = (*TINY[:5], "model=transformer", "model.hidden=12", "model.layers=2", "model.heads=3")
TRANSFORMER += ("model.latent=4", "task.iw_samples=4", "lr.value=0.01")
DIALOG = ("task=switchboard", f"dataset.path={DIALOGS}", "dataset.vocabulary=60", "train.batch_size=6")
DIALOG += tuple(f"model.{size}=6" for size in ("embed", "utterance", "context", "latent", "prior", "decoder"))
REVIEWS = (
    "task=yelp",
    "dataset.path={reviews}",
    "dataset.min_count=1",
    "train.batch_size=8",
    "model.embed=6",
)
REVIEWS += (
    "dataset.share={{train:1.0,val:1.0,test:1.0}}",
    "model.filters=4",
    "model.latent=4",
    "model.hidden=8",
)
REVIEWS += ("task.finetune.modes=[probe]", "task.finetune.shares=[0.5]", "task.finetune.seeds=2")
REVIEWS += (
    "task.finetune.val_least=6",
    "task.finetune.penalties=[0.1,10.0]",
    "task.finetune.map_sentences=0",
)
REMEDIES = ("free_bits", "free_bits_total", "kl_target", "low_beta", "word_dropout", "batch_norm", "skip")
CASES = {
    "toy": ("task=toy", "dataset.draws=4", "task.samples=50", "lr.value=0.01"),
    "language": TINY,
    "autoencoder": (*TINY, "schedule=none"),
    "reviews": REVIEWS,
    "dialog": (*DIALOG, "model.bow=false"),
    "dialog with bag of words": (*DIALOG, "model.bow=true"),
    **{remedy: (*TINY, f"remedy=[{remedy}]") for remedy in REMEDIES},
    "aggressive": (*TINY, "remedy=[aggressive]", "update.most=5"),
    "semi_amortized": (*TINY, "remedy=[semi_amortized]", "update.steps=3"),
    "transformer": TRANSFORMER,
    "refined transformer": (*TRANSFORMER, "remedy=[semi_amortized,batch_norm]", "update.steps=2"),
}


@contextmanager
def float64() -> Iterator[None]:
    """Use one thread, float64 for weights and for the dialogs' real-valued inputs."""
    threads, batch = torch.get_num_threads(), DialogCorpus.batch

    def in_float64(self, *arguments):
        made = batch(self, *arguments)
        return dataclasses.replace(made, floors=made.floors.double(), people=made.people.double())

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    DialogCorpus.batch = in_float64
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
        DialogCorpus.batch = batch


def write_reviews(folder: Path, train: int = 40, dev: int = 12, test: int = 20) -> None:
    """Write sentiment.{train,dev,test}.{0,1}: so many sentences a class, whose adjectives tell which."""
    words = (("awful", "rude", "cold"), ("great", "friendly", "warm"))
    for split, count in {"train": train, "dev": dev, "test": test}.items():
        for label, adjectives in enumerate(words):
            nouns = ("room", "food")
            lines = [f"the {nouns[n % 2]} was {adjectives[n % 3]} ." + " !" * (n % 5) for n in range(count)]
            (folder / f"sentiment.{split}.{label}").write_text("\n".join(lines) + "\n")


def twenty_steps(overrides: Sequence[str], folder: Path) -> dict[str, list[float]]:
    """Run a command line in `folder` and return every recorded series and every result, time apart."""
    reviews = folder / "reviews"
    reviews.mkdir(parents=True)
    write_reviews(reviews)
    arguments = [*(part.format(reviews=reviews) for part in overrides), *COMMON]
    with float64():
        run(configured(*arguments), RunFolder(folder / "run"))
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    series: dict[str, list[float]] = {}
    for record in map(json.loads, lines):
        for key, value in record.items():
            series.setdefault(key, []).append(value)
    results = json.loads((folder / "run" / "results.json").read_text())
    series |= {f"results: {key}": [value] for key, value in results.items()}
    return {
        key: values
        for key, values in series.items()
        if "time/" not in key and all(isinstance(value, int | float) for value in values)
    }


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_give_the_golden_values(case, tmp_path):
    expected = json.loads(GOLDEN.read_text())[case]
    measured = twenty_steps(CASES[case], tmp_path)
    assert measured.keys() == expected.keys()
    for key, values in expected.items():
        assert measured[key] == pytest.approx(values, rel=1e-9, abs=1e-12), key


def test_golden_values_are_of_a_model_that_learns():
    for case, series in json.loads(GOLDEN.read_text()).items():
        losses = series["train/loss"]
        assert len(losses) == 20 and all(map(math.isfinite, losses)), case
        assert len(set(losses)) == 20, case


def main() -> None:
    """Write tests/golden.json."""
    golden = {}
    for case, overrides in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            golden[case] = twenty_steps(overrides, Path(folder))
    lines = (f" {json.dumps(case)}: {json.dumps(series)}" for case, series in golden.items())
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
