"""Web servers: a page on which a person looks at masks, and the versions of a store to fetch."""
