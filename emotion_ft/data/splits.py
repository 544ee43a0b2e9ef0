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

from .. import run_folder
from ..errors import UsageError, brief
from .artists import group_songs, songs_by
from .files import COLLECTION, StrPath, first_ids

logger = logging.getLogger(__name__)

SPLIT_NAMES = ("train", "validation", "test")
FULL_SONGS_FROM = 2001
"""The first song id of DEAM's 58 full-length songs, the test set of MediaEval 2015; ids below are 45 s excerpts."""
SONG_ID = re.compile(r"[0-9]{1,15}")
FOLD = re.compile(r"fold[-_]?[0-9]{1,3}(\.txt)?")

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
    paths = [Path(folder, f"{name}.txt") for name in SPLIT_NAMES]
    for path in paths:
        if not path.is_file():
            raise SplitError(f"{path} is missing: a split is a folder of {', '.join(f'{n}.txt' for n in SPLIT_NAMES)}")
    return dict(zip(SPLIT_NAMES, _read_lists(paths), strict=True))


def read_folds(
    folder: StrPath,
    song_ids: Iterable[int],
    artists: Mapping[int, str] | None = None,
    seed: int = 42,
    validation_fraction: float = 0.15,
) -> tuple[list[Splits], bool]:
    """Folds of a cross-validation from id lists, without the songs that the collection does not have.

    Args:
        folder: with one entry per fold, counted from 0 or 1: `fold-0/`, with the lists of `read_split` in it or
            in its `splits/`, as a cross-validation leaves them; or `fold_0.txt`, the test songs.
        song_ids: the collection's.
        artists, seed, validation_fraction: where only test songs are listed, for drawing validation from the other
            folds' songs, as `k_folds` does.

    Returns:
        The folds, and whether validation was drawn.

    Raises:
        SplitError: for lists that cannot be read, a song that is tested in two folds, and a side without songs.
    """
    places = _find_folds(Path(folder))
    drawn = not places[0].is_dir()
    if drawn:
        tests = _read_lists(places)
        share = validation_fraction / (1 - 1 / len(tests))
        listed = {song_id for test in tests for song_id in test}.intersection(song_ids)
        folds = []
        for fold in _without_absent([{"test": test} for test in tests], folder, song_ids):
            train, validation = split_off(listed.difference(fold["test"]), artists, seed, share, "validation_fraction")
            folds.append({"train": train, "validation": validation, **fold})
        return folds, drawn
    inner = [place / run_folder.SPLITS for place in places]
    folds = [read_split(lists if lists.is_dir() else place) for lists, place in zip(inner, places, strict=True)]
    _check_tested_once(folds, places, folder)
    return _without_absent(folds, folder, song_ids), drawn


def _check_tested_once(folds: list[Splits], places: list[Path], folder: StrPath) -> None:
    """Raise a `SplitError` for a song that is tested in two folds, and warn of songs that are tested in none."""
    tested: dict[int, Path] = {}
    for fold, place in zip(folds, places, strict=True):
        for song_id in fold["test"]:
            if (other := tested.setdefault(song_id, place)) != place:
                raise SplitError(f"song {song_id} is a test song in {other} and in {place}: keep it in one of the two")
    if never := sorted({song_id for fold in folds for ids in fold.values() for song_id in ids} - tested.keys()):
        logger.warning("%d songs listed in %s are tested in no fold: %s", len(never), folder, first_ids(never))


def _find_folds(folder: Path) -> list[Path]:
    """The entries of a folder that are called after folds, in order."""
    entries = sorted(path for path in folder.iterdir() if FOLD.fullmatch(path.name))
    numbered = sorted((int(re.findall("[0-9]+", path.name)[0]), path) for path in entries)
    numbers = [number for number, _ in numbered]
    if len(numbers) < 2 or numbers not in (list(range(len(numbers))), list(range(1, len(numbers) + 1))):
        raise SplitError(
            f"{folder} must have folds numbered from 0 or 1, as folders of id lists (fold-0, fold-1, ...) or as lists "
            f"of test songs (fold_0.txt, ...), but has {', '.join(path.name for path in entries) or 'none'}"
        )
    if len({path.is_dir() for path in entries}) > 1:
        raise SplitError(f"{folder} must have its folds either all as folders or all as lists of test songs")
    return [path for _, path in numbered]


def _read_lists(paths: Iterable[Path]) -> list[list[int]]:
    """The song ids in files, one per line, each sorted; `SplitError` for anything else, and for an id listed twice."""
    lists: list[list[int]] = []
    places: dict[int, str] = {}
    for path in paths:
        lists.append([])
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
            lists[-1].append(song_id)
        lists[-1].sort()
    return lists


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
    (splits,) = _without_absent([read_split(folder)], folder, song_ids)
    return splits


def _without_absent(listed: list[Splits], folder: StrPath, song_ids: Iterable[int]) -> list[Splits]:
    """Lists without the songs that the collection does not have; see `id_list_split`."""
    present, wanted = set(song_ids), {song_id for splits in listed for ids in splits.values() for song_id in ids}
    if absent := sorted(wanted - present):
        logger.warning("%d songs listed in %s are not in the collection: %s", len(absent), folder, first_ids(absent))
    if unlisted := sorted(present - wanted):
        logger.info("left out %d songs on none of the lists in %s: %s", len(unlisted), folder, first_ids(unlisted))
    for splits in listed:
        for name, ids in splits.items():
            if present.isdisjoint(ids):
                raise SplitError(
                    f"{name} is empty: none of the {len(ids)} songs listed for it in {folder} is among the "
                    f"collection's {len(present)}"
                )
    return [{name: [key for key in ids if key in present] for name, ids in splits.items()} for splits in listed]


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
