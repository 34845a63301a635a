"""Fetch a large public file. What is under its name in the end has the right length and checksum.

    download.py URL FILE --bytes N --sha256 HEX

FILE.part holds what has arrived; a broken download goes on from there. Needs Python alone.
"""

import argparse
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 18


class Failed(Exception):
    """What the user has to know, in one line."""


class Dropped(Exception):
    """The connection failed; another may work."""


def download(url: str, path: str, size: int, sha256: str, tries: int = 4) -> None:
    """Fetch a file, going on with what an earlier call left in `path`.part.

    Args:
        tries: connections in a row that bring nothing, before it gives up.

    Raises:
        Failed: connection, length or checksum.
        OSError: the file cannot be written.
    """
    part = f"{path}.part"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    failures = 0
    while length(part) != size:
        before = length(part)
        try:
            receive(url, part, size)
        except Dropped as error:
            failures = 0 if length(part) > before else failures + 1
            if failures == tries:
                raise Failed(f"{url}: {error}; the same command again goes on from here") from None
            time.sleep(2**failures - 1)
    try:
        check(part, size, sha256)
    except Failed as error:
        os.remove(part)
        raise Failed(f"{url}: {error}") from None
    os.replace(part, path)


def receive(url: str, part: str, size: int) -> None:
    """Add to a partial file what one connection brings."""
    have = length(part) if length(part) < size else 0
    # Some servers refuse urllib's own name.
    headers = {"User-Agent": "Mozilla/5.0", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # there is no such range
            os.remove(part)
            raise Dropped("the file there is shorter than what has arrived") from None
        raise (Dropped if error.code >= 500 else Failed)(f"{url}: {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(reason(error)) from None
    except ValueError as error:
        raise Failed(error) from None
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed else 0
        rest = response.headers.get("Content-Length")
        if rest and int(rest) != size - have:
            raise Failed(f"{url} has {have + int(rest):,} bytes, {size:,} were expected")
        with open(part, "ab" if resumed else "wb") as f:
            copy(response, f, have, size)


def copy(response: http.client.HTTPResponse, f, have: int, size: int) -> None:
    """Append a response to an open file that has `have` of `size` bytes."""
    progress = Progress(os.path.basename(f.name[: -len(".part")]), size)
    while have < size:
        try:
            chunk = response.read1(min(CHUNK, size - have))
        except (OSError, http.client.HTTPException) as error:
            raise Dropped(reason(error)) from None
        if not chunk:
            raise Dropped(f"the connection ended after {have:,} of {size:,} bytes")
        f.write(chunk)
        have += len(chunk)
        progress(have)


def reason(error: Exception) -> str:
    """Why a connection failed, in few words."""
    error = getattr(error, "reason", error)  # urllib wraps what happened
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def check(path: str, size: int, sha256: str) -> None:
    """Raise Failed unless a file has this length and checksum."""
    if length(path) != size:
        raise Failed(f"{path} has {length(path):,} bytes, {size:,} were expected")
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256.lower():
        raise Failed(f"{path} has the SHA-256 {digest.hexdigest()}, {sha256} was expected")


def length(path: str) -> int:
    """Bytes of a file; 0 where there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


class Progress:
    """Shows on stderr how far it is: one line that changes on a terminal, else a line every 5 seconds."""

    def __init__(self, name: str, size: int):
        self.name, self.size, self.terminal = name, size, sys.stderr.isatty()
        self.next = time.monotonic() + (0 if self.terminal else 5)

    def __call__(self, have: int) -> None:
        last = have == self.size
        if time.monotonic() < self.next and not (last and self.terminal):
            return
        self.next = time.monotonic() + (0.1 if self.terminal else 5)
        line = f"{self.name}: {have / 1e6:,.0f} of {self.size / 1e6:,.0f} MB"
        begin, end = ("\r\033[K", "\n" if last else "") if self.terminal else ("", "\n")
        print(begin + line, end=end, file=sys.stderr, flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Fetch a large public file; a broken download is resumed.")
    parser.add_argument("url", metavar="URL")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--bytes", type=int, required=True, metavar="N", help="its length")
    parser.add_argument("--sha256", required=True, metavar="HEX", help="its checksum")
    parser.add_argument("--tries", type=int, default=4, metavar="N", help="connections in a row that may bring nothing")
    args = parser.parse_args()
    try:
        if os.path.exists(args.file):
            check(args.file, args.bytes, args.sha256)
            print(f"{args.file} is already there")
        else:
            download(args.url, args.file, args.bytes, args.sha256, args.tries)
            print(f"{args.file}: {args.bytes:,} bytes, checksum right")
        return 0
    except Failed as error:
        message, code = str(error), 1
    except OSError as error:
        message, code = f"{error.filename or args.file}: {error.strerror}", 1
    except KeyboardInterrupt:
        message, code = "stopped; the same command again goes on from here", 130
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{clear}download.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
