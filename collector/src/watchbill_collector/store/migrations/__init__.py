"""The way from every released schema to this one, one file a step."""
