"""encode, decode, evaluate of another text, and sample, on a run whose corpus is not there any more."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from cvae import library
from cvae.cli import decode, encode, evaluate, sample
from cvae.data import codes
from cvae.errors import UserError
from cvae.runs.folder import RunFolder
from cvae.training.standalone import without_corpus
from tests.helpers import JARGON, TEXTS, text_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configured) -> RunFolder:
    place = tmp_path_factory.mktemp("codes")
    folder = text_run(configured, place)
    shutil.move(place / "corpus", place / "away")
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def said(main, *arguments: object) -> str:
    """Return the one sentence that a command ends in."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert main([str(word) for word in arguments]) == 1
    assert len(lines) == 1 and not JARGON.search(lines[0])
    return lines[0]


@pytest.mark.parametrize("name", ["Z.NPZ", "z.parquet", "Z.JSONL"])
def test_what_is_encoded_is_decoded(name, folder, place, capsys):
    rare = "ant bee elk emu gnu hog jay owl ray yak zebras zebras saw it"
    (place / "a.txt").write_text("\n".join(TEXTS[:5]) + f"\n\n{rare}\n")
    assert encode.main([str(folder.path), "a.txt", "--to", name]) == 0
    out, err = capsys.readouterr()
    assert out == f"{name}: 7 sentences, z of 3\n"
    assert err.splitlines() == [
        "1 of them have no words: they have the z of the empty sentence",
        "30.77 % of the tokens are read as <unk>, most often zebras ant bee elk emu gnu hog jay owl ray",
    ]
    z = codes.read(Path(name), 3)
    task = without_corpus(folder, "cpu")
    np.testing.assert_allclose(z, task.codec.arrays([*TEXTS[:5], "", rare])[0], rtol=1e-6)
    assert decode.main([str(folder.path), name, "--longest", "4", "--beam", "2"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 7
    assert decode.main([str(folder.path), name, "--longest", "4", "--beam", "2", "--to", "out.txt"]) == 0
    assert capsys.readouterr().out == "out.txt: 7 sentences\n"
    assert (place / "out.txt").read_text() == printed


def test_the_three_formats_hold_the_same_and_open_without_pickle(folder, place):
    table = "id,review\n" + "".join(f"{n},{text}\n" for n, text in enumerate(TEXTS[:4]))
    with gzip.open("a.csv.gz", "wt") as file:
        file.write(table)
    for name in ("z.npz", "z.parquet", "z.jsonl"):
        assert encode.main([str(folder.path), "a.csv.gz", "--to", name]) == 0  # its only column of text
    arrays = np.load("z.npz", allow_pickle=False)
    rows = parquet.read_table("z.parquet").to_pylist()
    lines = [json.loads(line) for line in (place / "z.jsonl").read_text().splitlines()]
    assert (
        [row["text"] for row in rows]
        == [line["text"] for line in lines]
        == arrays["text"].tolist()
        == TEXTS[:4]
    )
    for name in ("mean", "std"):
        for part in (rows, lines):
            values = np.array([row[name] for row in part], dtype=np.float32)
            np.testing.assert_array_equal(values, arrays[name])
            assert all(isinstance(number, float) for row in part for number in row[name])


@pytest.mark.parametrize("main", [encode.main, decode.main])
def test_the_checkpoint_asked_for_is_opened(main, folder, place):
    (place / "a.txt").write_text("the old cat\n")
    np.savez("a.npz", z=np.zeros((1, 3)))
    name = "a.txt" if main is encode.main else "a.npz"
    sentence = said(main, folder.path, name, "--to", "b.npz", "--checkpoint", "9")
    assert f"{folder.path}/checkpoint_9.pt cannot be read: No such file" in sentence


def test_the_column_asked_for_is_encoded(folder, place):
    (place / "a.csv").write_text("one,two\nthe old cat,a red dog\n")
    for column, text in (("one", "the old cat"), ("two", "a red dog")):
        assert encode.main([str(folder.path), "a.csv", "--column", column, "--to", "z.jsonl"]) == 0
        assert json.loads((place / "z.jsonl").read_text())["text"] == text


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ([], {}),
        (
            ["--temperature", "0.5", "--top-p", "0.7", "--beam", "1", "--seed", "9"],
            {"temperature": 0.5, "top_p": 0.7, "seed": 9},
        ),
        (["--beam", "3", "--no-unk", "--longest", "4"], {"beam": 3, "no_unk": True, "longest": 4}),
    ],
)
def test_decode_hands_every_choice_on(options, choice, folder, place, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        library.VAE, "decode", lambda self, z, **choice: asked.append(choice) or ["a\nb", "c"]
    )
    np.savez("z.npz", z=np.zeros((2, 3)))
    assert decode.main([str(folder.path), "z.npz", *options]) == 0
    usual = {"temperature": 0.0, "top_p": 1.0, "beam": 1, "no_unk": False, "longest": 60, "seed": 0}
    assert asked == [usual | choice]
    assert capsys.readouterr().out == "a b\nc\n"  # a sentence a line


