"""The loop, one for all tasks: β and lr of the step, update, write, validate, save."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cvae.config.schema import Config
from cvae.data.text import extra_batches
from cvae.errors import Diverged
from cvae.evaluation.metrics import perplexity
from cvae.models.objective import Terms
from cvae.runs.folder import RunFolder
from cvae.tasks.language_model import LanguageTask
from cvae.training import checkpoint
from cvae.training.logger import Logger
from cvae.training.steps import build

log = logging.getLogger("cvae")

# what a cluster sends before a time limit; Windows has neither
WARNINGS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
SUMS = ("rec", "kl", "loss", "gradient norm", "tokens")  # of an update, over its sentences
EVIDENCE = (
    "elbo",
    "rec",
    "kl",
    "bow",
)  # of divergence, at a validation; exp of them may overflow in a sound run


def _shows_divergence(key: str, value: float) -> bool:
    """Whether a measure that is not finite says so of the model."""
    return key.rpartition("/")[2].removeprefix("refined_") in EVIDENCE and not math.isfinite(value)


class RunningMeans:
    """Sums over the updates since a record was last written, kept on the device.

    `sums` [S] are those of SUMS, the gradient norm over updates, and what else the model adds to its loss.
    """

    def __init__(self, device: torch.device, names: Sequence[str]) -> None:
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self.sentences = 0
        self.updates = 0

    def add(self, values: Tensor, sentences: int) -> None:
        """One update's sums [S]."""
        self.sums += values
        self.sentences += sentences
        self.updates += 1

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"sums": self.sums.cpu(), "sentences": self.sentences, "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.sums.copy_(state["sums"])
        self.sentences, self.updates = state["sentences"], state["updates"]

    def pop_means(self, autoencoder: bool) -> tuple[dict[str, float], float]:
        """The means per sentence, and the tokens per sentence; the window is empty afterwards."""
        nll, kl, loss, norm, tokens, *bow = self.sums.tolist()
        n = self.sentences
        means = {"loss": loss / n, "rec": nll / n, "grad_norm": norm / self.updates}
        if not autoencoder:
            means |= {"elbo": -(nll + kl) / n, "kl": kl / n}
        if bow:
            means["bow"] = bow[0] / n
        self.sums.zero_()
        self.sentences = self.updates = 0
        return means, tokens / n


