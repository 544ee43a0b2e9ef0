"""A search for hyperparameters by their score on the validation songs; test songs have no part in it."""

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from datasets import DatasetDict
from transformers.integrations import is_optuna_available
from transformers.trainer_utils import SaveStrategy

from .. import run_folder
from ..config.settings import Config
from ..errors import UsageError
from ..modeling import ASTEmotionFeatureExtractor
from ..reports.search import plot_search
from ..training import inputs
from ..training.finetuning import make_trainer
from ..training.trainer import EmotionTrainer, TrainingError, check_metric, search_space
from .series import settle

logger = logging.getLogger(__name__)


class SearchError(UsageError):
    """A search that cannot start, or not continue."""


class Search(NamedTuple):
    """The results of a search: its folder, one row per trial, the best first, and the protocol."""

    folder: Path
    trials: pd.DataFrame
    protocol: str


def run_search(config: Config, trials: int = 20, output: str | Path | None = None) -> Search:
    """Train `trials` times with hyperparameters drawn by optuna's TPE sampler (Bergstra et al. 2011).

    Every trial trains on the training songs and is scored by its best `metric_for_best_model` on the validation songs.
    Finished trials are kept, so the same call continues an interrupted search, and draws what it would have drawn.
    Leaves `search.csv`, a plot, and `config.yaml` with the best hyperparameters, for finetune.

    Args:
        config: of every trial; the space lies around its learning rates (see `search_space`).
        trials: how many there are to be in all.
        output: the folder; None: the configuration's output_dir with -search at its end.

    Raises:
        UsageError: without optuna or evaluations, if no trial has a score, or if the folder holds a search with other
            settings and `overwrite_output_dir` is not set.
    """
    if not is_optuna_available():
        raise SearchError("a search needs optuna: pip install 'emotion_ft[search]'.")
    training = config.training
    check_metric(training)
    if training.eval_strategy == "no":
        raise SearchError("a search compares validation scores, but eval_strategy is no: set it to epoch or steps.")
    folder = Path(output or f"{training.output_dir}-search")
    settle(config, folder, "search", run_folder.SEARCH_SETTINGS)
    study = _open(folder, config)
    start = inputs.find_checkpoint(config.model)
    extractor = inputs.build_extractor(config)
    songs, _ = inputs.store_features(inputs.load_collection(config.data, training.seed), extractor, config.data)
    while (finished := len(_finished(study))) < trials:
        logger.info("Trial %d of %d.", finished + 1, trials)
        _run_trial(study, config, folder, extractor, songs, start)
        _write(study, folder, config)
    table = _write(study, folder, config)
    protocol = f"{songs['validation'].info.description}; {len(songs['validation'])} validation songs"
    return Search(folder, table, protocol)


def _open(folder: Path, config: Config) -> Any:
    """The study in a folder. A trial that was cut short is drawn again, with the same hyperparameters."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction: Literal["maximize", "minimize"] = "maximize" if config.training.greater_is_better else "minimize"
    storage = JournalStorage(JournalFileBackend(str(folder / run_folder.JOURNAL)))
    study = optuna.create_study(storage=storage, study_name="search", direction=direction, load_if_exists=True)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)
    return study


def _finished(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _run_trial(
    study: Any,
    config: Config,
    folder: Path,
    extractor: ASTEmotionFeatureExtractor,
    songs: DatasetDict,
    start: Path | None,
) -> None:
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    # A sampler of its own for each trial, so that a resumed search draws what an uninterrupted one draws.
    study.sampler = TPESampler(seed=config.training.seed + len(_finished(study)))
    trial, ours = study.ask(), deepcopy(config)
    for name, value in search_space(trial, config.training).items():
        setattr(ours.training, name, value)
    ours.training.output_dir = str(folder / run_folder.TRIAL.format(trial.number))
    ours.training.save_strategy, ours.training.load_best_model_at_end = SaveStrategy.NO, False
    inputs.make_deterministic(ours.training)
    trainer, _, _ = make_trainer(ours, extractor, songs, songs["validation"], start)
    try:
        trainer.train()
    except TrainingError as error:
        logger.warning("%s", error)
        study.tell(trial, state=TrialState.PRUNED)
        return
    for name, value in zip(("step", "score"), _best(trainer), strict=True):
        trial.set_user_attr(name, value)
    trial.set_user_attr("epochs", trainer.state.epoch)
    study.tell(trial, trial.user_attrs["score"])


def _best(trainer: EmotionTrainer) -> tuple[int, float]:
    """Step and value of the best validation score."""
    name = f"eval_{trainer.args.metric_for_best_model.removeprefix('eval_')}"
    scored = [(int(entry["step"]), entry[name]) for entry in trainer.state.log_history if name in entry]
    return (max if trainer.args.greater_is_better else min)(scored, key=lambda pair: pair[1])


def _write(study: Any, folder: Path, config: Config) -> pd.DataFrame:
    """Write the table, the plot and the best configuration; returns the table."""
    rows = [{"trial": trial.number, **trial.user_attrs, **trial.params} for trial in _finished(study)]
    table = pd.DataFrame(rows).reindex(columns=["trial", "score", "step", "epochs", *rows[0].keys() - {"trial"}])
    table = table.loc[:, ~table.columns.duplicated()]
    if table["score"].isna().all():
        raise SearchError("no trial has a score so far: all of them diverged; lower the learning rates.")
    table = table.sort_values("score", ascending=not config.training.greater_is_better, ignore_index=True)
    table.to_csv(folder / run_folder.SEARCH, index=False)
    plot_search(folder, table, config.training.metric_for_best_model, list(study.best_params))
    best = deepcopy(config)
    for name, value in study.best_params.items():
        setattr(best.training, name, value)
    best.save(folder)
    return table
