"""Nearest texts: exact in memory, and stores."""
