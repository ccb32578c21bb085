"""The page: bundled from collector/page at build, served as files."""
