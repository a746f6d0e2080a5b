"""`verse curate`: the poet decides, by keyboard, and nothing is lost.

sources   the files that hold poems            ->  items
store     the journal of decisions on the disk ->  entries
replay    entries -> what counts now
session   queue, cursor, decisions, undo; pure, with no window
exports   entries -> training files and a book
view      the windows; tkinter lives there and nowhere else

Names to the left import those above them at most.
"""
