"""Repositories on the Hub: making them, sending files in one commit, and what can go wrong, as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoUrl, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from ..errors import UsageError


def create_repository(
    repo_id: str, private: bool = False, token: str | None = None, repo_type: str = "model"
) -> RepoUrl:
    """Make a repository on the Hub, unless it is there; its `repo_id` says in full where.

    Args:
        repo_id: `you/name`, or `name` in the token's own account.
        private: whether nobody else may see it.
        token: one that may write; None: the one of `hf auth login` or of HF_TOKEN.
        repo_type: "model", "dataset" or "space", a Gradio one.

    Raises:
        UsageError: when it cannot be made or written to, or is public against `private`.
    """
    api = HfApi(token=token)
    sdk = "gradio" if repo_type == "space" else None
    with hub_errors(repo_id):
        url = api.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk, private=private or None, exist_ok=True)
        # create_repo is content with one that is there, whoever owns it
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
    """Send files, in one commit, and none if the Hub has all of them.

    Args:
        url: of `create_repository`.
        files: paths, or contents, by their names there.
        patterns: of an earlier push's files, those that match and are not among `files` are removed.
        revision: branch, made from main if it is not there; None: main.
        token: one that may write.
        message: of the commit.

    Returns:
        The address of what was sent.
    """
    api, there = HfApi(token=token), {"repo_id": url.repo_id, "repo_type": url.repo_type}
    with hub_errors(url.repo_id):
        if revision:
            api.create_branch(**there, branch=revision, exist_ok=True)
        gone = [
            name
            for name in api.list_repo_files(**there, revision=revision)
            if name not in files and _matches(name, patterns)
        ]
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [CommitOperationDelete(name) for name in gone]
        api.create_commit(**there, operations=operations, commit_message=message, revision=revision)
    return f"{url}/tree/{revision}" if revision else str(url)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in patterns)


def _line(text: object) -> str:
    return " ".join(str(text).split())


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Errors of huggingface_hub as one sentence that says what to do."""
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
        if status == 401:
            reason = "the Hub knows no such token: log in with `hf auth login`, or set HF_TOKEN to one that may write."
        elif status == 403:
            reason = "the token may not write there: take a repository of your own, or a token that may write."
        else:
            reason = f"the Hub answered {status}: {_line(error.server_message or error)}"
        raise UsageError(f"cannot push to '{repo_id}': {reason}") from error
    except (HTTPError, RuntimeError) as error:  # of uploads, huggingface_hub wraps all errors in a RuntimeError
        raise UsageError(
            f"cannot push to '{repo_id}': {constants.ENDPOINT} does not answer ({_line(error)}); check the "
            "network and HF_ENDPOINT, then push with `emotion-ft push`."
        ) from error
    except ValueError as error:  # metadata of a card that was edited
        raise UsageError(f"cannot push to '{repo_id}': {_line(error)}") from error
