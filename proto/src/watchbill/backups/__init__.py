"""What both ends agree on about backups: what a job is judged by (`definition`), what is told of its runs and of the
repository (`record`), and when it is due (`schedule`).

Hosts tell it as critical events; the collector judges it. No clock, no I/O.
"""
