"""A stand-in for the Hub's API on loopback: repositories in memory, uploads and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN, COMMIT = "hf_right", "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """The server: its address, and what was pushed to it.

    Attributes:
        files: Content by repository, branch and path.
        private: Repositories that were made private.
        commits: (repository, branch, message, paths) of each commit.
    """

    def __init__(self):
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.commits: list[tuple[str, str, str, list[str]]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(self.path.split("?")[0])
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"}, X_Error_Message="wrong token")
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path)
        repository, action, branch = match.groups()
        branches = self.hub.files[repository]
        if action == "branch":
            branches.setdefault(branch, {})
            return self.answer(200, {})
        if action == "preupload":
            paths = [row["path"] for row in json.loads(content)["files"]]
            files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            return self.answer(200, {"files": files})
        lines = [json.loads(line) for line in content.splitlines() if line]
        values = {row["key"]: [] for row in lines}
        for row in lines:
            values[row["key"]].append(row["value"])
        added = {f["path"]: base64.b64decode(f["content"]) for f in values.get("file", ())}
        branches[branch].update(added)
        message = values["header"][0]["summary"]
        self.hub.commits.append((repository, branch, message, sorted(added)))
        url = f"{self.hub.address}/{repository}/commit/{COMMIT}"
        return self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def create(self, wanted):
        repository = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        url = {"url": f"{self.hub.address}/{repository}"}
        if repository in self.hub.files:
            return self.answer(409, {"error": "You already created this model repo", **url})
        self.hub.files[repository] = {"main": {}}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(repository)
        return self.answer(200, url)

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository, branch, name = match.groups()
            branch = "main" if branch == COMMIT else branch
            content = self.hub.files.get(repository, {}).get(branch, {}).get(name)
            known = {"X_Repo_Commit": COMMIT}
            if content is None:
                return self.answer(404, X_Error_Code="EntryNotFound", **known)
            return self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', **known)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            repository, what, branch = match.groups()
            branch = "main" if branch in (None, COMMIT) else branch
            files = self.hub.files.get(repository, {}).get(branch)
            if files is None:
                return self.answer(404, X_Error_Code="RepoNotFound")
            if what == "tree":
                rows = [
                    {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for p, c in files.items()
                ]
                return self.answer(200, rows)
            siblings = [{"rfilename": p} for p in files]
            row = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
            return self.answer(200, {**row, "private": False, "tags": [], "downloads": 0})
        return self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET
