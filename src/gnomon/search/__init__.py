"""Nearest texts: exact, in memory."""
