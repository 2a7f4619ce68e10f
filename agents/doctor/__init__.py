"""Looks at a machine and says what would keep an agent from working there. Changes nothing; never hangs.

finding     what a check says: ok, warning, failed or skipped, what was found, and what to do
subject     whose machine it is: role, folders, invitation, way out
machine     clock, disk, memory, engine
network     port and host key
papers      invitation and keys
holdout     the coordinator's images, or a site's
versions    Python and packages against the lock
examine     all of them, each in bounded time
"""
