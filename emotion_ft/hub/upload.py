"""Repositories on the Hub: create one, upload files in one commit, and turn the Hub's errors into one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoUrl, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from ..errors import UsageError


def create_repository(
    repo_id: str, private: bool = False, token: str | None = None, repo_type: str = "model"
) -> RepoUrl:
    """Create a repository on the Hub unless it exists; the result's `repo_id` is its full name.

    Arguments are as in `push.push`; `repo_type` is "model", "dataset" or "space" (a Gradio one). Raises `UsageError`
    if it cannot be created or written to, or is public in spite of `private`.
    """
    api = HfApi(token=token)
    sdk = "gradio" if repo_type == "space" else None
    with hub_errors(repo_id):
        url = api.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk, private=private or None, exist_ok=True)
        # create_repo accepts an existing repository whoever owns it
        api.auth_check(url.repo_id, repo_type=repo_type, write=True)
        public = private and not api.repo_info(url.repo_id, repo_type=repo_type).private
    if public:
        raise UsageError(
            f"'{url.repo_id}' is public already: make it private in its settings, or choose another name."
        )
    return url


def upload(
    url: RepoUrl,
    files: dict[str, Path | bytes],
    patterns: tuple[str, ...],
    revision: str | None,
    token: str | None,
    message: str,
) -> str:
    """Upload files in one commit, or make no commit if the Hub already has all of them; returns their address.

    `files` are paths or contents by their names in the repository. Files of an earlier push that match one of the
    patterns and are not among them are deleted. `revision` is a branch, created from main if it does not exist.
    """
    api, target = HfApi(token=token), {"repo_id": url.repo_id, "repo_type": url.repo_type}
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    with hub_errors(url.repo_id):
        if revision:
            api.create_branch(**target, branch=revision, exist_ok=True)
        operations += [CommitOperationAdd(name, path) for name, path in files.items()]
        for name in api.list_repo_files(**target, revision=revision):
            if name not in files and _matches(name, patterns):
                operations.append(CommitOperationDelete(name))
        api.create_commit(url.repo_id, operations, repo_type=url.repo_type, commit_message=message, revision=revision)
    return f"{url}/tree/{revision}" if revision else str(url)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in patterns)


def _line(text: object) -> str:
    return " ".join(str(text).split())


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into a `UsageError` of one sentence that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise UsageError(
            f"'{repo_id}' names no repository: expected you/name, of letters, digits, '-', '_' and '.'."
        ) from error
    except OfflineModeIsEnabled as error:
        raise UsageError(f"cannot push to '{repo_id}' in offline mode: unset HF_HUB_OFFLINE.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = {
            401: "the Hub knows no such token: log in with `hf auth login`, or set HF_TOKEN to one with write access.",
            403: "the token may not write there: choose a repository of your own, or a token with write access.",
        }.get(status, f"the Hub answered {status}: {_line(error.server_message or error)}")
        raise UsageError(f"cannot push to '{repo_id}': {reason}") from error
    except (HTTPError, RuntimeError) as error:  # huggingface_hub wraps all errors of uploads in a RuntimeError
        raise UsageError(
            f"cannot push to '{repo_id}': {constants.ENDPOINT} does not answer ({_line(error)}); check the "
            "network and HF_ENDPOINT, then push with `emotion-ft push`."
        ) from error
    except ValueError as error:  # invalid metadata in an edited card
        raise UsageError(f"cannot push to '{repo_id}': {_line(error)}") from error