class Loop:
    """Training of one run from wherever it stands to its end, or to where it is stopped."""

    def __init__(self, config: Config, task: LanguageTask, folder: RunFolder) -> None:
        self.config, self.task, self.folder = config, task, folder
        train = config.train
        self.epoch = len(task.batches["train"])
        self.total = (train.steps or train.epochs * self.epoch) if config.pretrains else 0
        self.end = min(self.total, train.stop_after or self.total)
        self.validate_every = train.validate_every or self.epoch
        self.save_every = train.save_every or self.validate_every
        self.look_every = max(self.epoch, self.validate_every)  # at I(x; z), for update=aggressive
        self.update = build(task.model, config)
        self.step = 0
        self.best = math.inf
        self.sums = (*SUMS, "bow") if getattr(config.model, "bow", False) else SUMS
        self.recent, self.since_validation = (RunningMeans(task.device, self.sums) for _ in range(2))
        self.scores: list[float] = []
        self._first_bad = torch.full((), self.total, device=task.device)
        self._bad_values = torch.zeros(len(self.sums), dtype=torch.float64, device=task.device)
        self._stopped_by: int | None = None
        self._seconds, self._since = 0.0, None
        self._saved = 0

    @property
    def finished(self) -> bool:
        """Whether every update has been made, or the task stops early."""
        return self.step >= self.total or self.task.should_stop_early(self.scores)

    @property
    def objective(self) -> float:
        """The score of the checkpoint that the task reports; infinite before the first validation."""
        last = self.config.task.reported == "last" and self.scores
        return self.scores[-1] if last else self.best

    @property
    def seconds(self) -> float:
        """Wall-clock time spent in `run`, in earlier starts too."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def resume(self) -> tuple[int, dict[str, int]]:
        """Takes up the last checkpoint, if any: its step, and the lengths of the records as of then.

        Raises CheckpointError for a file that cannot be used.
        """
        path = self.folder / "checkpoint_last.pt"
        saved = checkpoint.latest(path, self.config.container)
        if saved is None:
            return 0, {}
        checkpoint.restore(self.task.model, saved["model"], path)
        self.update.optimizer.load_state_dict(saved["optimizer"])
        self.update.restore(saved.get("update", {}))
        self.step, self.best = saved["step"], saved["best"]
        self.scores = saved.get("scores", [])
        self._saved = self.step
        self.recent.restore(saved["recent"])
        self.since_validation.restore(saved["since_validation"])
        self._seconds = saved["seconds"]
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] is not None and self.task.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], self.task.device)
        if saved["arithmetic"] != self._arithmetic():
            log.warning(
                f"warning: {saved['arithmetic']} before, {self._arithmetic()} now:"
                " numbers will differ in their last digits"
            )
        return self.step, saved["offsets"]

    def _arithmetic(self) -> str:
        """What the last digits of a sum depend on."""
        return f"{torch.get_num_threads()} threads on {self.task.device.type}"

    def save(self, recorder: Logger) -> None:
        """Everything that going on needs, after making sure that it is worth keeping."""
        self.folder.refuse_lost()
        self._refuse_divergence()
        for name, weights in self.task.model.named_parameters():
            if not torch.isfinite(weights).all():
                raise Diverged(f"{name} is not finite after {self.step} updates: the last checkpoint is kept")
        device = self.task.device
        checkpoint.save(
            self.folder / "checkpoint_last.pt",
            {
                "config": self.config.container,
                "step": self.step,
                "best": self.best,
                "scores": self.scores,
                "model": self.task.model.state_dict(),
                "optimizer": self.update.optimizer.state_dict(),
                "update": self.update.state(),
                "recent": self.recent.state(),
                "since_validation": self.since_validation.state(),
                "seconds": self.seconds,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "arithmetic": self._arithmetic(),
                "offsets": recorder.offsets(),
            },
            keep=True,
        )
        self._saved = self.step

    def run(self, recorder: Logger) -> None:
        """Updates until the end. Raises Diverged, and SystemExit after a signal (`_signals`), all saved."""
        self._since = self._mark = time.perf_counter()
        self._busy = 0.0
        self.task.model.train()
        visible = self.config.train.progress and sys.stderr.isatty()
        bar = tqdm(total=self.total, initial=self.step, unit="update", disable=not visible)
        with bar, self._signals() as former:
            while self.step < self.end and not self.finished and self._stopped_by is None:
                self._advance()
                bar.update()
                self._report(recorder, bar)
                validating = self.step % self.validate_every == 0 or self.step == self.total
                if validating:
                    self._validate(recorder)
                if self.update.active and self.step % self.look_every == 0:
                    self._look(recorder, validating)
                if validating or self.step % self.save_every == 0:
                    self.save(recorder)
            if self.step != self._saved:
                self.save(recorder)
        if self._stopped_by is not None:
            name = signal.Signals(self._stopped_by).name
            log.info(f"{name}: saved after {self.step:,} updates; the same command goes on from there")
            if self._stopped_by in WARNINGS and callable(former[self._stopped_by]):
                former[self._stopped_by](self._stopped_by, None)
            raise SystemExit(128 + self._stopped_by)
        self._seconds, self._since = self.seconds, None

    def _advance(self) -> None:
        """One update."""
        batches = self.task.batches["train"]
        more = extra_batches(batches, self.step)
        found, loss, norm = self.update(batches.at(self.step), *self._weights(self.step), more)
        self._note(found, loss, norm)
        self.step += 1

    def _weights(self, step: int) -> tuple[float, float]:
        """β and the learning rate of an update."""
        rate = self.config.lr(step, self.total, self.epoch)
        return self.config.schedule(step, self.total), rate

    def _note(self, found: Terms, loss: Tensor, norm: Tensor) -> None:
        """Adds an update to the windows and remembers the first one that was not finite."""
        size = len(found.nll)
        with torch.no_grad():
            parts = [found.nll.sum(), found.kl.sum(), loss * size, norm, found.tokens.sum()]
            extras = [extra.sum() for extra in found.extra_losses.values()]
            values = torch.stack(parts + extras).double()
            first = ~torch.isfinite(values.sum()) & (self._first_bad == self.total)
            self._first_bad = torch.where(first, self.step, self._first_bad)
            self._bad_values = torch.where(first, values, self._bad_values)
        self.recent.add(values, size)
        self.since_validation.add(values, size)

    def _refuse_divergence(self) -> None:
        """Raises Diverged if an update since the last look was not finite; its batch is kept."""
        if (step := int(self._first_bad)) == self.total:
            return
        beta, rate = self._weights(step)
        values = dict(zip(self.sums, self._bad_values.tolist(), strict=True))
        cause = next(name for name, value in values.items() if not math.isfinite(value))
        about = {"step": step, "beta": beta, "lr": rate, "cause": cause}
        about |= {name: str(value) for name, value in values.items()}
        about["sentences"] = self.task.words(self.task.batches["train"].at(step))
        self.folder.keep_batch(about)
        raise Diverged(
            f"{cause} is {values[cause]} at step {step} (β = {beta:.4g}, lr = {rate:.4g}): the last good"
            f" checkpoint is kept, diverged.json has the batch; {self.task.advice}"
        )

    def _report(self, recorder: Logger, bar: tqdm) -> None:
        """Every `log_every` updates, the train/* record: at step t, means since the last one up to t."""
        step = self.step - 1
        if step % self.config.train.log_every and self.step < self.total:
            return
        self._refuse_divergence()
        sentences = self.recent.sentences
        means, tokens = self.recent.pop_means(self.config.autoencoder)
        means |= self.update.pop_metrics()
        beta, rate = self._weights(step)
        now = time.perf_counter()
        speed = tokens * sentences / (self._busy + now - self._mark)
        self._busy, self._mark = 0.0, now
        values = {f"train/{name}": value for name, value in means.items()}
        values |= {"train/beta": beta, "train/lr": rate, "time/tokens_per_second": speed}
        recorder.write(step, values)
        shown = {"β": f"{beta:.2f}", "rec": f"{means['rec']:.2f}"}
        if "kl" in means:
            shown["KL"] = f"{means['kl']:.2f}"
        bar.set_postfix(shown | {"tok/s": f"{speed:,.0f}"}, refresh=False)

    def _validate(self, recorder: Logger) -> None:
        """The val/* record: at step t, the weights after t updates. Keeps the best of them."""
        self.folder.refuse_lost()
        self._refuse_divergence()
        self._busy += time.perf_counter() - self._mark
        values = self._epoch_means()
        measured = {split: self.task.evaluate(split) for split in self.config.train.validate_on}
        for split, found in measured.items():
            values |= {f"{split}/{name}": value for name, value in found.items()}
        if bad := [key for key, value in values.items() if _shows_divergence(key, value)]:
            raise Diverged(f"{bad[0]} is {values[bad[0]]} after {self.step} updates in {self.folder}")
        recorder.write(self.step, values | {"time/seconds": self.seconds}, self._line(values))
        if (snapshot := self.task.snapshot()) is not None:
            recorder.append("latents.jsonl", {"step": self.step, **snapshot})
        with self.task.eval_mode():
            recorder.append("samples.jsonl", {"step": self.step, "text": self.task.glimpse()})
        self.scores.append(self.task.score(measured["val"]))
        if self.scores[-1] < self.best:
            self.best = self.scores[-1]
            content = {
                "config": self.config.container,
                "step": self.step,
                "model": self.task.model.state_dict(),
            }
            checkpoint.save(self.folder / "checkpoint_best.pt", content)
        self._mark = time.perf_counter()

    def _look(self, recorder: Logger, validated: bool) -> None:
        """Tells the update I(x; z) of validation, and records it unless a validation at this step has."""
        self._busy += time.perf_counter() - self._mark
        mi = self.task.mutual_information("val")
        if not validated:
            recorder.write(self.step, {"val/mi": mi})
        self.update.informed(mi)
        self._mark = time.perf_counter()

    def _epoch_means(self) -> dict[str, float]:
        """epoch/*: the training sentences since the last validation, dropout on."""
        means, tokens = self.since_validation.pop_means(self.config.autoencoder)
        values = {f"epoch/{name}": means[name] for name in ("rec", "kl") if name in means}
        if "elbo" in means:
            values["epoch/ppl"] = perplexity(-means["elbo"], tokens)
        return values

    def _line(self, values: dict[str, float]) -> str:
        """A validation in a line, with the recorded values still to be filled in."""
        parts = [f"{self.step:>7,}/{self.total:,}  β {self._weights(self.step - 1)[0]:.2f}"]
        for split in ("epoch", *self.config.train.validate_on):
            names = [name for name in ("rec", "kl", "ppl", "mi", "path_a") if f"{split}/{name}" in values]
            numbers = " ".join(f"{name} {{{split}/{name}:.4g}}" for name in names)
            parts.append(f"{'train' if split == 'epoch' else split} {numbers}")
        left = self.seconds / self.step * (self.end - self.step)
        return " | ".join(parts) + f" | {tqdm.format_interval(left)} left"

    @contextmanager
    def _signals(self) -> Iterator[dict[int, Any]]:
        """Signals end the loop after the current update, a second Ctrl-C at once. Yields the former handlers.

        They are Ctrl-C, SIGTERM and what SLURM sends before a time limit. Submitit's handler for the latter
        queues the job again, which must come after saving; its handler for SIGTERM stays.
        """

        def stop(number: int, frame: Any) -> None:
            self._stopped_by = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        if threading.current_thread() is not threading.main_thread():
            yield {}
            return
        ours = [signal.SIGINT, *WARNINGS]
        if not callable(signal.getsignal(signal.SIGTERM)):
            ours.append(signal.SIGTERM)
        before = {number: signal.signal(number, stop) for number in ours}
        try:
            yield before
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
