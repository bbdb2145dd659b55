"""Records of a run: lines of JSON, the same in TensorBoard and a tracker, and console lines."""

from __future__ import annotations

import json
import logging
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from tensorboard.plugins.hparams import plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cvae.config.load import identity
from cvae.config.schema import Config
from cvae.errors import FolderError
from cvae.runs.folder import RunFolder, finite
from cvae.runs.reader import Snapshot, numbered
from cvae.training.tracker import Tracker

log = logging.getLogger("cvae")

LAYOUT = {
    "overview": {
        "ELBO, nats per sequence": ["Multiline", ["train/elbo", "val/elbo"]],
        "rec, nats per sequence": ["Multiline", ["train/rec", "val/rec"]],
        "KL, nats per sequence": ["Multiline", ["train/kl", "val/kl"]],
        "KL and β": ["Multiline", ["train/kl", "train/beta"]],
        "β": ["Multiline", ["train/beta"]],
        "ELBO, rec, KL and β": ["Multiline", ["train/elbo", "train/rec", "train/kl", "train/beta"]],
    },
    "the two paths": {
        "path A: rise in NLL with another z, nats": ["Multiline", ["val/path_a", "val/path_a_prior"]],
        "path B: rise in NLL without previous words, nats": ["Multiline", ["val/path_b"]],
        "path A, I(x; z) and β": ["Multiline", ["val/path_a", "val/mi", "train/beta"]],
        "active units": ["Multiline", ["val/au"]],
    },
}

# TensorBoard takes the columns of the hparams table from whichever run it reads first and shows five of each
# kind, so all runs declare the same columns, with those that sweeps vary marked as differing
SWEPT = {"schedule.name", "schedule.cycles", "schedule.ratio", "lr.name", "seed"}
BOUNDS = [f"{split}/{name}" for split in ("test", "val") for name in ("elbo", "rec", "kl", "ppl")]


class Logger:
    """Append to the records of a run; `offsets` are their lengths in bytes at the checkpoint."""

    def __init__(self, folder: RunFolder, config: Config, step: int, offsets: dict[str, int]) -> None:
        self.folder = folder
        self.config = config
        self._files: dict[str, BinaryIO] = {}
        self._show = {
            "metrics.jsonl": self._scalars,
            "latents.jsonl": self._plane,
            "samples.jsonl": self._text,
        }
        for name in self._show:
            self._open(name, offsets.get(name, 0))
        self.board = SummaryWriter(str(folder.path), purge_step=step)
        self.board.add_custom_scalars(LAYOUT)
        experiment, start, self._end = hparams_summaries(config)
        self._summaries = cast(Any, self.board.file_writer)
        self._summaries.add_summary(experiment)
        self._summaries.add_summary(start)
        self._replay(step)
        kept = (record for _, record in numbered(folder / "metrics.jsonl"))
        self.tracker = Tracker(folder, config, kept) if config.tracker else None

    def _open(self, name: str, offset: int) -> None:
        """Cut a record file to its length at the checkpoint; what followed is written again."""
        path = self.folder / name
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise FolderError(
                f"{path} has {size} bytes, its checkpoint knows {offset}: it cannot be continued;"
                " overwrite=true starts anew"
            )
        if size or name == "metrics.jsonl":
            self._files[name] = path.open("ab")
            self._files[name].truncate(offset)

    def _replay(self, step: int) -> None:
        """Show TensorBoard again what `purge_step` removed although the checkpoint came after it."""
        for name, show in self._show.items():
            for _, record in numbered(self.folder / name):
                if record["step"] >= step:
                    show(record)

    def _scalars(self, record: dict[str, Any]) -> None:
        """Show scalars."""
        for tag, value in record.items():
            if tag != "step" and value is not None:
                self.board.add_scalar(tag, value, record["step"])

    def _plane(self, record: dict[str, Any]) -> None:
        """Show a picture of a two-dimensional latent space."""
        if len(record["mean"][0]) == 2:
            from cvae.report import figures  # imports matplotlib

            pixels = figures.plane_picture(Snapshot.of(record), record["step"], self.config.autoencoder)
            self.board.add_image("latents/plane", pixels, record["step"], dataformats="HWC")

    def _text(self, record: dict[str, Any]) -> None:
        """Show sampled sentences."""
        self.board.add_text("samples", record["text"], record["step"])

    def write(self, step: int, values: dict[str, float], line: str = "") -> None:
        """Append a record of scalars to metrics.jsonl and print a line made from them.

        `line` has keys in braces, as in "val rec {val/rec:.4g}". Wall-clock values are below time/ only. A
        value that is not finite is null in the record and absent from TensorBoard.
        """
        record = {"step": step, **finite(values)}
        self.append("metrics.jsonl", record)
        if self.tracker is not None:
            self.tracker.write(record)
        if line:
            log.info(line.format_map(values))

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Append a record to a file of JSON lines and show it in TensorBoard.

        Raises FolderError where the folder is no longer the run's: TensorBoard's thread would create its file
        again in whatever is there now.
        """
        self.folder.refuse_lost()
        if name not in self._files:
            self._files[name] = (self.folder / name).open("ab")
        self._files[name].write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._files[name].flush()
        self._show[name](record)
        self.board.flush()

    def offsets(self) -> dict[str, int]:
        """Return the length of each record file in bytes, all of it on the disk: for the checkpoint."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.seek(0, os.SEEK_END) for name, file in self._files.items()}

    def end(self) -> None:
        """Mark the run as finished in the hparams table."""
        self._summaries.add_summary(self._end)

    def picture(self, tag: str, path: Path, step: int) -> None:
        """Show a PNG of the run folder at half its size: browsers shrink pictures without averaging."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").reduce(2))
        self.board.add_image(f"pictures/{tag}", pixels, step, dataformats="HWC")

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with suppress(OSError) if kind else nullcontext():  # must not hide the error that ends the run
            if self.tracker is not None:
                self.tracker.close()
            self.board.close()
            for file in self._files.values():
                file.close()


def hparams_summaries(config: Config) -> tuple[Any, Any, Any]:
    """Return the hparams table's columns, the row of this run, and the end of that row.

    They belong in the run's own event file: `add_hparams` would make a sub-run.
    """
    row = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in identity(config.container).items()
        if value is not None
    }
    row["seed"] = str(config.seed)
    metrics = [f"{config.task.reported}/{name}" for name in BOUNDS]
    experiment, _, _ = hparams(dict.fromkeys(SWEPT, 0.0) | row, dict.fromkeys(metrics))
    columns = experiment.value[0].metadata.plugin_data
    data = plugin_data_pb2.HParamsPluginData.FromString(columns.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name in SWEPT
    for info in data.experiment.metric_infos:
        info.display_name = info.name.tag
    columns.content = data.SerializeToString()
    return experiment, *hparams(row, {})[1:]
