"""The training loop of every task: step, record, validate, save."""

from __future__ import annotations

from tqdm import tqdm

from cvae.config.schema import Config
from cvae.data.text import extra_batches
from cvae.runs import continuation
from cvae.runs.folder import RunFolder
from cvae.tasks.base import Task
from cvae.training import checkpoint, collective, console, divergence, steps
from cvae.training.logger import Logger
from cvae.training.means import StepSums, pop_epoch_means, read
from cvae.training.signals import StopSignals
from cvae.training.state import TrainingState
from cvae.training.transfer import last_checkpoint


class Loop:
    """Training of one run, from its last checkpoint to its end or to where it is stopped."""

    def __init__(self, config: Config, task: Task, folder: RunFolder) -> None:
        self.config, self.task, self.folder = config, task, folder
        train = config.train
        self.epoch = len(task.batches["train"])
        self.total = train.total(self.epoch) if config.pretrains else 0
        self.end = min(self.total, train.stop_after or self.total)
        self.log_every = train.log_every
        self.validate_every = train.validate_every or self.epoch
        self.save_every = train.save_every or self.validate_every
        self.train_step = steps.build(task.model, config)
        self.state = TrainingState(task.model, self.train_step)
        self.rates = continuation.rates(config, folder, self.total, self.epoch)
        self._unread: list[StepSums] = []  # of the last steps, on the device
        self._saved = 0

    @property
    def finished(self) -> bool:
        """Whether all steps have been made, or the task stops early."""
        return self.state.step >= self.total or self.task.should_stop_early(self.state.scores)

    @property
    def objective(self) -> float:
        """The score of the checkpoint that the task reports; infinite before the first validation."""
        last = self.config.task.reported == "last" and self.state.scores
        return self.state.scores[-1] if last else self.state.best

    def resume(self) -> tuple[int, dict[str, int]]:
        """Continue from the last checkpoint, or first from that of the run which `continue_from` names.

        Returns the step from which on records are shown, and the lengths in bytes that their files had at the
        checkpoint. Raises CheckpointError for a file that cannot be used.
        """
        saved, takes_over = last_checkpoint(self.folder, self.config)
        if saved is not None:
            self.state.load_state_dict(saved, self.folder / "checkpoint_last.pt")
        self._saved = 0 if takes_over else self.state.step
        collective.share(self.state.state_dict())
        return self._saved, saved["offsets"] if saved else {}

    def save(self, logger: Logger) -> None:
        """Write the last checkpoint. Raises Diverged rather than save what is not finite."""
        self.folder.refuse_lost()
        self._read_steps()
        divergence.check_weights(self.task.model, self.state.step)
        self.state.lap()
        content = {"config": self.config.container, **self.state.state_dict(), "offsets": logger.offsets()}
        checkpoint.save_last(self.folder / "checkpoint_last.pt", content, self.config.train.keep)
        self._saved = self.state.step

    def run(self, logger: Logger) -> None:
        """Train until the end. Raises Diverged, and SystemExit after a signal, once all is saved."""
        state = self.state
        state.start_clock()
        if state.step and not self._saved:  # from here on the run that it continues is not needed
            self.save(logger)
        self.task.model.train()
        bar = console.progress_bar(self.config.train, state.step, self.total)
        with bar, StopSignals() as stop:
            while state.step < self.end and not self.finished and not stop.agreed():
                self._advance()
                bar.update()
                if (state.step - 1) % self.log_every == 0 or state.step == self.total:
                    self._report(logger, bar)
                validating = state.step % self.validate_every == 0 or state.step == self.total
                if validating:
                    self._validate(logger)
                if self.train_step.needs_mutual_information:
                    self._observe(logger, validating)
                if validating or state.step % self.save_every == 0:
                    self.save(logger)
            if state.step != self._saved:
                self.save(logger)
        if stop.agreed():
            stop.exit(state.step)

    def _advance(self) -> None:
        """Make one training step."""
        step, batches = self.state.step, self.task.batches["train"]
        beta, lr = self.rates(step)
        batch = self.train_step.batch(batches, step)
        terms, loss, norm = self.train_step(batch, beta, lr, extra_batches(batches, step))
        self._unread.append(StepSums.of(terms, loss, norm))
        self.state.step += 1

    def _read_steps(self) -> None:
        """Add the steps since the last call to the running means. Raises Diverged."""
        steps, self._unread = self._unread, []
        first = self.state.step - len(steps)
        for number, (step, values) in enumerate(read(steps), first):
            sums = dict(zip(step.names, values, strict=True))
            divergence.check_step(number, sums, self.rates, self.task, self.folder)
            self.state.recent.add(step, values)
            self.state.since_validation.add(step, values)

    def _report(self, logger: Logger, bar: tqdm) -> None:
        """Write train/* at step t: means over the steps since the last record."""
        step, recent = self.state.step - 1, self.state.recent
        self._read_steps()
        sentences = recent.sentences
        means, tokens = recent.pop_means(self.config.autoencoder)
        beta, lr = self.rates(step)
        tokens_per_second = tokens * sentences / self.state.pop_step_seconds()
        values = {f"train/{name}": value for name, value in (means | self.train_step.pop_metrics()).items()}
        values |= {"train/beta": beta, "train/lr": lr, "time/tokens_per_second": tokens_per_second}
        logger.write(step, values)
        console.show_means(bar, means, beta, tokens_per_second)

    def _validate(self, logger: Logger) -> None:
        """Write val/* at step t, of the weights after t steps, and keep the best checkpoint."""
        self.folder.refuse_lost()
        self._read_steps()
        state, splits = self.state, self.config.train.validate_on
        state.lap()
        measured = {split: self.task.evaluate(split) for split in splits}
        state.lap(of_steps=False)
        values = pop_epoch_means(state.since_validation, self.config.autoencoder)
        for split, metrics in measured.items():
            values |= {f"{split}/{name}": value for name, value in metrics.items()}
        divergence.check_validation(values, state.step, self.folder)
        beta, left = self.rates(state.step - 1)[0], state.seconds / state.step * (self.end - state.step)
        line = console.validation_line(values, splits, f"{state.step:>7,}/{self.total:,}", beta, left)
        logger.write(state.step, values | {"time/seconds": state.seconds}, line)
        if (snapshot := self.task.snapshot()) is not None:
            logger.append("latents.jsonl", {"step": state.step, **snapshot})
        logger.append("samples.jsonl", {"step": state.step, "text": self.task.preview()})
        state.scores.append(collective.share(self.task.score(measured["val"])))
        if state.scores[-1] < state.best:
            state.best = state.scores[-1]
            best = {"step": state.step, "model": self.task.model.state_dict()}
            content = {"config": self.config.container, **best}
            checkpoint.save(self.folder / "checkpoint_best.pt", content)
        state.lap(of_steps=False)

    def _observe(self, logger: Logger, validated: bool) -> None:
        """Measure I(x; z) of validation for the train step once an epoch; a validation has recorded it."""
        state = self.state
        if state.step % max(self.epoch, self.validate_every):
            return
        state.lap()
        mutual_information = self.task.mutual_information("val")
        if not validated:
            logger.write(state.step, {"val/mi": mutual_information})
        self.train_step.observe(mutual_information)
        state.lap(of_steps=False)
