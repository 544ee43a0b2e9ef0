"""Splits into train, validation and test.

There is no standard split of DEAM, so every result has to say which one it is on. All splits here are by song, and
those drawn at random keep all songs of an artist on one side: an artist's other songs give away the answer. `artists`
are the artists' names by song id, as they are spelled; `artists.group_names` says which of them belong together.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from ..errors import UsageError, brief
from .artists import group_songs, songs_by
from .files import COLLECTION, StrPath, first_ids

logger = logging.getLogger(__name__)

SPLIT_NAMES = ("train", "validation", "test")
FULL_SONGS_FROM = 2001
"""The first song id of DEAM's 58 full-length songs, the test set of MediaEval 2015; ids below are 45 s excerpts."""
SONG_ID = re.compile(r"[0-9]{1,15}")

Splits = dict[str, list[int]]
"""Sorted song ids under `train`, `validation` and `test`; no id twice."""


class SplitError(UsageError):
    """A split that cannot be drawn or read, or that leaks."""


def random_split(
    song_ids: Iterable[int],
    artists: Mapping[int, str] | None = None,
    seed: int = 42,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
) -> Splits:
    """Draw validation and test at random, with all songs of a group of artists on one side.

    A song without an artist is its own group. The fractions are of groups, so the shares of songs vary a little. The
    same ids, artists and seed give the same split.
    Raises `SplitError` if one of the splits would be empty.
    """
    if validation_fraction + test_fraction >= 1:
        raise SplitError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction} leave nothing to train on"
        )
    rest, test = split_off(song_ids, artists, seed, test_fraction, "test_fraction")
    train, validation = split_off(
        rest, artists, seed, validation_fraction / (1 - test_fraction), "validation_fraction"
    )
    return {"train": train, "validation": validation, "test": test}


def full_songs_split(
    song_ids: Iterable[int],
    artists: Mapping[int, str] | None = None,
    seed: int = 42,
    validation_fraction: float = 0.15,
) -> Splits:
    """MediaEval 2015: test on the full songs (ids from 2001), train and validate on the excerpts.

    Excerpts by the artist of a full song are left out. Validation is drawn as in `random_split`, as a fraction of the
    excerpts' groups. Raises `SplitError` if there are no full songs, or too few excerpts.
    """
    song_ids = sorted(set(song_ids))
    test = [song_id for song_id in song_ids if FULL_SONGS_FROM <= song_id < COLLECTION]
    if not test:
        raise SplitError(
            f"none of {len(song_ids)} songs is a full song (ids from {FULL_SONGS_FROM}), which the full_songs split "
            "tests on: get those songs, or choose another split"
        )
    excerpts = sorted(set(song_ids) - set(test))
    shared = set(shared_artists({"train": test, "validation": excerpts, "test": []}, artists or {}))
    rest = [song_id for song_id in excerpts if song_id not in shared]
    if len(rest) < len(excerpts):
        logger.info("left out %d excerpts by artists of the full songs", len(excerpts) - len(rest))
    train, validation = split_off(rest, artists, seed, validation_fraction, "validation_fraction")
    return {"train": train, "validation": validation, "test": test}


def k_folds(
    song_ids: Iterable[int],
    artists: Mapping[int, str] | None = None,
    folds: int = 5,
    seed: int = 42,
    validation_fraction: float = 0.15,
) -> list[Splits]:
    """k-fold cross-validation: every song is tested in exactly one fold, all songs of a group of artists in one.

    The groups are assigned to folds at random (scikit-learn's GroupKFold, shuffled), and validation is drawn from the
    other folds' songs as in `random_split`, `validation_fraction` of all groups.
    Raises `SplitError` for fewer than two folds, or fewer groups than folds.
    """
    song_ids = sorted(set(song_ids))
    labels = group_songs(song_ids, artists)
    groups = len(set(labels))
    if folds < 2:
        raise SplitError(f"cross-validation needs at least 2 folds, got {folds}")
    if groups < folds:
        raise SplitError(
            f"{groups} artists ({len(song_ids)} songs) cannot fill {folds} folds: each needs an artist of its own. "
            f"Ask for at most {groups} folds, or for song-level folds with --group_by_artist false"
        )
    result = []
    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    for _, rows in splitter.split(song_ids, groups=labels):
        test = {song_ids[row] for row in rows}
        rest = [song_id for song_id in song_ids if song_id not in test]
        share = validation_fraction / (1 - 1 / folds)
        train, validation = split_off(rest, artists, seed, share, "validation_fraction")
        result.append({"train": train, "validation": validation, "test": sorted(test)})
    return result


