"""Push what is finished to the Hugging Face Hub, in one commit: a run, a GAN, or a prepared collection.

    emotion-ft push DIR REPO_ID [--private] [--revision BRANCH] [--space [SPACE_ID]]

Of a run and of a GAN, weights, code, card, scores, plots and splits travel; checkpoints, TensorBoard's files and lists
of songs stay. Pushed again, only what has changed is sent. --space also publishes a page on which anybody can try the
model. Log in with `hf auth login`.
"""

from emotion_ft.cli import command, recipe_parser


@command("push again, what has arrived is not sent twice")
def main(arguments: list[str]) -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("folder", metavar="DIR", help="folder of a fine-tuning run, a GAN or a prepared collection")
    parser.add_argument("repo_id", metavar="REPO_ID", help="you/name on the Hub; created if needed")
    parser.add_argument("--private", action="store_true", help="visible only to you")
    parser.add_argument("--revision", metavar="BRANCH", help="branch, created from main if needed")
    parser.add_argument(
        "--space",
        metavar="SPACE_ID",
        nargs="?",
        const="",
        help="of a run: also publish its demo Space there (default: REPO_ID-space); that of a private model needs "
        "HF_TOKEN among its secrets",
    )
    parser.add_argument("--token", help="with write access; default: that of `hf auth login`, or HF_TOKEN")
    parser.add_argument("--message", help="of the commit")
    given = parser.parse_args(arguments)
    if given.space is not None and "/" not in given.repo_id:
        parser.error("--space needs the model's REPO_ID in full, you/name")

    from emotion_ft.hub.push import push, push_space

    print(push(given.folder, given.repo_id, given.private, given.revision, given.token, given.message))
    if given.space is not None:
        space_id = given.space or f"{given.repo_id}-space"
        print(push_space(given.repo_id, space_id, given.private, given.revision, given.token))


if __name__ == "__main__":
    main()
