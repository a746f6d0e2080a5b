"""`verse generate`: poems in bulk, each on the disk before the next is asked for."""