def read_split(folder: StrPath) -> Splits:
    """The id lists `train.txt`, `validation.txt` and `test.txt` in a folder, one song id per line.

    Raises `SplitError` for a missing file, a line that is not an id, and an id that is listed twice.
    """
    splits: Splits = {}
    places: dict[int, str] = {}
    for name in SPLIT_NAMES:
        path = Path(folder, f"{name}.txt")
        if not path.is_file():
            raise SplitError(f"{path} is missing: a split is a folder of {', '.join(f'{n}.txt' for n in SPLIT_NAMES)}")
        splits[name] = []
        for line, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
            if not text.strip():
                continue
            place = f"{path}, line {line}"
            if not SONG_ID.fullmatch(text.strip()):
                raise SplitError(f"{place}: expected one song id, got '{brief(text)}'")
            song_id = int(text)
            if song_id in places:
                raise SplitError(f"{place}: song {song_id} is already in {places[song_id]}")
            places[song_id] = place
            splits[name].append(song_id)
        splits[name].sort()
    return splits


def write_split(splits: Splits, folder: StrPath) -> None:
    """Write the id lists that `read_split` reads; the folder is created."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in SPLIT_NAMES:
        text = "".join(f"{song_id}\n" for song_id in sorted(splits[name]))
        Path(folder, f"{name}.txt").write_text(text, encoding="utf-8")


def id_list_split(folder: StrPath, song_ids: Iterable[int]) -> Splits:
    """The split listed in `folder` (see `read_split`), without the songs that the collection does not have.

    Listed songs that are absent are reported in a warning; songs on none of the lists are left out.
    Raises `SplitError` if one of the splits would be empty.
    """
    listed, present = read_split(folder), set(song_ids)
    splits = {name: [song_id for song_id in listed[name] if song_id in present] for name in SPLIT_NAMES}
    wanted: set[int] = set().union(*listed.values())
    if absent := sorted(wanted - present):
        logger.warning("%d songs listed in %s are not in the collection: %s", len(absent), folder, first_ids(absent))
    if unlisted := sorted(present - wanted):
        logger.info("left out %d songs on none of the lists in %s: %s", len(unlisted), folder, first_ids(unlisted))
    for name in SPLIT_NAMES:
        if not splits[name]:
            raise SplitError(
                f"{name} is empty: none of the {len(listed[name])} songs in {Path(folder, name)}.txt "
                f"is among the collection's {len(present)}"
            )
    return splits


def shared_artists(splits: Splits, artists: Mapping[int, str]) -> list[int]:
    """The validation and test songs in a group of artists that also has songs in train: leaks to report."""
    held_out = {key: artists[key] for key in splits["validation"] + splits["test"] if key in artists}
    trained = {artists[key] for key in splits["train"] if key in artists}
    return songs_by(held_out, trained)


def split_off(
    song_ids: Iterable[int], artists: Mapping[int, str] | None, seed: int, fraction: float, option: str
) -> tuple[list[int], list[int]]:
    """(rest, drawn), both sorted: `fraction` of the groups is drawn at random, at least one group.

    Raises `SplitError`, naming `option`, if one side would be empty.
    """
    song_ids = sorted(set(song_ids))
    labels = group_songs(song_ids, artists)
    groups = len(set(labels))
    count = max(1, round(fraction * groups))
    if not 0 < fraction < 1 or count >= groups:
        raise SplitError(
            f"{option} draws {fraction:.2g} of {groups} artists ({len(song_ids)} songs), but each side needs at "
            "least one: there are fewer artists than splits, or the fraction has to change"
        )
    splitter = GroupShuffleSplit(n_splits=1, test_size=count, random_state=seed)
    rest, drawn = next(splitter.split(song_ids, groups=labels))
    return [song_ids[i] for i in rest], [song_ids[i] for i in drawn]
