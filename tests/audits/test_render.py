"""The pages: what they must never say, what they must say, and that nothing in a report becomes markup."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.facts.records import GovernanceEntry, Incident, MissingSignature
from fedgan_audits.facts.sections import RoundReport, Trajectory, TrajectoryPoint
from fedgan_audits.pages import charts, index, render
from fedgan_audits.report.report import build_report

MakeRun = Callable[..., Any]

BANNED = re.compile(
    r"complian|anonym|guarant|tamper.?proof|state.of.the.art|certif|unbreakable|perfectly|fully (secure|private)|"
    r"100 ?%|risk.?free|impossible to|cannot be (re-?identified|traced|broken)|safe harbor (satisf|is met)|"
    r"minimum necessary met|de-identified data|absolutely",
    re.IGNORECASE,
)
HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{7*7}}&amp;"


class Outline(HTMLParser):
    """The elements and the text of a page; refuses what is not well nested."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page.decode("utf-8"))
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes {self.stack[-3:]}"

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_no_rendered_page_makes_a_banned_claim(pages: dict[str, bytes]) -> None:
    for name, page in pages.items():
        hit = BANNED.search(Outline(page).words)
        assert hit is None, f"{name}: {hit}"


def test_no_fixed_text_makes_a_banned_claim() -> None:
    folder = Path(render.__file__).parent
    for file in (*folder.glob("templates/*.j2"), *folder.glob("provisions/*.json"), folder / "wording.py"):
        text = file.read_text(encoding="utf-8")
        hit = BANNED.search(text.split('"""', 2)[-1])
        assert hit is None, f"{file.name}: {hit}"
    assert BANNED.search("HIPAA compliant") and BANNED.search("the data are anonymous") and BANNED.search("guaranteed")


def test_pages_are_well_formed_and_stand_alone(pages: dict[str, bytes]) -> None:
    for name, page in pages.items():
        outline = Outline(page)
        tags = [tag for tag, _ in outline.tags]
        assert not {"script", "link", "iframe", "object", "form", "input", "base"} & set(tags), name
        assert tags.count("main") == tags.count("h1") == tags.count("title") - tags.count("desc") == 1, name
        for tag, attributes in outline.tags:
            for key, value in attributes.items():
                assert not key.startswith("on"), f"{name}: {key}"
                if key in ("src", "href"):
                    assert value is not None
                    assert re.match(r"#|data:image/png;base64,|(\.\./)?(reports/|index\.html|samples/)", value), value
            if tag == "img":
                assert attributes.get("alt")
        assert "http-equiv" in page.decode() and "default-src 'none'" in page.decode()


def test_pages_are_built_for_screen_readers(pages: dict[str, bytes]) -> None:
    for name, page in pages.items():
        outline = Outline(page)
        tags = [tag for tag, _ in outline.tags]
        assert tags.count("table") == tags.count("caption"), name
        assert all(attributes.get("scope") in ("col", "row") for tag, attributes in outline.tags if tag == "th"), name
        identities = [attributes["id"] for _, attributes in outline.tags if attributes.get("id")]
        assert len(identities) == len(set(identities)), name
        for _, attributes in outline.tags:
            for key in ("aria-labelledby", "aria-describedby"):
                for target in (attributes.get(key) or "").split():
                    assert target in identities, f"{name}: {target}"
            if (attributes.get("href") or "").startswith("#"):
                assert str(attributes["href"])[1:] in identities, f"{name}: {attributes['href']}"
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels)), name


def test_the_first_screen_answers_the_four_questions(pages: dict[str, bytes]) -> None:
    for name, page in pages.items():
        if name == "index empty":
            continue
        words = Outline(page).words
        for question in ("May we go on?", "What was spent?", "What is left?", "What do we not know?"):
            assert question in words, name
    assert "budget is spent" in Outline(pages["killed"]).words
    assert (
        "started without privacy" in Outline(pages["no privacy"]).words and "unbounded" in pages["no privacy"].decode()
    )
    assert "one image, not one patient" in Outline(pages["image"]).words
    assert "drawn phantoms" in Outline(pages["pass"]).words and "drawn phantoms" not in Outline(pages["separate"]).words


QUESTIONS = {
    "May we go on?": (r"May we go on\? (Yes|No|Finished)", r"still scheduled fit"),
    "What did this round cost and what is left?": (
        r"What was spent\? 1\.5292 of 8",
        r"Of it this round added 1\.5292",
        r"What is left\? 6\.4708",
        r"Increase",
    ),
    "What does epsilon mean for one patient?": (
        r"What does epsilon mean for one patient\?",
        r"from 50 in 100 to at most [0-9.]+ in 100",
    ),
    "For a patient with two eyes?": (r"A patient with several images .*\(two eyes, many slices\)",),
    "For a patient known to two hospitals?": (r"A patient known to two hospitals Epsilon 2\.1021",),
    "Who took part, who dropped out, did it matter?": (
        r"In the sum a, b, c ",
        r"Dropped out d ",
        r"In this round d dropped out\. The figures on this page hold all the same",
        r"d dropped out masked-input: late",
        r"finish the round without it, as long as at least 3 of 4",
    ),
    "What left our hospital, who could read it?": (
        r"No image and no identifier left a hospital",
        r"can be read by the coordinator and by every hospital",
    ),
    "What if other hospitals collude?": (
        r"The coordinator and all 3 other hospitals 1\.5292",
        r"Hidden from a coordinator that lies",
    ),
    "Which rules does it give evidence for, for which none?": (
        r"164\.312\(b\) Audit controls evidence produced",
        r"164\.312\(e\) Transmission security not assessed",
    ),
    "How do I check that nobody altered it?": (
        r"fedgan-secure audit verify RUN --trust KEYS",
        r"openssl pkeyutl -verify",
    ),
    "What does it not show?": (r"What this does not show That an image is of medical use",),
}
"""An officer's ten questions (the fourth has two halves) and where one round's report alone answers each."""


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_report_alone_answers_every_question(pages: dict[str, bytes], question: str) -> None:
    words = Outline(pages["separate"]).words
    for answer in QUESTIONS[question]:
        assert re.search(answer, words), f"{question} {answer}"


