"""A server on loopback that speaks the part of Hugging Face's HTTP interface that data sets need, and can misbehave."""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(
    r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/(?P<verb>revision|tree|paths-info|preupload|commit)/(?P<rest>.+))?"
)
FILE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
LFS = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


class Hub:
    """Data sets in memory: per repository branches, and per commit its files (bytes, or the path of a file).

    plan: faults to come, per path in the repository: a status to answer with, or ("cut", n) to close the connection
    after n bytes of the body; each is met once, in order. requests: how often each path was read. body: bytes sent.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.pause, self.waiting = threading.Event(), 0  # while the event is not set, reads of files wait
        self.reset()

    def reset(self):
        """As new."""
        self.branches, self.commits = {}, {}
        self.plan, self.requests, self.body, self.large = {}, Counter(), 0, {}
        self.lfs_from = 10**9  # files of this size and more are sent as LFS objects
        self.waiting = 0
        self.pause.set()

    def create(self, repo, files=None):
        self.branches[repo] = {}
        return self.commit(repo, "main", files or {})

    def commit(self, repo, branch, files):
        parent = self.branches[repo].get(branch, "")
        content = {k: v if isinstance(v, bytes) else str(v).encode() for k, v in sorted(files.items())}
        sha = hashlib.sha1(parent.encode() + b"".join(k.encode() + v for k, v in content.items())).hexdigest()
        self.commits[repo, sha], self.branches[repo][branch] = files, sha
        return sha

    def files(self, repo, revision="main"):
        sha = self.branches[repo].get(unquote(revision), unquote(revision))
        return sha, self.commits.get((repo, sha))

    def fault(self, path):
        with self.lock:
            self.requests[path] += 1
            return self.plan.get(path, []).pop(0) if self.plan.get(path) else None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, status, value=None, **headers):
        body = json.dumps(value).encode() if value is not None else b""
        self.send_response(status)
        for key, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def payload(self):
        return (
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "Content-Length" in self.headers
            else b"".join(self.chunks())
        )

    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_GET(self):
        url = urlsplit(self.path)
        if found := FILE.fullmatch(unquote(url.path)):
            return self.send_file(found["repo"], found["revision"], found["path"])
        if not (found := API.fullmatch(url.path)):
            return self.missing("EntryNotFound")
        repo, verb, rest = found.group("repo", "verb", "rest")
        if repo not in self.hub.branches:
            return self.missing("RepoNotFound")
        revision, _, folder = (rest or "main").partition("/")
        sha, files = self.hub.files(repo, revision)
        if files is None:
            return self.missing("RevisionNotFound")
        if verb in (None, "revision"):
            status = self.hub.fault(f"revision {repo}")
            if status:
                return self.answer(status)
            siblings = [{"rfilename": f} for f in files]
            return self.answer(
                200, {"id": repo, "sha": sha, "siblings": siblings, "private": False, "disabled": False}
            )
        recursive = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
        entries = tree(files, unquote(folder), recursive)
        return self.answer(200, entries) if entries or not folder else self.missing("EntryNotFound")

    do_HEAD = do_GET

    def send_file(self, repo, revision, path):
        sha, files = self.hub.files(repo, revision) if repo in self.hub.branches else ("", None)
        if files is None or path not in files:
            return self.missing("RepoNotFound" if files is None else "EntryNotFound")
        with self.hub.lock:
            self.hub.waiting += 1
        self.hub.pause.wait(60)
        fault = self.hub.fault(path)
        if isinstance(fault, int):
            return self.answer(fault)
        content = files[path]
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        begin, end, status = 0, size, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end, status = int(wanted[1]), min(size, int(wanted[2] or size) + 1), 206
            if begin >= size:
                return self.answer(416)
        self.send_response(status)
        etag = hashlib.sha256(content if isinstance(content, bytes) else path.encode()).hexdigest()
        for key, text in {
            "Content-Length": end - begin, "ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream", "Content-Range": f"bytes {begin}-{end - 1}/{size}",
        }.items():  # fmt: skip
            self.send_header(key, str(text))
        self.end_headers()
        if self.command == "HEAD":
            return None
        if isinstance(content, Path):
            self.wfile.flush()
            with content.open("rb") as stream:
                return self.connection.sendfile(stream, begin, end - begin)
        body = content[begin:end]
        if fault is not None:
            body, self.close_connection = body[: fault[1]], True
        self.wfile.write(body)
        with self.hub.lock:
            self.hub.body += len(body)
        return None

    def do_POST(self):
        url, content = urlsplit(self.path), self.payload()
        if url.path == "/api/repos/create":
            wanted = json.loads(content)
            repo = f"{wanted['organization']}/{wanted['name']}"
            if repo not in self.hub.branches:
                self.hub.create(repo)
            return self.answer(200, {"url": f"{self.hub.url}/datasets/{repo}", "id": repo})
        if url.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if LFS.fullmatch(url.path):
            objects = [
                {
                    "oid": o["oid"],
                    "size": o["size"],
                    "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}},
                }
                for o in json.loads(content)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if not (found := API.fullmatch(url.path)) or found["repo"] not in self.hub.branches:
            return self.missing("RepoNotFound")
        repo, verb, rest = found.group("repo", "verb", "rest")
        sha, files = self.hub.files(repo, rest)
        if verb == "paths-info":
            asked = parse_qs(content.decode()).get("paths", [])
            return self.answer(200, [entry for entry in tree(files, "", True) if entry["path"] in asked])
        if verb == "preupload":
            modes = [
                {
                    "path": f["path"],
                    "shouldIgnore": False,
                    "uploadMode": "lfs" if f["size"] >= self.hub.lfs_from else "regular",
                }
                for f in json.loads(content)["files"]
            ]
            return self.answer(200, {"files": modes})
        lines = [json.loads(line) for line in content.splitlines()]
        if lines[0]["value"].get("parentCommit", sha) != sha:
            return self.answer(412, {"error": "parent commit is not the head"})
        files = dict(files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                del files[value["path"]]
        sha = self.hub.commit(repo, unquote(rest), files)
        if fault := self.hub.fault(f"commit {repo}"):  # It is there, and the client does not come to know.
            return self.answer(fault)
        return self.answer(
            200, {"commitUrl": f"{self.hub.url}/datasets/{repo}/commit/{sha}", "commitOid": sha}
        )

    def do_PUT(self):
        content = self.payload()
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self.answer(200)


def tree(files, folder, recursive):
    """Entries of a folder as the tree listing has them, sorted; with `recursive` those of all folders below."""
    inside, entries = f"{folder}/" if folder else "", {}
    for path, content in files.items():
        if not path.startswith(inside):
            continue
        parts = path.removeprefix(inside).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            above = inside + "/".join(parts[:depth])
            entries[above] = {"type": "directory", "path": above, "size": 0, "oid": "0" * 40}
        if recursive or len(parts) == 1:
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            entries[path] = {"type": "file", "path": path, "size": size, "oid": "0" * 40}
    return [entries[key] for key in sorted(entries)]


@contextmanager
def running(upstream=None):
    """A hub that answers at `hub.url` until the context ends; with `upstream` (host:port) a relay to that server."""
    hub = Hub()
    handler = type("Bound", (Relay if upstream else Handler,), {"hub": hub, "upstream": upstream})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Relay(BaseHTTPRequestHandler):
    """Passes reads on to another server; `plan` and `requests` as those of `Hub`, by the path of the request."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    upstream: str

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).lstrip("/")
        fault = self.hub.fault(path) if self.command == "GET" else None
        connection = HTTPConnection(self.upstream)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        headers = answer.getheaders()
        if isinstance(fault, int):
            answer.status, headers, body = fault, [], b""
        self.send_response(answer.status)
        for key, text in headers:
            if key.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(key, text)
        length = len(body) if self.command == "GET" else answer.getheader("Content-Length") or 0
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if isinstance(fault, tuple):
            body, self.close_connection = body[: fault[1]], True
        if self.command == "GET":
            self.wfile.write(body)
            with self.hub.lock:
                self.hub.body += len(body)

    do_HEAD = do_GET
