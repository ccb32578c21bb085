"""What Watchbill's agents and its collector agree on, and what both stand on."""

__version__ = "0.1.0"
