"""For the tests: a hub on the loopback that speaks the real one's protocol, and can be unwell.

It serves data sets: their pages of the API, their small files, and their parquet files by way of
another address, as the real one does for files kept as LFS objects. Only xet, its newer storage,
is missing: a client falls back to this where a file has no xet headers.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Data sets by name, a log of the requests, and faults.

    repositories  "OWNER/NAME" -> {path in the repository: bytes}
    refused       "OWNER/NAME" -> (status, X-Error-Code), as the hub refuses gated ones
    faults        a list of [pattern, how often, fault]: a request "METHOD /path" that the pattern
                  is found in suffers the fault, so many times. A fault is a status, or
                  (status, headers), or "hang" (no answer until the hub stops)
    log           "METHOD /path" of each request, in order
    """

    def __init__(self):
        self.repositories, self.refused, self.faults, self.log = {}, {}, [], []
        self.closing = threading.Event()
        self.port = 0

    def start(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self.closing.clear()
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self):
        """Gone: nobody listens at the port any more. start() brings it back, at the same port."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def fault(self, line):
        for entry in self.faults:
            if entry[1] > 0 and re.search(entry[0], line):
                entry[1] -= 1
                return entry[2]
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    do_GET = do_POST = do_HEAD

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.form = parse_qs(self.rfile.read(length).decode())
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.hub.log.append(line)
        fault = self.hub.fault(line)
        if fault == "hang":
            self.hub.closing.wait(60)
            self.close_connection = True
        elif fault:
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            self.send(status, b"unwell", headers)
        else:
            self.serve(path)

    def serve(self, path):
        if found := re.fullmatch(r"/lfs/([^/]+/[^/]+)/(.+)", path):
            return self.send(200, self.hub.repositories[found[1]][found[2]])
        found = re.fullmatch(
            r"/(?:api/datasets|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|resolve)"
            r"/([^/]+)(?:/(.*))?)?",
            path,
        )
        if not found:
            return self.send(404, b"Not Found")
        repository, what, revision, rest = found.groups()
        if repository in self.hub.refused:
            status, code = self.hub.refused[repository]
            return self.refuse(status, code)
        files = self.hub.repositories.get(repository)
        if files is None:  # the hub does not tell strangers whether it is missing or private
            return self.refuse(401, "RepoNotFound")
        if revision not in (None, "main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if what == "resolve":
            return self.resolve(repository, files, rest)
        if what in ("tree", "paths-info"):
            entries = [_entry(*item) for item in sorted(files.items())]
            folders = {path.rpartition("/")[0] for path in files} - {""}
            entries += [{"type": "directory", "path": f, "oid": COMMIT, "size": 0} for f in folders]
            if what == "tree":
                wanted = [e for e in entries if e["path"].rpartition("/")[0] == (rest or "")]
                if "recursive=true" in self.path.lower():
                    wanted = [e for e in entries if e["path"].startswith(rest or "")]
            else:
                wanted = [e for e in entries if e["path"] in self.form.get("paths", [])]
            return self.send_json(wanted)
        names = [{"rfilename": name} for name in sorted(files)]
        return self.send_json({"id": repository, "sha": COMMIT, "siblings": names, "tags": []})

    def resolve(self, repository, files, name):
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        entry = _entry(name, files[name])
        if "lfs" not in entry:
            return self.send(200, files[name], {"ETag": f'"{entry["oid"]}"'})
        headers = {
            "Location": f"http://localhost:{self.hub.port}/lfs/{repository}/{name}",
            "X-Linked-Size": str(entry["size"]),
            "X-Linked-ETag": f'"{entry["lfs"]["oid"]}"',
        }
        return self.send(302, b"Found", headers)

    def refuse(self, status, code):
        restricted = "Access to this dataset is restricted."
        message = {"GatedRepo": restricted}.get(code, code.replace("NotFound", " not found"))
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def send_json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers=None):
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name, content):
    """A file as the API describes it: its git hash, and its SHA-256 where LFS keeps it."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": git}
    if name.endswith(".parquet"):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry
