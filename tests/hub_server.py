"""
A small Hugging Face Hub on loopback, for the real `huggingface_hub` client: creating repositories, uploading (regular
and LFS files), committing and downloading. Repositories live in memory; what is not served here answers 404.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


TOKEN = "hf_loopback"
# As the Hub's default .gitattributes, as far as tests need it.
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".onnx")

_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, re.Pattern, str]] = []


def route(method: str, pattern: str):
    """Registers a method of [`_Handler`] for requests whose path matches; the groups are its arguments."""

    def register(function):
        _ROUTES.append((method, re.compile(pattern.replace("REPO", _REPO)), function.__name__))
        return function

    return register


@dataclass
class Commit:
    """One state of a repository: the bytes of all its files, by path."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    commits: list[Commit] = field(default_factory=list)
    lfs_paths: set[str] = field(default_factory=set)

    def __post_init__(self):
        self.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def commit(self, message: str, files: dict[str, bytes]):
        state = repr((len(self.commits), message, sorted(files)))
        self.commits.append(Commit(hashlib.sha1(state.encode()).hexdigest(), message, files))

    def find(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.head
        return next((commit for commit in self.commits if commit.oid == revision), None)


class HubServer:
    """
    A running Hub, as a context manager.

    Attributes:
        endpoint (`str`): What `HF_ENDPOINT` must be.
        repositories (`dict[str, Repository]`): By name, `owner/name`.
        requests (`list[tuple[str, str]]`): Method and path of each request so far.
        upload_started (`threading.Event`): Set when the first bytes of a large file have arrived.
        stall_uploads (`bool`): Whether to stop reading large files there, so that a test can interrupt the client.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.upload_started = threading.Event()
        self.stall_uploads = False
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()


def _describe_file(path: str, content: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _describe_folder(path: str) -> dict:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def _list_folders(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]


class _Refusal(Exception):
    """An answer other than success: status, and the code by which the client tells what is missing."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = headers | ({"X-Error-Code": code, "X-Error-Message": message} if code else {})


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def _dispatch(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        try:
            for method, pattern, name in _ROUTES:
                match = pattern.fullmatch(path)
                if match and method == ("GET" if self.command == "HEAD" else self.command):
                    if method != "GET" and not name.startswith("put_"):
                        self._check_token()
                    return getattr(self, name)(**match.groupdict())
            raise _Refusal(404, f"No such page: {path}")
        except _Refusal as refusal:
            self._answer({"error": str(refusal)}, refusal.status, **refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch

    def _check_token(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._body()
            raise _Refusal(401, "Invalid username or password.")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, content, status: int = 200, **headers: str):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _repository(self, repo: str) -> Repository:
        if repo not in self.hub.repositories:
            raise _Refusal(404, "Repository not found", "RepoNotFound")
        return self.hub.repositories[repo]

    def _commit(self, repo: str, revision: str) -> Commit:
        commit = self._repository(repo).find(revision)
        if commit is None:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        self._answer({"type": "user", "name": "tester", "orgs": []})

    @route("POST", "/api/repos/create")
    def create(self):
        request = json.loads(self._body())
        repo = f"{request.get('organization') or 'tester'}/{request['name']}"
        exists = repo in self.hub.repositories
        if not exists:
            self.hub.repositories[repo] = Repository()
        self._answer({"url": f"{self.hub.endpoint}/{repo}", "name": repo}, 409 if exists else 200)

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        """The Hub refuses cards whose metadata it cannot read, or which name models that cannot exist."""
        content = json.loads(self._body())["content"]
        block = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        metadata = (yaml.safe_load(block[1]) if block else None) or {}
        errors = [
            {"message": f'"{name}" with value "{value}" is not valid.'}
            for name in ("base_model", "datasets")
            for value in (metadata.get(name) if isinstance(metadata.get(name), list) else [metadata.get(name)])
            if value is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(value))
        ]
        self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    @route("POST", "/api/models/REPO/preupload/(?P<revision>.+)")
    def preupload(self, repo: str, revision: str):
        self._commit(repo, revision)
        files = json.loads(self._body())["files"]
        modes = ["lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular" for file in files]
        self._answer(
            {
                "files": [
                    {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                    for file, mode in zip(files, modes, strict=True)
                ]
            }
        )

    @route("POST", r"/REPO\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo: str):
        self._repository(repo)
        objects = json.loads(self._body())["objects"]
        for item in objects:
            if item["oid"] not in self.hub.large_files:
                item["actions"] = {
                    "upload": {"href": f"{self.hub.endpoint}/large-files/{item['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/large-files/{item['oid']}/verify"},
                }
        self._answer({"transfer": "basic", "objects": objects})

    @route("PUT", "/large-files/(?P<oid>[0-9a-f]{64})")
    def put_large_file(self, oid: str):
        if self.hub.stall_uploads:
            self.rfile.read(1)
            self.hub.upload_started.set()
            self.close_connection = True
            with contextlib.suppress(ConnectionError):
                self.rfile.read()  # until the client is gone
            return
        content = self._body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refusal(400, "The content is not what its hash says.")
        self.hub.large_files[oid] = content
        self._answer(b"")

    @route("POST", "/large-files/(?P<oid>[0-9a-f]{64})/verify")
    def verify_large_file(self, oid: str):
        size = json.loads(self._body())["size"]
        if len(self.hub.large_files.get(oid, b"")) != size:
            raise _Refusal(404, "The file has not arrived.")
        self._answer({})

    @route("POST", "/api/models/REPO/commit/(?P<revision>.+)")
    def commit(self, repo: str, revision: str):
        """All the files of a commit become visible at once, or none does."""
        operations = [json.loads(line) for line in self._body().splitlines()]
        header = operations[0]["value"]
        with self.hub.lock:
            files = dict(self._commit(repo, revision).files)
            repository = self._repository(repo)
            for operation in operations[1:]:
                kind, value = operation["key"], operation["value"]
                if kind == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif kind == "lfsFile":
                    if value["oid"] not in self.hub.large_files:
                        raise _Refusal(400, f"{value['path']} has not been uploaded.")
                    files[value["path"]] = self.hub.large_files[value["oid"]]
                    repository.lfs_paths.add(value["path"])
                else:
                    raise _Refusal(400, f"Unknown operation {kind}.")
            repository.commit(header["summary"], files)
            oid = repository.head.oid
        url = f"{self.hub.endpoint}/{repo}/commit/{oid}"
        self._answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    @route("GET", "/api/(?:models|datasets)/REPO(/revision/(?P<revision>.+))?")
    def model_info(self, repo: str, revision: str | None):
        commit = self._commit(repo, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        self._answer({"id": repo, "modelId": repo, "sha": commit.oid, "tags": [], "siblings": siblings})

    @route("GET", "/api/(?:models|datasets)/REPO/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?")
    def tree(self, repo: str, revision: str, folder: str | None):
        commit = self._commit(repo, revision)
        paths = [path for path in sorted(commit.files) if not folder or path.startswith(f"{folder}/")]
        if folder and not paths:
            raise _Refusal(404, f"{folder} does not exist", "EntryNotFound")
        entries = [_describe_file(path, commit.files[path]) for path in paths]
        if "recursive=True" not in self.path and "recursive=true" not in self.path and "/api/datasets/" in self.path:
            depth = folder.strip("/").count("/") + 1 if folder else 0
            entries = [entry for entry in entries if entry["path"].count("/") == depth]
            below = {each for path in paths for each in _list_folders(path) if each.count("/") == depth}
            entries += [_describe_folder(each) for each in sorted(below)]
        self._answer(entries)

    @route("POST", "/api/datasets/REPO/paths-info/(?P<revision>.+)")
    def paths_info(self, repo: str, revision: str):
        commit, body = self._commit(repo, revision), self._body().decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body).get("paths", [])
        folders = {folder for path in commit.files for folder in _list_folders(path)}
        entries = [_describe_file(path, commit.files[path]) for path in paths if path in commit.files]
        self._answer(entries + [_describe_folder(path) for path in paths if path in folders])

    @route("GET", "(?:/datasets)?/REPO/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, repo: str, revision: str, path: str):
        commit = self._commit(repo, revision)
        if path not in commit.files:
            raise _Refusal(404, f"{path} does not exist", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
        content = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if path not in self._repository(repo).lfs_paths:
            return self._answer(content, **headers)
        oid = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        # As the Hub's store, on another host; a client would look for the headers above behind a redirect to this one.
        location = f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/large-files/{oid}"
        return self._answer(b"", 302, Location=location, **headers)

    @route("GET", "/large-files/(?P<oid>[0-9a-f]{64})")
    def get_large_file(self, oid: str):
        self._answer(self.hub.large_files[oid], ETag=f'"{oid}"')
