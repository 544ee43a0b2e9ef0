"""Finished runs and GANs, prepared collections and demo Spaces onto the Hub."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoUrl, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from .. import run_folder
from ..config.settings import TrainingConfig
from ..data.prepared import COLLECTION_NAME, FILES
from ..errors import UsageError
from ..inference.loading import find_pickles
from .space import build_space

EXAMPLE = re.compile(
    r'((?:load_model|from_pretrained|load_dataset)\(|pipeline\("music-emotion", model=)'
    r'"[^"\n]*"(?:, revision="[^"\n]*")?'
)
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


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
    with _hub_errors(repo_id):
        url = api.create_repo(repo_id, repo_type=repo_type, space_sdk=sdk, private=private or None, exist_ok=True)
        # create_repo is content with one that is there, whoever owns it
        api.auth_check(url.repo_id, repo_type=repo_type, write=True)
        public = private and not api.repo_info(url.repo_id, repo_type=repo_type).private
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

    `run_folder.SHARED` travels: weights, configuration, front end, code, card, scores, plots, report, audit and split.
    The card's example loads `repo_id` there. Files of an earlier push that the folder no longer has are removed.

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
    files = shared_files(folder)
    url = create_repository(repo_id, private, token)
    _refuse_another_kind(files[run_folder.MODEL_CONFIG], url, revision, token)
    return _upload(url, files, run_folder.SHARED, revision, token, message or f"Push {folder.resolve().name}")


def plan_push(training: TrainingConfig, folder: str | Path) -> Callable[[], str] | None:
    """What pushes `folder` when a recipe has finished it; None without `push_to_hub`, and but in the first process.

    The repository is made now, so that a wrong token shows before the training. `push_to_hub` is turned off: Trainer
    would push before the card and the numbers are there.

    Raises:
        UsageError: as `create_repository`.
    """
    wanted, training.push_to_hub = training.push_to_hub, False
    if not wanted or training.process_index:
        return None
    repo_id = training.hub_model_id or Path(folder).resolve().name
    private, token = bool(training.hub_private_repo), training.hub_token
    create_repository(repo_id, private, token)
    return partial(push, folder, repo_id, private, training.hub_revision, token)


def push_prepared(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a prepared collection as a data set, with its card, as `push` does a run.

    Args:
        folder: as `shards.finish_prepared` leaves it.
        repo_id, private, revision, token, message: as `push`'s.

    Returns:
        The address of the data set.

    Raises:
        UsageError: when the folder holds no whole collection, or the Hub cannot be reached or refuses.
    """
    folder = Path(folder)
    if missing := [name for name in (run_folder.CARD, COLLECTION_NAME) if not (folder / name).is_file()]:
        raise UsageError(f"'{folder}' holds no prepared collection: no {', '.join(missing)}; prepare.py writes both.")
    patterns = (run_folder.CARD, *FILES)
    files = _files(folder, patterns)
    url = create_repository(repo_id, private, token, "dataset")
    return _upload(url, files, patterns, revision, token, message or f"Push {folder.resolve().name}")


def push_space(
    model_id: str, repo_id: str, private: bool = False, revision: str | None = None, token: str | None = None
) -> str:
    """Publish the demo Space of a model that is on the Hub.

    Args:
        model_id: `you/name` of the model.
        repo_id: of the Space, `you/name`, or `name` in the token's own account; made if it is not there.
        private: whether nobody else may see it. The Space of a private model needs HF_TOKEN among its secrets.
        revision: of the model that it shows; None: the newest of main.
        token: one that may write; None: the one of `hf auth login` or of HF_TOKEN.

    Returns:
        The address of the Space.

    Raises:
        UsageError: when the model is not there or brings no pipeline, or the Hub cannot be reached or refuses.
    """
    with _hub_errors(model_id):
        there = HfApi(token=token).file_exists(model_id, run_folder.PIPELINE, revision=revision)
    if not there:
        raise UsageError(f"no Space for '{model_id}': no {run_folder.PIPELINE} is there; push a finished run first.")
    url = create_repository(repo_id, private, token, "space")
    with TemporaryDirectory() as place:
        folder = build_space(Path(place, "space"), model_id, revision)
        files = {path.name: path for path in folder.iterdir()}
        return _upload(url, files, tuple(files), None, token, f"Show {model_id}")


def _upload(
    url: RepoUrl,
    files: dict[str, Path],
    patterns: tuple[str, ...],
    revision: str | None,
    token: str | None,
    message: str,
) -> str:
    """Files by their names there, in one commit; those there that match `patterns` and are not among them go.

    The card's examples load that very repository.
    """
    place = f'"{url.repo_id}"' + (f', revision="{revision}"' if revision else "")
    card = EXAMPLE.sub(lambda match: match[1] + place, files[run_folder.CARD].read_text()).encode()
    api, there = HfApi(token=token), {"repo_id": url.repo_id, "repo_type": url.repo_type}
    with _hub_errors(url.repo_id):
        if revision:
            api.create_branch(**there, branch=revision, exist_ok=True)
        gone = [
            name
            for name in api.list_repo_files(**there, revision=revision)
            if name not in files and _matches(name, patterns)
        ]
        operations = [CommitOperationAdd(name, path) for name, path in (files | {run_folder.CARD: card}).items()]
        operations += [CommitOperationDelete(name) for name in gone]
        api.create_commit(**there, operations=operations, commit_message=message, revision=revision)
    return f"{url}/tree/{revision}" if revision else str(url)


def shared_files(folder: str | Path) -> dict[str, Path]:
    """What of a finished run or GAN may travel: paths by their names in the repository.

    Raises:
        UsageError: when the folder holds no finished run, no weights but pickles, or a token in one of these files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no run in '{folder}': no such folder.")
    found = _files(folder, run_folder.SHARED)
    weights = run_folder.WEIGHTS in found or run_folder.WEIGHTS_INDEX in found
    if not weights and (pickles := find_pickles(folder)):
        raise UsageError(
            f"'{folder}' holds its weights as a pickle, {pickles[0]}, which runs code when it is loaded: save them "
            "with save_pretrained, as model.safetensors."
        )
    missing = [name for name in (*run_folder.MODEL_NEEDS, run_folder.RESULTS) if name not in found] + [
        run_folder.WEIGHTS
    ] * (not weights)
    if missing:
        raise UsageError(
            f"'{folder}' holds no finished run: no {', '.join(missing)}; finetune.py and train_gan.py write them when "
            "they finish."
        )
    for path in found.values():
        if path.suffix not in (".safetensors", ".png") and TOKEN.search(path.read_bytes()):
            raise UsageError(f"'{path}' holds what looks like a token of the Hub: remove it, and revoke the token.")
    return found


def _refuse_another_kind(config: Path, url: RepoUrl, revision: str | None, token: str | None) -> None:
    """A GAN must not replace a model that has the same configuration file's name, nor the other way round."""
    with _hub_errors(url.repo_id):
        try:
            theirs = hf_hub_download(url.repo_id, config.name, revision=revision, token=token)
        except (EntryNotFoundError, RevisionNotFoundError):
            return
    kinds = [json.loads(Path(path).read_text()).get("model_type") for path in (config, theirs)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"'{url.repo_id}' holds a model of type {kinds[1]}: push one of type {kinds[0]} elsewhere.")


def _files(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for pattern in patterns for path in sorted(folder.glob(pattern))}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return any(path.match(pattern) and len(path.parts) == pattern.count("/") + 1 for pattern in patterns)


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
