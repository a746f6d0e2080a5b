"""Trainings that clients asked for: one at a time, in a process of their own, never lost."""
