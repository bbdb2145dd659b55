"""`init_from`: start from the weights of a finished run, or classify with its encoder."""

from __future__ import annotations

from cvae.errors import FolderError
from cvae.runs.compatibility import refuse_as_source, refuse_other_data
from cvae.runs.folder import RunFolder
from cvae.tasks.base import Task
from cvae.training import checkpoint


def load_weights(source: RunFolder, task: Task, encoder_only: bool) -> None:
    """Load the weights that a finished run reports into a task's model, or those of its encoder only.

    Raises FolderError where there is no such run, where its data or words are others, and where weights are
    missing or differ in shape.
    """
    refuse_as_source(source, task.config)
    refuse_other_data(source, task.data.fingerprints)
    if (source / "vocabulary.txt").read_text(encoding="utf-8") != task.data.vocabulary.text:
        raise FolderError(f"init_from={source} has another vocabulary.txt: its weights are about other words")
    part = "encoder." if encoder_only else ""
    there, here = (
        {name: weight for name, weight in weights.items() if name.startswith(part)}
        for weights in (checkpoint.load(source.reported)["model"], task.model.state_dict())
    )
    shapes = [{name: tuple(weight.shape) for name, weight in side.items()} for side in (there, here)]
    if not here or shapes[0] != shapes[1]:
        differing = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
        mismatch = ", ".join(dict.fromkeys(differing)) or "there is no encoder to take"
        raise FolderError(f"init_from={source} is a model of another shape: {mismatch}")
    task.model.load_state_dict(there, strict=not encoder_only)
