"""Tabletop: a seeded, simulated benchmark of seen and unseen objects (extra `sim`)."""
