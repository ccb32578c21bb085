"""Ingest: what agents send, checked, counted and committed; what comes in is acknowledged only after that.

`grpc_server` moves bytes, `session` judges the frames of one connection, `dictionaries` turns series
dictionaries into series, `agents` remembers each agent between its sessions, `commit` gathers everything into
few transactions, `liveness` makes `up`, and `ingest` is the whole of it behind one object. `ports` says what
it needs of others.
"""