def test_z_of_one_s_own_wins_over_a_mean(folder, place):
    np.savez("z.npz", mean=np.zeros((2, 3)), z=np.ones((2, 3)))
    assert (codes.read(Path("z.npz"), 3) == 1).all()


def write(name: str, content: object) -> None:
    if name.endswith(".npz"):
        np.savez(name, **content)
    elif name.endswith(".parquet"):
        parquet.write_table(pyarrow.table(content), name)
    else:
        Path(name).write_bytes(content)


def array_file() -> bytes:
    """A .npy file, which numpy reads by any name."""
    np.save(content := io.BytesIO(), np.zeros((1, 3)))
    return content.getvalue()


def torn_archive() -> bytes:
    """A compressed .npz file with a changed byte in its numbers."""
    np.savez_compressed(content := io.BytesIO(), z=np.arange(300.0).reshape(100, 3))
    changed = bytearray(content.getvalue())
    changed[len(changed) // 2] ^= 255
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("z.txt", b"0 0 0\n", r"z\.txt: a file of z ends in \.jsonl, \.npz, \.parquet"),
        ("z.npz", {"mean": np.zeros((2, 4))}, r"^z\.npz: z must be 3 numbers in every row, .*, found 2 x 4$"),
        ("z.npz", {"mean": np.zeros(3)}, r"^z\.npz: z must be 3 numbers in every row, .*, found 3$"),
        (
            "z.npz",
            {"z": np.zeros((2, 3, 3))},
            r"^z\.npz: z must be 3 numbers in every row, .*, found 2 x 3 x 3$",
        ),
        ("z.npz", {"other": np.zeros(3)}, r"z\.npz has no array z or mean: it has other"),
        (
            "z.npz",
            {"z": np.array([{}], dtype=object)},
            r"z\.npz is no usable \.npz file: Object arrays cannot be ",
        ),
        ("z.npz", array_file(), r"^z\.npz is one array, where a \.npz file has arrays by name$"),
        ("z.npz", torn_archive(), r"z\.npz is no usable \.npz file: Bad CRC-32"),
        ("z.npz", b"", r"z\.npz is no usable \.npz file"),
        ("z.npz", {"z": np.array(["a"])}, r"^z\.npz: z must be 3 numbers in every row$"),
        ("z.npz", {"z": [[0, 0, 0], [0, np.nan, 0]]}, r"z\.npz, row 2: z must be finite numbers"),
        ("y.jsonl", b'{"z": [1, 2]}\n{"z": [1, 2, 3]}\n', r"^y\.jsonl: z must be 3 numbers in every row$"),
        ("y.jsonl", b'{"z": 1}\n', r"^y\.jsonl: z must be 3 numbers in every row, .*, found 1$"),
        ("y.jsonl", b'{"z": [1, 2, 1e999]}\n', "row 1: z must be finite numbers"),
        ("y.jsonl", b'{"z": [1, 2, ' + b"9" * 310 + b"]}\n", "row 1: z must be finite numbers"),
        ("y.jsonl", b'{"z": [1, 2, "a"]}\n', r"^y\.jsonl: z must be 3 numbers in every row$"),
        ("y.jsonl", b'{"z": {"0": 1}}\n', r"^y\.jsonl: z must be 3 numbers in every row$"),
        ("y.jsonl", b'{"x": 1}\n', r"y\.jsonl, row 1 has no z or mean: it has x"),
        ("y.jsonl", b"[1]\n", r"line 1: a row is an object, found \[1\]"),
        ("y.jsonl", b"", r"^y\.jsonl: z must be 3 numbers in every row, .*, found 0$"),
        ("y.parquet", {"x": [1]}, r"y\.parquet, row 1 has no z or mean"),
    ],
)
def test_a_file_that_has_no_z_is_refused(name, content, sentence):
    Path(name).write_bytes(content) if isinstance(content, bytes) else write(name, content)
    with pytest.raises(UserError, match=sentence) as caught:
        codes.read(Path(name), 3)
    assert not JARGON.search(str(caught.value))


