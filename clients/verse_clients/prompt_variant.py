"""Ways to ask for a poem: a line of text in which `{theme}` stands for the theme."""

PLACE = "{theme}"


def filled(variant: str | None, theme: str) -> str:
    """What the user's turn says; None, or a variant with no place for it, is the theme alone."""
    if variant is None or PLACE not in variant:
        return theme
    return variant.replace(PLACE, theme)
