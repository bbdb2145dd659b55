"""Whatever is fed to the program, it either works or answers in one sentence; nothing else comes out.

Each property damages a good input `EXAMPLES` times at random; `test_hundreds_of_inputs_are_tried` counts.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvae import checkpoint, runs
from cvae.config import Config, DialogData, load
from cvae.data import files, references, switchboard, vectors
from cvae.data.dialogs import Exchanges, build
from cvae.data.text import Vocabulary
from cvae.folder import RunFolder
from cvae.reading import UserError

DIALOGS = Path(__file__).parent / "dialogs"
EXAMPLES = 80
tried = {"inputs": 0, "refused": 0}
seeds = st.integers(0, 2**32)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def accepted(work: Callable[[], Any]) -> bool:
    """Whether it works; where it does not, that must be said in one sentence without a trace of code."""
    tried["inputs"] += 1
    try:
        work()
    except UserError as error:
        tried["refused"] += 1
        text = str(error)
        assert text and "Traceback" not in text and "object at 0x" not in text
        assert "\n" not in text
        return False
    return True


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with some bytes flipped, inserted, taken away, repeated or cut off."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not found:
            break
        at, until = sorted((rng.randrange(len(found)), rng.randrange(len(found))))
        match rng.randrange(7):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at:at] = rng.choice(
                    [b"\x00", b"\xff", b"\r", b"\n", b'"', b"\xef\xbb\xbf", b"{", b"\\ud800"]
                )
            case 2:
                del found[at : min(until, at + 30)]
            case 3:
                del found[at:]
            case 4:
                found[at:at] = found[at : min(until, at + 50)]
            case 5:
                found[at:at] = rng.choice([b"null", b"1e999", b"NaN", b"-1", b"9" * 5000, b"[" * 2000, b" "])
            case _:
                found[at:until] = bytes(rng.randrange(256) for _ in range(min(until - at, 20)))
    return bytes(found)


# ---- corpora and what lies beside them ----


@fuzz
@given(seed=seeds)
def test_text(tmp_path, seed):
    good = "the naïve dog <unk> sat\n\nand a market waits\r\nagain\n".encode() * 3
    path = tmp_path / "my text.txt"
    path.write_bytes(damaged(good, random.Random(seed)))
    accepted(lambda: files.check(path, max_words=20))


@pytest.fixture(scope="module")
def dialogs(tmp_path_factory) -> Path:
    """A folder whose train.jsonl each example replaces."""
    folder = tmp_path_factory.mktemp("dialogs") / "Gespräche und Räume"
    folder.mkdir()
    for path in DIALOGS.glob("*.jsonl"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def dialog_data(folder: Path) -> DialogData:
    sizes = {"vocabulary": 60, "max_tokens": 40, "window": 10, "held_out": 0.2, "consecutive": 3}
    return DialogData(name="switchboard", path=str(folder), **sizes)


def lines(path: Path, count: int) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


@fuzz
@given(seed=seeds)
def test_dialogs(dialogs, seed):
    good = lines(DIALOGS / "train.jsonl", 2)
    (dialogs / "train.jsonl").write_bytes(damaged(good, random.Random(seed)))
    config = dialog_data(dialogs)
    if accepted(lambda: switchboard.read(config)):
        splits = build(config, torch.device("cpu"))
        "\n".join(splits.vocabulary.words).encode()  # what is read can be written
        splits.corpora["train"].batch(splits.corpora["train"].places[:1] * 0)


@fuzz
@given(seed=seeds)
def test_word_vectors(tmp_path, seed):
    good = "".join(f"word{n} {n}.5 -1e-3 0.25\n" for n in range(8)).encode()
    path = tmp_path / "vectors.txt"
    path.write_bytes(damaged(good, random.Random(seed)))
    accepted(lambda: vectors.read(path, Vocabulary([f"word{n}" for n in range(8)])))


@pytest.fixture(scope="module")
def corpus() -> Exchanges:
    return build(dialog_data(DIALOGS), torch.device("cpu")).corpora["test"]


@fuzz
@given(seed=seeds)
def test_references(tmp_path, corpus, seed):
    entry = {"responses": ["yes", "the dog waits"], "resp_dialog_acts": ["a", "b"]}
    path = tmp_path / "test_multi_ref.json"
    path.write_bytes(damaged(json.dumps([entry] * len(corpus)).encode(), random.Random(seed)))
    accepted(lambda: references.read(path, corpus))


# ---- configurations ----

WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def places(container: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every group of keys with each of its keys."""
    for key, value in container.items():
        yield container, key
        if isinstance(value, dict):
            yield from places(value)


@pytest.fixture(scope="module", params=["task=toy", "task=ptb", "task=switchboard"])
def composed(request, configured) -> dict[str, Any]:
    return configured(request.param).container


@fuzz
@given(seed=seeds, value=WRONG)
def test_configurations(composed, seed, value):
    container = copy.deepcopy(composed)
    rng = random.Random(seed)
    group, key = rng.choice(list(places(container)))
    match rng.randrange(4):
        case 0:
            del group[key]
        case 1:
            group[f"{key}x"] = value
        case _:
            group[key] = value
    tried["inputs"] += 1
    try:
        assert isinstance(load(container), Config)
    except UserError as error:
        tried["refused"] += 1
        assert all(line.strip() and "Traceback" not in line for line in str(error).splitlines())


# ---- run folders ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configured) -> Path:
    """What a run leaves."""
    path = tmp_path_factory.mktemp("runs") / "Läufe 1"
    path.mkdir()
    about = {"format": 1, "config": configured().container, "data": {}, "versions": {"cvae": "0.1.0"}}
    (path / "run.json").write_text(json.dumps(about))
    (path / "results.json").write_text(json.dumps({"finished": True, "step": 3, "val/kl": 0.5}))
    (path / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "train/kl": {n}.5}}\n' for n in range(6)))
    latents = {"mean": [[0.0, 1.0]], "logvar": [[0.0, 0.0]], "label": [0]}
    (path / "latents.jsonl").write_text("".join(json.dumps({"step": n} | latents) + "\n" for n in range(3)))
    checkpoint.save(path / "checkpoint_last.pt", {"step": 3, "model": {"weight": torch.arange(200.0)}})
    return path


@pytest.mark.parametrize("name", ["run.json", "results.json", "metrics.jsonl", "latents.jsonl"])
@fuzz
@given(seed=seeds)
def test_records(folder, name, seed, tmp_path_factory):
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(damaged(good, random.Random(seed)))
    try:
        accepted(lambda: runs.read_run(folder))
        accepted(lambda: RunFolder(folder).results)
        accepted(lambda: RunFolder(folder).configuration("cpu"))
    finally:
        (folder / name).write_bytes(good)


@fuzz
@given(seed=seeds)
def test_checkpoints(folder, seed):
    path = folder / "checkpoint_last.pt"
    good, before = path.read_bytes(), checkpoint.load(path)
    path.write_bytes(damaged(good, random.Random(seed)))
    try:
        found = {}
        if accepted(lambda: found.update(checkpoint.load(path))):
            assert torch.equal(found["model"]["weight"], before["model"]["weight"])
    finally:
        path.write_bytes(good)


def test_hundreds_of_inputs_are_tried():
    """Runs last; what was refused was refused in a sentence."""
    assert tried["inputs"] >= 500 and tried["refused"] >= 300
