"""Measure the toolkit's speed, beside the usual way of doing the same thing, in one run; prints a Markdown table.

    emotion-ft benchmark [--only features,loader] [--repeats 5] [--output benchmark.json]

Sections: decode, features, store, prepare, loader (CPU time of one core); processes, step, training, head, gan,
inference (wall time, all cores or the accelerator), startup, memory. --gpu adds accelerator: model FLOPs utilisation,
precisions, kernels, torch.compile. Songs are rendered on the spot. Run it on an idle machine: on a busy
one, only the ratios on one core hold.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from emotion_ft.cli import command, recipe_parser

SECTIONS = ("decode", "features", "processes", "store", "prepare", "loader", "step", "training", "head", "gan")
SECTIONS += ("inference", "startup", "memory", "accelerator")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = recipe_parser(__doc__)
    parser.add_argument("--only", help="sections, separated by commas (default: all but accelerator)")
    parser.add_argument("--gpu", action="store_true", help="also run the section accelerator")
    parser.add_argument("--repeats", type=int, default=5, help="of every comparison; of steps at most 3 (default: 5)")
    parser.add_argument("--songs", type=int, default=64, help="songs stored for reading (default: 64)")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of a song (default: 45)")
    parser.add_argument("--output", help="also write all runs to this JSON file")
    given = parser.parse_args(arguments)
    given.only = given.only.split(",") if given.only else list(SECTIONS[:-1])
    if given.gpu and "accelerator" not in given.only:
        given.only.append("accelerator")
    if unknown := set(given.only) - set(SECTIONS):
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if given.repeats < 1 or given.songs < 1 or given.seconds < 10:
        parser.error("--repeats and --songs must be positive, --seconds at least 10, the length of a window")
    return given


def cpu_seconds() -> tuple[float, float] | None:
    """CPU time of all processes and of this one with its children, since they started (Linux)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_table(figures: list) -> str:
    """A Markdown table of `Figure`s."""
    rows = [("Section", "Measured", "Ours", "Peer", "Times better", "Target", ""), ("---",) * 7]
    for figure in figures:
        target = f"{'≥' if figure.higher_is_better else '≤'} {number(figure.target)}" if figure.target else ""
        rows.append(
            (
                figure.section,
                figure.name,
                f"{number(figure.value)} {figure.unit}".strip(),
                f"{number(figure.peer_value)} {figure.unit} ({figure.peer})" if figure.peer else "",
                f"{number(figure.ratio)} x" if figure.peer else "",
                target,
                {None: "", True: "met", False: "not met"}[figure.met],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


@command()
def main(arguments: list[str]) -> None:
    given = parse(arguments)
    os.environ["TQDM_DISABLE"] = "1"  # one line per section is progress enough
    print("Loading ...", file=sys.stderr)
    import datasets
    import torch

    from emotion_ft.errors import UsageError
    from emotion_ft.reports.environment import OTHERS, hardware, versions

    try:
        from emotion_ft import benchmark
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing; pip install -e '.[dev]' brings what the peers need") from error

    datasets.disable_progress_bars()
    torch.manual_seed(0)
    software = ", ".join(f"{name} {number}" for name, number in versions(OTHERS).items())
    about = {"hardware": hardware(), "software": software}
    about["protocol"] = (
        f"medians over {given.repeats} repeats ({min(given.repeats, 3)} of training steps), ours and peer in "
        "turns after a warm-up each; decode, features, store, prepare, loader: CPU time with one torch thread, files "
        f"in the page cache; the others: wall time, {torch.get_num_threads()} threads; memory: peak of a fresh "
        "process, memory-mapped files excluded"
    )
    figures, cpu_before, began = [], cpu_seconds(), time.perf_counter()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        predict = Path(__file__).with_name("predict.py")
        bench = benchmark.Workbench(Path(folder), given.songs, given.seconds, given.repeats, predict)
        for name in given.only:
            section, start = benchmark.SECTIONS[name], time.perf_counter()
            print(f"{name}: {section.__doc__}", file=sys.stderr)
            figures += section(bench)
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if cpu_before:
        everybody, ours = (after - before for before, after in zip(cpu_before, cpu_seconds(), strict=True))
        share = max(everybody - ours, 0) / os.cpu_count() / (time.perf_counter() - began)
        about["others"] = f"other processes took {share:.0%} of all cores' time during the run"

    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n")
    print(format_table(figures))
    if given.output:
        numbers = [
            {**vars(figure), **{name: getattr(figure, name) for name in ("value", "peer_value", "ratio", "met")}}
            for figure in figures
        ]
        Path(given.output).write_text(json.dumps({**about, "figures": numbers}, indent=2) + "\n")


if __name__ == "__main__":
    main()
