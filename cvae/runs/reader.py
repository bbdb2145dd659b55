"""Reading run folders: what figures and tables are made from. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cvae.config.load import identity
from cvae.config.messages import listing
from cvae.config.schema import Mode, reported
from cvae.errors import RunsError
from cvae.io import not_numbers, parse_json, read_json
from cvae.runs.folder import RunFolder

Group = tuple[str, str]
# measures of dialogs that older runs, which have no greedy_f1, took otherwise: against references cut and
# mapped to <unk>, and over n-grams instead of words
REDEFINED = ("sacrebleu_", "corpus_bleu", "distinct2")
APART = ("schedule.name", "lr.name")  # what a run is always called by, beside what else sets it apart


@dataclass(frozen=True)
class Snapshot:
    """The posterior of each toy sequence at one step: `mean` and `logvar` [N, Z], `label` [N]."""

    mean: np.ndarray
    logvar: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Snapshot:
        """From a line of latents.jsonl."""
        mean, logvar = (np.array(record[key], dtype=float) for key in ("mean", "logvar"))
        return cls(mean, logvar, np.array(record["label"], dtype=int))


@dataclass(frozen=True)
class Map:
    """Test sentences in a plane: `places` [N, 2] and `labels` [N], 0 negative and 1 positive."""

    places: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Run:
    """What a run folder says: its configuration, its records and, of the tasks that have them, snapshots
    of a latent plane (toy) and the records of classifiers (yelp). `data`: fingerprints of its files."""

    folder: Path
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    latents: Mapping[int, Snapshot]
    results: Mapping[str, Any] = field(default_factory=dict)
    classifiers: Sequence[Mapping[str, Any]] = ()
    data: Mapping[str, str] = field(default_factory=dict)  # fingerprints, as run.json has them
    note: str = ""  # what a table says beneath it of where the results come from

    def get(self, section: str, key: str, default: Any = None) -> Any:
        """`config[section][key]`, or `default` where either is absent."""
        part = self.config.get(section)
        return part.get(key, default) if isinstance(part, Mapping) else default

    @property
    def group(self) -> Group:
        """(schedule name, learning-rate name): what a line or a row of a figure stands for."""
        return self.get("schedule", "name"), self.get("lr", "name", "constant")

    @property
    def seed(self) -> int:
        return int(self.config.get("seed") or 0)

    @property
    def task(self) -> str:
        return self.get("task", "name", "")

    @property
    def last(self) -> int:
        """The last recorded update, 0 where nothing is recorded yet."""
        return max((record["step"] for record in self.metrics), default=0)

    @property
    def total(self) -> int | None:
        """The updates of the whole run, None where neither its results nor its configuration say."""
        return self.results.get("updates") or self.get("train", "steps")

    @property
    def setting(self) -> dict[str, Any]:
        """What the run is, its seed apart: the keys of its identity with their values."""
        return {key: value for key, value in identity(dict(self.config)).items() if key != "seed"}

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one scalar, see `measured`; of two records with one step, the later counts."""
        found = {r["step"]: value for r in self.metrics if (value := measured(r, key)) is not None}
        steps = sorted(found)
        return np.array(steps, dtype=int), np.array([found[s] for s in steps], dtype=float)

    def at(self, key: str, step: int) -> float | None:
        """The value of one scalar at one step, None where it was not recorded."""
        steps, values = self.series(key)
        return float(values[steps == step][0]) if step in steps else None


def measured(record: Mapping[str, Any], key: str) -> float | None:
    """A number of a record, None where there is none; inf for a perplexity of null, which has overflowed."""
    overflown = key.endswith("ppl") and key in record and record[key] is None
    return math.inf if overflown else record.get(key)


def numbered(path: Path, needed: str = "step") -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a jsonl file, but for a last line that is still being written.

    An absent file has none. Every object has a whole number under the `needed` key. Raises RunsError naming
    the line.
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
        if not isinstance(record, dict) or not _whole(record.get(needed)):
            raise RunsError(f"{path}, line {number}: needs an object with a whole number '{needed}'")
        yield number, record