def test_the_chart_and_its_table_have_the_same_numbers(whole_run: Any) -> None:
    report: RoundReport = whole_run.drafts[2].report
    page = whole_run.drafts[2].html.decode()
    trajectory = report.composition.trajectories[0]
    drawn = charts.epsilon_chart(trajectory)
    assert drawn is not None
    assert [mark.text for mark in drawn.spent] == [point.spent for point in trajectory.points]
    for point in trajectory.points:
        assert f'<td class="num">{point.planned}</td><td class="num">{point.spent}</td>' in page
    heights = [mark.y for mark in drawn.planned]
    assert heights == sorted(heights, reverse=True) and all(0 <= y <= charts.HEIGHT for y in heights)


def test_nothing_from_a_report_becomes_markup(new_run: MakeRun) -> None:
    run = new_run()
    record = run.record(
        1,
        incidents=(Incident(kind=HOSTILE, text=HOSTILE, person=HOSTILE),),
        governance=(GovernanceEntry(topic=HOSTILE, text=HOSTILE),),
        missing_cosignatures=(MissingSignature(name="a", reason=HOSTILE),),
        hospital={"b": {"receipt": "refused", "receipt_reason": HOSTILE}},
    )
    report = build_report(record)
    named = report.composition.hospitals[0].model_copy(update={"name": HOSTILE})
    people = report.aggregation.participants[0].model_copy(update={"name": HOSTILE, "drop_reason": HOSTILE})
    tracks = report.composition.trajectories[0].model_copy(update={"hospitals": (HOSTILE,)})
    hostile = report.model_copy(
        update={
            "composition": report.composition.model_copy(update={"hospitals": (named,), "trajectories": (tracks,)}),
            "aggregation": report.aggregation.model_copy(update={"participants": (people,)}),
            "header": report.header.model_copy(update={"run_id": HOSTILE}),
        }
    )
    facts = run.facts("ended early", HOSTILE)
    for page in (render.render_round(hostile), index.render_index(facts, [index.IndexRow.of(hostile)], hostile)):
        outline = Outline(page)
        assert not {"script"} & {tag for tag, _ in outline.tags}
        assert all(
            attributes.get("src", "data:").startswith("data:") for tag, attributes in outline.tags if tag == "img"
        )
        assert "<script>alert(1)</script>" in outline.words
        assert "{{7*7}}" in outline.words


@pytest.mark.parametrize("rounds", [1, 2, 30, 1000])
def test_charts_stay_inside_their_frame(rounds: int) -> None:
    points = tuple(
        TrajectoryPoint(round=number, planned=f"{number * 0.01:.4f}", spent="0.0100" if number < 2 else None)
        for number in sorted({0, 1, *range(0, rounds + 1, max(1, rounds // 20)), rounds})
    )
    drawn = charts.epsilon_chart(Trajectory(hospitals=("a",), points=points, target="8", cap="7.99"))
    assert drawn is not None
    for mark in (*drawn.planned, *drawn.spent):
        assert drawn.left <= mark.x <= drawn.right and drawn.top <= mark.y <= drawn.bottom
    assert len(drawn.x_ticks) <= 14 and len(drawn.y_ticks) <= 8
    assert len({limit.label_y for limit in drawn.limits}) == 2


def test_suspicion_is_bounded_by_bayes_rule() -> None:
    assert render.odds("0", 0.5) == "50 in 100"
    assert render.odds("0.6932", 0.5) == "66.7 in 100"
    assert render.odds("unbounded", 0.01) == "100 in 100"
    assert render.odds("50", 0.01) == "almost 100 in 100"
    assert render.odds("7.3432", 0.5) == "99.94 in 100"


@pytest.mark.parametrize(
    ("spent", "limit", "over"),
    [
        ("19.9996", "20", False),
        ("20.0000", "20", False),
        ("20.1", "20", True),
        ("unbounded", None, True),
        ("3", None, False),
    ],
)
def test_a_meter_turns_red_only_above_its_limit(spent: str, limit: str | None, over: bool) -> None:
    assert render._exceeds(spent, limit) is over


def test_auditing_never_loads_tensorflow() -> None:
    code = (
        "import sys, fedgan_audits.verification.verify, fedgan_audits.publishing.manifest, fedgan_cli.audit;"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules, 'TensorFlow was loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
