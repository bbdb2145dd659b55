"""What a run says, said once: `write` feeds metrics.jsonl, TensorBoard and the console."""

from __future__ import annotations

import json
import logging
import os
from contextlib import nullcontext, suppress
from typing import Any

from tensorboard.plugins.hparams import plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cvae.config.load import identity
from cvae.config.schema import Config
from cvae.errors import FolderError
from cvae.report.figures import plane_picture
from cvae.runs.folder import RunFolder, finite
from cvae.runs.reader import Snapshot, numbered

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

# TensorBoard takes the table's columns from one run, whichever it reads first, and shows the first five of
# each kind: they are the same for all runs, and those that sweeps vary are marked as differing
SWEPT = {"schedule.name", "schedule.cycles", "schedule.ratio", "lr.name", "seed"}
BOUNDS = [f"{split}/{name}" for split in ("test", "val") for name in ("elbo", "rec", "kl", "ppl")]


class Logger:
    """Appends to a run's records. `offsets` are their lengths in bytes as of the checkpoint."""

    def __init__(self, folder: RunFolder, config: Config, step: int, offsets: dict[str, int]) -> None:
        self.folder = folder
        self.config = config
        self._files = {}
        self._show = {
            "metrics.jsonl": self._scalars,
            "latents.jsonl": self._plane,
            "samples.jsonl": self._text,
        }
        for name in self._show:
            self._open(name, offsets.get(name, 0))
        self.board = SummaryWriter(str(folder.path), purge_step=step)
        self.board.add_custom_scalars(LAYOUT)
        experiment, start, self._end = self._hparams()
        self.board.file_writer.add_summary(experiment)
        self.board.file_writer.add_summary(start)
        self._replay(step)

    def _open(self, name: str, offset: int) -> None:
        """Cuts a record to what the checkpoint knows of, so that the rest can be written again."""
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
        """Gives TensorBoard what purging took from it although the checkpoint came after it."""
        for name, show in self._show.items():
            for _, record in numbered(self.folder / name):
                if record["step"] >= step:
                    show(record)

    def _scalars(self, record: dict[str, Any]) -> None:
        for tag, value in record.items():
            if tag != "step" and value is not None:
                self.board.add_scalar(tag, value, record["step"])

    def _plane(self, record: dict[str, Any]) -> None:
        """The latent plane as it is now, if it is a plane."""
        if len(record["mean"][0]) == 2:
            pixels = plane_picture(Snapshot.of(record), record["step"], self.config.autoencoder)
            self.board.add_image("latents/plane", pixels, record["step"], dataformats="HWC")

    def _text(self, record: dict[str, Any]) -> None:
        self.board.add_text("samples", record["text"], record["step"])

    def write(self, step: int, values: dict[str, float], spoken: str = "") -> None:
        """One record of scalars at an optimiser step; the console gets those named in `spoken`.

        `spoken` is a line with keys in braces, as in "val rec {val/rec:.4g}". Wall-clock values live below
        time/ only. What is not finite is null in the record and absent from TensorBoard.
        """
        self.append("metrics.jsonl", {"step": step, **finite(values)})
        if spoken:
            log.info(spoken.format_map(values))

    def append(self, name: str, record: dict[str, Any]) -> None:
        """One line of JSON to a record, and the same to TensorBoard: written when this returns.

        Raises FolderError where the folder is not the run's any more: TensorBoard's thread would begin its
        file anew in whatever stands there, and at any time, had it still something to write.
        """
        self.folder.refuse_lost()
        if name not in self._files:
            self._files[name] = (self.folder / name).open("ab")
        self._files[name].write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._files[name].flush()
        self._show[name](record)
        self.board.flush()

    def offsets(self) -> dict[str, int]:
        """The lengths of the records in bytes, all of it on the disk: what a checkpoint remembers."""
        self.board.flush()
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.seek(0, os.SEEK_END) for name, file in self._files.items()}

    def _hparams(self) -> tuple[Any, Any, Any]:
        """The hparams table's columns, this run's row, and the row's end.

        They stand in the run's own event file, not in a sub-run as `add_hparams` makes one.
        """
        kept = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in identity(self.config.container).items()
            if value is not None
        }
        kept["seed"] = str(self.config.seed)
        metrics = [f"{self.config.task.reported}/{name}" for name in BOUNDS]
        experiment, _, _ = hparams(dict.fromkeys(SWEPT, 0.0) | kept, dict.fromkeys(metrics))
        columns = experiment.value[0].metadata.plugin_data
        data = plugin_data_pb2.HParamsPluginData.FromString(columns.content)
        for info in data.experiment.hparam_infos:
            info.differs = info.name in SWEPT
        for info in data.experiment.metric_infos:
            info.display_name = info.name.tag
        columns.content = data.SerializeToString()
        return experiment, *hparams(kept, {})[1:]

    def end(self) -> None:
        """Marks the run's row in the hparams table as finished."""
        self.board.file_writer.add_summary(self._end)

    def picture(self, tag: str, path: Any, step: int) -> None:
        """A PNG of the run folder at half its size, since browsers shrink without averaging."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").reduce(2))
        self.board.add_image(f"pictures/{tag}", pixels, step, dataformats="HWC")

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with suppress(OSError) if kind else nullcontext():  # it must not hide what ended the run
            self.board.close()
            for file in self._files.values():
                file.close()
