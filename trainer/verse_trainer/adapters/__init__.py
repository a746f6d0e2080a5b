"""Adapter folders in the poet's hands: `verse adapters`.

names     which folder and which weights a spelling means
factors   an adapter's update, read from either dialect
convert   mlx-lm <-> PEFT, with a check on random input
fuse      base and adapter as one model
listing   what is there
compare   poems of several adapters side by side
remove    out of the way, never lost
"""
