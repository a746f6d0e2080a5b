"""`verse refine`: from an adapter to the next one, by what the poet decides.

plan        what a round is asked to do                     plan.toml
steps       plan -> commands with what they read and make
record      what was run                                    round.json
progress    steps and record -> what is done, what is next
again       what becomes of an adapter that is trained once more
runner      runs a step's commands as processes
rounds      puts these together for one folder

guard       what must never be learned
selection   whose turn it is, when not all may be learned
convert     decisions -> the next training set
filtering   candidates -> those worth reading
compare     the old adapter beside the new one
commands    the three above on files

All but runner, rounds and commands are pure, apart from reading and writing their own file.
"""
