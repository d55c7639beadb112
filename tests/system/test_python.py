#!/usr/bin/env python3
"""The Python package against the real daemon: runs python_client.py beside a daemon with the demo model."""
import os
import subprocess
import sys

import harness

with harness.Daemon({"demo": {"preload": True}}) as daemon:
    done = subprocess.run([sys.executable, "-B", str(harness.ROOT / "tests/system/python_client.py"), "demo"], check=False,
                          env=dict(os.environ, MAMBA2_RUNTIME_DIR=str(daemon.runtime)), timeout=300 * harness.SLOW)
sys.exit(done.returncode)
