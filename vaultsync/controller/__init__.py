"""Turns signals into passes: index, queue, reconcilers and their memory."""
