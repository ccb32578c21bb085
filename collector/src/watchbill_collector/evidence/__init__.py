"""Evidence: a signed archive of what a run, or a time, was; made by the collector, checked by anybody, anywhere.

`archive` packs and signs, `follow` says what follows from a journal, `chains` checks the chains of hashes, `votes` what
people signed, `controls` names what auditors ask for, `verify` does all of the checking. Nothing here reads a
clock, a disk or the collector: what an archive proves has to follow from the archive and the keys it is held against.
"""
