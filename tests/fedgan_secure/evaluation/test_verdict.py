"""The sentence says what the figures say: every threshold from both sides, and no TensorFlow for a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from fedgan_secure.evaluation.verdict import lines, sentence, share_of_teaching, share_of_variety, table


def figures(**changes: Any) -> dict[str, Any]:
    """A score of a good generator, with changes."""
    values: dict[str, Any] = {"chance": 0.3, "tstr": 0.7, "trtr": 0.9}
    for name in ("tstr", "trtr"):
        centre = changes.get(name, values[name])
        if centre is not None:
            near = [centre - 0.04, centre + 0.04]
            values |= {
                f"{name}_by_seed": [centre], f"{name}_interval_95": near,
                f"{name}_seed_interval_95": None, f"{name}_joint_interval_95": near,
            }  # fmt: skip
    for name in ("coverage", "recall"):
        values |= {name: 0.9, f"{name}_interval_95": [0.88, 0.92], f"{name}_real": 0.95}
    distance = {"brightness": 0.1, "red_green": 0.2, "blue_green": 0.3}
    values |= {
        "spread": 1.0, "spread_without_colour": 1.0, "spread_by_class": [1.0, 1.0, None],
        "colour_distance": distance, "colour_distance_real": distance,
    }  # fmt: skip
    return {**values, **changes}


def test_the_whole_sentence_of_a_good_generator() -> None:
    assert sentence(figures()) == (
        "A classifier trained on the generated pictures labels real ones right in 70 % (66 to 74), trained on real "
        "pictures in 90 %, always saying the commonest class in 30 %: the pictures carry most of what distinguishes "
        "the classes. They show nearly all of the variety of real pictures (coverage 90 %, recall 90 %; other real "
        "pictures 95 % and 95 %)."
    )


@pytest.mark.parametrize(
    ("tstr", "words"),
    [
        (0.85, "carry nearly all of"), (0.83, "carry most of"), (0.61, "carry most of"), (0.59, "carry a part of"),
        (0.44, "carry little of"), (0.35, "carry next to nothing of"), (0.33, "no better than guessing"),
        (0.10, "no better than guessing"),
    ],
)  # fmt: skip
def test_what_the_classes_gain(tstr: float, words: str) -> None:
    assert words in sentence(figures(tstr=tstr))


def test_where_real_pictures_teach_nothing_nothing_is_concluded() -> None:
    found = figures(trtr=0.33)
    assert "this says nothing" in sentence(found)
    assert share_of_teaching(found) is None


def test_without_tstr_the_reason_is_said() -> None:
    found = figures(tstr=None, tstr_missing_because="the generator is unconditional")
    assert "not assessed: the generator is unconditional." in sentence(found)
    assert not any("TSTR" in line for line in lines(found))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spread": 0.05}, "nearly all alike: the generator has collapsed."),
        ({"spread": 0.05, "spread_by_class": [0.05]}, "The pictures are nearly all alike: the generator has collapsed"),
        ({"recall": 0.0, "coverage": 0.32}, "a few kinds of picture come again and again"),
        ({"recall": 0.0, "coverage": 0.0}, "they do not look like real ones"),
        ({"recall": 0.11, "coverage": 0.02}, "they do not look like real ones"),
        ({"recall": 0.4, "coverage": 0.6}, "They show a part of the variety"),
        ({"recall": 0.6, "coverage": 0.4}, "They show a part of the variety"),
        ({"spread_by_class": [1.0, 0.05, 1.0]}, "The pictures of class 1 are nearly all alike."),
        ({"spread_by_class": [0.4, 1.0, 0.4]}, "The pictures of classes 0, 2 vary less than half"),
        ({"spread_without_colour": 0.44}, "Apart from their colour, the pictures of a class vary less than half"),
    ],
)
def test_collapse_is_said(changes: dict[str, Any], words: str) -> None:
    assert words in sentence(figures(**changes))
    assert words not in sentence(figures())


def test_too_few_images_for_variety() -> None:
    found = figures(coverage=None, recall=None, coverage_real=None, recall_real=None)
    assert share_of_variety(found) is None
    assert "variety" not in sentence(found)
    assert any("too few images" in line for line in lines(found))


@pytest.mark.parametrize(
    ("gain", "interval", "words"),
    [
        (0.3, [0.2, 0.4], "reaches 40 %: training added 30 points (20 to 40)."),
        (0.01, [-0.02, 0.04], "reaches 40 %: no difference that this measurement can tell (-2 to +4 points)."),
        (-0.3, [-0.4, -0.2], "reaches 40 %: training took 30 points away (20 to 40)."),
    ],
)
def test_the_public_start_beside_it(gain: float, interval: list[float], words: str) -> None:
    start = {f"start_{key}": value for key, value in figures(tstr=0.4).items()}
    found = {**start, **figures(gain_over_start=gain, gain_over_start_interval_95=interval)}
    assert sentence(found).endswith("The public start alone, without any patient's data, " + words)
    header, rows = table(found)
    assert header == ("", "generated", "public start alone", "real images")
    assert rows[0][1:] == ("0.700", "0.400", "0.900")


def test_the_table_is_whole_in_every_row() -> None:
    header, rows = table(figures())
    assert header == ("", "generated", "real images")
    assert all(len(row) == 3 for row in rows)
    assert ("Distance of red/green", "0.200", "0.200") in rows
    assert "\n" not in sentence(figures())
    assert len(lines(figures())) == len(rows) + 1
