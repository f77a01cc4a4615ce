"""Results to read: one page that needs nothing beside it, and a table for a README."""

from __future__ import annotations

from gnomon.evaluate.report.page import html, markdown

__all__ = ["html", "markdown"]
