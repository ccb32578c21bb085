"""Disks: requests, bytes and time of each block device, and what udev knows about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import truediv

from watchbill_agent.hostpaths import read_text
from watchbill_agent.names import NameFilter
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)
from watchbill_agent.words import Places, Words, number, shown

SECTOR_BYTES = 512
"""The kernel counts in these whatever the device's own sectors are."""
_SECTORS = 1 / SECTOR_BYTES
_MS = 1000

_COUNTER, _GAUGE = MetricType.COUNTER, MetricType.GAUGE


def _field(name: str, text: str, divisor: float = 1, kind: MetricType = _COUNTER) -> tuple[Family, float]:
    return Family(f"node_disk_{name}", kind, text), divisor


_FIELDS = (
    _field("reads_completed_total", "Reads completed."),
    _field("reads_merged_total", "Reads merged into another."),
    _field("read_bytes_total", "Bytes read.", _SECTORS),
    _field("read_time_seconds_total", "Seconds spent by all reads.", _MS),
    _field("writes_completed_total", "Writes completed."),
    _field("writes_merged_total", "Writes merged into another."),
    _field("written_bytes_total", "Bytes written.", _SECTORS),
    _field("write_time_seconds_total", "Seconds spent by all writes.", _MS),
    _field("io_now", "Requests under way.", kind=_GAUGE),
    _field("io_time_seconds_total", "Seconds with requests under way.", _MS),
    _field("io_time_weighted_seconds_total", "Seconds under way, summed over all requests.", _MS),
    # Since Linux 4.18.
    _field("discards_completed_total", "Discards completed."),
    _field("discards_merged_total", "Discards merged into another."),
    _field("discarded_sectors_total", "Sectors of 512 bytes discarded."),
    _field("discard_time_seconds_total", "Seconds spent by all discards.", _MS),
    # Since Linux 5.5.
    _field("flush_requests_total", "Flushes completed."),
    _field("flush_requests_time_seconds_total", "Seconds spent by all flushes.", _MS),
)
_FIELDS_MIN = 11
_PARTITION_FIELDS = 4
"""What Linux 2.6.24 and older wrote for a partition."""

_INFO = Family("node_disk_info", _GAUGE, "What this block device is.")
_FILESYSTEM_INFO = Family("node_disk_filesystem_info", _GAUGE, "The filesystem on this block device.")
_MAPPER_INFO = Family("node_disk_device_mapper_info", _GAUGE, "The device mapper's name for this device.")
_ATA = {
    "ID_ATA_WRITE_CACHE": Family("node_disk_ata_write_cache", _GAUGE, "1 if the ATA disk has a write cache."),
    "ID_ATA_WRITE_CACHE_ENABLED": Family(
        "node_disk_ata_write_cache_enabled", _GAUGE, "1 if the ATA disk's write cache is on."
    ),
    "ID_ATA_ROTATION_RATE_RPM": Family(
        "node_disk_ata_rotation_rate_rpm", _GAUGE, "Turns a minute of the ATA disk, 0 for a solid one."
    ),
}
_LOOK_AGAIN_S = 60.0
"""How old what udev knows may be: a new filesystem changes it without changing /proc/diskstats."""

