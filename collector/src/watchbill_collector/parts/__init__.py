"""The parts of a running collector, a file each: what a part is made of, when it waits, what it does when all are open.

`app` opens them one after the other and knows their order. A part

1. is made with the ground and with the parts opened before it that it needs (the import contract `parts know those
   opened before them` holds the order): making it builds its objects, and may read files, since nobody is served yet;
2. is `open`ed: here it may wait, for a thread, a file, a port;
3. is told to `begin` once all parts are open: here its loops are started, by `ground.house.spawn` or `ground.every`.

What has to be closed is pushed onto `ground.stack` at the line that opened it, so that a start that fails half-way
closes what it had opened, and a stop closes in reverse.

A new subsystem is a file here, a line in `app` and its name in the contract. It registers its metrics in
`ground.metrics`, follows hosts by `HostChanges.follow` and alerts by `Judging.follow`, and hands its service for the
API to `Front`. What it does at a reload is a line in `app`, since there the order is the point.
"""
