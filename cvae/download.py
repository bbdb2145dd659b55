"""Files from the web: each gets its final name only once it is complete and has the expected content."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import os
import re
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

TIMEOUT = 30.0  # seconds without a byte from the server
ATTEMPTS = 3
RETRY_PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
CHUNK = 1 << 16
ADVICE = "try again later or name a mirror with --base-url URL"


class DataFile(NamedTuple):
    """One file: where it goes, where it is in a repository, its git blob id, and the repository's address."""

    target: str
    source: str
    blob: str
    base_url: str = ""

    @property
    def corpus(self) -> str:
        """The name used on the command line: the first folder of the target."""
        return self.target.split("/", 1)[0]


class DownloadError(Exception):
    """A file could not be had; the message is the sentence shown to the user."""


class TransferError(DownloadError):
    """The transfer failed in a way that another attempt may mend."""


class NoAnswerError(TransferError):
    """The server did not answer at all, so the other files need not be tried."""


def git_blob_id(path: Path) -> str:
    """Return the id git gives the file's content: sha1 of ``blob <size>\\0<content>``."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_loopback(host: str) -> bool:
    """Say whether a host name means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, *, given_by_user: bool) -> None:
    """Refuse what is not an http(s) address, and plain http to hosts the user did not choose."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as err:
        raise DownloadError(f"{url!r} is not a web address ({err})") from None
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch("[!-~]+", url):
        raise DownloadError(f"{url!r} is not a web address of the form http(s)://host/path")
    if parts.scheme == "http" and not given_by_user and not is_loopback(host):
        raise DownloadError(f"{url} is plain http where https is required")


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects only to addresses that `check_url` accepts."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Check the new address before the request for it is made."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        try:
            check_url(newurl, given_by_user=(old.scheme, old.netloc) == (new.scheme, new.netloc))
        except DownloadError as err:
            fp.close()
            raise DownloadError(f"redirects, but {err}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str) -> http.client.HTTPResponse:
    """Open a URL, with every failure turned into a `DownloadError` that says what was found."""
    try:
        return urllib.request.build_opener(_CheckedRedirects).open(url, timeout=TIMEOUT)
    except urllib.error.HTTPError as err:
        err.close()
        transient = err.code in (408, 429) or err.code >= 500
        kind = TransferError if transient else DownloadError
        raise kind(f"answered HTTP {err.code} {err.reason}") from None
    except ValueError as err:
        raise DownloadError(f"led to an address that cannot be used ({err})") from None
    except (OSError, http.client.HTTPException) as err:
        reason = " ".join(str(getattr(err, "reason", err)).split())  # a line of the answer has its end
        raise NoAnswerError(f"gave no answer ({reason})") from None


def read_chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body piece by piece; a body shorter than announced is a `TransferError`."""
    announced, received = response.length, 0
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as err:
            raise TransferError(f"broke off after {received} bytes ({err})") from None
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if announced is not None and received != announced:
        raise TransferError(f"sent {received} bytes where {announced} were announced")


def save(url: str, path: Path, label: str) -> None:
    """Write the body behind a URL to a path and force it to the disk."""
    # disable=None: only where stderr is a terminal
    shown = {"desc": label, "unit": "B", "unit_scale": True, "leave": False, "disable": None}
    with open_url(url) as response, path.open("wb") as file, tqdm(total=response.length, **shown) as bar:
        for chunk in read_chunks(response):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def save_with_retries(url: str, path: Path, label: str) -> None:
    """Call `save`, again after a pause where the transfer failed for a passing reason."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            save(url, path, label)
            return
        except TransferError as err:
            if attempt == ATTEMPTS:
                raise
            print(f"{label}: the server {err}; trying again")
            time.sleep(RETRY_PAUSE * 2 ** (attempt - 1))


def download(item: DataFile, target: Path, base_url: str) -> None:
    """Download one file next to its target, check it, and only then give it its name."""
    url = f"{base_url}/{item.source}"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            save_with_retries(url, part, item.target)
        except DownloadError as err:
            expected = f"expected the file with git blob id {item.blob}"
            raise type(err)(f"{item.target}: {url} {err}, {expected}; {ADVICE}.") from None
        found = git_blob_id(part)
        if found != item.blob:
            raise DownloadError(
                f"{item.target}: {url} sent {part.stat().st_size} bytes with git blob id {found}, "
                f"expected {item.blob}, so nothing was kept; {ADVICE}."
            )
        part.replace(target)
    finally:
        with contextlib.suppress(OSError):  # it must not hide what went wrong
            part.unlink()


def fetch(item: DataFile, folder: Path, base_url: str, force: bool) -> str:
    """Make sure the file is there with the right content; return what was done about it."""
    target = folder / item.target
    try:
        if target.exists():
            found = git_blob_id(target)
            if found == item.blob:
                return "already there"
            if not force:
                raise DownloadError(
                    f"{item.target}: {target} holds another file (git blob id {found}) than the "
                    f"one at {base_url}/{item.source} (expected {item.blob}) and was left alone; "
                    "use --force to replace it or --to DIR to download elsewhere."
                )
        download(item, target, base_url)
        return f"downloaded, {target.stat().st_size:,} bytes"
    except OSError as err:
        raise DownloadError(
            f"{item.target}: cannot store {base_url}/{item.source} as {target} "
            f"({err.strerror or err}); choose another folder with --to DIR."
        ) from None


def fetch_all(items: Sequence[DataFile], folder: Path, base_url: str, force: bool) -> bool:
    """Fetch the files one by one, one sentence on stderr for each failure; True if all is well."""
    good = True
    for number, item in enumerate(items, start=1):
        try:
            print(f"{item.target}: {fetch(item, folder, base_url, force)}", flush=True)
        except DownloadError as err:
            good = False
            unanswered = isinstance(err, NoAnswerError)
            left = len(items) - number if unanswered else 0
            print(f"{err} Not tried: the {left} files after it." if left else str(err), file=sys.stderr)
            if unanswered:
                break
    return good