def _whole(value: Any) -> bool:
    """Whether it is a whole number from 0 on that an array can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; an absent file is a run without records yet."""
    records = []
    for number, record in numbered(path):
        if wrong := not_numbers(record):
            raise RunsError(f"{path}, line {number}: {wrong}")
        records.append(record)
    return records


def read_latents(path: Path) -> dict[int, Snapshot]:
    """Step -> posterior from a `latents.jsonl`; an absent file holds none."""
    snapshots = {}
    for number, record in numbered(path):
        try:
            found = Snapshot.of(record)
        except (KeyError, TypeError, ValueError):
            raise RunsError(
                f"{path}, line {number}: needs mean [N, Z], logvar [N, Z] and label [N]"
            ) from None
        mean, logvar, label = (part.shape for part in (found.mean, found.logvar, found.label))
        if len(mean) != 2 or mean != logvar or label != mean[:1]:
            raise RunsError(
                f"{path}, line {number}: mean {mean}, logvar {logvar} and label {label} do not fit together"
            )
        snapshots[record["step"]] = found
    return snapshots


def read_classifiers(path: Path) -> list[dict[str, Any]]:
    """The records of a `classifier.jsonl`; an absent file holds none."""
    found = []
    for number, record in numbered(path, "seed"):
        if missing := {"mode", "share", "labels", "test/accuracy"} - record.keys():
            raise RunsError(f"{path}, line {number}: has no {', '.join(sorted(missing))}")
        if wrong := not_numbers(record, "share", "labels"):
            raise RunsError(f"{path}, line {number}: {wrong}")
        numbers = (record["share"], record["labels"], record["test/accuracy"])
        if record["mode"] not in get_args(Mode) or None in numbers:
            raise RunsError(f"{path}, line {number}: needs a mode of {listing(get_args(Mode))}, and numbers")
        found.append(record)
    return found


def read_map(folder: Path) -> Map:
    """The `map.jsonl` of a run folder; empty where there is none."""
    path = folder / "map.jsonl"
    points = [point for _, point in numbered(path, "label")]
    try:
        places = np.array([(point["x"], point["y"]) for point in points], dtype=float)
    except (KeyError, TypeError, ValueError):
        raise RunsError(f"{path}: a line has no numbers x and y") from None
    return Map(places, np.array([point["label"] for point in points], dtype=int))


def read_run(folder: str | Path) -> Run:
    """The run in `folder`, which holds a `run.json`."""
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
    run = Run(folder, config, metrics, latents, results, classifiers, data, note)
    names = [*run.group, run.task, *(run.get(part, "name", "") for part in ("dataset", "model"))]
    if not all(isinstance(name, str) for name in names):
        raise RunsError(f"{path}: schedule, lr, task, dataset and model of the config need names")
    if not _whole(config.get("seed") or 0):
        raise RunsError(f"{path}: the config's seed must be a whole number, found {config['seed']!r}")
    return run


