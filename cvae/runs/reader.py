"""Run folders as records: what figures and tables are made from. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cvae.config.load import identity
from cvae.config.messages import listing
from cvae.config.schema import SENTIMENTS, Mode, reported
from cvae.errors import RunsError
from cvae.io import not_numbers, parse_json, read_json
from cvae.runs.folder import RunFolder

Group = tuple[str, str]
# dialog measures that older runs, which have no greedy_f1, computed in another way: against references that
# were cut and mapped to <unk>, and over n-grams instead of words
REDEFINED = ("sacrebleu_", "corpus_bleu", "distinct2")
APART = ("schedule.name", "lr.name")  # a run is always named by these, whatever else sets it apart


@dataclass(frozen=True)
class Snapshot:
    """The posterior of each toy sequence at one step: `mean` and `logvar` [N, Z], `label` [N]."""

    mean: np.ndarray
    logvar: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot in a line of latents.jsonl."""
        mean, logvar = (np.array(record[key], dtype=float) for key in ("mean", "logvar"))
        return cls(mean, logvar, np.array(record["label"], dtype=int))


@dataclass(frozen=True)
class Map:
    """Test sentences in a plane: `places` [N, 2], `labels` [N], and the classes' names by label."""

    places: np.ndarray
    labels: np.ndarray
    classes: dict[int, str]


@dataclass(frozen=True)
class Run:
    """The content of a run folder.

    `latents` are the snapshots of a latent plane (toy), `classifiers` the records of classifiers (yelp).
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    latents: Mapping[int, Snapshot]
    results: Mapping[str, Any] = field(default_factory=dict)
    classifiers: Sequence[Mapping[str, Any]] = ()
    data: Mapping[str, str] = field(default_factory=dict)  # fingerprints, as run.json has them
    continues: str | None = None  # the steps of the runs that it continues, instead of their folders
    note: str = ""  # for a table of these results: where they come from

    def get(self, section: str, key: str, default: Any = None) -> Any:
        """Return `config[section][key]`, or `default` where either is absent."""
        part = self.config.get(section)
        return part.get(key, default) if isinstance(part, Mapping) else default

    @property
    def group(self) -> Group:
        """(schedule name, learning-rate name): what a line or a row of a figure shows."""
        return self.get("schedule", "name"), self.get("lr", "name", "constant")

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config.get("seed") or 0)

    @property
    def task(self) -> str:
        """The name of the run's task."""
        return self.get("task", "name", "")

    @property
    def last(self) -> int:
        """The last recorded step, 0 where nothing is recorded yet."""
        return max((record["step"] for record in self.metrics), default=0)

    @property
    def total(self) -> int | None:
        """The number of steps of the whole run, None where neither results nor configuration say."""
        return self.results.get("updates") or self.get("train", "steps")

    @property
    def setting(self) -> dict[str, Any]:
        """The keys and values that identify the run, without its seed."""
        own = identity(dict(self.config)) | {"continue_from": self.continues}
        return {key: value for key, value in own.items() if key != "seed"}

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values of a scalar (see `measured`); of two records of a step the later counts."""
        values = {r["step"]: value for r in self.metrics if (value := measured(r, key)) is not None}
        steps = sorted(values)
        return np.array(steps, dtype=int), np.array([values[step] for step in steps], dtype=float)

    def at(self, key: str, step: int) -> float | None:
        """Return the value of a scalar at a step, None where it was not recorded."""
        steps, values = self.series(key)
        return float(values[steps == step][0]) if step in steps else None


def measured(record: Mapping[str, Any], key: str) -> float | None:
    """Return a number of a record, None where there is none, inf for a perplexity that overflowed to null."""
    overflowed = key.endswith("ppl") and key in record and record[key] is None
    return math.inf if overflowed else record.get(key)


def numbered(path: Path, required: str = "step") -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a jsonl file, skipping a last line that is still being written.

    An absent file has no lines. Raises RunsError, naming the line, unless every object has a whole number
    under the `required` key.
    """
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise RunsError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(record, dict) or not _is_count(record.get(required)):
            raise RunsError(f"{path}, line {number}: needs an object with a whole number '{required}'")
        yield number, record


