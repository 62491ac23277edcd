"""One file for each entry point, and the shell around them."""

import os

# GNU OpenMP, which torch computes with on Linux, lets idle threads spin by default. That costs nothing on a quiet
# machine, but makes decoding ten times slower beside another busy process. A short spin costs 3 %, and keeps that to
# twice or three times.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
