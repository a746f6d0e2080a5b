"""Let judges order poems, and tell how far their order is this poet's.

cli        the command line and its options
run        one call of `verse judge`, from files to a file
pipeline   what the judges are asked, stage by stage, and what the answers amount to
judges     who they are: from names on the command line to servers and prices
client     asks one judge, in the form its server takes
prompts    the judge's instructions, and one question with the key of its answer
replies    the answer's form, and reading it; prose reads an answer in words
judgments  the answers on the disk, never asked for twice
costs      what a call costs, and limits that hold
ranking    orders into strengths, ranks and intervals; which poems to compare next
ranked     the file that comes out, and the weights of the criteria
metrics    AUC, kappa, consistency: how well a number stands for the poet's verdicts
report     all of them together, in tables; plots draws it
calibrate  weights of the criteria from the poet's decisions
"""
