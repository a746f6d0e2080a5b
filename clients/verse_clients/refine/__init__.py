"""`verse refine`: from an adapter to the next one, by what the poet decides.

plan        what a round is asked to do                             plan.toml
steps       plan -> commands with what they read and make
record      what was run, and so what is done and what is next      round.json
runner      runs a step's commands as processes, also once more
rounds      puts these together for one folder

convert     decisions -> the next training set
compare     the old adapter beside the new one
files       reads and writes what these work on
commands    filter, convert and compare on files, with their reports

All but runner, rounds, files and commands are pure, apart from reading and writing their own file.
"""
