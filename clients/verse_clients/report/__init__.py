"""`verse report`: how the rounds fare, by what the poet decided.

gather    round folders and files of decisions  -> rounds
figures   rounds                                -> tallies, the best checkpoint, measures, warnings
pages     figures                               -> tables and plots, Markdown, HTML

Names below import those above them at most.
"""
