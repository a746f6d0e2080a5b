"""The root of what a person can be told without a traceback."""


class UserError(Exception):
    """Something the user can put right: one sentence that says what, and exit code 2.

    Each package derives its own from it; `verse.cli` is the one place that prints them.
    """
