"""A hub on localhost that serves one model folder, with range requests; enough of the protocol for huggingface_hub."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


PORTAL = b"<!DOCTYPE html><html><body>Log in to the network: hf_secretsecretsecret</body></html>"


@contextmanager
def serve(folder: Path, repository: str, broken: str = "", only: str = "") -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as `repository`; yield (address, list of "METHOD path [range]" it was asked).

    Args:
        folder, repository: what is served, and as what.
        broken: what is wrong with answers, a key of `BREAKS`.
        only: of which paths: those that hold this text.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path, span = self.path.split("?")[0], self.headers.get("range", "")
            asked.append(f"{self.command} {path} {span}".strip())
            if broken and only in path:
                return BREAKS[broken](self, body)
            if path.startswith(f"/api/models/{repository}/revision/"):
                return self.send(json.dumps({"id": repository, "sha": COMMIT, "siblings": []}).encode(), body)
            if path.startswith(f"/api/models/{repository}/tree/"):
                files = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": digest(p)}
                    for p in sorted(folder.iterdir())
                ]
                return self.send(json.dumps(files).encode(), body)
            prefix = f"/{repository}/resolve/{COMMIT}/"
            file = folder / path.removeprefix(prefix)
            if not path.startswith(prefix) or not file.is_file():
                return self.send(b"", body, 404, {"X-Error-Code": "EntryNotFound"})
            data, status, more = file.read_bytes(), 200, {}
            if span:
                first, last = span.removeprefix("bytes=").split("-")
                last = min(int(last or len(data)), len(data) - 1)
                more = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
                data, status = data[int(first) : last + 1], 206
            return self.send(data, body, status, {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT, **more})

        def send(self, data: bytes, body: bool, status: int = 200, headers: dict | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)
            if broken and "says" in broken:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _status(status: int) -> Callable[[Any, bool], None]:
    return lambda handler, body: handler.send(PORTAL, body, status, {"Content-Type": "text/html"})


def _answer(content: bytes, kind: str = "application/json", **headers: str) -> Callable[[Any, bool], None]:
    more = {"Content-Type": kind, "ETag": '"x"', "X-Repo-Commit": COMMIT, **headers}
    return lambda handler, body: handler.send(content, body, 200, more)


def _hang_up(handler: Any, _body: bool) -> None:
    handler.close_connection = True


def _redirect(handler: Any, body: bool) -> None:
    handler.send(b"", body, 302, {"Location": handler.path})


def _elsewhere(handler: Any, body: bool) -> None:
    if handler.path.startswith("/login"):
        return handler.send(PORTAL, body, 200, {"Content-Type": "text/html"})
    return handler.send(b"", body, 307, {"Location": "/login?token=hf_secretsecretsecret"})


BREAKS: dict[str, Callable[[Any, bool], None]] = {
    "portal": _answer(PORTAL, "text/html"),
    "portal as JSON": _answer(PORTAL),
    "empty": _answer(b""),
    "cut JSON": _answer(b'{"id": "someone/tiny-llama", "sha": "0123'),
    "a list": _answer(b"[1, 2]"),
    "null": _answer(b"null"),
    "a text": _answer(b'"x"'),
    "a number": _answer(b"3"),
    "an object": _answer(b"{}"),
    "list of lists": _answer(b"[[1], null, {}]"),
    "odd types": _answer(json.dumps({"id": 3, "sha": [], "siblings": {}, "lastModified": 3, "tags": 3}).encode()),
    "odd commit": _answer(json.dumps({"id": "someone/tiny-llama", "sha": "../../x", "siblings": []}).encode()),
    "not UTF-8": _answer(b"\xff\xfe{}"),
    "deep": _answer(b"[" * 100_000),
    "zeros": _answer(b"\0" * 4000),
    "longer than it says": _answer(b"{}", **{"Content-Length": "1"}),
    "shorter than it says": _answer(b"{}", **{"Content-Length": "5000"}),
    "a length that is none": _answer(b"{}", **{"Content-Length": "many"}),
    "hang up": _hang_up,
    "a circle": _redirect,
    "a redirect to a portal": _elsewhere,
    **{str(status): _status(status) for status in (400, 401, 403, 404, 407, 410, 418, 429, 451, 500, 502, 503, 511)},
}


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
