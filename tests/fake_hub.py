"""For the tests: a hub in place of the network that speaks the real one's protocol, and can be
unwell.

It serves data sets: their pages of the API, their small files, and their parquet files by way of
another address, as the real one does for files kept as LFS objects. Only xet, its newer storage,
is missing: a client falls back to this where a file has no xet headers.
"""

import hashlib
import re

from common.data.hub import TIMEOUT

import pytest
from huggingface_hub.utils import httpx

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATH = re.compile(r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)/?(.*))?")


class FakeHub:
    """Data sets by name, a log of the requests, and faults.

    repositories  "OWNER/NAME" -> {path in the repository: bytes}
    refused       "OWNER/NAME" -> (status, X-Error-Code), as the hub refuses gated ones
    faults        a list of [pattern, how often, fault]: a request "METHOD /path" that the pattern
                  is found in suffers the fault, so many times. A fault is (status, headers),
                  "hang" (no answer), or "gone" (nobody is there)
    log           "METHOD /path" of each request, in order
    """

    def __init__(self):
        self.repositories, self.refused, self.faults, self.log = {}, {}, [], []

    def answer(self, request):
        """The response to a request of the client, in place of httpx's own transport."""
        line = f"{request.method} {request.url.path}"
        self.log.append(line)
        for entry in self.faults:
            if entry[1] > 0 and re.search(entry[0], line):
                entry[1] -= 1
                return self.suffer(entry[2], request)
        status, content, headers = self.serve(request, request.url.path)
        if not isinstance(content, bytes):
            return httpx.Response(status, headers=headers, json=content)
        size = {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        body = b"" if request.method == "HEAD" else content
        return httpx.Response(status, headers={**size, **headers}, content=body)

    def suffer(self, fault, request):
        if fault == "gone":
            raise httpx.ConnectError("Connection refused")
        if fault == "hang":
            limits = request.extensions["timeout"].values()
            if None in limits or max(limits) > TIMEOUT:
                pytest.fail(f"{request.url.path}: the client waits without end")
            raise httpx.ReadTimeout("timed out")
        return httpx.Response(fault[0], headers=fault[1])

    def serve(self, request, path):
        """(status, bytes or a value for JSON, headers)"""
        if found := re.fullmatch(r"/lfs/([^/]+/[^/]+)/(.+)", path):
            return 200, self.repositories[found[1]][found[2]], {}
        repository, what, revision, rest = PATH.fullmatch(path).groups()
        if repository in self.refused:
            return refusal(*self.refused[repository])
        files = self.repositories.get(repository)
        if files is None:  # the hub does not tell strangers whether it is missing or private
            return refusal(401, "RepoNotFound")
        assert revision in (None, "main", COMMIT)
        if what == "resolve":
            return resolved(repository, files, rest)
        if what in (None, "revision"):
            names = [{"rfilename": name} for name in sorted(files)]
            return 200, {"id": repository, "sha": COMMIT, "siblings": names, "tags": []}, {}
        entries = [entry_of(*item) for item in sorted(files.items())]
        folders = {path.rpartition("/")[0] for path in files} - {""}
        entries += [{"type": "directory", "path": f, "oid": COMMIT, "size": 0} for f in folders]
        if "recursive=true" not in str(request.url).lower():
            entries = [e for e in entries if e["path"].rpartition("/")[0] == rest]
        return 200, [entry for entry in entries if entry["path"].startswith(rest)], {}


def resolved(repository, files, name):
    """A file, or the address of the LFS object that it is."""
    if name not in files:
        return refusal(404, "EntryNotFound")
    entry = entry_of(name, files[name])
    if "lfs" not in entry:
        return 200, files[name], {"ETag": f'"{entry["oid"]}"'}
    headers = {"Location": f"https://lfs.example/lfs/{repository}/{name}"}
    headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-ETag": f'"{entry["lfs"]["oid"]}"'}
    return 302, b"Found", headers


def refusal(status, code):
    return status, b"", {"X-Error-Code": code, "X-Error-Message": code}


def entry_of(name, content):
    """A file as the API describes it: its git hash, and its SHA-256 where LFS keeps it."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": git}
    if name.endswith(".parquet"):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry
