"""Push finished runs and GANs, prepared collections and demo Spaces to the Hub."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, RepoUrl, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

from .. import run_folder
from ..config.settings import TrainingConfig
from ..data.prepared import COLLECTION_NAME
from ..errors import UsageError
from ..reports.cards import card_for
from .repository import model_type, shared_files, shared_patterns
from .space import build_space
from .upload import create_repository, hub_errors, upload


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
    finished: bool = True,
) -> str:
    """Upload a run, a GAN or a prepared collection in one commit, or make none if the Hub already has all of it.

    Of a run, `run_folder.SHARED` is uploaded: weights, configuration, front end, code, card, scores, plots, report,
    audit and split. A prepared collection becomes a dataset. The card is rendered for `repo_id` unless it was edited.
    Files of an earlier push that the folder no longer has are deleted.

    Args:
        folder: the output folder of `emotion-ft finetune`, `train_gan` or `prepare`.
        repo_id: `you/name`, or `name` in the token's own account; created if it does not exist.
        private: whether only its owner may see it.
        revision: branch, created from main if it does not exist; None: main.
        token: one with write access; None: the one of `hf auth login` or HF_TOKEN.
        message: of the commit.
        finished: whether the folder must hold results; if not, its card is uploaded as it is.

    Returns:
        The address of the repository.

    Raises:
        UsageError: if the folder holds nothing finished or a token, or the Hub cannot be reached or refuses.
    """
    folder = Path(folder)
    files: dict[str, Path | bytes] = {**shared_files(folder, finished)}
    collection = COLLECTION_NAME in files
    url = create_repository(repo_id, private, token, "dataset" if collection else "model")
    if not collection:
        _refuse_another_kind(folder / run_folder.MODEL_CONFIG, url, revision, token)
    if finished:
        files[run_folder.CARD] = card_for(folder, url.repo_id, revision).encode()
    message = message or f"Push {folder.resolve().name}"
    return upload(url, files, shared_patterns(folder), revision, token, message)


def plan_push(training: TrainingConfig, folder: str | Path) -> Callable[[], str] | None:
    """A function that pushes `folder` once it is finished; None without `push_to_hub` and on all other processes.

    The repository is created now, so that a wrong token shows before the training. `push_to_hub` is turned off, since
    Trainer would push before the card and the results are there. Raises `UsageError` as `create_repository` does.
    """
    wanted, training.push_to_hub = training.push_to_hub, False
    if not wanted or training.process_index:
        return None
    repo_id = training.hub_model_id or Path(folder).resolve().name
    private, token = bool(training.hub_private_repo), training.hub_token
    create_repository(repo_id, private, token)
    return partial(push, folder, repo_id, private, training.hub_revision, token)


def push_space(
    model_id: str, repo_id: str, private: bool = False, revision: str | None = None, token: str | None = None
) -> str:
    """Publish the demo Space of a model on the Hub; returns its address.

    `revision` is that of the model, None for the newest of main; the other arguments are as in `push`. The Space of a
    private model needs HF_TOKEN among its secrets. Raises `UsageError` if the model does not exist or has no pipeline,
    or the Hub cannot be reached or refuses.
    """
    with hub_errors(model_id):
        has_pipeline = HfApi(token=token).file_exists(model_id, run_folder.PIPELINE, revision=revision)
    if not has_pipeline:
        raise UsageError(f"no Space for '{model_id}': no {run_folder.PIPELINE} is there; push a finished run first.")
    url = create_repository(repo_id, private, token, "space")
    with TemporaryDirectory() as place:
        folder = build_space(Path(place, "space"), model_id, revision)
        files: dict[str, Path | bytes] = {path.name: path for path in folder.iterdir()}
        return upload(url, files, tuple(files), None, token, f"Show {model_id}")


def _refuse_another_kind(config: Path, url: RepoUrl, revision: str | None, token: str | None) -> None:
    """Raise `UsageError` before a GAN replaces a model, or the other way round; both are called `config.json`."""
    with hub_errors(url.repo_id):
        try:
            theirs = hf_hub_download(url.repo_id, config.name, revision=revision, token=token)
        except (EntryNotFoundError, RevisionNotFoundError):
            return
    our_type, their_type = model_type(config), model_type(theirs)
    if our_type != their_type:
        raise UsageError(f"'{url.repo_id}' holds a model of type {their_type}: push one of type {our_type} elsewhere.")
