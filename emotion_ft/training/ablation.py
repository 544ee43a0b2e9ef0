"""Which part of the training helps: the same recipes with and without it, on the same test songs, over seeds.

A study is a list of arms. Every arm runs once a train-set size and seed; all arms of a size and seed see the same
training songs and take the same number of optimizer steps.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import DatasetDict
from tqdm.auto import tqdm

from .. import run_folder
from ..config.parser import parse_config
from ..config.settings import Config
from ..data.splits import write_split
from ..errors import UsageError
from ..reports import gan
from ..reports.ablation import plot_ablation, write_ablation
from ..shipped import configuration, shipped
from .checkpoints import last_checkpoint
from .inputs import load_collection

NO_MASKS = ("--time_masks", "0", "--frequency_masks", "0")


class AblationError(UsageError):
    """A study that cannot be planned, or one of whose runs has failed."""


class Arm(NamedTuple):
    """One way to train.

    Args:
        name: as the table shows it.
        recipe: which recipe trains it.
        flags: what it changes; "{generator}" and "{plain}" stand for the folders of those arms, same size and seed.
        state: the file that makes one of its checkpoints whole.
        shown: whether it is a row of the table, or only what others need.
    """

    name: str
    recipe: str
    flags: tuple[str, ...]
    state: str = "trainer_state.json"
    shown: bool = True


def _gan(name: str, *flags: str, shown: bool = True) -> Arm:
    return Arm(name, "train_gan", ("--finetuned", "{plain}", *flags), "gan_state.json", shown)


STUDIES = {
    "training": (
        Arm("plain", "finetune", NO_MASKS),
        Arm("+ SpecAugment", "finetune", ()),
        _gan("generator", shown=False),
        Arm("+ GAN", "finetune", (*NO_MASKS, "--gan", "{generator}")),
        Arm("+ both", "finetune", ("--gan", "{generator}")),
    ),
    "losses": (
        Arm("plain", "finetune", (), shown=False),
        _gan("hinge", "--adversarial_loss", "hinge"),
        _gan("bce", "--adversarial_loss", "bce"),
        _gan("hinge, no emotion term", "--adversarial_loss", "hinge", "--emotion_weight", "0"),
        _gan("bce, no emotion term", "--adversarial_loss", "bce", "--emotion_weight", "0"),
    ),
}
COLUMNS = {
    "training": {
        "test_valence_r2": "V R2",
        "test_arousal_r2": "A R2",
        "test_valence_ccc": "V CCC",
        "test_arousal_ccc": "A CCC",
        "test_mean_ccc": "mean CCC",
    },
    "losses": {**gan.COLUMNS, "shortfall": "shortfall"},
}
PAIRED = {"training": "test_mean_ccc", "losses": "shortfall"}


class Study(NamedTuple):
    """What an ablation leaves behind: its folder, one row per finished run, the table, and the protocol of both."""

    folder: Path
    runs: pd.DataFrame
    table: pd.DataFrame
    protocol: str


def run_ablation(
    config: str,
    flags: Sequence[str] = (),
    study: str = "training",
    seeds: int = 3,
    sizes: Sequence[int] | None = None,
    steps: int = 400,
    output: str | Path = "runs/ablation",
    jobs: int = 1,
) -> Study:
    """Train every arm of a study for every train-set size and seed, each in a process of its own.

    Finished runs are kept, so the same call goes on after a kill.

    Args:
        config: a YAML file, or the bare name of a shipped configuration.
        flags: for every run, as on the command line.
        study: a name in `STUDIES`.
        seeds: of weights, crops and subsets.
        sizes: numbers of training songs; None: all, and for "training" also a quarter and a half.
        steps: optimizer steps of fine-tuning.
        output: the study lies in a folder of its name in here.
        jobs: sizes and seeds trained at the same time.

    Raises:
        AblationError: for a study that cannot be planned, or one of whose runs failed.
    """
    resolved = parse_config([config, *flags])
    songs = load_collection(resolved.data, resolved.training.seed)
    whole, folder = len(songs["train"]), Path(output) / study
    default = [whole // 4, whole // 2, whole] if study == "training" else [whole]
    sizes = sorted(set(sizes or default))
    check(resolved, flags, sizes, whole)
    settings = {"flags": list(flags), "steps": steps, "songs": songs["train"].info.description}
    settle(folder, settings, configuration(config))
    write_subsets(songs, folder, sizes, range(seeds))
    cells = plan(study, config, folder, shipped("recipes"), sizes, range(seeds), list(flags), steps)
    carry_out(cells, jobs)
    runs = collect(cells, study)
    table = summary(runs, study)
    protocol = (
        f"{songs['test'].info.description}; the same {len(songs['test'])} test songs throughout; "
        f"{seeds} seeds, mean ± standard deviation; {steps} steps of fine-tuning"
    )
    write_ablation(folder, runs, table, protocol)
    if study == "training":
        plot_ablation(folder, runs, protocol)
    return Study(folder, runs, table, protocol)


class Run(NamedTuple):
    """One run of one arm."""

    arm: Arm
    size: int
    seed: int
    folder: Path
    command: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return (self.folder / run_folder.RESULTS).is_file()

    @property
    def results(self) -> dict:
        return run_folder.read_results(self.folder)


SET_BY_STUDY = ("seed", "split", "output_dir", "gan_output_dir", "finetuned", "gan", "max_steps", "num_train_epochs")
SET_BY_STUDY += ("eval_steps", "save_steps", "eval_strategy", "save_strategy", "early_stopping_patience")


def check(config: Config, flags: Sequence[str], sizes: list[int], songs: int) -> None:
    """Raise an `AblationError` for a study whose arms would not differ by what their names say, or could not train."""
    given = [name for name in SET_BY_STUDY if any(flag.split("=")[0] == f"--{name}" for flag in flags)]
    if config.training.push_to_hub:
        raise AblationError("a study leaves many runs: leave out push_to_hub, and push one with push.py.")
    if given or config.synthetic.gan:
        raise AblationError(f"--{(given or ['gan'])[0]} is set by the study itself: leave it out of flags and file.")
    if not 2 <= sizes[0] <= sizes[-1] <= songs:
        raise AblationError(f"--sizes must lie between 2 and the {songs} training songs.")
    learnt = int(sizes[0] * (1 - config.gan.reference_fraction))
    if learnt < config.gan.gan_batch_size:
        raise AblationError(
            f"of {sizes[0]} songs a GAN learns from about {learnt}, which do not fill a batch of "
            f"{config.gan.gan_batch_size}: choose larger --sizes, or a smaller gan_batch_size or reference_fraction."
        )


def settle(folder: Path, settings: dict, config: Path) -> None:
    """Note what a study is made of in its folder.

    Raises:
        AblationError: when the folder holds runs with other settings; their numbers would not compare.
    """
    note = folder / run_folder.STUDY
    settings = {**settings, "config": config.read_text()}
    if note.is_file():
        differing = [name for name, value in json.loads(note.read_text()).items() if settings.get(name) != value]
        if differing:
            raise AblationError(
                f"'{folder}' holds runs with other settings ({', '.join(differing)}): remove it, or choose another "
                "--output."
            )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings, indent=2) + "\n")


def write_subsets(songs: DatasetDict, folder: Path, sizes: list[int], seeds: range) -> None:
    """For every size and seed, id lists with so many random training songs and all validation and test songs.

    The songs of a smaller size are among those of a larger one with the same seed.
    """
    splits = {name: side["song_id"][:] for name, side in songs.items()}
    for seed in seeds:
        order = np.random.default_rng([seed, len(splits["train"])]).permutation(splits["train"])
        for size in sizes:
            write_split({**splits, "train": order[:size].tolist()}, _cell(folder, size, seed) / run_folder.SPLITS)


def plan(
    study: str, config: str, folder: Path, recipes: Path, sizes: list[int], seeds: range, flags: list[str], steps: int
) -> list[list[Run]]:
    """The runs of a study: a list for every size and seed, in the order in which they need each other."""
    tenth = str(max(steps // 10, 1))
    paces = ("--max_steps", str(steps), "--eval_strategy", "steps", "--save_strategy", "steps")
    paces += ("--eval_steps", tenth, "--save_steps", tenth, "--logging_steps", tenth, "--early_stopping_patience", "0")
    cells = []
    for size in sizes:
        for seed in seeds:
            cell = _cell(folder, size, seed)
            places = {arm.name: cell / _slug(arm.name) for arm in STUDIES[study]}
            shared = (config, *flags, "--seed", str(seed), "--split", str(cell / run_folder.SPLITS))
            runs = []
            for arm in STUDIES[study]:
                output = "--output_dir" if arm.recipe == "finetune" else "--gan_output_dir"
                own = [flag.format(**{name: str(place) for name, place in places.items()}) for flag in arm.flags]
                pace = paces if arm.recipe == "finetune" else ()
                command = (str(recipes / f"{arm.recipe}.py"), *shared, *pace, *own, output, str(places[arm.name]))
                runs.append(Run(arm, size, seed, places[arm.name], command))
            cells.append(runs)
    return cells


def carry_out(cells: list[list[Run]], jobs: int) -> None:
    """Carry out all runs that are not finished, `jobs` sizes and seeds at a time, each into its own `log.txt`.

    Raises:
        AblationError: naming the first run that failed, its last words and its log.
    """
    threads = str(max((os.cpu_count() or 1) // jobs, 1))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    bar = tqdm(total=sum(map(len, cells)), desc="Ablation", unit="run")

    stop = threading.Event()

    def work(runs: list[Run]) -> None:
        for run in runs:
            if stop.is_set():
                return
            if not run.finished:
                _run(run, environment)
            bar.update()

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in as_completed([pool.submit(work, runs) for runs in cells]):
                done.result()
        finally:
            stop.set()
    bar.close()


def _run(run: Run, environment: dict[str, str]) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    log = run.folder / run_folder.LOG
    resume = ("--resume_from_checkpoint",) if last_checkpoint(run.folder, run.arm.state) else ()
    with open(log, "a") as file:
        code = subprocess.run([sys.executable, *run.command, *resume], stdout=file, stderr=file, env=environment)
    if code.returncode:
        words = log.read_text().strip().splitlines()
        raise AblationError(
            f"{run.arm.name}, {run.size} songs, seed {run.seed} failed: {words[-1] if words else 'no output'}; "
            f"see {log}"
        )


def collect(cells: list[list[Run]], study: str) -> pd.DataFrame:
    """A row a finished run: `songs`, `seed`, `arm` and its numbers."""
    return pd.DataFrame(
        [
            {
                "songs": run.size,
                "seed": run.seed,
                "arm": run.arm.name,
                **{name: run.results[name] for name in COLUMNS[study]},
            }
            for runs in cells
            for run in runs
            if run.arm.shown and run.finished
        ]
    )


def summary(runs: pd.DataFrame, study: str) -> pd.DataFrame:
    """Mean ± standard deviation over seeds of every size and arm, and of the paired difference to the first arm."""
    first = runs["arm"].iloc[0]
    paired = PAIRED[study]
    base = runs[runs["arm"] == first].set_index(["songs", "seed"])[paired]
    runs = runs.assign(
        difference=runs[paired].to_numpy() - base.loc[list(zip(runs["songs"], runs["seed"], strict=True))].to_numpy()
    )
    titles = {**COLUMNS[study], "difference": f"{COLUMNS[study][paired]} - {first}'s"}
    grouped = runs.groupby(["songs", "arm"], sort=False)
    table = {title: [_mean_and_deviation(group[name]) for _, group in grouped] for name, title in titles.items()}
    return pd.DataFrame(table, index=pd.MultiIndex.from_tuples([key for key, _ in grouped], names=["songs", "arm"]))


def _mean_and_deviation(values: pd.Series) -> str:
    deviation = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def _cell(folder: Path, size: int, seed: int) -> Path:
    return folder / f"songs-{size}-seed-{seed}"


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()