def _is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 0 on that an array can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a `metrics.jsonl`, none for an absent file."""
    records = []
    for number, record in numbered(path):
        if wrong := not_numbers(record):
            raise RunsError(f"{path}, line {number}: {wrong}")
        records.append(record)
    return records


def read_latents(path: Path) -> dict[int, Snapshot]:
    """Return the snapshots of a `latents.jsonl` by step, none for an absent file."""
    snapshots = {}
    for number, record in numbered(path):
        try:
            snapshot = Snapshot.of(record)
        except (KeyError, TypeError, ValueError):
            raise RunsError(
                f"{path}, line {number}: needs mean [N, Z], logvar [N, Z] and label [N]"
            ) from None
        mean, logvar, label = (part.shape for part in (snapshot.mean, snapshot.logvar, snapshot.label))
        if len(mean) != 2 or mean != logvar or label != mean[:1]:
            raise RunsError(
                f"{path}, line {number}: mean {mean}, logvar {logvar} and label {label} do not fit together"
            )
        snapshots[record["step"]] = snapshot
    return snapshots


def read_classifiers(path: Path) -> list[dict[str, Any]]:
    """Return the records of a `classifier.jsonl`, none for an absent file."""
    records = []
    for number, record in numbered(path, "seed"):
        if missing := {"mode", "share", "labels", "test/accuracy"} - record.keys():
            raise RunsError(f"{path}, line {number}: has no {', '.join(sorted(missing))}")
        if wrong := not_numbers(record, "share", "labels"):
            raise RunsError(f"{path}, line {number}: {wrong}")
        numbers = (record["share"], record["labels"], record["test/accuracy"])
        if record["mode"] not in get_args(Mode) or None in numbers:
            raise RunsError(f"{path}, line {number}: needs a mode of {listing(get_args(Mode))}, and numbers")
        records.append(record)
    return records


def read_map(folder: Path) -> Map:
    """Return the `map.jsonl` of a run folder, empty where there is none."""
    path = folder / "map.jsonl"
    points = [point for _, point in numbered(path, "label")]
    try:
        places = np.array([(point["x"], point["y"]) for point in points], dtype=float)
    except (KeyError, TypeError, ValueError):
        raise RunsError(f"{path}: a line has no numbers x and y") from None
    labels = np.array([point["label"] for point in points], dtype=int)
    names = dict(enumerate(SENTIMENTS))  # of runs from before the names were kept
    return Map(places, labels, names | {int(p["label"]): str(p["class"]) for p in points if "class" in p})


def read_run(folder: str | Path) -> Run:
    """Return the run in a folder. Raises RunsError for one without a usable run.json."""
    folder = Path(folder)
    path = folder / "run.json"
    content = read_json(path)
    if content is None:
        raise RunsError(f"{path}: no such file")
    config = content.get("config")
    if not isinstance(config, dict):
        raise RunsError(f"{path}: has no object 'config'")
    metrics = read_metrics(folder / "metrics.jsonl")
    latents = read_latents(folder / "latents.jsonl")
    results, note = _comparable(RunFolder(folder).results), ""
    if results.get("checkpoint", "best") != reported(config):
        metrics, results, note = _of_the_last(metrics, results)
    classifiers, data = read_classifiers(folder / "classifier.jsonl"), content.get("data", {})
    if not isinstance(data, dict):
        raise RunsError(f"{path}: data must be the fingerprints of files by name, found {str(data)[:40]!r}")
    earlier = content.get("continues") or []
    if not isinstance(earlier, list) or not all(isinstance(stage, dict) for stage in earlier):
        raise RunsError(f"{path}: continues must be a list of objects, found {str(earlier)[:40]!r}")
    continues = " + ".join(f"{stage.get('end')} updates" for stage in earlier) or None
    run = Run(folder, config, metrics, latents, results, classifiers, data, continues, note)
    names = [*run.group, run.task, *(run.get(part, "name", "") for part in ("dataset", "model"))]
    if not all(isinstance(name, str) for name in names):
        raise RunsError(f"{path}: schedule, lr, task, dataset and model of the config need names")
    if not _is_count(config.get("seed") or 0):
        raise RunsError(f"{path}: the config's seed must be a whole number, found {config['seed']!r}")
    return run


def _of_the_last(
    metrics: list[dict[str, Any]], results: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """Return metrics, results and a note of a toy run that reported its best checkpoint, as all once did.

    In its results.json and last record val/* and test/* are those of the best checkpoint. The last validation
    replaces them; val and test are the same sequences (`data.toy`).
    """
    validated = [record for record in metrics if record.get("val/rec") is not None]
    if not validated:
        return metrics, results, ""
    replaced = ("val", "test", "objective")
    kept = {key: value for key, value in results.items() if key.partition("/")[0] not in replaced}
    for key, value in validated[-1].items():
        split, _, name = key.partition("/")
        if split == "val":
            kept |= {f"val/{name}": value, f"test/{name}": value}
    others = [r for r in metrics if "val/rec" in r or not {"test/rec", "best/test/rec"} & r.keys()]
    where = f"of the last validation, at {validated[-1]['step']:,}"
    return others, kept, f"val/* and test/* are {where}; results.json has those of the best one"


def _comparable(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results without REDEFINED measures that were computed by older definitions."""
    parts = ((key, *key.split("/", 1)) for key in results if "/" in key)
    older = {
        key
        for key, split, name in parts
        if name.startswith(REDEFINED) and f"{split}/greedy_f1" not in results
    }
    return {key: value for key, value in results.items() if key not in older}


def below(folders: Iterable[str | Path], name: str) -> list[Path]:
    """Return the files of a name in and below `folders`, each once, in order.

    Copies in outputs/published are found only where asked for. Raises RunsError for a missing folder.
    """
    paths = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise RunsError(f"{folder}: no such folder")
        for path in folder.rglob(name):
            if "published" not in path.relative_to(folder).parts:
                paths[path.resolve()] = path
    return sorted(paths.values())


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Return all runs in and below `folders`, each once, in the order of their paths."""
    folders = list(folders)
    if not (paths := below(folders, "run.json")):
        names = ", ".join(map(str, folders)) or "no folder given"
        raise RunsError(f"{names}: no run found (no run.json in or below)")
    return [read_run(path.parent) for path in paths]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys in whose values the runs differ, without those that follow from their group's name."""
    settings = [run.setting for run in runs]
    keys = [key for key in dict.fromkeys(k for s in settings for k in s) if _values(settings, key) > 1]
    return [key for key in keys if not _follows_from_name(settings, key)]


def changes(runs: Sequence[Run]) -> list[str]:
    """Return what sets each run apart from the plainest one beside APART, as in "skip" or "stop=0.4".

    The plainest run, "plain", has most of the differing keys off or absent, and the others at their most
    frequent value.
    """
    keys = [key for key in differing_keys(runs) if key not in APART]
    keys.sort(key=lambda key: key.startswith("dataset."))  # a remedy before what it needs of the dataset
    columns = [[run.setting.get(key) for run in runs] for key in keys]
    usual = [max(column, key=column.count) for column in columns]
    groups = {key.partition(".")[0] for key in APART}
    values = [  # a schedule without β has no `stop`, which does not set it apart
        [
            run.setting.get(key, mode if key.partition(".")[0] in groups else None)
            for key, mode in zip(keys, usual, strict=True)
        ]
        for run in runs
    ]

    def distance(row: list[Any]) -> tuple[int, int]:
        return sum(map(bool, row)), sum(v != u for v, u in zip(row, usual, strict=True))

    plainest = min(values, key=distance)
    texts = [
        ", ".join(
            _change(key, value, keys)
            for key, value, off in zip(keys, row, plainest, strict=True)
            if value != off
        )
        for row in values
    ]
    return [text or "plain" for text in texts]


def _change(key: str, value: Any, keys: Sequence[str]) -> str:
    """Return a key and its value in short: the group of a name, the last part of a key or a path.

    A key whose last part another of `keys` has stays whole.
    """
    group, _, last = key.rpartition(".")
    if last != "name" and sum(other.rpartition(".")[2] == last for other in keys) > 1:
        last = key
    short = value.rpartition("/")[2] if isinstance(value, str) else value
    return last if value is True else f"{group if last == 'name' else last}={short}"


def _values(settings: Sequence[dict[str, Any]], *keys: str) -> int:
    """Return the number of different values, or combinations of values, of some keys."""
    return len({repr([setting.get(key) for key in keys]) for setting in settings})


def _follows_from_name(settings: Sequence[dict[str, Any]], key: str) -> bool:
    """Return whether runs with the same choice of a key's group have the same value of the key."""
    name = f"{key.partition('.')[0]}.name"
    return key != name and _values(settings, name) == _values(settings, name, key)


def refuse_other_data(runs: Sequence[Run], besides: Sequence[str] = ()) -> None:
    """Raise RunsError where runs to be put together read different files of one name.

    A file that a run does not record is unknown and no difference. Names in `besides` are not compared, and
    not the checkpoint of the run that one continues, which is another for every seed.
    """
    first: dict[str, Run] = {}
    for run in runs:
        for name, digest in run.data.items():
            other = first.setdefault(name, run)
            if other.data[name] != digest and name not in (*besides, "continue_from"):
                raise RunsError(
                    f"{other.folder} and {run.folder} cannot be put together: their data differ in {name}"
                )


def refuse_mixture(runs: Sequence[Run]) -> None:
    """Raise RunsError where runs to be averaged differ in more than their seed, or share one."""
    refuse_other_data(runs)
    first = runs[0]
    seen: dict[int, Run] = {}
    for run in runs:
        if differ := differing_keys([first, run]):
            what = f"differ in {', '.join(differ)}"
        elif run.seed in seen:
            first, what = seen[run.seed], f"both have seed {run.seed}"
        else:
            seen[run.seed] = run
            continue
        raise RunsError(f"{first.folder} and {run.folder} cannot be averaged: they {what}")
