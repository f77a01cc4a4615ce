"""Texts for tests of clients: without line ends and blanks around them, which some clients change."""

TEXTS = [
    "The museum opens at nine.",
    "Store the cells dry and cool.",
    "die Katze schläft 🐈 auf dem Sofa",
    "a",
    "The museum opens at nine.",
    "日本語のテキスト",
    " ".join(f"word {number}" for number in range(400)),
]
"""The last is longer than the models read; two are equal."""

LINES = ["first line\nsecond line", "one\ntwo\nthree"]
"""What some clients put on one line."""
