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

    from emotion_ft.data.collections.audit import audit
    from emotion_ft.reports.audit import write_audit

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    found = audit(arguments.root, headers=not arguments.no_headers)
    report = write_audit(arguments.output, found, arguments.root)
    print(f"{report}\nReport, audit.csv and plots: {arguments.output}")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"audit_deam: {error}")
