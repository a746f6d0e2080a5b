"""Talk to a server: write poems in bulk, judge them, let the poet decide, feed the next round."""
