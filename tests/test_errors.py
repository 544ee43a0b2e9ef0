import pytest

from emotion_ft.errors import brief, nearest, nearest_hint


@pytest.mark.parametrize(
    ("wanted", "names", "found"),
    [
        (["valense"], ["arousal", "valence"], "valence"),
        (["VALENCE_MEAN"], ["valence_mean"], "valence_mean"),
        (["nothing", "arousel"], ["valence", "arousal"], "arousal"),
        (["tempo"], ["valence", "arousal"], None),
        (["valence"], [], None),
        (["valence"], ["valence" * 100], None),
    ],
)
def test_the_nearest_name_is_found_and_no_far_one(wanted, names, found):
    assert nearest(wanted, names) == found
    assert nearest_hint(wanted, names) == (f" (nearest: {found})" if found else "")


def test_text_from_outside_is_one_short_line():
    assert brief("a\nb\x1b[31m\0c") == "a b [31m c"
    assert brief("x" * 200) == "x" * 120 + "..." and brief("x" * 200, 5) == "xxxxx..."
