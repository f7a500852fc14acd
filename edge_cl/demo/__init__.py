"""`edge-cl demo`: handwritten digits, learnt on this machine without a network."""
