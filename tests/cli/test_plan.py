"""`fedgan-secure plan`: the figures, the messages, the time it takes and what it does not load."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedgan_audits import errors
from fedgan_audits.accounting import accountant
from fedgan_audits.accounting.mechanism import MechanismRecord
from fedgan_cli.plan import command

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "known-answers.json").read_text())


def planned(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(command, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def schedule(row: dict[str, Any]) -> list[object]:
    return ["--sampling-probability", row["sampling_probability"], "--steps", row["steps"], "--delta", row["delta"]]


@pytest.mark.parametrize("row", VECTORS["rows"], ids=lambda row: f"q={row['sampling_probability']}-T={row['steps']}")
def test_it_reproduces_the_known_answers(row: dict[str, Any]) -> None:
    figures = planned(*schedule(row), "--noise-multiplier", row["noise_multiplier"])
    assert figures["epsilon"] == pytest.approx(row["epsilon_pld"], abs=VECTORS["tolerance"])
    assert figures["epsilon_rdp"] > figures["epsilon"]
    assert figures["epsilon"] < figures["epsilon_two_hospitals"] < 2 * figures["epsilon"]
    assert figures["mu"] > 0
    for name in ("sampling_probability", "steps", "delta", "noise_multiplier"):
        assert figures[name] == row[name]


def test_a_row_takes_under_three_seconds_after_start_up() -> None:
    """Processor time of this process for each row of the known answers, once the libraries are loaded."""
    planned("--sampling-probability", 0.5, "--steps", 3, "--delta", 1e-3, "--noise-multiplier", 5)
    accountant.clear_caches()
    for row in VECTORS["rows"]:
        before = time.process_time()
        figures = planned(*schedule(row), "--noise-multiplier", row["noise_multiplier"])
        assert time.process_time() - before < 3.0, row
        assert figures["epsilon"] == pytest.approx(row["epsilon_pld"], abs=VECTORS["tolerance"])


SHARED = ["--noise-placement", "distributed", "--threshold", 7, "--colluders", 3, "--dimension", 2_770_000]


def test_shared_noise_is_planned_with_its_colluders() -> None:
    row = VECTORS["rows"][0]
    figures = planned(*schedule(row), "--noise-multiplier", 1, *SHARED)
    assert figures["epsilon_rdp"] == figures["epsilon"] == pytest.approx(2.1078, abs=1e-3)
    assert figures["epsilon_gaussian_approximation"] == pytest.approx(row["epsilon_pld"], abs=1e-3)
    two = VECTORS["image_groups"]["rows"][1]["epsilon_pld"]
    assert figures["epsilon_two_hospitals_gaussian_approximation"] == pytest.approx(two, abs=1e-3)
    assert figures["epsilon_two_hospitals"] > two
    assert figures["sensitivity"] == pytest.approx(1.01)
    assert figures["share_deviation"] == pytest.approx(1.01 / (0.01 / 2_770_000**0.5) / 4**0.5, rel=1e-6)
    by_colluders = figures["epsilon_by_colluders"]
    assert list(by_colluders) == [str(count) for count in range(7)]
    assert list(by_colluders.values()) == sorted(by_colluders.values())
    assert by_colluders["3"] == figures["epsilon"]
    skellam = planned(*schedule(row), "--noise-multiplier", 1, *SHARED, "--integer-noise", "skellam")
    assert figures["epsilon"] < skellam["epsilon"] < figures["epsilon"] * 1.001
    target = planned(*schedule(row), "--epsilon", 3, *SHARED)
    assert 2.99 < target["epsilon"] <= 3


def test_people_see_whom_shared_noise_holds_against() -> None:
    arguments = [*map(str, schedule(VECTORS["rows"][0])), "--noise-multiplier", "1", *map(str, SHARED)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "Epsilon against 3 colluders" in done.stdout
    assert "<- declared" in done.stdout
    assert "not proved" in done.stdout
    assert "rest on secure aggregation" in done.stdout
    assert "all other hospitals together" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--noise-placement", "distributed"], "--threshold"),
        (["--noise-placement", "distributed", "--threshold", "5"], "--colluders"),
        (["--noise-placement", "distributed", "--threshold", "5", "--colluders", "1"], "--dimension"),
        (
            ["--noise-placement", "distributed", "--threshold", "5", "--colluders", "5", "--dimension", "9"],
            "--colluders",
        ),
        (["--threshold", "5"], "--threshold"),
        (["--noise-placement", "central"], "--noise-placement"),
    ],
)
def test_shared_noise_needs_its_facts(arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(command, [*GOOD, *arguments])
    assert done.exit_code == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_it_finds_the_noise_for_a_target() -> None:
    row = VECTORS["calibration"]
    figures = planned(*schedule(row), "--epsilon", row["epsilon"], "--declared-patients", 10_000)
    assert figures["noise_multiplier"] == pytest.approx(row["noise_multiplier"], abs=VECTORS["tolerance"])
    assert row["epsilon"] - 2e-3 < figures["epsilon"] <= row["epsilon"] == figures["epsilon_target"]
    assert figures["delta_advised"] == 1e-5


def test_the_unit_image_shows_what_several_images_cost() -> None:
    group = VECTORS["image_groups"]
    figures = planned(*schedule(group), "--noise-multiplier", 1, "--unit", "image")
    for row in group["rows"]:
        assert figures["epsilon_by_images"][str(row["images"])] == pytest.approx(row["epsilon_pld"], abs=1e-3)


def test_no_noise_is_unbounded_in_json_too() -> None:
    figures = planned("--sampling-probability", 0.1, "--steps", 10, "--delta", 1e-5, "--noise-multiplier", 0)
    assert figures["epsilon"] == figures["epsilon_rdp"] == figures["mu"] == "unbounded"


def test_people_get_a_table_rounded_up_and_a_word_on_delta() -> None:
    row = VECTORS["rows"][0]
    done = CliRunner().invoke(
        command, [*map(str, schedule(row)), "--noise-multiplier", "1", "--declared-patients", "100000"]
    )
    assert done.exit_code == 0
    assert "1.8283" in done.stdout
    assert "patient in two hospitals" in done.stdout
    assert "1e-06 = 1/(10 x 100000)" in done.stderr


GOOD = ["--sampling-probability", "0.1", "--steps", "10", "--delta", "1e-5", "--epsilon", "1"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--sampling-probability", "0"),
        ("--sampling-probability", "1.5"),
        ("--sampling-probability", "nan"),
        ("--sampling-probability", "many"),
        ("--steps", "0"),
        ("--steps", "1.5"),
        ("--delta", "1"),
        ("--delta", "0"),
        ("--epsilon", "0"),
        ("--epsilon", "inf"),
        ("--noise-multiplier", "-1"),
        ("--unit", "study"),
        ("--images-per-patient", "0"),
        ("--declared-patients", "0"),
    ],
)
def test_a_bad_value_exits_2_and_names_the_option(option: str, value: str) -> None:
    arguments = [*GOOD[: GOOD.index(option)], *GOOD[GOOD.index(option) + 2 :]] if option in GOOD else list(GOOD)
    done = CliRunner().invoke(command, [*arguments, option, value])
    assert done.exit_code == 2
    assert option in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("both", [[], ["--epsilon", "1", "--noise-multiplier", "1"]])
def test_one_of_noise_and_epsilon_is_needed(both: list[str]) -> None:
    done = CliRunner().invoke(command, [*GOOD[:6], *both])
    assert done.exit_code == 2
    assert "--noise-multiplier and --epsilon" in done.stderr


def test_a_target_out_of_reach_names_the_nearest_epsilon() -> None:
    with pytest.raises(errors.UnreachableTarget, match=r"--epsilon: .*smallest epsilon within reach is \d") as caught:
        CliRunner().invoke(command, [*GOOD[:6], "--epsilon", "1e-9"], catch_exceptions=False)
    assert caught.value.exit_code == 2


def python(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Processor seconds of a process of its own, start-up included, and how it ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime), done


def test_it_takes_a_few_starts_of_its_libraries_and_no_tensorflow() -> None:
    """Under three seconds where these start in 0.6: what the machine makes of both at the same time is compared."""
    code = (
        "import sys\n"
        "from fedgan_cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    assert not {'tensorflow', 'keras', 'pydicom'} & set(sys.modules)\n"
    )
    start, _ = python("-c", "import dp_accounting.pld, pydantic, scipy.optimize, scipy.stats")
    taken, done = python("-c", code, "plan", *map(str, schedule(VECTORS["calibration"])), "--epsilon", "3", "--json")
    assert json.loads(done.stdout)["epsilon"] <= 3
    assert taken < 5 * start, (taken, start)


def test_each_of_the_four_can_be_left_out() -> None:
    row = VECTORS["rows"][3]
    given = {
        "--sampling-probability": row["sampling_probability"], "--steps": row["steps"],
        "--noise-multiplier": row["noise_multiplier"], "--epsilon": 2.3482,
    }  # fmt: skip
    for left_out, value in given.items():
        rest = [part for option, number in given.items() if option != left_out for part in (option, number)]
        figures = planned(*rest, "--delta", row["delta"])
        name = left_out[2:].replace("-", "_")
        assert figures["solved_for"] == name
        assert figures[name] == pytest.approx(value, rel=1e-3)
        assert figures["epsilon"] <= 2.3482


def test_hospitals_with_their_own_bounds_and_rounds_with_some_missing(tmp_path: Path) -> None:
    arguments = [
        "--batch", 30, "--steps", 20, "--noise-multiplier", 2, "--delta", 1e-4, "--hospital", "north=300",
        "--hospital", "south=3000", "--hospital", "west=900", "--drop-outs", 1, "--known-to", 3,
        "--noise-placement", "both", "--threshold", 3, "--colluders", 1, "--dimension", 1000,
    ]  # fmt: skip
    page = tmp_path / "plan.html"
    figures = planned(*arguments, "--html", page)
    north, south, west = figures["hospitals"]
    assert (north["sampling_probability"], south["sampling_probability"]) == (0.1, 0.01)
    assert south["epsilon"] < west["epsilon"] < north["epsilon"] == figures["epsilon"]
    assert south["delta_advised"] == figures["delta_advised"] == pytest.approx(1 / 30_000)
    assert figures["distributed"]["noise_placement"] == "distributed"
    assert figures["distributed"]["drop_outs"][1]["noise"] is None
    assert figures["drop_outs"][0]["noise"] == pytest.approx(3**0.5)
    assert list(figures["epsilon_by_hospitals"]) == ["1", "2", "3"]
    text = page.read_text()
    assert f"{south['epsilon']:.3f}"[:4] in text and "<polyline" in text and "<script" not in text
    done = CliRunner().invoke(command, list(map(str, arguments)))
    assert "Hospital by hospital" in done.stdout and "aborted" in done.stdout
    assert "choose less" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch", "9"], "--batch"),
        (["--hospital", "north"], "--hospital"),
        (["--hospital", "north=0"], "--hospital"),
        (["--drop-outs", "1"], "--drop-outs"),
        (["--more-rounds", "3"], "--run"),
        (["--run", "nowhere", "--more-rounds", "3"], "--run takes the run's own settings"),
    ],
)
def test_options_that_do_not_fit_are_named(arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(command, [*GOOD, *arguments])
    assert done.exit_code == 2
    assert named in done.stderr


def test_steps_out_of_reach_name_the_nearest_epsilon() -> None:
    arguments = ["--sampling-probability", "0.5", "--noise-multiplier", "1", "--delta", "1e-5", "--epsilon", "0.01"]
    with pytest.raises(errors.UnreachableTarget, match=r"--epsilon: .*one step costs \d"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


RELEASED = ["--release-noise", "2.285", "--delta", "3.3e-5"]


def test_a_release_is_counted_in_everything(tmp_path: Path) -> None:
    given = ["--sampling-probability", 0.064, "--steps", 300, "--noise-multiplier", 0.9527, "--known-to", 3]
    page = tmp_path / "plan.html"
    figures = planned(*RELEASED, *given, "--hospital", "north=3000", "--html", page)
    assert round(figures["epsilon"], 4) == 7.9994
    assert round(figures["epsilon_of_release"], 4) == 1.5879
    assert figures["release_noise_multiplier"] == 2.285 and figures["steps"] == 300
    release = {"sampling_probability": 1.0, "noise_multiplier": 2.285, "steps": 1}
    step = {"sampling_probability": 0.064, "noise_multiplier": 0.9527, "steps": 300}
    run = [MechanismRecord(**one, l2_clip_norm=1.0, unit="patient") for one in (release, step)]
    assert figures["epsilon"] == accountant.epsilon(run, 3.3e-5)
    assert figures["epsilon_rdp"] == accountant.epsilon_rdp(run, 3.3e-5)
    assert figures["epsilon_two_hospitals"] == accountant.epsilon_two_hospitals(run, 3.3e-5)
    assert figures["epsilon_by_hospitals"]["3"] == accountant.epsilon_several_hospitals([run] * 3, 3.3e-5)
    assert figures["mu"] == accountant.mu_gdp(run, 3.3e-5)
    assert figures["hospitals"][0]["epsilon"] == figures["epsilon"]
    text = page.read_text()
    for said in ("one noisy sum in which every patient takes part", "Noise multiplier of the release", "2.285"):
        assert said in text
    assert "The curve begins at what the release before the first step costs." in text
    done = CliRunner().invoke(command, [*map(str, (*RELEASED, *given))])
    assert "2.285 times its clip norm, one sum before the steps" in done.stdout
    assert "the release alone" in done.stdout and "7.9995" in done.stdout


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"--sampling-probability": 0.064, "--steps": 300}, "noise_multiplier", 0.9527),
        ({"--sampling-probability": 0.064, "--noise-multiplier": 0.9527}, "steps", 299),
        ({"--steps": 300, "--noise-multiplier": 0.9527}, "sampling_probability", 0.064),
    ],
)
def test_what_a_release_leaves_is_solved_for(given: dict[str, float], name: str, value: float) -> None:
    words = [word for pair in given.items() for word in pair]
    figures = planned(*RELEASED, *words, "--epsilon", 7.9994)
    assert figures["solved_for"] == name and figures["epsilon"] <= 7.9994
    assert figures[name] == pytest.approx(value, rel=4e-3)


def test_shared_noise_takes_the_length_of_the_release() -> None:
    given = ["--sampling-probability", 0.064, "--steps", 100, "--noise-multiplier", 1, "--threshold", 3]
    shared = [*given, "--colluders", 1, "--dimension", 9100, "--noise-placement", "both"]
    figures = planned(*RELEASED, *shared, "--release-dimension", 3515)
    beside, bare = figures["distributed"], planned("--delta", 3.3e-5, *shared)["distributed"]
    assert bare["epsilon"] < beside["epsilon"] and bare["mu"] < beside["mu"] < 10
    assert all(beside["epsilon_by_colluders"][count] > value for count, value in bare["epsilon_by_colluders"].items())
    assert beside["epsilon_gaussian_approximation"] > bare["epsilon_gaussian_approximation"]
    shorter = planned(*RELEASED, *shared, "--release-dimension", 10)["distributed"]
    assert shorter["epsilon_of_release"] == pytest.approx(beside["epsilon_of_release"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--release-noise", "0"], "--release-noise"),
        (["--release-dimension", "9"], "--release-dimension goes with"),
        (["--release-noise", "2", "--release-dimension", "9"], "--release-dimension goes with"),
        (["--release-noise", "2", *SHARED], "needs --release-dimension"),
        (["--run", "nowhere", "--more-rounds", "1", "--release-noise", "2"], "release_noise"),
    ],
)
def test_options_of_a_release_that_do_not_fit_are_named(arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(command, [*map(str, GOOD), *map(str, arguments)])
    assert done.exit_code == 2
    assert named in done.stderr


def test_a_release_that_costs_the_target_is_said() -> None:
    arguments = [*RELEASED, "--sampling-probability", "0.064", "--noise-multiplier", "1", "--epsilon", "1.5"]
    with pytest.raises(errors.UnreachableTarget, match="one step and the release before it cost"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
