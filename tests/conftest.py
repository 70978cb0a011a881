"""Settings for all lanes: a generated example that fails today fails tomorrow, too; who is interrupted, ends."""

import signal

from hypothesis import settings

settings.register_profile("meshnet", derandomize=True, deadline=None, database=None)
settings.load_profile("meshnet")

# A shell without job control has what it starts in the background ignore Ctrl-C, and so all that tests start there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
