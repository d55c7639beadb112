#!/usr/bin/env python3
"""Start, stop, and the conversation with systemd: READY, STATUS, WATCHDOG, RELOADING, STOPPING; the lock; the
three processes; the exit of each kind."""
import os
import signal
import subprocess

import harness
from harness import Daemon, equal, expect, wait_until


def three_processes_start_and_nothing_is_left():
    with Daemon() as d:
        expect(d.role("gate"), "a gate process")
        d.ctl("load", "demo")
        expect(d.role("worker"), "a worker process")
        equal(d.ctl("generate", "demo", "--tokens", "1,2,3", "-n", "5", "--temperature", "0", "--print-tokens")
              .stdout.count(","), 4, "commas between five ids")


def systemd_hears_ready_status_watchdog_reloading_stopping():
    d = Daemon({"demo": {"preload": True}})
    os.environ["WATCHDOG_USEC"] = "2000000"
    try:
        d.start()
        equal(d.ctl_json("list")["variants"][0]["state"], "resident", "preload is done when READY is said")
        expect(any("STATUS=" in m for m in d.messages), "a STATUS line")
        d.wait_message("WATCHDOG=1", 5)
        d.process.send_signal(signal.SIGHUP)
        d.wait_message("RELOADING=1", 5)
        d.wait_message("READY=1", 5)
        d.process.send_signal(signal.SIGTERM)
        d.wait_message("STOPPING=1", 5)
        d.stop()
    finally:
        del os.environ["WATCHDOG_USEC"]
        d.kill()
        d.__exit__(None)


def watchdog_is_silent_while_the_step_loop_hangs():
    d = Daemon()
    os.environ["WATCHDOG_USEC"] = "1000000"
    try:
        d.start()
        d.ctl("load", "demo")
        d.wait_message("WATCHDOG=1", 5)
        worker = d.role("worker")
        os.kill(worker, signal.SIGSTOP)
        harness.time.sleep(4)
        before = len(d.messages)
        harness.time.sleep(2)
        equal([m for m in d.messages[before:] if "WATCHDOG=1" in m], [], "messages while the worker stands still")
        os.kill(worker, signal.SIGCONT)
        d.wait_message("WATCHDOG=1", 10)
        d.stop()
    finally:
        del os.environ["WATCHDOG_USEC"]
        d.kill()
        d.__exit__(None)


def a_second_daemon_is_refused_by_the_lock():
    with Daemon() as d:
        second = subprocess.run([str(harness.BUILD / "mamba2d"), "--config", str(d.config_path), "--runtime-dir",
                                 str(d.runtime), "--state-dir", str(d.directory / "state2")],
                                capture_output=True, text=True, timeout=30)
        expect(second.returncode != 0, "the second daemon ends with an error")
        expect(str(d.process.pid) in second.stderr, f"its message names the first one's pid: {second.stderr}")
        equal(d.ctl_json("status")["version"][:1], "0", "the first one still answers")


def an_ordinary_user_needs_no_path():
    """Everything under XDG directories, nothing but environment variables."""
    d = Daemon()
    d.directory.chmod(0o700)
    home = d.directory
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(home / "xr"), XDG_STATE_HOME=str(home / "xs"),
                       XDG_CONFIG_HOME=str(home / "xc"), HOME=str(home))
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "MAMBA2_RUNTIME_DIR"):
        environment.pop(name, None)
    (home / "xr").mkdir(mode=0o700)
    (home / "xc/mamba2d/variants").mkdir(parents=True)
    (home / "xc/mamba2d/variants/demo.yaml").write_text((d.variants / "demo.yaml").read_text())
    build = harness.BUILD
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if user:
        for path in [home, *home.rglob("*")]:
            os.chown(path, 65534, 65534)
    process = subprocess.Popen([*user, str(build / "mamba2d")], env=environment, stderr=subprocess.PIPE,
                               stdin=subprocess.DEVNULL)
    try:
        # mamba2ctl waits for the daemon by itself
        result = subprocess.run([*user, str(build / "mamba2ctl"), "generate", "demo", "--tokens", "1,2", "-n", "3",
                                 "--temperature", "0", "--print-tokens"], env=environment, capture_output=True,
                                text=True, timeout=60)
        equal(result.returncode, 0, f"generate: {result.stderr}")
        expect((home / "xs/mamba2d/registry.sqlite").exists(), "the registry is under XDG_STATE_HOME")
        process.terminate()
        equal(process.wait(30), 0, "exit status")
    finally:
        if process.poll() is None:
            process.kill()
        process.stderr.close()
        harness.shutil.rmtree(home, ignore_errors=True)


def sigterm_lets_running_requests_finish():
    with Daemon({"demo": {"slots": 4}}) as d:
        d.ctl("load", "demo")
        running = subprocess.Popen([str(harness.BUILD / "mamba2ctl"), "--runtime-dir", str(d.runtime), "generate",
                                    "demo", "--tokens", "1,2,3", "-n", "400", "--ignore-eos", "--temperature", "0",
                                    "--print-tokens"], stdout=subprocess.PIPE, text=True)
        wait_until(lambda: d.segments(), 10, "the request runs")
        d.process.terminate()
        out, _ = running.communicate(timeout=60)
        equal(out.count(","), 399, "commas between all 400 ids, in spite of SIGTERM")


def bad_options_are_one_sentence():
    for args, word in ((["--cpu-threads", "many"], "cpu-threads"), (["--runtime-dir", "/" + "x" * 200], "107"),
                       (["--log-level", "loud"], "log-level")):
        result = subprocess.run([str(harness.BUILD / "mamba2d"), *args], capture_output=True, text=True, timeout=20)
        expect(result.returncode != 0, f"{args} is refused")
        expect(word in result.stderr, f"{args}: the message names it: {result.stderr}")


harness.main(three_processes_start_and_nothing_is_left, systemd_hears_ready_status_watchdog_reloading_stopping,
             watchdog_is_silent_while_the_step_loop_hangs, a_second_daemon_is_refused_by_the_lock,
             an_ordinary_user_needs_no_path, sigterm_lets_running_requests_finish, bad_options_are_one_sentence)
