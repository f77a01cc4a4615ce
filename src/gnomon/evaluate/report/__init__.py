"""Results to read: one page that needs nothing beside it, and a table for a README."""

from __future__ import annotations

from gnomon.evaluate.report.page import render_html, render_markdown

__all__ = ["render_html", "render_markdown"]
