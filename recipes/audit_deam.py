"""Say what a collection in DEAM's layout holds and what is wrong with it, before anything is trained on it.

    emotion-ft audit_deam DEAM [--output runs/audit]

Counts, ranges, missing and orphan files, durations and rates, outlying songs, artists that are kept together, files
with the same bytes, and whether valence and arousal are exchanged in a range of ids, decided from the static and the
dynamic annotations. --copies also finds one recording under two ids by its sound, which takes minutes. Prints the
report, and writes it with one row per song (audit.csv) and two plots.
"""

import logging

from emotion_ft.cli import command, recipe_parser


@command()
def main(arguments: list[str]) -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("root", help="folder with the annotations and, if there, the audio, unzipped at any depth")
    parser.add_argument("--output", default="runs/audit", help="default: runs/audit")
    parser.add_argument("--no_headers", action="store_true", help="do not open the audio files")
    parser.add_argument("--copies", action="store_true", help="decode all audio to find one recording under two ids")
    given = parser.parse_args(arguments)

    from emotion_ft.data.collections.audit import audit
    from emotion_ft.modeling import ASTEmotionFeatureExtractor
    from emotion_ft.reports.audit import write_audit

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    extractor = ASTEmotionFeatureExtractor() if given.copies else None
    found = audit(given.root, headers=not given.no_headers, extractor=extractor)
    report = write_audit(given.output, found, given.root)
    print(f"{report}\nReport, audit.csv and plots: {given.output}")


if __name__ == "__main__":
    main()