Udev = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`device_exclude` and `device_include` are regular expressions; the second, where set, decides alone."""

    device_exclude: str = r"^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$"
    device_include: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """One row of the table."""

    name: str
    major: str
    minor: str


class Diskstats(Sampler):
    """Reads /proc/diskstats, /sys/block/*/queue/rotational and udev's database."""

    name = "diskstats"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._host = host
        self._filter = NameFilter.of("diskstats", options, include="device_include", exclude="device_exclude")
        self._file = host.hot_proc("diskstats")
        self._disks: list[Disk] = []
        self._places: Places | None = None
        self._divisors: list[float] = []
        self._infos: list[tuple[Family, Series, float]] = []
        self._info_values: list[float] = []
        self._looked_at_s = 0.0
        self._layout = Layout((), ())

    def sample(self) -> Reading:
        """Up to seventeen values for each disk, and its infos."""
        data = self._file.read()
        words = data.split()
        now_s = self._host.clock.monotonic_s()
        values = self._places.values(words) if self._places else None
        if values is None:
            self._disks, self._places, self._divisors = learn(data, words, self._filter)
            values = self._places.values(words)
            assert values is not None, "what was just learnt can be read"
            self._look(now_s, force=True)
        elif now_s - self._looked_at_s >= _LOOK_AGAIN_S:
            self._look(now_s)
        # Divided, not multiplied by 0.001: 1234 ms are 1.234 s, and not 1.2340000000000002 s.
        numbers = list(map(truediv, values, self._divisors))
        return Reading(self._layout, numbers + self._info_values)

    def _look(self, now_s: float, *, force: bool = False) -> None:
        """Ask udev and /sys; a new layout only if they say something new."""
        assert self._places is not None
        infos = [info for disk in self._disks for info in self._infos_of(disk)]
        self._looked_at_s = now_s
        if infos == self._infos and not force:
            return
        self._infos = infos
        self._info_values = [value for _, _, value in infos]
        families = dict.fromkeys(family for family, _, _ in infos)
        self._layout = Layout(
            [*self._places.layout.families, *families],
            [*self._places.layout.series, *(series for _, series, _ in infos)],
        )

    def _infos_of(self, disk: Disk) -> Sequence[tuple[Family, Series, float]]:
        try:
            udev = parse_udev(read_text(self._host.udev / f"b{disk.major}:{disk.minor}"))
        except SamplerFailed:
            udev = {}
        try:
            # The kernel writes a slash of a disk's name (cciss/c0d0) as an exclamation mark here.
            rotational = read_text(
                self._host.sys / "block" / disk.name.replace("/", "!") / "queue/rotational"
            )
        except SamplerFailed:
            rotational = "0"  # A partition, which node_exporter says too.
        return infos(disk, udev, rotational)


def learn(data: bytes, words: Words, devices: NameFilter) -> tuple[list[Disk], Places, list[float]]:
    """The wanted disks, where their values stand among all the words, and what to divide each by.

    A row is major, minor, name and 11, 15 or 17 numbers, by the kernel's age. The name may hold spaces, so it
    is what stands before the numbers, and all rows have as many numbers as the one that has least.
    """
    rows = [row for row in map(bytes.split, data.splitlines()) if row]
    if not rows:
        raise SamplerFailed("diskstats", "names no disk")
    new_rows = [row for row in rows if len(row) != 3 + _PARTITION_FIELDS]
    count = min((trailing_numbers(row) for row in new_rows), default=0)
    if new_rows and count < _FIELDS_MIN:
        bad = min(new_rows, key=trailing_numbers)
        raise SamplerFailed(
            "diskstats", f"wanted a disk and {_FIELDS_MIN} numbers, got {shown(b' '.join(bad))}"
        )
    disks: dict[str, Disk] = {}
    names_at: list[int] = []
    values_at: list[int] = []
    divisors: list[float] = []
    families = _FIELDS[:count]
    series: list[Series] = []
    at = 0
    for row in rows:
        name_ends = len(row) - (count if len(row) != 3 + _PARTITION_FIELDS else _PARTITION_FIELDS)
        number(row[0], "diskstats", "major")
        number(row[1], "diskstats", "minor")
        name = b" ".join(row[2:name_ends]).decode("utf-8", "replace")
        names_at += range(at, at + name_ends)
        if len(row) != 3 + _PARTITION_FIELDS and devices.keeps(name) and name not in disks:
            disks[name] = Disk(name, row[0].decode(), row[1].decode())
            values_at += range(at + name_ends, at + name_ends + len(families))
            series += [Series(family.name, labels(device=name)) for family, _ in families]
            divisors += [divisor for _, divisor in families]
        at += len(row)
    layout = Layout([family for family, _ in families] if disks else (), series)
    return list(disks.values()), Places(layout, words, names_at, values_at), divisors


def trailing_numbers(row: Sequence[bytes]) -> int:
    """How many numbers end a row, its first three words never counted: the shortest name is one word."""
    count = 0
    for word in reversed(row[3:]):
        if not word.isdigit():
            break
        count += 1
    return count


def parse_udev(text: str) -> dict[str, str]:
    """The properties of one device in udev's database: the lines `E:NAME=VALUE`."""
    properties = {}
    for line in text.splitlines():
        name, found, value = line.removeprefix("E:").partition("=")
        if found and line.startswith("E:"):
            properties[name] = value
    return properties


def infos(disk: Disk, udev: Udev, rotational: str) -> list[tuple[Family, Series, float]]:
    """What is known about a disk: always what it is, and what udev says of filesystem, mapper and ATA."""
    name = disk.name
    serial = udev.get("SCSI_IDENT_SERIAL") or udev.get("ID_SERIAL_SHORT") or udev.get("ID_SERIAL", "")
    known = [
        (
            _INFO,
            labels(
                device=name,
                major=disk.major,
                minor=disk.minor,
                path=udev.get("ID_PATH", ""),
                wwn=udev.get("ID_WWN", ""),
                model=udev.get("ID_MODEL", ""),
                serial=serial,
                revision=udev.get("ID_REVISION", ""),
                rotational=rotational,
            ),
            1.0,
        )
    ]
    if filesystem := udev.get("ID_FS_TYPE"):
        pairs = labels(
            device=name,
            type=filesystem,
            usage=udev.get("ID_FS_USAGE", ""),
            uuid=udev.get("ID_FS_UUID", ""),
            version=udev.get("ID_FS_VERSION", ""),
        )
        known.append((_FILESYSTEM_INFO, pairs, 1.0))
    if mapper := udev.get("DM_NAME"):
        pairs = labels(
            device=name,
            name=mapper,
            uuid=udev.get("DM_UUID", ""),
            vg_name=udev.get("DM_VG_NAME", ""),
            lv_name=udev.get("DM_LV_NAME", ""),
            lv_layer=udev.get("DM_LV_LAYER", ""),
        )
        known.append((_MAPPER_INFO, pairs, 1.0))
    if udev.get("ID_ATA"):
        for key, family in _ATA.items():
            try:
                known.append((family, labels(device=name), float(udev[key])))
            except (KeyError, ValueError):
                continue
    return [(family, Series(family.name, pairs), value) for family, pairs, value in known]
