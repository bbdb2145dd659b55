"""What only a GPU can confirm, in ten minutes and one JSON file: python scripts/gpu_check.py --json gpu.json

Each check runs in processes of its own, in a temporary folder; docs/gpu.md says what each one decides. With
`--device cpu` the list runs through without a GPU, for a look at the script itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds for everything
NEEDED = 20  # seconds without which no further check is started
TINY = [
    "task=ptb",
    "dataset=tiny",
    "dataset.sentences=400",
    "dataset.sampler=bucketed",
    "train.progress=false",
]
TINY += ["train.epochs=null", "train.log_every=1", "task.iw_samples=4", "task.iw_sentences=8"]
SMALL = ["model.embed=32", "model.hidden=64", "model.latent=8"]
AUTOCAST = """
import json, sys, torch
device = sys.argv[1]
lstm, gru = torch.nn.LSTM(8, 8).to(device), torch.nn.GRU(8, 8).to(device)
with torch.autocast(device, torch.bfloat16):
    outputs = {type(rnn).__name__: rnn(torch.randn(3, 2, 8, device=device))[0] for rnn in (lstm, gru)}
print(json.dumps({name: str(output.dtype) for name, output in outputs.items()}))
"""
MACHINE = """
import json, torch
names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
print(json.dumps(versions | {"gpus": names}))
"""


class Workplace:
    """A device, a time limit and a folder, in which Python and training run."""

    def __init__(self, device: str, folder: Path, seconds: float) -> None:
        self.device, self.folder = device, folder
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        return self.end - time.monotonic()

    def python(self, *arguments: str) -> str:
        """Run Python in the folder and return its output. Raises CalledProcessError or TimeoutExpired."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=max(1.0, self.left),
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise subprocess.CalledProcessError(done.returncode, arguments, "".join(last))
        return done.stdout

    def train(self, name: str, *overrides: str) -> dict[str, Any]:
        """Train in outputs/<name>/… and return the results."""
        self.python(str(ROOT / "train.py"), f"name={name}", f"device={self.device}", *overrides)
        return json.loads(self.one(name, "results.json").read_text())

    def one(self, name: str, file: str) -> Path:
        """Return the one file of that name below outputs/<name>."""
        return next((self.folder / "outputs" / name).rglob(file))

    def records(self, name: str) -> list[dict[str, float]]:
        """The lines of a run's metrics.jsonl."""
        return [json.loads(line) for line in self.one(name, "metrics.jsonl").read_text().splitlines()]


