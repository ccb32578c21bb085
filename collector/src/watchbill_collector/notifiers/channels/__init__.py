"""The kinds of channels, one file each; the file name is the kind."""
