"""Pages for people, rendered from the signed reports: one file each, no script, no network.

`renderers.RENDERER` names this renderer by its number; verification renders a page again where this renderer made it.
Everything that comes from a report is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedgan_audits.facts import HospitalBudget, RoundReport, first_screen
from fedgan_audits.pages import charts, languages
from fedgan_audits.pages.renderers import RENDERER

EMBED_LIMIT = 2 * 2**20


def odds(epsilon: str, before: float) -> str:
    """The most that a suspicion of `before` can rise to: Bayes' rule with a likelihood ratio of e^epsilon."""
    if epsilon == "unbounded":
        return "100 in 100"
    ratio = math.exp(min(float(epsilon), 700.0))
    after = before * ratio / (1 - before + before * ratio) * 100
    if after > 99.99:
        return "almost 100 in 100"
    digits = 1 if after < 99 else 2
    return f"{math.ceil(after * 10**digits) / 10**digits:g} in 100"


def _share(part: str, whole: str | None) -> float:
    """`part` of `whole` in percent, within 0 to 100."""
    if part == "unbounded" or whole in (None, "unbounded") or float(str(whole)) <= 0:
        return 100.0
    return round(min(100.0, 100 * float(part) / float(str(whole))), 2)


def _exceeds(part: str, whole: str | None) -> bool:
    """Whether `part` lies above the limit `whole`, or nothing bounds it."""
    return part == "unbounded" or (whole not in (None, "unbounded") and float(part) > float(str(whole)) + 1e-4)


def _largest(hospitals: Sequence[HospitalBudget]) -> str:
    """The largest increase of this round at any hospital, as text."""
    texts = [row.increase_this_round for row in hospitals]
    return "unbounded" if "unbounded" in texts else max(texts, key=float)


def _sentence(text: str) -> str:
    """`text` with a capital letter at its start and a full stop at its end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) or not text else ".")


def _command(text: str) -> Markup:
    """A command as it is typed: a line never ends between the two dashes of an option."""
    return Markup(" ").join(
        Markup('<span class="nowrap">{}</span>').format(word) if word.startswith("-") else word
        for word in text.split(" ")
    )


def _number(value: float) -> str:
    """A parameter in its shortest form that reads back to the same number."""
    return repr(float(value)).removesuffix(".0")


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("fedgan_audits", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.i18n"],
    )
    fixed = languages.catalogue(language).fixed
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        fixed, lambda one, many, count: fixed(one if count == 1 else many), newstyle=True
    )
    voice = languages.Voice(language)
    environment.filters.update(
        sentence=_sentence, number=_number, command=_command, t=voice.text, word=voice.word,
        lower_first=voice.lower_first, count=voice.count, one_in=voice.one_in,
        in_hospitals=voice.in_hospitals,
        odds=lambda epsilon, before: voice.word(odds(epsilon, before)),
    )  # fmt: skip
    environment.globals.update(
        share=_share, exceeds=_exceeds, chart=charts.epsilon_chart, zip=zip, largest=_largest, period=voice.period,
        spent_of=voice.spent_of, first_screen=first_screen,
    )  # fmt: skip
    return environment


def page(name: str, values: Mapping[str, Any], language: str = "en") -> bytes:
    """The page that the template `name` makes of `values`, UTF-8."""
    css = (files("fedgan_audits") / "templates" / "style.css").read_text(encoding="utf-8")
    return (
        _environment(language)
        .get_template(name)
        .render(css=css, renderer=RENDERER, language=language, **values)
        .encode("utf-8")
    )


def picture(sample_png: bytes | None) -> str | None:
    if sample_png is None or len(sample_png) > EMBED_LIMIT:
        return None
    return "data:image/png;base64," + base64.b64encode(sample_png).decode("ascii")


def sample_path(report: RoundReport) -> str | None:
    return next((entry.path for entry in report.verification.artefacts if entry.kind == "samples"), None)


def render_round(report: RoundReport, sample_png: bytes | None = None, language: str = "en") -> bytes:
    """A round's page, UTF-8. A picture of up to 2 MiB is embedded, a larger one is linked.

    English is the page that is signed; another of `languages.LANGUAGES` says of itself that it is a translation.
    """
    return page(
        "round.html.j2",
        {"r": report, "picture": picture(sample_png), "sample_path": sample_path(report)},
        language,
    )