class Checks(Workplace):
    """The list of checks."""

    def machine(self) -> dict[str, Any]:
        """What the numbers were measured on."""
        return {"python": platform.python_version(), "cores": os.cpu_count()} | json.loads(
            self.python("-c", MACHINE)
        )

    def marked_tests(self) -> dict[str, Any]:
        """The suite's tests that need a GPU."""
        options = ("-m", "cuda", "-p", "no:cacheprovider", "--disable-warnings", f"--rootdir={ROOT}")
        printed = self.python(
            "-m", "pytest", "-o", "addopts=--import-mode=importlib", *options, str(ROOT / "tests")
        )
        return {"last_line": printed.strip().splitlines()[-1].strip("= ")}

    def autocast_dtypes(self) -> dict[str, Any]:
        """The dtype of RNN outputs under bf16 autocast: float16 is why RNNs run outside it on CUDA."""
        return json.loads(self.python("-c", AUTOCAST, self.device))

    def bench(self) -> dict[str, Any]:
        """The training step in each precision beside plain torch."""
        precisions = ["float32", "bf16"] + (["tf32"] if self.device == "cuda" else [])
        measured = {}
        for precision in precisions:
            path = self.folder / f"bench-{precision}.json"
            arguments = [
                "--device",
                self.device,
                "--seconds",
                "8",
                "--json",
                str(path),
                f"precision={precision}",
            ]
            small = SMALL if self.device == "cpu" else []
            self.python(str(ROOT / "scripts" / "bench.py"), *arguments, "dataset=tiny", *small)
            measured[precision] = json.loads(path.read_text())
        return measured

    def resume(self) -> dict[str, Any]:
        """A run that was stopped and went on beside one that was not: each series' largest difference."""
        steps = ["train.steps=40", "train.validate_every=20", *TINY, *SMALL]
        self.train("undisturbed", *steps)
        self.train("resumed", *steps, "train.stop_after=17")
        self.train("resumed", *steps)
        one, other = (self.records(name) for name in ("undisturbed", "resumed"))
        return {
            "records": [len(one), len(other)],
            "largest_difference": {
                key: max(
                    (abs(a[key] - b[key]) for a, b in zip(one, other, strict=False) if key in a and key in b),
                    default=math.nan,
                )
                for key in ("train/loss", "train/kl", "val/rec", "val/kl")
            },
        }

    def finetune(self) -> dict[str, Any]:
        """Classifiers whose encoder is an LSTM: cuDNN differentiates it in training mode only."""
        reviews = self.folder / "reviews"
        reviews.mkdir(exist_ok=True)
        for split, count in {"train": 60, "dev": 20, "test": 20}.items():
            for label, word in enumerate(("awful", "great")):
                text = "".join(f"the food was {word}{' !' * (n % 4)}\n" for n in range(count))
                (reviews / f"sentiment.{split}.{label}").write_text(text)
        results = self.train(
            "finetune",
            *("task=yelp", f"dataset.path={reviews}", "model=sentence", *SMALL, "train.epochs=null"),
            *("train.steps=20", "train.validate_every=20", "dataset.min_count=1", "train.progress=false"),
            *(
                "task.finetune.modes=[finetune]",
                "task.finetune.shares=[1.0]",
                "task.finetune.map_sentences=0",
            ),
            *("task.finetune.val_least=10", "dataset.share={train:1.0,val:1.0,test:1.0}"),
        )
        return {key: value for key, value in results.items() if key.startswith("test/accuracy")}

    def semi_amortized(self) -> dict[str, Any]:
        """SA-VAE differentiates its LSTM twice, which cuDNN cannot."""
        results = self.train(
            "semi_amortized", *TINY, *SMALL, "remedy=[semi_amortized]", "update.steps=3", "train.steps=10"
        )
        return {key: results[key] for key in ("val/elbo", "val/refined_elbo") if key in results}

    def four_at_once(self) -> dict[str, Any]:
        """One run, then four at the same time on one device: how much sharing gains."""
        steps = [*TINY, "train.steps=200", "train.validate_every=200", "task.iw_samples=0"]
        steps += SMALL if self.device == "cpu" else []
        seconds = {}
        for count in (1, 4):
            command = [sys.executable, str(ROOT / "train.py"), f"device={self.device}", *steps]
            started = time.perf_counter()
            runs = [
                subprocess.Popen(
                    [*command, f"name=together{count}-{place}"],
                    cwd=self.folder,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for place in range(count)
            ]
            try:
                codes = [run.wait(timeout=max(1.0, self.left)) for run in runs]
            finally:
                for run in runs:
                    run.kill()
            seconds[count] = time.perf_counter() - started
            if any(codes):
                raise subprocess.CalledProcessError(
                    max(codes), command, f"{count} at once: exit codes {codes}"
                )
        return {"seconds": seconds, "throughput": 4 * seconds[1] / seconds[4]}

    def run(self, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Run the list in order until the time is up; `save` is called after each check."""
        report: dict[str, Any] = {"device": self.device, "machine": self.machine()}
        checks = (self.autocast_dtypes, self.resume, self.finetune, self.semi_amortized)
        for check in (*checks, self.bench, self.four_at_once, self.marked_tests):
            name, started = check.__name__, time.perf_counter()
            if self.left < NEEDED:
                report[name] = {"skipped": "no time left"}
                continue
            try:
                report[name] = check()
            except subprocess.TimeoutExpired:
                report[name] = {"error": "the time was up"}
            except subprocess.CalledProcessError as error:
                report[name] = {"error": error.output}
            report[name]["check_seconds"] = round(time.perf_counter() - started, 1)
            save(report)
            print(f"{name}: {json.dumps(report[name])[:200]}", flush=True)
        save(report)
        return report


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default: cuda)")
    parser.add_argument(
        "--json", default="gpu_check.json", metavar="FILE", help="the report (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=LIMIT, help="time limit of all checks (default: 600)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and write the report. Exit code 1 where one of them failed."""
    args = parse(arguments)

    def save(report: dict[str, Any]) -> None:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        try:
            report = Checks(args.device, Path(folder), args.seconds).run(save)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"the checks cannot run: {getattr(error, 'output', None) or error}", file=sys.stderr)
            return 1
    failed = [name for name, value in report.items() if isinstance(value, dict) and "error" in value]
    print(f"{args.json} has the report" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
