from verse_clients.decisions.tallies import overall, wilson


def test_wilsons_interval_matches_the_published_example() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_no_decision_leaves_everything_open() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert overall([]) == ("all", 0, 0, 0)
