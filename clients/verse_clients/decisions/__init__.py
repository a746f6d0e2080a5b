"""What the poet decided, and about what: read by all who learn from it.

items     one poem as a file presents it
sources   the files that hold poems      -> items
journal   the file that holds decisions  -> entries
replay    entries -> what counts now
tally     what counts -> how often each source was accepted
exports   entries -> training files and a book

`verse curate` is the one that writes decisions. Names below import those above them at most.
"""
