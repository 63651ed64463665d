"""Pages that people read: rounds, roll-up, charts, languages and PDF, made from a report and from nothing else."""

from fedgan_audits.pages import index, languages, render, renderers, wording
from fedgan_audits.pages.curves import Point, Series, chart
from fedgan_audits.pages.languages import Voice
from fedgan_audits.pages.page import Page, Picture, Section, Table, render_page
from fedgan_audits.pages.printing import pdf
from fedgan_audits.pages.renderers import RENDERER

__all__ = [
    "RENDERER",
    "Page",
    "Picture",
    "Point",
    "Section",
    "Series",
    "Table",
    "Voice",
    "chart",
    "index",
    "languages",
    "pdf",
    "render",
    "render_page",
    "renderers",
    "wording",
]
