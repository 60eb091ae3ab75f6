"""The methods that the paper compares with, one file each, written from their papers.

Each is a `Method`: it sees one clip with its proposals, and gives scored masks of every frame.
`experiments.training_masks` makes training sets of them, `experiments.paper` the tables.
"""
