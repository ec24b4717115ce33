"""The other faults by name, one of each.

Each is ``fault(place, expected, pace, say)``: the suite's folder, what an undisturbed run left, how
long its parts took, and how to tell people. It returns a list of lines about what was not survived,
or a text: why it could not be tried.
"""

from . import cuts, disk, server, together

FAULTS = {
    "cuts": cuts.cuts,
    "full disk": disk.full,
    "read-only": disk.read_only,
    "server away": server.away,
    "server gone": server.gone,
    "two at once": together.two,
    "clock back": together.clock,
}
