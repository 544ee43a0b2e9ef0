"""Push what is finished to the Hugging Face Hub, in one commit: a run, a GAN, or a folder of prepare.py.

    python recipes/push.py DIR REPO_ID [--private] [--revision BRANCH] [--space [SPACE_ID]]

Of a run and of a GAN, weights, code, card, scores, plots and splits travel; checkpoints, TensorBoard's files and lists
of songs stay. Pushed again, only what has changed is sent. --space publishes a page, too, on which anybody can try the
model. Log in with `hf auth login`.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="folder of a fine-tuning run, a GAN or a prepared collection")
    parser.add_argument("repo_id", metavar="REPO_ID", help="you/name on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="nobody else may see it")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; made from main if it is not there")
    parser.add_argument(
        "--space",
        metavar="SPACE_ID",
        nargs="?",
        const="",
        help="of a run: also publish its demo Space there (default: REPO_ID-space); that of a private model needs "
        "HF_TOKEN among its secrets",
    )
    parser.add_argument("--token", help="one that may write, if not that of `hf auth login` or HF_TOKEN")
    parser.add_argument("--message", help="of the commit")
    arguments = parser.parse_args()
    if arguments.space is not None and "/" not in arguments.repo_id:
        parser.error("--space needs the model's REPO_ID in full, you/name")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library

    from emotion_ft.data.prepared import COLLECTION_NAME
    from emotion_ft.hub.push import push, push_prepared, push_space

    folder, private, revision, token = Path(arguments.folder), arguments.private, arguments.revision, arguments.token
    send = push_prepared if (folder / COLLECTION_NAME).is_file() else push
    print(send(folder, arguments.repo_id, private, revision, token, arguments.message))
    if arguments.space is not None:
        space_id = arguments.space or f"{arguments.repo_id}-space"
        print(push_space(arguments.repo_id, space_id, private, revision, token))


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"push: {error}")
    except KeyboardInterrupt:
        sys.exit("push: interrupted; push again, what has arrived is not sent twice")
