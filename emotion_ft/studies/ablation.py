"""Ablations: the same training with and without one of its parts, on the same test songs, over several seeds.

A study is a list of arms. Every arm is trained once per train-set size and seed; all arms of a size and seed use the
same training songs, and see as many windows of them. Synthetic windows come on top, and cost additional steps.
"""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from datasets import DatasetDict
from scipy import stats
from tqdm.auto import tqdm

from .. import run_folder
from ..config.parser import parse_config
from ..config.settings import Config
from ..data.splits import write_split
from ..errors import UsageError
from ..reports import gan
from ..reports.ablation import Difference, plot_ablation, write_ablation
from ..shipped import configuration, shipped
from ..training.checkpoints import last_checkpoint
from ..training.inputs import load_collection

NO_MASKS = ("--time_masks", "0", "--frequency_masks", "0")


class AblationError(UsageError):
    """A study that cannot be planned, or one of whose runs has failed."""


class Arm(NamedTuple):
    """One way to train."""

    name: str
    recipe: str
    flags: tuple[str, ...]  # "{generator}" and "{plain}" stand for the folders of those arms, same size and seed
    state: str = "trainer_state.json"  # the file that marks a checkpoint as complete
    shown: bool = True  # whether the table has a row for it, or only other arms need it


def _gan(name: str, *flags: str, shown: bool = True) -> Arm:
    return Arm(name, "train_gan", ("--finetuned", "{plain}", *flags), run_folder.GAN_STATE, shown)


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
        _gan("bce", "--adversarial_loss", "bce"),
        _gan("hinge", "--adversarial_loss", "hinge"),
    ),
    "emotion_term": (
        Arm("plain", "finetune", (), shown=False),
        _gan("with emotion term"),
        _gan("without", "--emotion_weight", "0"),
    ),
}
_SCORES = {f"test_{d}_{m}": f"{d[0].upper()} {m.upper()}" for m in ("r2", "ccc") for d in ("valence", "arousal")}
_QUALITY = {**{name: title for name, title in gan.COLUMNS.items() if name != "frechet_std"}, "shortfall": "shortfall"}
COLUMNS = {
    "training": {**_SCORES, "test_mean_ccc": "mean CCC"},
    "losses": _QUALITY,
    "emotion_term": _QUALITY,
}


class Paired(NamedTuple):
    """The score in which the arms of a study are compared with its first one; `better` is its good direction, ±1."""

    column: str
    better: int


PAIRED = {"training": Paired("test_mean_ccc", 1)}
PAIRED |= dict.fromkeys(("losses", "emotion_term"), Paired("shortfall", -1))
LEVEL = 0.95
PACE = (
    *("--max_steps", "-1", "--early_stopping_patience", "0", "--eval_strategy", "steps", "--save_strategy", "steps"),
    *("--eval_steps", "0.1", "--save_steps", "0.1", "--logging_steps", "0.1"),  # shares of all steps
)
SET_BY_STUDY: tuple[str, ...] = ("seed", "split", "output_dir", "gan_output_dir", "finetuned", "gan", "max_steps")
SET_BY_STUDY += ("num_train_epochs", "eval_steps", "save_steps", "eval_strategy", "save_strategy")
SET_BY_STUDY += ("early_stopping_patience",)


