"""The agent as a whole: what it starts, in which order, and how it stops without touching a guest."""