@pytest.mark.parametrize("name", ["z.npz", "z.jsonl"])
def test_a_file_that_is_not_there_is_no_broken_one(name, folder, place):
    assert said(decode.main, folder.path, name) == f"{name}: No such file or directory"


@pytest.mark.parametrize("name", ["z.npz", "z.parquet"])
@pytest.mark.parametrize("kept", [0, 50])
def test_a_cut_file_is_refused(name, kept, folder, place):
    (place / "a.txt").write_text("the old cat\n")
    assert encode.main([str(folder.path), "a.txt", "--to", name]) == 0
    (place / name).write_bytes((place / name).read_bytes()[:kept])
    assert f"{name} is no usable" in said(decode.main, folder.path, name)


def test_encode_refuses_in_a_sentence(folder, place):
    (place / "a.csv").write_text("b,c\nx y,y z\n")
    (place / "empty.txt").write_text("")
    (place / "bad.txt").write_text("a </s> b\n")
    assert "--column must name one of b, c" in said(encode.main, folder.path, "a.csv", "--to", "z.npz")
    assert "a file of z ends in" in said(encode.main, folder.path, "a.csv", "--to", "z.csv")
    empty = said(encode.main, folder.path, "empty.txt", "--to", "z.npz")
    assert empty == "empty.txt has no sentence in it"
    assert "sentence 1: </s>: of the special" in said(encode.main, folder.path, "bad.txt", "--to", "z.npz")
    assert "No such file" in said(encode.main, folder.path, "absent.txt", "--to", "z.npz")
    assert not list(place.glob("z.*"))
    with pytest.raises(SystemExit):
        decode.main([str(folder.path), "z.npz", "--beam", "2", "--temperature", "1"])


