"""The stock pack: rule files that come with the collector, for hosts as they are.

They are plain rule files under `stock/`. `watchbill-collector init` and the demo load them; an operator may
copy one into `rules.d/` and change it, and leave the original out.
"""

from importlib import resources

from watchbill_collector.rules.files import Source

PREFIX = "stock/"


def stock_sources() -> list[Source]:
    """The files of the pack, named `stock/NAME.yml`."""
    folder = resources.files(__package__).joinpath("stock")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yml"))
    return [Source(PREFIX + name, folder.joinpath(name).read_bytes()) for name in names]
