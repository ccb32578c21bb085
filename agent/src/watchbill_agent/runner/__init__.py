"""The root executor: runs what an administrator allowed on this host, and nothing else. Not built yet."""
