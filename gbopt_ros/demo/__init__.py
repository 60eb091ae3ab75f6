"""The demo: learn unseen objects from a recording without labels, measured before and after."""
