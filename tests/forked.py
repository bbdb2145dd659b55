"""Commands in processes of their own, each forked from one that has imported the program before.

A process that imports torch takes seconds to start; a copy of one that has imported it takes none.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT

SERVER = """
import json, os, runpy, sys
from hydra.core.plugins import Plugins
for statement in sys.argv[1:]:
    exec(statement)
Plugins.instance()  # looks for them in every package
for line in sys.stdin:
    command = json.loads(line)
    if child := os.fork():
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(command["files"], 1):
        os.dup2(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    sys.argv = command["words"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
    break
"""


@dataclass
class Process:
    """What `subprocess.Popen` is of a forked process, as far as tests need it."""

    pid: int
    server: subprocess.Popen[bytes]
    files: list[Path]
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        ended = self.returncode is None and select.select([self.server.stdout], [], [], 0)[0]
        return self.wait() if ended else self.returncode

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        if self.returncode is None:
            self.returncode = int(self.server.stdout.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, as `kill -9` does."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; return what it wrote to stdout and stderr."""
        self.wait()
        output, errors = (file.read_text(encoding="utf-8") for file in self.files)
        return output, errors


class Forks:
    """Starts scripts, one at a time, in forks of a process that has executed some statements.

    It writes to `folder`, whose packages come before any other.
    """

    def __init__(self, folder: Path, *statements: str) -> None:
        self.files = [folder / "stdout", folder / "stderr"]
        self.last: Process | None = None
        path = os.pathsep.join([str(folder), str(ROOT)])
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *statements],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that `select` sees every line that is not read
        )

    def start(self, *words: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> Process:
        """Start a script with its arguments in a folder."""
        command = {
            "words": list(map(str, words)),
            "cwd": str(cwd),
            "environment": dict(os.environ if environment is None else environment),
            "files": list(map(str, self.files)),
        }
        if self.last is not None:  # a test that failed may have left it
            self.last.kill()
            self.last.wait()
        self.server.stdin.write(json.dumps(command).encode() + b"\n")
        self.last = Process(int(self.server.stdout.readline()), self.server, self.files)
        return self.last

    def run(
        self, *words: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        process = self.start(*words, cwd=cwd, environment=environment)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(list(words), process.wait(), output, errors)

    def close(self) -> None:
        """End the process that is forked."""
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
