"""`cvae data` against a real HTTP server on loopback."""

import functools
import hashlib
import http.client
import http.server
import io
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tqdm import tqdm

from cvae import download
from cvae.cli import data
from cvae.config import layout
from cvae.data import build
from cvae.errors import UserError
from tests.helpers import CPU, ROOT

SCRIPT = ROOT / "scripts" / "get_data.py"
CONTENT = {
    "a/one.txt": b"first sentence\nsecond sentence\n" * 5000,
    "a/two.txt": b"",
    "b/three.json": b'{"key": "v\xc3\xa4lue"}\n',
}
TARGETS = {"ptb/one.txt": "a/one.txt", "ptb/two.txt": "a/two.txt", "yelp/three": "b/three.json"}

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `answers` holds, for each path, what the next requests get instead."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.answers: dict[str, list[Answer]] = {}
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.requests.append(path)
        queue = self.server.answers.get(path)
        if queue:
            queue.pop(0)(self)
        elif path in CONTENT:
            send(self, CONTENT[path])
        else:
            self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


def send(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int | None = None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def body(content: bytes, length: int | None = None) -> Answer:
    return lambda handler: send(handler, content, length)


def redirect(location: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Close the connection without a byte."""


def babble(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 this is no HTTP\r\n")


def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.server.released.wait(10)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    files = tuple(
        download.DataFile(target, source, blob_id(CONTENT[source])) for target, source in TARGETS.items()
    )
    monkeypatch.setattr(data, "FILES", files)
    monkeypatch.setattr(download, "RETRY_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("CVAE_DATA", raising=False)
    monkeypatch.delenv("CVAE_DATA_URL", raising=False)
    return data


@pytest.fixture
def run(script: ModuleType, server: Server, tmp_path: Path) -> Callable[..., int]:
    def call(corpus: str, *more: str) -> int:
        return script.main([corpus, "--to", str(tmp_path), "--base-url", server.url, *more])

    return call


def stored(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, temporary ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def expected(*targets: str) -> dict[str, bytes]:
    return {target: CONTENT[TARGETS[target]] for target in targets}


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].endswith(".")
    return lines[0]


def test_downloads_every_file(run, server, tmp_path, capsys):
    assert run("all") == 0
    assert stored(tmp_path) == expected(*TARGETS)
    assert server.requests == list(TARGETS.values())
    out, err = capsys.readouterr()
    assert err == ""
    assert all(
        f"{target}: downloaded, {len(CONTENT[TARGETS[target]]):,} bytes\n" in out for target in TARGETS
    )
    assert out.splitlines()[-1] == f"export CVAE_DATA={tmp_path}"
    assert "LDC" in out


def test_downloads_only_the_corpus_asked_for(run, tmp_path, capsys):
    assert run("yelp") == 0
    assert stored(tmp_path) == expected("yelp/three")
    assert "LDC" not in capsys.readouterr().out


def test_files_get_the_permissions_of_ordinary_files(run, tmp_path):
    (tmp_path / "ordinary").touch()
    assert run("yelp") == 0
    ordinary = (tmp_path / "ordinary").stat().st_mode
    assert (tmp_path / "yelp" / "three").stat().st_mode == ordinary


def test_file_already_there_is_not_requested(run, server, tmp_path, capsys):
    assert run("ptb") == 0
    (tmp_path / "ptb" / "two.txt").unlink()
    server.requests.clear()
    capsys.readouterr()
    assert run("ptb", "--force") == 0
    assert server.requests == ["a/two.txt"]
    assert "ptb/one.txt: already there" in capsys.readouterr().out


def test_another_file_is_left_alone(run, server, tmp_path, capsys):
    own = tmp_path / "ptb" / "one.txt"
    own.parent.mkdir()
    own.write_bytes(b"my own stand-in\n")
    assert run("ptb") == 1
    assert stored(tmp_path) == expected("ptb/two.txt") | {"ptb/one.txt": b"my own stand-in\n"}
    assert server.requests == ["a/two.txt"]
    sentence = one_sentence(capsys)
    own_id, its_id = blob_id(b"my own stand-in\n"), blob_id(CONTENT["a/one.txt"])
    assert sentence == (
        f"ptb/one.txt: {own} holds another file (git blob id {own_id}) than the one at"
        f" {server.url}/a/one.txt (expected {its_id}) and was left alone;"
        " use --force to replace it or --to DIR to download elsewhere."
    )


def test_force_replaces_another_file(run, tmp_path):
    (tmp_path / "ptb").mkdir()
    (tmp_path / "ptb" / "one.txt").write_bytes(b"my own stand-in\n")
    assert run("ptb", "--force") == 0
    assert stored(tmp_path) == expected("ptb/one.txt", "ptb/two.txt")


def test_force_keeps_the_old_file_when_the_download_fails(run, server, tmp_path, capsys):
    (tmp_path / "ptb").mkdir()
    (tmp_path / "ptb" / "one.txt").write_bytes(b"my own stand-in\n")
    server.answers["a/one.txt"] = [status(404)]
    assert run("ptb", "--force") == 1
    assert stored(tmp_path)["ptb/one.txt"] == b"my own stand-in\n"
    one_sentence(capsys)


def test_wrong_content_is_refused_without_a_retry(run, server, tmp_path, capsys):
    server.answers["a/one.txt"] = [body(b"tampered\n")]
    assert run("all") == 1
    assert stored(tmp_path) == expected("ptb/two.txt", "yelp/three")
    assert server.requests.count("a/one.txt") == 1
    sentence, its_id = one_sentence(capsys), blob_id(b"tampered\n")
    for part in (
        "ptb/one.txt",
        f"{server.url}/a/one.txt sent 9 bytes with git blob id {its_id}, ",
        f"expected {blob_id(CONTENT['a/one.txt'])}",
        "--base-url",
    ):
        assert part in sentence


def test_truncated_body_is_refused(run, server, tmp_path, capsys):
    whole = CONTENT["a/one.txt"]
    server.answers["a/one.txt"] = [body(whole[:-1], len(whole))] * 3
    assert run("ptb") == 1
    assert stored(tmp_path) == expected("ptb/two.txt")
    assert server.requests.count("a/one.txt") == 3
    sentence = one_sentence(capsys)
    there = f"ptb/one.txt: {server.url}/a/one.txt sent 154999 bytes where 155000 were announced, expected "
    assert sentence.startswith(there) and "--base-url" in sentence


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (cut, "gave no answer (Remote end closed connection without response)"),
        (body(b"half", 8), "sent 4 bytes where 8 were announced"),
        (status(503), "answered HTTP 503 Service Unavailable"),
        (status(500), "answered HTTP 500 Internal Server Error"),
        (status(429), "answered HTTP 429 Too Many Requests"),
        (status(408), "answered HTTP 408 Request Timeout"),
    ],
    ids=["cut", "truncated", "503", "500", "429", "408"],
)
def test_passing_failure_is_retried(script, run, server, tmp_path, capsys, failure, why, monkeypatch):
    server.answers["a/one.txt"], pauses = [failure, failure], []
    monkeypatch.setattr(download, "RETRY_PAUSE", 1.5)
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pauses.append))
    assert run("ptb") == 0
    assert pauses == [1.5, 3.0]
    assert stored(tmp_path) == expected("ptb/one.txt", "ptb/two.txt")
    assert server.requests.count("a/one.txt") == 3
    said = capsys.readouterr()
    assert said.out.count(f"ptb/one.txt: the server {why}; trying again\n") == 2
    assert said.out.count("trying again") == 2
    assert said.err == ""


def test_missing_file_is_not_retried(run, server, tmp_path, capsys):
    server.answers["a/one.txt"] = [status(404)]
    assert run("ptb") == 1
    assert stored(tmp_path) == expected("ptb/two.txt")
    assert server.requests.count("a/one.txt") == 1
    sentence = one_sentence(capsys)
    there = f"ptb/one.txt: {server.url}/a/one.txt answered HTTP 404 Not Found, "
    its_id = blob_id(CONTENT["a/one.txt"])
    assert sentence.startswith(f"{there}expected the file with git blob id {its_id}; ")


def test_server_down_stops_with_one_sentence(script, tmp_path, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert script.main(["all", "--to", str(tmp_path), "--base-url", url]) == 1
    assert stored(tmp_path) == {}
    sentence = one_sentence(capsys)
    assert "refused" in sentence and f"{url}/a/one.txt" in sentence
    assert sentence.endswith(f"Not tried: the {len(CONTENT) - 1} files after it.")
    assert script.main(["yelp", "--to", str(tmp_path), "--base-url", url]) == 1
    assert "Not tried" not in one_sentence(capsys)  # where there is none


def test_a_body_whose_length_is_not_announced_is_taken_whole(run, server, tmp_path):
    def unannounced(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT["b/three.json"])

    server.answers["b/three.json"] = [unannounced]
    assert run("yelp") == 0
    assert stored(tmp_path) == expected("yelp/three") and server.requests == ["b/three.json"]


def test_a_bar_tells_how_much_of_a_file_has_come(server, tmp_path, monkeypatch):
    bars, screen = [], io.StringIO()

    def on_a_terminal(**shown: object) -> tqdm:
        assert shown["disable"] is None  # to ask whether stderr is one
        bars.append(tqdm(**(shown | {"disable": False, "file": screen})))
        return bars[-1]

    monkeypatch.setattr(download, "tqdm", on_a_terminal)
    monkeypatch.setenv("no_proxy", "*")
    download.save(f"{server.url}/a/one.txt", tmp_path / "one", "a name")
    assert [(bar.n, bar.total) for bar in bars] == [(155_000, 155_000)]
    assert "a name:" in screen.getvalue()


def test_silent_server_times_out(script, run, server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    server.answers["a/one.txt"] = [stall] * 3
    assert run("all") == 1
    assert stored(tmp_path) == {}
    assert "timed out" in one_sentence(capsys)


def test_a_server_of_something_else_gave_no_answer(run, server, tmp_path, capsys):
    server.answers["a/one.txt"] = [babble] * 3
    assert run("all") == 1
    assert stored(tmp_path) == {} and "gave no answer" in one_sentence(capsys)


def test_half_a_file_never_has_the_final_name(run, server, tmp_path):
    seen: list[dict[str, bytes]] = []
    whole = CONTENT["a/one.txt"]

    def pause_halfway(handler: http.server.BaseHTTPRequestHandler) -> None:
        send(handler, whole[: len(whole) // 2], len(whole))
        handler.wfile.flush()
        while not (tmp_path / "ptb").exists() or not any((tmp_path / "ptb").iterdir()):
            if handler.server.released.wait(0.005):
                return
        seen.append(stored(tmp_path))
        handler.wfile.write(whole[len(whole) // 2 :])

    server.answers["a/one.txt"] = [pause_halfway]
    assert run("ptb") == 0
    assert len(seen) == 1
    (part,) = seen[0]
    assert part.startswith("ptb/.one.txt.") and part.endswith(".part")
    assert stored(tmp_path) == expected("ptb/one.txt", "ptb/two.txt")


def test_interrupt_leaves_no_temporary_file(script, run, tmp_path, capsys, monkeypatch):
    names: set[str] = set()

    def interrupted(response: object) -> Iterator[bytes]:
        yield b"some bytes"
        (name,) = stored(tmp_path)
        names.add(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "read_chunks", interrupted)
    for _ in range(2):
        assert run("all") == 130
        assert stored(tmp_path) == {}
        assert "interrupted" in one_sentence(capsys)
    assert len(names) == 2  # two that download at once do not write into each other's


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("the tape is full"), "the tape is full"),  # without a number
    ],
)
def test_full_disk_is_told_in_one_sentence(error, why, script, run, server, tmp_path, capsys, monkeypatch):
    def full(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(download.os, "fsync", full)
    assert run("yelp") == 1
    assert stored(tmp_path) == {}
    sentence = one_sentence(capsys)
    where = f"yelp/three: cannot store {server.url}/b/three.json as {tmp_path / 'yelp' / 'three'}"
    assert sentence == f"{where} ({why}); choose another folder with --to DIR."


def test_mirror_and_folder_come_from_the_environment(script, server, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "my data"
    monkeypatch.setenv("CVAE_DATA_URL", f"{server.url}/")
    monkeypatch.setenv("CVAE_DATA", str(folder))
    assert script.main(["yelp"]) == 0
    assert stored(folder) == expected("yelp/three")
    assert capsys.readouterr().out.splitlines()[-1] == f"export CVAE_DATA='{folder}'"


@pytest.mark.parametrize("empty", [False, True])
def test_without_an_environment_files_go_to_the_folder_data(empty, script, monkeypatch):
    for name in ("CVAE_DATA", "CVAE_DATA_URL") if empty else ():
        monkeypatch.setenv(name, "")
    assert script.parse(["ptb"]).to == Path("data")
    assert script.choose_base_url(None) == script.DEFAULT_BASE_URL


def test_the_option_wins_over_the_environment(run, monkeypatch):
    monkeypatch.setenv("CVAE_DATA_URL", "http://127.0.0.1:9/wrong")
    assert run("yelp") == 0


def test_a_slash_behind_a_mirrors_address_is_no_part_of_it(script, monkeypatch):
    monkeypatch.setenv("CVAE_DATA_URL", "https://one.example/corpora/")
    assert script.choose_base_url(None) == "https://one.example/corpora"
    assert script.choose_base_url("https://two.example/") == "https://two.example"


def test_redirect_on_the_same_server_is_followed(run, server, tmp_path):
    server.answers["b/three.json"] = [redirect(f"{server.url}/b/three.json")]
    assert run("yelp") == 0
    assert stored(tmp_path) == expected("yelp/three")


@pytest.mark.parametrize(
    ("location", "why"),
    [
        (
            "http://example.invalid/x",
            "redirects, but http://example.invalid/x is plain http where https is required",
        ),
        (
            "ftp://127.0.0.1/x",
            "redirects, but 'ftp://127.0.0.1/x' is not a web address of the form http(s)://host/path",
        ),
        ("http://[x", "led to an address that cannot be used (Invalid IPv6 URL)"),
    ],
)
def test_redirect_to_an_unsafe_address_is_refused(run, server, tmp_path, capsys, location, why):
    server.answers["b/three.json"] = [redirect(location)]
    assert run("yelp") == 1
    assert stored(tmp_path) == {}
    assert server.requests == ["b/three.json"]
    assert one_sentence(capsys).startswith(f"yelp/three: {server.url}/b/three.json {why}, expected ")


OF_THE_FORM = "of the form http(s)://host/path"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc", OF_THE_FORM),
        ("ftp://127.0.0.1", OF_THE_FORM),
        ("", OF_THE_FORM),
        ("http://", OF_THE_FORM),
        ("http:///x", OF_THE_FORM),
        ("http://h:x", "(Port could not be cast to integer value as 'x')"),
        ("h", OF_THE_FORM),
        ("http://h/a b", OF_THE_FORM),
        ("http://h/ä", OF_THE_FORM),
    ],
)
def test_other_addresses_are_refused(script, tmp_path, capsys, url, why):
    assert script.main(["all", "--to", str(tmp_path), "--base-url", url]) == 1
    assert stored(tmp_path) == {}
    said = one_sentence(capsys)
    assert "--base-url" in said and f"{url!r} is not a web address {why}" in said


def test_plain_http_needs_loopback_or_the_users_word(script):
    download.check_url(script.DEFAULT_BASE_URL, given_by_user=False)
    download.check_url("http://127.0.0.1:80/x", given_by_user=False)
    download.check_url("http://mirror.example/x", given_by_user=True)
    with pytest.raises(download.DownloadError, match="https"):
        download.check_url("http://mirror.example/x", given_by_user=False)


@pytest.mark.parametrize(
    ("old", "new", "followed"),
    [
        ("https://h.example/a", "https://other.example/a", True),
        ("https://h.example/a", "http://h.example/a", False),
        ("http://h.example/a", "http://h.example/b", True),
        ("http://h.example/a", "http://other.example/a", False),
    ],
)
def test_a_redirect_is_no_less_safe_than_the_address_given(old, new, followed):
    request = urllib.request.Request(old)
    redirected = functools.partial(
        download._CheckedRedirects().redirect_request, request, io.BytesIO(), 302, ""
    )
    if followed:
        assert redirected({}, new).full_url == new
    else:
        with pytest.raises(download.DownloadError, match="https is required"):
            redirected({}, new)


def test_command_line_form(server, tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith("CVAE_")}
    command = [sys.executable, str(SCRIPT), "ptb", "--to", "data", "--base-url", server.url]
    for name in ("train", "val"):
        server.answers[f"language_model/data/ptb/{name}.txt"] = [body(b"wrong\n")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=env | {"no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    names = ["ptb/train.txt", "ptb/valid.txt", "ptb/test.txt"]
    for name, line in zip(names, done.stderr.splitlines(), strict=True):
        assert line.startswith(f"{name}: {server.url}/language_model/data/ptb/")
    assert "export" not in done.stdout
    assert stored(tmp_path) == {}


def test_works_without_the_packages_that_training_needs():
    absent = ("torch", "hydra", "omegaconf", "pydantic", "numpy", "datasets", "yaml")
    code = (
        f"import sys; sys.modules |= dict.fromkeys({absent}); from cvae.cli.main import main;"
        " sys.exit(main(['data', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "switchboard" in done.stdout


def test_real_table():
    assert len(data.FILES) == 25
    assert len({item.target for item in data.FILES}) == 25
    assert len({item.blob for item in data.FILES}) == 25
    assert all(re.fullmatch("[0-9a-f]{40}", item.blob) for item in data.FILES)
    names = [(Path(item.target).name, Path(item.source).name) for item in data.FILES]
    yelp = {f"yelp15.{split}.txt": f"yelp.{split}.txt" for split in ("train", "valid", "test")}
    assert {here: there for here, there in names if here != there} == yelp | {"valid.txt": "val.txt"}
    papers = {item.corpus for item in data.FILES if not item.base_url}
    assert papers == {"ptb", "switchboard", "yelp"}


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CVAE_DATA"), reason="CVAE_DATA is not set")
def test_data_in_use_is_the_public_one():
    names = [f"ptb/{split}.txt" for split in ("train", "valid", "test")]
    names += [f"switchboard/{split}.jsonl" for split in ("valid", "test")]
    blobs = {item.target: item.blob for item in data.FILES}
    folder = Path(os.environ["CVAE_DATA"])
    assert {name: download.git_blob_id(folder / name) for name in names} == {
        name: blobs[name] for name in names
    }


def test_further_corpora_come_from_their_own_repositories_and_all_means_the_papers(monkeypatch, tmp_path):
    asked, host = [], "https://raw.githubusercontent.com/"
    paper = "haofuml/cyclical_annealing/6ef4ebabb631df696cf4bfc333a965283eba1958"
    others = ("zhangjf-nlp/DG-VAEs/6ad9e59f4af66fb8de64b7b0d03ba0c9ad3175f0",)
    others += ("OpenVLG/DELLA/55fdf6c018358294bbfb771ce574a1b6c23e2507",)

    def fetch(items, to, base_url, force):
        asked.append(({item.corpus for item in items}, base_url.removeprefix(host)))
        return True

    monkeypatch.setattr(data, "fetch_all", fetch)
    monkeypatch.delenv("CVAE_DATA_URL", raising=False)
    for corpus in ("all", "snli", "short_yelp", "yahoo", "yelp15"):
        assert data.main([corpus, "--to", str(tmp_path)]) == 0
    assert asked == [
        ({"ptb", "switchboard", "yelp"}, paper),
        ({"snli"}, others[0]),
        ({"short_yelp"}, others[0]),
        ({"yahoo"}, others[1]),
        ({"yelp15"}, others[1]),
    ]
    data.main(["snli", "--to", str(tmp_path), "--base-url", "https://mirror.example/x"])
    assert asked[-1] == ({"snli"}, "https://mirror.example/x")


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.1", False), ("localhost.org", False)],
)
def test_plain_http_is_for_this_machine(host, here):
    assert download.is_loopback(host) == here


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (ConnectionResetError("reset"), "broke off after 7 bytes (reset)"),
        (http.client.IncompleteRead(b"x"), "broke off after 7 bytes (IncompleteRead(1 bytes read))"),
        (b"", "sent 7 bytes where 99 were announced"),
    ],
)
def test_a_transfer_that_breaks_off_says_after_how_many_bytes(end, why):
    parts = [b"four", b"two", end]

    def read(size: int) -> bytes:
        part = parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return part

    chunks = download.read_chunks(SimpleNamespace(length=99, read=read))
    with pytest.raises(download.TransferError, match=f"^{re.escape(why)}$"):
        list(chunks)


@pytest.mark.parametrize("corpus", dict.fromkeys(item.corpus for item in data.FILES))
def test_where_a_corpus_is_missing_the_command_that_fetches_it_is_said(corpus, configured, tmp_path):
    task = {"switchboard": "switchboard", "yelp": "yelp", "short_yelp": "yelp"}.get(corpus, "ptb")
    dataset = configured(f"task={task}", f"dataset={corpus}", f"dataset.path={tmp_path}").dataset
    said = rf"get_data.py {corpus} fetches them; CVAE_DATA or dataset.path says where they are$"
    for read in (dataset.refuse_missing, lambda: build(dataset, CPU)):
        with pytest.raises(UserError, match=rf"^no data at {tmp_path}.*: python scripts/{said}"):
            read()
    wanted = {item.target.removeprefix(f"{corpus}/") for item in data.FILES if item.corpus == corpus}
    assert {path.name for path in dataset.files().values()} <= wanted
    for key, path in dataset.files().items():
        split, _, label = key.partition("/")
        assert set(path.name.split(".")) & set(layout.SPLIT_NAMES[split]) and path.name.endswith(label)
