"""The nouns all parts of Verse share: prompts, poems, adapter folders, the base model."""


class UserError(Exception):
    """Something the user can put right: one sentence that says what, and exit code 2.

    Each package derives its own from it; `verse.cli` is the one place that prints them.
    """
