"""Push a finished run or GAN to the Hugging Face Hub, in one commit.

    python recipes/push.py DIR REPO_ID [--private] [--revision BRANCH]

DIR is the folder of finetune.py or train_gan.py. Weights, code, card, scores, plots and splits travel; checkpoints,
TensorBoard's files and lists of songs stay. Pushed again, only what has changed is sent. Log in with `hf auth login`.
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="folder of a fine-tuning run or a GAN")
    parser.add_argument("repo_id", metavar="REPO_ID", help="you/name on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="nobody else may see it")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; made from main if it is not there")
    parser.add_argument("--token", help="one that may write, if not that of `hf auth login` or HF_TOKEN")
    parser.add_argument("--message", help="of the commit")
    arguments = parser.parse_args()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library

    from emotion_ft.hub import push

    print(push(**vars(arguments)))


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"push: {error}")
    except KeyboardInterrupt:
        sys.exit("push: interrupted; push again, what has arrived is not sent twice")
