"""The fixed texts of a report in other languages: one catalogue for each, keyed by the English text.

The signed JSON and the signed page are English. A page in another language is a rendering of the same signed JSON:
what a template says is looked up word for word, and what the report says (the verdict, the reasons, the provisions) is
matched with the English texts of the catalogue, whose placeholders stand for names and figures. A text that the
catalogue does not know, such as what a person typed, stays as it is and is marked as English.

A placeholder is `%(name)s`. In a text from a report it stands for anything; where what it stands for is a text of the
catalogue itself, it is translated too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from markupsafe import Markup

Language = Literal["en", "de"]
LANGUAGES: tuple[str, ...] = get_args(Language)
PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_DEEPEST = 4
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def _key(text: str) -> str:
    """Lines of a template may break anywhere."""
    return " ".join(text.split())


def _pattern(text: str) -> re.Pattern[str]:
    """The texts that `text` stands for, with a group for every placeholder."""
    parts = PLACEHOLDER.split(text)
    seen: set[str] = set()
    out = []
    for index, part in enumerate(parts):
        if index % 2 == 0:
            out.append(re.escape(part))
        else:
            out.append(f"(?P={part})" if part in seen else f"(?P<{part}>.+?)")
            seen.add(part)
    return re.compile("".join(out) + r"\Z", re.DOTALL)


@dataclass(frozen=True)
class Catalogue:
    """One language's texts: English -> translation, and those with placeholders as patterns, longest text first."""

    language: str
    texts: Mapping[str, str]
    patterns: tuple[tuple[re.Pattern[str], str], ...]

    def fixed(self, english: str) -> str:
        """The translation of a text that a template holds; the English where there is none."""
        return self.texts.get(_key(english), english)

    def said(self, english: str, depth: int = 0) -> str | None:
        """The translation of a text that a report holds, its placeholders filled in; None where there is none."""
        text = _key(english)
        if (exact := self.texts.get(text)) is not None:
            return exact if PLACEHOLDER.search(exact) is None else None
        if depth >= _DEEPEST:
            return None
        for pattern, translation in self.patterns:
            if (found := pattern.match(text)) is not None:
                inner = {name: self._filled(name, value, depth) for name, value in found.groupdict().items()}
                return PLACEHOLDER.sub(lambda place, inner=inner: inner[place.group(1)], translation)  # type: ignore[misc]
        return None

    def _filled(self, name: str, value: str, depth: int) -> str:
        """What a placeholder stands for: `names...` is a list in prose, anything else may be a text of its own."""
        if not name.startswith("names"):
            return self.said(value, depth + 1) or value
        words = [self.texts.get(word, word) for word in re.split(r", | and ", value)]
        if " and " not in value:
            return ", ".join(words)
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {self.fixed('and')} {words[-1]}"


@cache
def catalogue(language: str) -> Catalogue:
    """The catalogue shipped for `language`; an empty one for English, whose texts are the keys."""
    if language == "en":
        return Catalogue("en", {}, ())
    if language not in LANGUAGES:
        raise ValueError(f"there is no catalogue for {language!r}; there are {', '.join(LANGUAGES)}")
    text = (files("fedgan_audits") / "translations" / f"{language}.toml").read_text(encoding="utf-8")
    texts = {_key(english): translation for english, translation in tomllib.loads(text)["texts"].items()}
    with_places = sorted((key for key in texts if PLACEHOLDER.search(key)), key=_weight, reverse=True)
    return Catalogue(language, texts, tuple((_pattern(key), texts[key]) for key in with_places))


def _weight(text: str) -> int:
    """How much of a text is fixed: what says more is tried first."""
    return len(PLACEHOLDER.sub("", text))


class Voice:
    """What the templates call to speak one language; in English every text stays as it is."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._catalogue = catalogue(language)

    def say(self, english: str, **values: object) -> str:
        """A fixed text of the catalogue with its placeholders filled in."""
        return PLACEHOLDER.sub(lambda place: str(values[place.group(1)]), self._catalogue.fixed(english))

    def word(self, text: object) -> str:
        """A word or figure of a report, such as "PASS" or "1.53"."""
        return str(text) if self.language == "en" else self._catalogue.said(str(text)) or str(text)

    def text(self, text: str) -> str | Markup:
        """A sentence of a report; one that the catalogue does not know is marked as English."""
        if self.language == "en":
            return text
        found = self._catalogue.said(text)
        return found if found is not None else Markup('<span lang="en">{}</span>').format(text)

    def lower_first(self, text: str) -> str:
        """`text` inside a sentence: "Round 2" is "round 2" in English, and "Runde 2" stays."""
        return type(text)(text[:1].lower() + text[1:]) if self.language == "en" else text

    def count(self, number: int) -> str:
        """A whole number with its thousands set apart."""
        return f"{number:,}" if self.language == "en" else f"{number:,}".replace(",", "\u202f")

    def one_in(self, probability: str) -> str:
        """ "1 in 10,000" for "0.0001"."""
        return self.say("1 in %(count)s", count=self.count(round(1 / float(probability))))

    def in_hospitals(self, count: int) -> str:
        """ "one hospital" or "up to 3 hospitals"."""
        return self.say("one hospital") if count == 1 else self.say("up to %(count)s hospitals", count=count)

    def spent_of(self, spent: str, budget: str | None) -> str:
        """What a meter shows."""
        if not budget:
            return self.say("Spent %(spent)s", spent=self.word(spent))
        return self.say("Spent %(spent)s of %(budget)s", spent=self.word(spent), budget=budget)

    def period(self, started: datetime, ended: datetime) -> str:
        """From when to when, UTC; a day that is the same is said once."""
        last = f"{ended:%H:%M}" if started.date() == ended.date() else self._moment(ended)
        return self.say("%(start)s to %(end)s UTC", start=self._moment(started), end=last)

    def _moment(self, moment: datetime) -> str:
        month = self.say(_MONTHS[moment.month - 1])
        return self.say(
            "%(day)s %(month)s %(year)s, %(time)s",
            day=moment.day,
            month=month,
            year=moment.year,
            time=f"{moment:%H:%M}",
        )
