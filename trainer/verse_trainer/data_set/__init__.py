"""The poet's texts on their way to rows that can be learned: `verse data`."""
