"""examples/download.py against a server of this machine: broken connections, wrong files, what is there already."""

import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "download.py"
CONTENT = bytes(n * n % 251 for n in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT under /file; the other paths misbehave as their names say."""

    def do_GET(self):
        server, start = self.server, 0
        server.asked.append(self.headers.get("Range"))
        if self.path == "/missing" or "urllib" in self.headers["User-Agent"]:
            return self.send_error(404)
        if self.path == "/busy":
            return self.send_error(503)
        if self.headers.get("Range") and self.path != "/no-range":
            start = int(self.headers["Range"][len("bytes=") : -1])
            if start >= len(CONTENT):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        body = CONTENT[start:]
        self.send_header("Content-Length", len(body) - (self.path == "/short"))
        self.end_headers()
        # Each connection of /cut brings a third, each of /dead nothing.
        self.wfile.write(body[: {"/cut": 100_000, "/dead": 0, "/short": len(body) - 1}.get(self.path)])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def download(url, path, *options, size=len(CONTENT), sha256=SHA256):
    command = [sys.executable, SCRIPT, url, path, "--bytes", size, "--sha256", sha256, *options]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)


def assert_refused(run, *words):
    """One line on stderr that holds these words, exit status 1."""
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and run.stderr.startswith("download.py: "), run.stderr
    assert all(word in run.stderr for word in words), run.stderr


def test_whole_file_and_a_second_call(server, tmp_path):
    path = tmp_path / "new folder" / "file"
    for message in ("checksum right", "is already there"):
        run = download(f"{server.url}/file", path)
        assert run.returncode == 0 and message in run.stdout and not run.stderr, run.stderr
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == ["file"]
    assert server.asked == [None]


@pytest.mark.parametrize("name, asked", [("file", ["bytes=1000-"]), ("no-range", ["bytes=1000-"])])
def test_goes_on_with_a_part(server, tmp_path, name, asked):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(f"{server.url}/{name}", tmp_path / "file").returncode == 0
    assert (tmp_path / "file").read_bytes() == CONTENT and server.asked == asked


def test_cut_connections_are_resumed_in_one_call(server, tmp_path):
    run = download(f"{server.url}/cut", tmp_path / "file", "--tries", 2)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_part_that_is_too_long_is_dropped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert download(f"{server.url}/file", tmp_path / "file").returncode == 0
    assert (tmp_path / "file").read_bytes() == CONTENT and server.asked == [None]


def test_a_part_that_is_whole_needs_no_connection(tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download("http://127.0.0.1:9/file", tmp_path / "file").returncode == 0
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("missing", {}, ["404"]),
        ("short", {}, ["299,999 bytes", "300,000 were expected"]),
        ("file", {"size": 400_000}, ["300,000 bytes", "400,000 were expected"]),
        ("file", {"sha256": "0" * 64}, [SHA256, "0" * 64]),
    ],
)
def test_another_file_leaves_nothing(server, tmp_path, name, options, words):
    assert_refused(download(f"{server.url}/{name}", tmp_path / "file", **options), f"{server.url}/{name}", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dead", "busy"])
def test_gives_up_and_keeps_the_part(server, tmp_path, name):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert_refused(download(f"{server.url}/{name}", tmp_path / "file", "--tries", 2), "again goes on from here")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1000] and len(server.asked) == 2


def test_no_server(tmp_path):
    assert_refused(download("http://127.0.0.1:9/file", tmp_path / "file", "--tries", 1), "Connection refused; the same command")
    assert_refused(download("no-address", tmp_path / "file"), "no-address")
    assert not list(tmp_path.iterdir())


def test_another_file_in_its_place_stays(server, tmp_path):
    for content, word in ((b"short", "5 bytes"), (bytes(len(CONTENT)), "SHA-256")):
        (tmp_path / "file").write_bytes(content)
        assert_refused(download(f"{server.url}/file", tmp_path / "file"), word)
        assert (tmp_path / "file").read_bytes() == content and not server.asked


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_refused(download(f"{server.url}/file", tmp_path / "file" / "file"), str(tmp_path / "file"))