def _of_the_last(
    metrics: list[dict[str, Any]], results: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """Records and results of a toy run from before it reported its last checkpoint, and what to say of them.

    Its results.json and last record have the best checkpoint's val/* and test/*. Those of its last validation
    replace them: val and test are the same sequences (`generated.toy`).
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
    """Results without the REDEFINED measures of a split that was scored by their older definitions."""
    parts = ((key, *key.split("/", 1)) for key in results if "/" in key)
    older = {
        key
        for key, split, name in parts
        if name.startswith(REDEFINED) and f"{split}/greedy_f1" not in results
    }
    return {key: value for key, value in results.items() if key not in older}


def below(folders: Iterable[str | Path], name: str) -> list[Path]:
    """The files of that name in and below `folders`, each once, in order; RunsError for a missing folder.

    Copies in outputs/published are found only where they are asked for.
    """
    found = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise RunsError(f"{folder}: no such folder")
        for path in folder.rglob(name):
            if "published" not in path.relative_to(folder).parts:
                found[path.resolve()] = path
    return sorted(found.values())


def find_runs(folders: Iterable[str | Path]) -> list[Run]:
    """All runs in and anywhere below `folders`, each once, in the order of their paths."""
    folders = list(folders)
    if not (found := below(folders, "run.json")):
        names = ", ".join(map(str, folders)) or "no folder given"
        raise RunsError(f"{names}: no run found (no run.json in or below)")
    return [read_run(path.parent) for path in found]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The keys in whose values the runs differ; one that follows from its group's name is left out."""
    settings = [run.setting for run in runs]
    keys = [key for key in dict.fromkeys(k for s in settings for k in s) if _values(settings, key) > 1]
    return [key for key in keys if not _follows_from_name(settings, key)]


def changes(runs: Sequence[Run]) -> list[str]:
    """What sets each run apart from the plainest, schedule and learning rate aside: "skip", "stop=0.4".

    "plain" for nothing. The plainest run has most of the differing keys off or absent, and the others as they
    mostly are.
    """
    keys = [key for key in differing_keys(runs) if key not in APART]
    keys.sort(key=lambda key: key.startswith("dataset."))  # what a remedy needs comes after what it is
    columns = [[run.setting.get(key) for run in runs] for key in keys]
    usual = [max(column, key=column.count) for column in columns]
    groups = {key.partition(".")[0] for key in APART}
    values = [  # a schedule without β has no `stop` and is not set apart by that
        [
            run.setting.get(key, mode if key.partition(".")[0] in groups else None)
            for key, mode in zip(keys, usual, strict=True)
        ]
        for run in runs
    ]

    def distance(row: list[Any]) -> tuple[int, int]:
        return sum(map(bool, row)), sum(v != u for v, u in zip(row, usual, strict=True))

    plainest = min(values, key=distance)
    found = [
        ", ".join(
            _said(key, value) for key, value, off in zip(keys, row, plainest, strict=True) if value != off
        )
        for row in values
    ]
    return [text or "plain" for text in found]


def _said(key: str, value: Any) -> str:
    """A key and its value in few words: the group of a name, the last part of a key or a path."""
    group, _, last = key.rpartition(".")
    short = value.rpartition("/")[2] if isinstance(value, str) else value
    return last if value is True else f"{group if last == 'name' else last}={short}"


def _values(settings: Sequence[dict[str, Any]], *keys: str) -> int:
    """How many different values, or combinations of values, some keys have."""
    return len({repr([setting.get(key) for key in keys]) for setting in settings})


def _follows_from_name(settings: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether runs with the same choice of a key's group have the same value of the key."""
    name = f"{key.partition('.')[0]}.name"
    return key != name and _values(settings, name) == _values(settings, name, key)


def refuse_other_data(runs: Sequence[Run], besides: Container[str] = ()) -> None:
    """Raises RunsError where runs that are to be put together read different files of one name.

    What a run does not record is unknown, and no difference; nor are names in `besides`.
    """
    first: dict[str, Run] = {}
    for run in runs:
        for name, digest in run.data.items():
            other = first.setdefault(name, run)
            if other.data[name] != digest and name not in besides:
                raise RunsError(
                    f"{other.folder} and {run.folder} cannot be put together: their data differ in {name}"
                )


def refuse_mixture(runs: Sequence[Run]) -> None:
    """Raises RunsError where runs that are to be averaged differ in more than their seed, or not in it."""
    refuse_other_data(runs)
    first, seen = runs[0], {}
    for run in runs:
        if differ := differing_keys([first, run]):
            what = f"differ in {', '.join(differ)}"
        elif run.seed in seen:
            first, what = seen[run.seed], f"both have seed {run.seed}"
        else:
            seen[run.seed] = run
            continue
        raise RunsError(f"{first.folder} and {run.folder} cannot be averaged: they {what}")
