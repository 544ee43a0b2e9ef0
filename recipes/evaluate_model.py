"""Measure a trained model on annotated songs: those that it has never seen, or those of another collection.

    emotion-ft evaluate --model DIR --data_root DEAM [--songs test] [--curves] [--output results.json]
    emotion-ft evaluate --model DIR --collection pmemo --data_root PMEmo

With the split that is saved beside the model, `--songs test` are the songs that it has never seen. The labels are
treated as in training unless --labels says otherwise; both are named above the table. A collection is tested on as a
whole; one that holds songs that the model was trained on is refused.
"""

import json
from pathlib import Path

from emotion_ft.cli import command, recipe_parser, set_up_logging


@command()
def main(arguments: list[str]) -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of a trained model, with its config.yaml")
    parser.add_argument(
        "--data_root", help="folder with the songs and annotations (default: as the model was trained)"
    )
    parser.add_argument("--collection", help="YAML file of another collection, whose paths --data_root may set")
    parser.add_argument("--songs", choices=["test", "validation", "train"], default="test", help="default: test")
    parser.add_argument(
        "--labels", choices=["repaired", "distributed", "dynamic"], help="default: as the model was trained"
    )
    parser.add_argument("--split", help="another folder of id lists than the model's own")
    parser.add_argument("--curves", action="store_true", help="also measure emotion over time, where it is annotated")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that compute log-mels (default: 1)")
    parser.add_argument("--batch_size", type=int, default=16, help="windows per forward pass (default: 16)")
    parser.add_argument("--output", help="also write the numbers to this JSON file")
    given = parser.parse_args(arguments)
    if given.output and not Path(given.output).absolute().parent.is_dir():
        parser.error(f"--output: no folder '{Path(given.output).parent}'")
    set_up_logging()

    from emotion_ft.reports.tables import scores_text
    from emotion_ft.training.external_test import run_evaluation

    settings = {name: value for name, value in vars(given).items() if name != "output"}
    found = run_evaluation(**settings)
    results = found.results
    print(f"\nmodel: {results['trained']}\nhere: {results['protocol']}")
    print(f"{results['songs']} {found.name} songs; ", end="")
    print(scores_text(found.scores, {}, curve_scores=found.curve_scores))
    if found.coverage:
        print(f"\n{found.coverage}")
    if given.output:
        Path(given.output).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
