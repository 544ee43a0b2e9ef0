"""Checks that nothing leaks from training into evaluation: no song (under any name), no artist, no synthetic song."""

from collections.abc import Iterable, Mapping

import numpy as np
from datasets import Dataset, DatasetDict

from .files import COLLECTION, first_ids
from .splits import SPLIT_NAMES, SplitError, Splits, shared_artists

FEWEST = 10  # with fewer songs of the same number, equal labels may be chance
DIMENSIONS, OTHER_LABELS = ("valence", "arousal"), ("other_valence", "other_arousal")
SAME_LABELS = 0.02
"""How far labels on 1-9 may differ, because two files round them, and still count as the same."""


def refuse_leak(trained_on: Iterable[int], splits: Splits, what: str) -> None:
    """Raise a `SplitError` if `what` was trained on songs that are not among the training songs of `splits`."""
    trained_on = set(trained_on)
    for name in ("validation", "test"):
        if leaked := sorted(trained_on & set(splits[name])):
            raise SplitError(
                f"{what} was trained on {len(leaked)} of the {len(splits[name])} {name} songs: {first_ids(leaked)}. "
                "Scores on them would mean nothing; use the split that it was trained with, or train it again."
            )
    if others := sorted(trained_on - set(splits["train"])):
        raise SplitError(
            f"{what} was trained on {len(others)} songs that are not among the {len(splits['train'])} training songs "
            f"here: {first_ids(others)}. They may share artists with held-out songs; train it on these songs."
        )


def refuse_crossing(splits: Splits, artists: Mapping[int, str] | None = None) -> None:
    """Raise a `SplitError` if a song, or a group of the `artists` of songs (see `artists`), is on two sides."""
    for index, name in enumerate(SPLIT_NAMES):
        for other in SPLIT_NAMES[index + 1 :]:
            if crossing := sorted(set(splits[name]) & set(splits[other])):
                raise SplitError(f"{len(crossing)} songs are in {name} and in {other}: {first_ids(crossing)}")
    if not artists:
        return
    earlier: list[int] = []
    for name in SPLIT_NAMES:
        sides = {"train": earlier, "validation": splits[name], "test": []}
        if crossing := shared_artists(sides, artists):
            raise SplitError(
                f"{len(crossing)} of {len(splits[name])} {name} songs share an artist with "
                f"{' or '.join(SPLIT_NAMES[: SPLIT_NAMES.index(name)])}: {first_ids(crossing)}. Use a split that "
                "keeps artists apart, or accept it with --group_by_artist false; every result will then say so."
            )
        earlier = earlier + splits[name]


def refuse_leaks(songs: DatasetDict, group_by_artist: bool) -> None:
    """The last check before training: raise a `SplitError` for anything that crosses, or is synthetic in evaluation.

    Args:
        songs: `train`, `validation` and `test`, as they are about to be used.
        group_by_artist: whether all songs of an artist have to be on one side.
    """
    for name in ("validation", "test"):
        if count := sum(songs[name]["synthetic"]):
            raise SplitError(f"{count} of {len(songs[name])} {name} songs are synthetic; only real songs are scored")
    pairs = (pair for side in songs.values() for pair in zip(side["song_id"], side["artist"], strict=True))
    artists = {song_id: artist for song_id, artist in pairs if artist}
    refuse_crossing({name: songs[name]["song_id"][:] for name in SPLIT_NAMES}, artists if group_by_artist else None)


def refuse_same_songs(songs: Dataset, others: Dataset, what: str) -> None:
    """Raise a `SplitError` if songs of one collection are songs of another.

    Songs are the same if their ids are, or if they have the same numbers in their own collections and most of those
    that do also have the same labels, in order or with valence and arousal exchanged. EmoMusic is such a collection:
    its 744 songs are DEAM's, with DEAM's numbers and with labels that DEAM distributes exchanged.

    Args:
        songs: one collection, with `song_id`, `source`, `valence` and `arousal`.
        others: one or several collections, with the same columns, and `other_valence` and `other_arousal`.
        what: what is being done with `songs`, for the message: "evaluated with a model of ...".
    """
    name = songs["source"][0]
    if same := sorted(set(songs["song_id"]) & set(others["song_id"])):
        raise SplitError(f"{len(same)} of {len(songs)} songs of {name}, {what}, are the same songs: {first_ids(same)}")
    ours = _by_number(songs, DIMENSIONS)[name]
    references = [_by_number(others, columns) for columns in (DIMENSIONS, OTHER_LABELS)]
    for other in references[0]:
        for theirs in (treatment.get(other, {}) for treatment in references):
            common = sorted(ours.keys() & theirs.keys())
            if len(common) < FEWEST:
                continue
            labels, reference = (np.array([side[key] for key in common]) for side in (ours, theirs))
            alike = [np.abs(labels - order).max(1) <= SAME_LABELS for order in (reference, reference[:, ::-1])]
            same = [key for key, hit in zip(common, alike[0] | alike[1], strict=True) if hit]
            if len(same) > len(common) / 2:
                raise SplitError(
                    f"{len(same)} of {len(songs)} songs of {name}, {what}, are songs of {other}: they have the same "
                    f"numbers and labels ({int(alike[1].sum())} with valence and arousal exchanged): "
                    f"{first_ids(same)}. Scores on songs that were trained on would mean nothing."
                )


def _by_number(songs: Dataset, names: tuple[str, str]) -> dict[str, dict[int, tuple[float, float]]]:
    """The labels in two columns, by source and by the song's number in its own collection."""
    labels: dict[str, dict[int, tuple[float, float]]] = {}
    columns = [songs[name] for name in ("source", "song_id", *names)]
    for source, song_id, valence, arousal in zip(*columns, strict=True):
        if valence is not None:
            labels.setdefault(source, {})[song_id % COLLECTION] = (valence, arousal)
    return labels