class Study(NamedTuple):
    """The results of an ablation.

    Args:
        folder: of its runs.
        runs: one row per finished run.
        table: one row per size and arm.
        findings: one sentence per size and arm but the first, no stronger than its interval allows.
        protocol: of all of them.
    """

    folder: Path
    runs: pd.DataFrame
    table: pd.DataFrame
    findings: list[str]
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

    Finished runs are kept, so the same call resumes an interrupted study.

    Args:
        config: a YAML file, or the bare name of a shipped configuration.
        flags: for every run, as on the command line.
        study: a name in `STUDIES`.
        seeds: number of seeds, for weights, crops and subsets.
        sizes: numbers of training songs; None: all, and for "training" also a quarter and a half.
        steps: optimizer steps of fine-tuning without synthetic windows, rounded up to whole epochs.
        output: the study's folder is created in here, under its name.
        jobs: sizes and seeds trained at the same time.

    Raises:
        AblationError: if the study cannot be planned, or one of its runs fails.
    """
    resolved = parse_config([config, *flags])
    songs = load_collection(resolved.data, resolved.training.seed)
    whole, folder = len(songs["train"]), Path(output) / study
    default = [whole // 4, whole // 2, whole] if study == "training" else [whole]
    sizes = sorted(set(sizes or default))
    check(resolved, flags, sizes, whole)
    for arm in STUDIES[study]:
        parse_config([config, *flags, *arm.flags])
    settings = {"flags": list(flags), "steps": steps, "songs": songs["train"].info.description}
    settle(folder, settings, configuration(config))
    write_subsets(songs, folder, sizes, range(seeds))
    batch = resolved.training.per_device_train_batch_size * resolved.training.gradient_accumulation_steps
    epochs = {size: math.ceil(steps * batch / size) for size in sizes}
    cells = plan(study, config, folder, shipped("recipes"), epochs, range(seeds), list(flags))
    carry_out(cells, jobs)
    runs = collect(cells, study)
    paired = paired_differences(runs, study)
    table = summary(runs, paired, study)
    protocol = (
        f"{songs['test'].info.description}; the same {len(songs['test'])} test songs throughout; "
        f"{seeds} seeds, mean ± standard deviation; differences paired by seed, with t intervals at {LEVEL:.0%} over "
        f"seeds, for these test songs and not corrected for their number; {steps} steps of fine-tuning"
    )
    if study == "training":
        share = resolved.synthetic.synthetic_fraction
        protocol += (
            ", rounded up to whole epochs; all arms of a size see the same number of real windows, and synthetic "
            f"ones, {share:.0%} of all, come on top: an arm with them takes about {1 / (1 - share):.2f} times the "
            "steps"
        )
    found = findings(paired, study)
    write_ablation(folder, runs, table, found, protocol)
    if study == "training":
        plot_ablation(folder, runs, paired, protocol)
    return Study(folder, runs, table, found, protocol)


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
    def results(self) -> dict[str, Any]:
        return run_folder.read_results(self.folder)


def check(config: Config, flags: Sequence[str], sizes: list[int], songs: int) -> None:
    """Raise an `AblationError` if the arms would not differ as their names say, or could not be trained."""
    given = [name for name in SET_BY_STUDY if any(flag.split("=")[0] == f"--{name}" for flag in flags)]
    if config.training.push_to_hub:
        raise AblationError("a study makes many runs: leave out push_to_hub, and push one with `emotion-ft push`.")
    if given or config.synthetic.gan:
        raise AblationError(f"--{(given or ['gan'])[0]} is set by the study itself: leave it out of flags and file.")
    if not 2 <= sizes[0] <= sizes[-1] <= songs:
        raise AblationError(f"--sizes must lie between 2 and the {songs} training songs.")
    for_gan = int(sizes[0] * (1 - config.gan.reference_fraction))
    if for_gan < config.gan.gan_batch_size:
        raise AblationError(
            f"of {sizes[0]} songs a GAN is trained on about {for_gan}, which do not fill a batch of "
            f"{config.gan.gan_batch_size}: choose larger --sizes, or a smaller gan_batch_size or reference_fraction."
        )


def settle(folder: Path, settings: dict[str, Any], config: Path) -> None:
    """Write a study's settings into its folder; raise an `AblationError` if it holds runs with other settings."""
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
    """Write id lists for every size and seed: that many random training songs, and all validation and test songs.

    With the same seed, the songs of a smaller size are among those of a larger one.
    """
    splits = {name: side["song_id"][:] for name, side in songs.items()}
    for seed in seeds:
        order = np.random.default_rng([seed, len(splits["train"])]).permutation(splits["train"])
        for size in sizes:
            write_split({**splits, "train": order[:size].tolist()}, _cell(folder, size, seed) / run_folder.SPLITS)


