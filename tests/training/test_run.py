"""What the process of a run sets before it reads its data."""

from __future__ import annotations

import pytest
import torch

from cvae.errors import FolderError
from cvae.models.kernels import memory
from cvae.runs.folder import RunFolder
from cvae.training.run import prepare, run
from tests.helpers import DEBUG, configured


@pytest.mark.parametrize(("threads", "wanted"), [("3", [3]), ("null", [])])
def test_a_start_takes_its_threads_and_keeps_freed_memory(threads, wanted, monkeypatch):
    taken, kept = [], []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(memory, "keep_freed", lambda: kept.append(True))
    prepare(configured(*DEBUG, f"threads={threads}"))
    assert taken == wanted and kept == [True]


def test_ctrl_c_before_training_leaves_no_empty_folder(tmp_path, monkeypatch):
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cvae.data.build", interrupted)
    (tmp_path / "outputs" / "name" / "run").mkdir(parents=True)  # as Hydra makes it
    with pytest.raises(KeyboardInterrupt):
        run(configured(*DEBUG), RunFolder(tmp_path / "outputs" / "name" / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_named_by_its_folder_as_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text('{"step": "many"}')
    with pytest.raises(FolderError, match=r"^run/results\.json: "):
        _ = RunFolder("run").results
