"""The one error that is the user's to mend, and what is said of files that are read in part."""

from __future__ import annotations


class InputError(ValueError):
    """The user asked for something that cannot be done; the message says what to change.

    The command line prints the message without a traceback and exits with status 2.
    """


class MeshWarning(UserWarning):
    """A mesh file holds what is left out, or read in another way than it is meant."""
