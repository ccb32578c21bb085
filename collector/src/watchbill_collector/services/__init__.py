"""The parts of the collector as the HTTP side and the ingest want to see them: thin adapters, one a file.

Nothing here decides anything. `app.py` makes these and hands them over; nobody else imports them.
"""
