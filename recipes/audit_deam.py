"""Say what a collection in DEAM's layout holds and what is wrong with it, before anything is trained on it.

    python recipes/audit_deam.py DEAM [--output runs/audit]

Counts, ranges, missing and orphan files, durations and rates, outlying songs, and whether valence and arousal are
exchanged in a range of ids, decided from the static and the dynamic annotations. Prints the report, and writes it with
a row a song (audit.csv) and two plots.
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder with the annotations and, if there, the audio, unzipped at any depth")
    parser.add_argument("--output", default="runs/audit", help="default: runs/audit")
    parser.add_argument("--no_headers", action="store_true", help="do not open the audio files")
    arguments = parser.parse_args()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging
    from pathlib import Path

    from emotion_ft.data.audit import audit, to_markdown
    from emotion_ft.training.audit_report import plot_exchange, plot_labels

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    found = audit(arguments.root, headers=not arguments.no_headers)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    report = to_markdown(found, arguments.root)
    (folder / "audit.md").write_text(report)
    found.songs.to_csv(folder / "audit.csv", float_format="%.4f")
    plot_exchange(folder, found)
    plot_labels(folder, found)
    print(f"{report}\nReport, audit.csv and plots: {folder}")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"audit_deam: {error}")
