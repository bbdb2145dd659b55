"""The benchmark's arithmetic and its report, without measuring anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cvae import memory, models

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import bench


def test_the_flop_of_a_step_are_those_of_its_matrix_products():
    config = bench.configuration().model
    with torch.device("meta"):
        model = models.build(config, bench.WORDS)
    batch = bench.Batch(torch.zeros(32, 23, dtype=torch.long), torch.full((32,), 23))
    encoder = 32 * (23 * 1024 * (256 + 256) + 2 * 256 * 32)
    decoder = 32 * (32 * 256 + 22 * 1024 * (256 + 32 + 256) + 22 * 256 * 10_002)
    assert bench.flops(model, batch) == 6 * (encoder + decoder)
    assert bench.flop_per_token() == pytest.approx(22e6, rel=0.01)


def test_the_batches_have_ptbs_mean_length_and_are_the_same_each_time():
    one, other = bench.batches(32), bench.batches(32)
    lengths = [int(batch.counted[0]) for batch in one]
    assert sum(lengths) / len(lengths) == pytest.approx(22, abs=0.5) and len(set(lengths)) == len(lengths)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, other, strict=True))


def test_the_report_takes_ratios_within_rounds():
    found = {
        "rates": {"plain": [100.0, 50.0, 80.0], "ours": [150.0, 100.0, 120.0], "sgemm": [1e4, 1e4, 1e4]},
        "peak_mib": {"plain": 900.0, "ours": 700.0, "sgemm": 300.0},
        "seconds": {"whole step": 0.4, "embeddings": 0.1, "output layer and loss": 0.2},
    }
    text = bench.report(found, cost=50.0)
    assert "| plain | 80 | 0.40 | 1.00 | 900 MiB |" in text
    assert "| ours | 120 | 0.60 | 1.50 | 700 MiB |" in text
    assert "| the rest (dropout, latent, loss) | 100.0 | 25% |" in text


@pytest.mark.parametrize("wrong", [["--seconds", "0"], ["--threads", "0"]])
def test_a_wrong_number_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        bench.parse(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_keeping_freed_memory_can_be_asked_for_anywhere_and_again():
    assert memory.keep_freed() == memory.keep_freed()
