"""`verse report`: how the rounds fare, by what the poet decided.

gather    round folders and files of decisions  -> rounds
verdict   blind decisions                       -> which checkpoint is best
figures   rounds                                -> tallies, measures, warnings
plots     figures                               -> SVG
pages     figures and plots                     -> Markdown, HTML

Names below import those above them at most.
"""
