"""Let judges order poems, and tell how far their order is this poet's.

cli          reads the command line
session      one call of `verse judge`, from files to a file
filters      what needs no model to be left out
prompt_files the judge's instructions, versioned, in Chinese and English
questions    one question to a judge: what it sees, and the key of the answer
replies      the answer's form, and reading it
asking       asks one judge; dialect knows the forms that servers take
panel        who the judges are
court        what they are asked, stage by stage
judgments    the answers on the disk, never asked for twice
budget       stops before a limit; pricing knows what a call costs
comparisons  which poems a judge should order next
fit          orders into strengths, with intervals
ranking      everything together: score, rank, interval; assemble makes the rows
ranked       the file that comes out; json_file reads and writes it
figures      AUC, kappa, bootstrap
agreement    how well a number stands for the poet's verdicts
consistency  how often a judge takes the first, or contradicts itself
report       both together; report_tables and plots show it
calibrate    weights of the criteria from the poet's decisions
"""
