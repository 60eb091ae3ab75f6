"""Tables of results: the paper's experiments and ours, and the methods they are compared with."""