def measures(capsys, *arguments: object) -> dict[str, float]:
    """Return what evaluate prints."""
    capsys.readouterr()
    assert evaluate.main([str(word) for word in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_another_text_is_measured_as_the_test_split_was(folder, place, capsys):
    text = folder.path.parent / "away" / "test.txt"
    (place / "copy.txt").write_text(f"\n{text.read_text()}\n")  # the same sentences in another file
    found = measures(capsys, folder.path, "--data", "copy.txt")
    recorded = folder.results
    for name in ("elbo", "rec", "kl", "ppl", "word_ppl", "iw_nll", "iw_ppl", "mi", "au", "path_a"):
        assert found[f"text/{name}"] == pytest.approx(recorded[f"test/{name}"], rel=1e-5), name
    assert (found["text/unknown_share"], found["text/sentences"]) == (0, 48)
    again = measures(capsys, folder.path, "--data", "copy.txt", "--iw-samples", "7", "--iw-sentences", "all")
    assert (again["text/iw_samples"], again["text/iw_sentences"]) == (7, 48)


def test_one_file_of_the_corpus_is_a_text_of_its_own(folder, tmp_path, capsys):
    own = RunFolder(shutil.copytree(folder.path, tmp_path / "run"))
    record = own.record
    record["data"]["train"] = "0" * 64  # as where the splits differ
    (own / "run.json").write_text(json.dumps(record))
    text = folder.path.parent / "away" / "test.txt"
    assert measures(capsys, own.path, "--data", text)["text/sentences"] == 48
    assert "test/elbo" in measures(capsys, folder.path, "--data", text)  # each split is this file
    record["config"]["dataset"] |= {"name": "hub", "subset": None, "revision": None}  # which has no files
    (own / "run.json").write_text(json.dumps(record))
    assert evaluate._other_text(own, own.configuration("cpu"), str(text)) == text


def test_a_table_with_unknown_words_is_measured(folder, place, capsys):
    (place / "a.jsonl").write_text('{"t": "the zebra saw it", "u": "x y"}\n{"t": "", "u": "a"}\n')
    found = measures(capsys, folder.path, "--data", "a.jsonl", "--column", "t")
    assert found["text/unknown_share"] == 0.25 and found["text/sentences"] == 1
    text = (folder.path, "--data", "a.jsonl")
    assert "--column must name one of t, u" in said(evaluate.main, *text)
    assert "a.jsonl has no column v (--column): it has t, u" in said(evaluate.main, *text, "--column", "v")
    (place / "a.txt").write_text("the old cat\n")
    sentence = "--column=t names a column, and a.txt is plain text"
    assert sentence in said(evaluate.main, folder.path, "--data", "a.txt", "--column", "t")


def test_evaluate_refuses_in_a_sentence(folder, place):
    (place / "a.txt").write_text("the old cat\n")
    (place / "bad.txt").write_bytes(b"\xff\n")
    run, long = folder.path, ("--data", "long.txt")
    assert said(evaluate.main, run, "val", "--data", "a.txt") == "a.txt has no splits: leave out val"
    assert "--data must be its file" in said(evaluate.main, run, "--column", "t")
    assert "bad.txt, line 1: not UTF-8" in said(evaluate.main, run, "--data", "bad.txt")
    most = folder.configuration("cpu").dataset.max_words
    for words, refused in ((most, False), (most + 1, True)):
        (place / "long.txt").write_text("old " * words + "\n")
        if refused:
            assert f"{words} words, dataset.max_words allows {most}" in said(evaluate.main, run, *long)
        else:
            assert evaluate.main([str(run), *long]) == 0


def test_the_run_s_own_corpus_is_still_measured_by_its_splits(folder, capsys):
    found = measures(capsys, folder.path, "val", "--data", folder.path.parent / "away")
    recorded = {key: value for key, value in folder.results.items() if key.startswith("val/")}
    assert found == pytest.approx(recorded)


def test_typed_sentences_need_no_corpus_and_others_do(folder, place, capsys):
    (place / "a.txt").write_text("the old cat\n")
    (place / "b.txt").write_text("no wild fox saw it\n")
    run = str(folder.path)
    for arguments in (
        ["prior", "--count", "2"],
        ["reconstruct", "the old cat", "--beam", "2"],
        ["interpolate", "the old cat", "a red dog", "--count", "3"],
        ["arithmetic", "the old cat", "--from", "a.txt", "--to", "b.txt", "--count", "2"],
    ):
        assert sample.main([run, *arguments, "--json"]) == 0, arguments
        assert next(iter(json.loads(capsys.readouterr().out))).startswith(arguments[0][:9])
    between = ["arithmetic", "the old cat", "--from"]
    labels = (
        [*between, "a.txt", "--to", "0"],
        [*between, "0", "--to", "a.txt"],
        [*between, "0", "--to", "1"],
    )
    for arguments in (["neighbours", "the old cat"], ["reconstruct"], [], *labels):
        assert "no text at" in said(sample.main, run, *arguments)


def test_the_toy_and_dialogs_say_what_they_are(configured, place, tmp_path):
    from cvae.training.run import run

    (place / "a.txt").write_text("0 1 0\n")
    toy = RunFolder(tmp_path / "toy")
    run(
        configured(
            "task=toy", "train.steps=4", "train.validate_every=2", "dataset.draws=2", "task.samples=10"
        ),
        toy,
    )
    assert "task=toy knows its ten sequences only" in said(evaluate.main, toy.path, "--data", "a.txt")
    assert sample.main([str(toy.path), "prior", "--count", "2"]) == 0
    record = json.loads((toy / "run.json").read_text())
    dialog = configured("task=switchboard", "dataset.path=nowhere").container
    (toy / "run.json").write_text(json.dumps(record | {"config": dialog}))
    for main, *arguments in ((encode.main, "a.txt", "--to", "z.npz"), (evaluate.main, "--data", "a.txt")):
        assert f"{toy} answers in dialogs and has no z of a single sentence" in said(
            main, toy.path, *arguments
        )
