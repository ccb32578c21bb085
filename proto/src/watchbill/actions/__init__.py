"""What may be run on a host, what asks for it, and who agreed: read and judged alike by runner, agent and collector.

Standard library and PyNaCl only: root's executor imports this and nothing else.
"""
