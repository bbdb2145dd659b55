"""What the program never does: run text, unpickle foreign data, build classes by name, go online."""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator

import pytest

from cvae.data import files
from tests.helpers import ROOT

SOURCES = [
    ROOT / "train.py",
    *sorted((ROOT / "cvae").rglob("*.py")),
    *sorted((ROOT / "scripts").glob("*.py")),
]
CALLS = {
    *("eval", "exec", "compile", "__import__", "import_module", "exec_module", "run_path", "instantiate"),
    *("get_class", "get_method", "get_object", "unsafe_load", "full_load", "system", "popen"),
    *("yaml.load", "pickle.load", "pickle.loads", "joblib.load"),
}
MODULES = {("yaml", "load"), ("pickle", "load"), ("pickle", "loads"), ("joblib", "load"), ("re", "compile")}
MODULES = {"pickle", "dill", "marshal", "shelve", "joblib", "runpy", "code"}
ONLINE = {"urllib.request", "urllib.error", "http.client", "http.server", "requests", "socket", "ftplib"}


def offences(source: str) -> Iterator[str]:
    """What a source does that it must not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            yield from names & (MODULES | ONLINE)
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        harmless = name in ("re.compile", "torch.compile") or name.endswith(".eval")  # of a model
        if not harmless and {name, name.rpartition(".")[2]} & CALLS:
            yield name
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield name
        if "True" in (keywords.get("shell"), keywords.get("allow_pickle")):
            yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_run_no_text_and_no_foreign_objects(path):
    found = set(offences(path.read_text(encoding="utf-8")))
    allowed = {"cvae/download.py": ONLINE, "scripts/bench.py": {"spec.loader.exec_module"}}  # of --step FILE
    assert found <= allowed.get(path.relative_to(ROOT).as_posix(), set())


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import pickle",
        "from pickle import load",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "hydra.utils.instantiate(cfg)",
        "instantiate(cfg)",
        "importlib.import_module(name)",
        "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)",
        "from urllib.request import urlopen",
    ],
)
def test_the_search_would_find_it(source):
    assert list(offences(source))


def test_no_configuration_names_a_class():
    configurations = list((ROOT / "conf").rglob("*.yaml"))
    assert len(configurations) > 20
    for path in configurations:
        assert "_target_" not in path.read_text(encoding="utf-8"), path


def test_a_corpus_is_read_without_the_network(tmp_path, monkeypatch, configured):
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = tmp_path / "text.txt"
    path.write_text("the cat sat\na dog ran off\n" * 20)
    config = configured("task=ptb", "dataset=text", f"dataset.path={path}").dataset
    sentences, *_ = files.read(config)
    assert sum(len(list(part)) for part in sentences.values()) == 40
    assert asked == []
