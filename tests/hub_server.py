"""A hub on this machine: a server with the hub's few routes, one repository and its commits."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/tiny"


@dataclass
class Hub:
    """A hub with one repository: what it holds, and what was asked of it.

    Attributes:
        files: of its main branch. commits: the files of each commit; the last is that of main.
        lost: paths that it lists and doesn't give.
        served: bytes sent of each file, by GET.
    """

    files: dict[str, bytes]
    endpoint: str = ""
    lost: set[str] = field(default_factory=set)
    served: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commits[COMMIT] = self.files

    @property
    def commit(self) -> str:
        return [*self.commits][-1]

    def push(self, **files: bytes | None) -> str:
        """Another commit: these files are other ones, or gone."""
        self.files = {name: data for name, data in {**self.files, **files}.items() if data is not None}
        self.commits[hashlib.sha1(repr(len(self.commits)).encode()).hexdigest()] = self.files
        return self.commit

    def at(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.commit if revision == "main" else revision]

    def listed(self, path: str, files: dict[str, bytes]) -> dict[str, Any]:
        data = files[path]
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
        if path.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self._file(send=False)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(f"GET {path}")
        if path == "/api/whoami-v2":
            self._json({"type": "user", "name": "org"})
            return
        kind, _, revision = path.removeprefix(f"/api/models/{NAME}/").partition("/")
        if kind == "revision":
            files = self.hub.at(revision)
            commit = next(commit for commit, each in reversed(self.hub.commits.items()) if each is files)
            self._json({"id": NAME, "sha": commit, "siblings": [{"rfilename": name} for name in files]})
        elif kind == "tree":
            files = self.hub.at(revision)
            self._json([self.hub.listed(name, files) for name in files])
        else:
            self._file(send=True)

    def do_POST(self) -> None:
        """Take a commit, as files in base64; the rest of an upload is answered as the hub does."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if "/preupload/" in self.path:
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(sent)["files"]]
            self._json({"files": [{**each, "shouldIgnore": False} for each in files]})
        elif "/commit/" in self.path:
            operations = [json.loads(line) for line in sent.splitlines()]
            values = [(each["key"], each["value"]) for each in operations if each["key"] != "header"]
            files = {each["path"]: base64.b64decode(each["content"]) for key, each in values if key == "file"}
            oid = self.hub.push(**{**{each["path"]: None for key, each in values if key == "deletedFile"}, **files})
            self._json({"commitUrl": f"{self.hub.endpoint}/{NAME}/commit/{oid}", "commitOid": oid})
        else:
            self._json({"url": f"{self.hub.endpoint}/{NAME}", "id": NAME})

    def _file(self, send: bool) -> None:
        commit, _, path = unquote(urlparse(self.path).path).removeprefix(f"/{NAME}/resolve/").partition("/")
        data = self.hub.commits.get(commit, {}).get(path)
        if data is None or path in self.hub.lost:
            self._missing()
            return
        start, stop = 0, len(data)
        wanted = self.headers.get("Range")
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(stop, int(last) + 1 if last else stop)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if send:
            self.hub.served[path] = self.hub.served.get(path, 0) + stop - start
            self.wfile.write(data[start:stop])

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _missing(self) -> None:
        known = f"/{NAME}/" in self.path
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def serve(monkeypatch, tmp_path) -> Iterator[Callable[[dict[str, bytes]], Hub]]:
    """Serve files as the hub, which this process then takes for the hub; nothing else can be reached."""
    opened = []

    def start(files: dict[str, bytes]) -> Hub:
        context = serving(Hub(files))
        opened.append(context)
        hub = context.__enter__()
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        return hub

    yield start
    for context in opened:
        context.__exit__(None, None, None)
