"""The one exception that becomes a message instead of a traceback."""


class BaseImageError(Exception):
    """Something the user can act on; the text says what and where."""
