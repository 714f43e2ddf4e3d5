"""The one error that is the fault of the archive. Anything else is ours, and worth another try."""


class InvalidArchive(Exception):
    """The archive cannot be used. The message is for a course team: what is wrong, and what to do about it."""


def printable(text: str, limit: int = 120) -> str:
    """Text from an archive, safe in a message: no control characters, no broken Unicode, not endless."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