def plan(
    study: str, config: str, folder: Path, recipes: Path, epochs: dict[int, int], seeds: range, flags: list[str]
) -> list[list[Run]]:
    """The runs of a study: one list per size and seed, each run after those that it depends on.

    Args:
        epochs: of fine-tuning, for every size: the same in all arms, so that each sees as many real windows.
    """
    cells = []
    for size, seed in ((size, seed) for size in epochs for seed in seeds):
        cell, runs = _cell(folder, size, seed), []
        folders = {arm.name: cell / _slug(arm.name) for arm in STUDIES[study]}
        pace = ("--num_train_epochs", str(epochs[size]), *PACE)
        shared = (config, *flags, "--seed", str(seed), "--split", str(cell / run_folder.SPLITS))
        for arm in STUDIES[study]:
            own = [flag.format(**{name: str(path) for name, path in folders.items()}) for flag in arm.flags]
            own = [*pace, *own, "--output_dir"] if arm.recipe == "finetune" else [*own, "--gan_output_dir"]
            command = (str(recipes / f"{arm.recipe}.py"), *shared, *own, str(folders[arm.name]))
            runs.append(Run(arm, size, seed, folders[arm.name], command))
        cells.append(runs)
    return cells


def carry_out(cells: list[list[Run]], jobs: int) -> None:
    """Carry out all unfinished runs, `jobs` sizes and seeds at a time; each writes its own `log.txt`.

    Raises an `AblationError` that names the first run to fail, the last line of its output, and its log.
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
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise AblationError(f"{run.arm.name}, {run.size} songs, seed {run.seed} failed: {last}; see {log}")


def collect(cells: list[list[Run]], study: str) -> pd.DataFrame:
    """One row per finished run: `songs`, `seed`, `arm` and its scores; of fine-tuned ones, `real_windows` seen."""
    rows = []
    for run in (run for runs in cells for run in runs if run.arm.shown and run.finished):
        results = run.results
        row = {"songs": run.size, "seed": run.seed, "arm": run.arm.name}
        if run.arm.recipe == "finetune":
            row["real_windows"] = round(results["epochs"] * results["train_songs"])
        rows.append({**row, **{name: results[name] for name in COLUMNS[study]}})
    return pd.DataFrame(rows)


def paired_differences(runs: pd.DataFrame, study: str) -> list[Difference]:
    """How every arm but the first differs from it on the same seeds, for every size, with a t interval over seeds."""
    first, *others = dict.fromkeys(runs["arm"])
    wide = runs.pivot(index=["songs", "seed"], columns="arm", values=PAIRED[study].column)
    differences = []
    for songs, arm in product(wide.index.unique("songs"), others):
        values = (wide.loc[songs, arm] - wide.loc[songs, first]).dropna().to_numpy()
        mean, reach = float(values.mean()), math.nan
        if len(values) > 1:
            reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
        differences.append(Difference(songs, arm, len(values), mean, mean - reach, mean + reach))
    return differences


def summary(runs: pd.DataFrame, paired: list[Difference], study: str) -> pd.DataFrame:
    """Mean ± standard deviation over seeds for every size and arm, and the paired difference with its interval."""
    grouped = runs.groupby(["songs", "arm"], sort=False)
    table = grouped[list(COLUMNS[study])].agg(_mean_and_deviation).rename(columns=COLUMNS[study])
    title = f"{COLUMNS[study][PAIRED[study].column]} - {runs['arm'].iloc[0]}'s"
    found = {(difference.songs, difference.arm): str(difference) for difference in paired}
    table[title] = [found.get(row, "") for row in table.index]
    table["seeds"] = grouped.size()
    return table


def findings(paired: list[Difference], study: str) -> list[str]:
    """What the paired differences show, one line each; an interval that holds zero shows neither benefit nor harm."""
    score, better = COLUMNS[study][PAIRED[study].column], PAIRED[study].better
    said = []
    for difference in paired:
        ends = better * difference.low, better * difference.high
        verdict = "better" if min(ends) > 0 else "worse" if max(ends) < 0 else "no benefit seen"
        said.append(
            f"{difference.songs} songs, {difference.arm}: {verdict}; {score} {difference}, n = {difference.seeds}"
        )
    return said


def _mean_and_deviation(values: pd.Series) -> str:
    deviation = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def _cell(folder: Path, size: int, seed: int) -> Path:
    return folder / f"songs-{size}-seed-{seed}"


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()
