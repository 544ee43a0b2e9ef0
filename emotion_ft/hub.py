"""Finished runs and GANs onto the Hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoUrl,
    constants,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from .errors import UsageError
from .training.repository import CARD_NAME, NEEDED, SHARED

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
EXAMPLE = re.compile(
    r'((?:load_model|from_pretrained)\(|pipeline\("music-emotion", model=)"[^"\n]*"(?:, revision="[^"\n]*")?'
)
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


def create_repository(repo_id: str, private: bool = False, token: str | None = None) -> RepoUrl:
    """Make a model repository on the Hub, unless it is there; its `repo_id` says in full where.

    Args:
        repo_id: `you/name`, or `name` in the token's own account.
        private: whether nobody else may see it.
        token: one that may write; None: the one of `hf auth login` or of HF_TOKEN.

    Raises:
        UsageError: when it cannot be made or written to, or is public against `private`.
    """
    api = HfApi(token=token)
    with _hub_errors(repo_id):
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        api.auth_check(url.repo_id, write=True)  # create_repo is content with one that is there, whoever owns it
        public = private and not api.model_info(url.repo_id).private
    if public:
        raise UsageError(
            f"'{url.repo_id}' is public already: make it private in its settings, or choose another name."
        )
    return url


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a finished run or GAN to the Hub, in one commit, and none if the Hub has all of it.

    `SHARED` travels: weights, configuration, front end, code, card, scores, plots, report, audit and split. The card's
    example loads `repo_id` there. Of what an earlier push left, files that the folder has no more are removed.

    Args:
        folder: as finetune.py or train_gan.py leaves it.
        repo_id: `you/name`, or `name` in the token's own account; made if it is not there.
        private: whether nobody else may see it.
        revision: branch, made from main if it is not there; None: main.
        token: one that may write; None: the one of `hf auth login` or of HF_TOKEN.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        UsageError: when the folder holds no finished run or a token, or the Hub cannot be reached or refuses.
    """
    folder = Path(folder)
    paths = shared_files(folder)
    url = create_repository(repo_id, private, token)
    place = f'"{url.repo_id}"' + (f', revision="{revision}"' if revision else "")
    card = EXAMPLE.sub(lambda match: match[1] + place, paths.pop(CARD_NAME).read_text())
    api = HfApi(token=token)
    with _hub_errors(url.repo_id):
        if revision:
            api.create_branch(url.repo_id, branch=revision, exist_ok=True)
        theirs = api.list_repo_files(url.repo_id, revision=revision)
        api.create_commit(
            url.repo_id,
            [
                CommitOperationAdd(CARD_NAME, card.encode()),
                *(CommitOperationAdd(name, path) for name, path in paths.items()),
                *(
                    CommitOperationDelete(name)
                    for name in theirs
                    if _is_shared(name) and name not in {CARD_NAME, *paths}
                ),
            ],
            commit_message=message or f"Push {folder.resolve().name}",
            revision=revision,
        )
    return f"{url}/tree/{revision}" if revision else str(url)


def shared_files(folder: str | Path) -> dict[str, Path]:
    """What of a finished run or GAN may travel: paths by their names in the repository.

    Raises:
        UsageError: when the folder holds no finished run, no weights but pickles, or a token in one of these files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no run in '{folder}': no such folder.")
    found = {path.relative_to(folder).as_posix(): path for pattern in SHARED for path in sorted(folder.glob(pattern))}
    weights = "model.safetensors" in found or "model.safetensors.index.json" in found
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickles and not weights:
        raise UsageError(
            f"'{folder}' holds its weights as a pickle, {pickles[0]}, which runs code when it is loaded: save them "
            "with save_pretrained, as model.safetensors."
        )
    missing = [name for name in NEEDED if name not in found] + ["model.safetensors"] * (not weights)
    if missing:
        raise UsageError(
            f"'{folder}' holds no finished run: no {', '.join(missing)}; finetune.py and train_gan.py write them when "
            "they finish."
        )
    for path in found.values():
        if path.suffix not in (".safetensors", ".png") and TOKEN.search(path.read_bytes()):
            raise UsageError(f"'{path}' holds what looks like a token of the Hub: remove it, and revoke the token.")
    return found


def _is_shared(name: str) -> bool:
    path = PurePosixPath(name)
    return any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in SHARED)


def _line(text: object) -> str:
    return " ".join(str(text).split())


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
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
            "network and HF_ENDPOINT, then push with recipes/push.py."
        ) from error
    except ValueError as error:  # metadata of a card that was edited
        raise UsageError(f"cannot push to '{repo_id}': {_line(error)}") from error
