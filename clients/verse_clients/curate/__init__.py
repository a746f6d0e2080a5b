"""`verse curate`: the poet decides, by keyboard, and nothing is lost.

store     the journal of decisions on the disk, written
session   queue, cursor, decisions, undo; pure, with no window
view      the windows; tkinter lives there and nowhere else

What is read, and what decisions become, stands in `verse_clients.decisions`.
"""
