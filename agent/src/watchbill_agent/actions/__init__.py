"""What root lets be run on this host: listed for people, told to the collector, handed to the runner."""
