"""Artists' names: which of them name the same people, and which name nobody."""

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

logger = logging.getLogger(__name__)

NOBODY = frozenset(("na", "nan", "none", "null", "unknown", "unknownartist", "various", "variousartists", "va"))
"""Folded names that stand for a missing one. "NA" is among them: R writes missing values so."""
NOBODY_IN_PARTICULAR = frozenset(("the", "friends", "sons", "others", "guests", "co", "mr", "mrs", "dj", "mc"))
"""Parts of names, folded, that do not tell whom two names have in common."""
CREDITS = re.compile(
    r"[&+,;/()\[\]]|(?<=[\s(\[])(?:feat|featuring|ft|with|vs|versus|x|and|remixes|conducted by)\b\.?(?=\s)"
)
DASH = re.compile("[-\u2010-\u2015]")
LARGE = 0.2


def is_known(artist: object) -> bool:
    """Whether this is an artist's name, and not a word or sign for a missing one, such as "n/a", "-" or ""."""
    return isinstance(artist, str) and bool(_whole(artist))


def group_names(names: Iterable[str]) -> dict[str, str]:
    """The group of each name that is one (`is_known`); groups are called by a name in them, in lower case.

    Two names are in a group if they are equal but for case, accents, punctuation, spaces and a leading "The", or if
    they have a member in common, directly or through other names. "A feat. B" has the members A and B; so have other
    `CREDITS`, such as "A & B" and "A (B)". "A-B" has the member A, because DEAM has titles after names; if that is a
    single word, as in "Jean-Luc", it only counts if it is some artist's name. "Iron and Wine" is joined with "Wine":
    to join too much keeps a split sound, to join too little does not.
    """
    spelled = sorted({name for name in names if is_known(name)})
    whole = {_whole(name) for name in spelled}
    keys = [_keys(name, whole) for name in spelled]
    place = {key: len(spelled) + i for i, key in enumerate(sorted(set().union(*keys)))}
    edges = np.array([(row, place[key]) for row, found in enumerate(keys) for key in found]).reshape(-1, 2).T
    size = len(spelled) + len(place)
    _, component = connected_components(coo_array((np.ones(edges.shape[1]), tuple(edges)), (size, size)))
    of_names = component[: len(spelled)].tolist()
    called: dict[int, str] = {}
    for label, name in zip(of_names, spelled, strict=True):
        folded = " ".join(name.split()).casefold()
        called[label] = min(folded, called.get(label, folded))
    return {name: called[label] for name, label in zip(spelled, of_names, strict=True)}


def joined_names(names: Iterable[str]) -> list[list[str]]:
    """The names of each group that has several, as they are spelled."""
    groups = defaultdict(list)
    for name, group in group_names(names).items():
        groups[group].append(name)
    return [found for _, found in sorted(groups.items()) if len(found) > 1]


def group_songs(song_ids: Iterable[int], artists: Mapping[int, str] | None) -> list[str]:
    """The group of each song: that of its artist's name (`group_names`), or the song itself if it has none.

    Args:
        song_ids: the songs.
        artists: artists by song id, of these songs and any others that may connect them; None: every song is a group.
    """
    groups = group_names((artists or {}).values())
    found = [(song_id, groups.get((artists or {}).get(song_id, ""))) for song_id in song_ids]
    return [f"song {song_id}" if group is None else f"artist {group}" for song_id, group in found]


def songs_by(artists: Mapping[int, str], known: Iterable[str]) -> list[int]:
    """The songs, by ascending id, whose artist is in a group (`group_names`) with one of the `known` names."""
    known = set(known)
    groups = group_names({*artists.values(), *known})
    reached = {groups[name] for name in known & groups.keys()}
    return sorted(song_id for song_id, name in artists.items() if groups.get(name) in reached)


def warn_of_large_group(artists: Mapping[int, str], songs: int) -> None:
    """Log a warning if one group of artists has over a fifth of all songs, since splits cannot divide it."""
    groups = group_names(artists.values())
    counts = Counter(groups[name] for name in artists.values() if name in groups)
    group, count = counts.most_common(1)[0] if counts else ("", 0)
    if count > LARGE * songs:
        names = sorted(name for name, its in groups.items() if its == group)
        listed = "; ".join(names[:5]) + ("; ..." if len(names) > 5 else "")
        logger.warning(
            "%d of %d songs are by one group of artists (%s) and stay on one side of every split: if these are not "
            "the same people, correct their names, or accept split artists with --group_by_artist false",
            *(count, songs, listed),
        )


def _keys(name: str, whole: set[str]) -> set[str]:
    """What a name is compared by: itself and its members, folded; `whole` are all names, folded."""
    members = [part.strip() for part in CREDITS.split(_plain(name))]
    before_dash = [DASH.split(member)[0].strip() for member in members]
    parts = {_fold(member) for member in members}
    parts |= {_fold(start) for start in before_dash if " " in start or _fold(start) in whole}
    return {_whole(name)} | {part for part in parts - NOBODY - NOBODY_IN_PARTICULAR if len(part) > 1}


def _whole(name: str) -> str:
    """A name, folded; the signs themselves for one such as "!!!"; "" for a missing one."""
    text = _plain(name)
    if re.fullmatch(r"[-\u2010-\u2015?._]*", text) or (folded := _fold(text)) in NOBODY:
        return ""
    return folded or text


def _plain(name: str) -> str:
    """In lower case, without accents, one spelling for each character (NFKC), and single spaces."""
    decomposed = unicodedata.normalize("NFKD", name)
    composed = unicodedata.normalize("NFKC", re.sub("[\u0300-\u036f]", "", decomposed))
    return " ".join(composed.casefold().split())


def _fold(text: str) -> str:
    """Letters and digits of a plain text, without a leading "the"."""
    text = re.sub(r"^the\s+(?=\S)", "", text.strip())
    return "".join(character for character in text if unicodedata.category(character)[0] in "LMN")
