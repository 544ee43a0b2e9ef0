"""A small Hugging Face Hub over loopback HTTP, of the standard library and PyYAML, that tests push to and pull from.

It speaks what huggingface_hub needs without Xet: clients set HF_ENDPOINT=<url> and HF_HUB_DISABLE_XET=1 before they
import huggingface_hub.
"""

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".parquet")


class Refusal(Exception):
    """An HTTP error in the Hub's own form; `code` picks the client's exception."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class Request(NamedTuple):
    """A request that has been answered."""

    method: str
    path: str
    status: int


class File(NamedTuple):
    """A file of a commit: `sha256` names its blob; `oid` is git's; `pointer` is the size of an LFS pointer, or 0."""

    sha256: str
    size: int
    oid: str
    pointer: int = 0

    @property
    def etag(self) -> str:
        return self.sha256 if self.pointer else self.oid


class Commit(NamedTuple):
    """A commit: all files at it, by path."""

    oid: str
    title: str
    date: str
    files: dict[str, File]


class Repository:
    """Commits in the order of their arrival, and branches."""

    def __init__(self, private: bool):
        self.private = private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}

    def commit(self, branch: str, title: str, files: dict[str, File]) -> str:
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        said = [branch, self.branches.get(branch), title, len(self.commits), sorted(files.items())]
        oid = hashlib.sha1(json.dumps(said).encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, date, files)
        self.branches[branch] = oid
        return oid

    def at(self, revision: str) -> Commit:
        commit = self.commits.get(self.branches.get(revision, revision))
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Store:
    """Repositories, and their files' bodies as blobs in a folder, each under its SHA-256."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.repositories: dict[str, Repository] = {}
        self.lock = threading.RLock()

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.root / sha256).write_bytes(data)
        return sha256

    def size(self, sha256: str) -> int | None:
        path = self.root / sha256
        return path.stat().st_size if path.is_file() else None

    def create(self, key: str, private: bool) -> None:
        with self.lock:
            if key in self.repositories:
                raise Refusal(409, "You already created this repo")
            self.repositories[key] = Repository(private)
            self.repositories[key].commit("main", "initial commit", {".gitattributes": self.regular(b"* -text\n")})

    def regular(self, data: bytes) -> File:
        return File(self.put(data), len(data), git_oid(data))

    def lfs(self, sha256: str, size: int) -> File:
        if self.size(sha256) != size:
            raise Refusal(400, f"LFS object {sha256} was never uploaded")
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return File(sha256, size, git_oid(pointer), len(pointer))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args) -> None:
        self.server.requests.append(Request(self.command, self.path, int(args[1])))

    def answer(self, status: int, body=b"", headers=(), kind="application/json", length: int | None = None) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        size = str(len(body) if length is None else length)
        for name, value in {**dict(headers), "Content-Type": kind, "Content-Length": size}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def user(self, required: bool) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        name = self.server.tokens.get(token) if scheme == "Bearer" else None
        if (token or required) and name is None:
            raise Refusal(401, "Invalid username or password.")
        return name

    def repository(self, kind: str, name: str, write: bool = False) -> Repository:
        user = self.user(required=write)
        repository = self.store.repositories.get(f"{kind or 'models'}/{name}")
        if repository is None or (repository.private and user is None):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and name.split("/")[0] != user:
            raise Refusal(403, f"{user} may not write to {name}")
        return repository

    def dispatch(self) -> None:
        self.store, parts = self.server.store, urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.stall and self.server.stall in self.path:
            self.server.stalled.set()
            self.close_connection = self.server.released.wait(60)
            return
        try:
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, parts.path)
                if match and method == self.command.replace("HEAD", "GET"):
                    names = {name: unquote(value or "") for name, value in match.groupdict().items()}
                    return action(self, data, parse_qs(parts.query), **names)
            raise Refusal(404, f"No such route: {self.command} {parts.path}")
        except Refusal as error:
            code = {"X-Error-Code": error.code} if error.code else {}
            self.answer(error.status, {"error": str(error)}, {"X-Error-Message": str(error)} | code)

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def validate_yaml(self, data, query):
        front = re.match(r"---\n(.*?)\n---\n", json.loads(data)["content"], re.S)
        try:
            errors = [] if front and isinstance(yaml.safe_load(front[1]), dict) else ["no metadata"]
        except yaml.YAMLError as error:
            errors = [str(error)]
        self.answer(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})

    def create(self, data, query):
        user, wanted = self.user(required=True), json.loads(data)
        owner, kind = wanted.get("organization") or user, (wanted.get("type") or "model") + "s"
        if owner != user:
            raise Refusal(403, f"{user} may not create repositories under {owner}")
        name = f"{owner}/{wanted['name']}"
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}"
        try:
            self.store.create(f"{kind}/{name}", bool(wanted.get("private") or wanted.get("visibility") == "private"))
        except Refusal as error:  # the client reads the address from a 409, too
            return self.answer(409, {"error": str(error), "url": url})
        self.answer(200, {"url": url, "name": name, "id": name})

    def preupload(self, data, query, kind, name, revision):
        known = self.repository(kind, name, write=True).at(revision).files
        files = []
        for file in json.loads(data)["files"]:
            path, large = file["path"], file["size"] > 10 << 20
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or large else "regular"
            oid = known[path].etag if path in known else None
            files.append({"path": path, "shouldIgnore": False, "oid": oid, "uploadMode": mode})
        self.answer(200, {"files": files})

    def lfs_batch(self, data, query, kind, name):
        self.repository(kind, name, write=True)
        objects = json.loads(data)["objects"]
        for item in objects:
            if self.store.size(item["oid"]) is None:
                item["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}
        self.answer(200, {"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def lfs_put(self, data, query, sha256):  # whoever has the address may write, as with a presigned one
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Refusal(400, "sha256 mismatch")
        self.store.put(data)
        self.answer(200)

    def commit(self, data, query, kind, name, revision):
        repository, title = self.repository(kind, name, write=True), ""
        with self.store.lock:
            head = repository.at(revision)
            files = dict(head.files)
            for item in map(json.loads, filter(None, data.split(b"\n"))):
                operation, value = item["key"], item["value"]
                if operation == "header":
                    title = value["summary"]
                    if value.get("parentCommit") not in (None, head.oid):
                        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
                elif operation == "file":
                    files[value["path"]] = self.store.regular(base64.b64decode(value["content"]))
                elif operation == "lfsFile":
                    files[value["path"]] = self.store.lfs(value["oid"], value["size"])
                elif operation == "deletedFile":
                    del files[value["path"]]
                else:
                    raise Refusal(400, f"Unsupported operation {operation}")
            oid = repository.commit(revision, title, files)
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"})

    def branch(self, data, query, kind, name, revision):
        repository = self.repository(kind, name, write=True)
        if revision in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[revision] = repository.at(json.loads(data or b"{}").get("startingPoint") or "main").oid
        self.answer(200, {})

    def auth_check(self, data, query, kind, name):
        self.repository(kind, name, write=True)
        self.answer(200, {})

    def info(self, data, query, kind, name, revision="main"):
        repository = self.repository(kind, name)
        commit = repository.at(revision)
        rows = [{"rfilename": path} for path in sorted(commit.files)]
        about = {"id": name, "sha": commit.oid, "lastModified": commit.date, "private": repository.private}
        self.answer(200, about | {"siblings": rows})

    def tree(self, data, query, kind, name, revision, path=""):
        commit = self.repository(kind, name).at(revision)
        prefix = path.strip("/") + "/" if path else ""
        recursive, rows = query.get("recursive", [""])[0].lower() in ("1", "true"), {}
        for name, file in sorted(item for item in commit.files.items() if item[0].startswith(prefix)):
            head, _, rest = name.removeprefix(prefix).partition("/")
            if rest and not recursive:
                rows[prefix + head] = {"type": "directory", "path": prefix + head, "size": 0, "oid": commit.oid}
            else:
                rows[name] = self.row(name, file)
        if prefix and not rows:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        self.answer(200, list(rows.values()))

    def resolve(self, data, query, kind, name, revision, path):
        commit = self.repository(kind, name).at(revision)
        file = commit.files.get(path)
        if file is None:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        body = b"" if self.command == "HEAD" else (self.store.root / file.sha256).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or self.command == "HEAD":
            return self.answer(200, body, headers, "application/octet-stream", file.size)
        first, last = int(wanted[1]), min(int(wanted[2] or file.size), file.size - 1)
        if first > last:
            raise Refusal(416, f"{path} has {file.size} bytes")
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        self.answer(206, body[first : last + 1], headers, "application/octet-stream")

    def paths_info(self, data, query, kind, name, revision):
        commit, form = self.repository(kind, name).at(revision), parse_qs(data.decode())
        wanted = form["paths"] if form else json.loads(data)["paths"]
        rows = [self.row(path, commit.files[path]) for path in wanted if path in commit.files]
        folders = [path for path in wanted if any(file.startswith(f"{path}/") for file in commit.files)]
        self.answer(200, rows + [{"type": "directory", "path": path, "oid": commit.oid} for path in folders])

    def row(self, path: str, file: File) -> dict:
        row = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
        lfs = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer}
        return row | ({"lfs": lfs} if file.pointer else {})


API = "/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
FILES = "/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+?)"
REVISION = "/(?P<revision>[^/]+)"
ROUTES = [
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", f"{API}/branch{REVISION}", Handler.branch),
    ("POST", f"{API}/preupload{REVISION}", Handler.preupload),
    ("POST", f"{API}/commit{REVISION}", Handler.commit),
    ("POST", f"{API}/paths-info{REVISION}", Handler.paths_info),
    ("POST", rf"{FILES}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/(?P<sha256>[0-9a-f]{64})", Handler.lfs_put),
    ("GET", API, Handler.info),
    ("GET", f"{API}/auth-check/write", Handler.auth_check),
    ("GET", f"{API}/revision{REVISION}", Handler.info),
    ("GET", f"{API}/tree{REVISION}(?:/(?P<path>.+))?", Handler.tree),
    ("GET", f"{FILES}/resolve{REVISION}/(?P<path>.+)", Handler.resolve),
]


class LoopbackHub(ThreadingHTTPServer):
    """`with LoopbackHub(root, {"hf_token": "user"}) as hub:` serves on `hub.url` until the block ends.

    `requests` holds every answered request. `root` is an empty folder. A request whose path contains `stall` is read,
    sets `stalled`, and is dropped unanswered when `released` is set.
    """

    daemon_threads = True

    def __init__(self, root: str | Path, tokens: dict[str, str]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.tokens = Store(root), dict(tokens)
        self.requests: list[Request] = []
        self.stall, self.stalled, self.released = "", threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()

    def commits(self, name: str, kind: str = "models") -> list[Commit]:
        """All commits of a repository, oldest first; the first one only makes the repository."""
        return list(self.store.repositories[f"{kind}/{name}"].commits.values())

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """The files of a repository by path."""
        commit = self.store.repositories[f"{kind}/{name}"].at(revision)
        return {path: (self.store.root / file.sha256).read_bytes() for path, file in commit.files.items()}
