"""What ``wsss run`` has to live through, tried from outside: processes killed at any moment, files
cut short, a full disk, a tracking server that is away, two at once, a clock set back. After each,
the same command has to end with the same results, bit for bit, as if nothing had happened.

``make faults`` runs it; ``python -m tests.faults --help`` lists what can be set. Linux only.
"""
