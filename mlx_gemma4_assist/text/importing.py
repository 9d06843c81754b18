"""transformers takes a second to import: it is imported when it is needed, by one thread at a time.

Its modules find their classes when these are first asked for, which two threads may not do at once.
"""

from threading import RLock

one_at_a_time = RLock()
