"""A hub on localhost that serves one model folder, with range requests; enough of the protocol for huggingface_hub."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(folder: Path, repository: str, statuses: dict[str, int] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as `repository`; yield (address, list of "METHOD path [range]" it was asked)."""
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
