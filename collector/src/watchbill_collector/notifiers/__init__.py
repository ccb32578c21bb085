"""Channels: how a notice reaches a person or another system.

`notice.py` says what is sent. Each file of `channels/` is one kind of channel and knows nothing of its siblings.
"""
