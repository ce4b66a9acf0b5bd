"""Stop signals wait for the main thread, whatever processes and threads the node starts."""

from __future__ import annotations

import subprocess
import sys

from tests.support_study import ROOT

NODE = """
import multiprocessing, os, signal, threading, time
from app.signals import block_stop_signals, stop_asked
from tests.support_signals import letting_through

if __name__ == "__main__":
    block_stop_signals()
    spawn = multiprocessing.get_context("spawn")
    spawn.Lock()
    child = spawn.Process(target=time.sleep, args=(0,))
    child.start()
    child.join()
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    os.kill(os.getpid(), signal.SIGTERM)
    print(not letting_through(os.getpid()), stop_asked(5.0), flush=True)
    os._exit(0)
"""


def test_child_processes_let_no_stop_signal_through(tmp_path):
    script = tmp_path / "node.py"
    script.write_text(NODE)
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.split() == ["True", "True"]


def test_the_command_line_starts_no_thread_before_it_holds_them_back():
    look = "import app.cli, os, sys; print(len(os.listdir('/proc/self/task')), 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
