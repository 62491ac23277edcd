"""A hub of models on the loopback, which serves folders as huggingface.co does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the models in `folder`, one at each `org/name`; gives the address, and the files asked for so far."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                root = folder.joinpath(*parts[2:4])
                names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
                if parts[4:5] == ["tree"]:
                    body = json.dumps([self._listed(root, name) for name in names])
                else:
                    body = json.dumps({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": self._named(names)})
                self._answer(body.encode() if root.is_dir() else None, "RepoNotFound")
            else:
                path = folder.joinpath(*parts[:2], *parts[4:])  # org/name/resolve/<revision>/<file>
                asked.append("/".join([*parts[:2], *parts[4:]]))
                found = path.read_bytes() if path.is_file() else None
                self._answer(found, "EntryNotFound" if folder.joinpath(*parts[:2]).is_dir() else "RepoNotFound")

        do_HEAD = do_GET

        def _named(self, names: list[str]) -> list[dict[str, str]]:
            return [{"rfilename": name} for name in names]

        def _listed(self, root: Path, name: str) -> dict[str, object]:
            content = (root / name).read_bytes()
            return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

        def _answer(self, body: bytes | None, missing: str) -> None:
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", missing)
                body = b""
            else:
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
