"""The clock that limits are counted by: it only goes forward, in seconds, the same for all processes of a machine.

A wall clock is set: by a person, by NTP, by a virtual machine that wakes up. By such a clock, one that was a day ahead
for a minute would refuse keys for a day, and one that jumps ahead would open every window. The wall clock is for what
people agreed on by the calendar: months and expiry.
"""

from __future__ import annotations

import sys
import time

if sys.platform == "linux":

    def forward_s() -> float:
        """Since the machine started, times of sleep included (CLOCK_BOOTTIME)."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def forward_s() -> float:
        """Where it stands still while the machine sleeps, a window lasts so much longer."""
        return time.monotonic()
