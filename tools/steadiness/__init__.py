"""Making a cache: what it will hold, what it takes, and the shards."""
