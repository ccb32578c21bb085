"""What this host knows of its backups: which jobs there are, how their runs went, what is in their repositories.

    backups.d/*.toml -> config -> service (in the daemon) -> child (short-lived) -> adapter -> the tool
                                        |                        |
                                        +------- records --------+--> crit -> the collector, which judges

The daemon imports no adapter, no cron reader and nothing of a tool's: what knows those are children that end.
"""
