"""Two hosts, each a network namespace, train together, and lose a process, one host, the other."""

import contextlib
import os
import shutil
import subprocess
import time

import psutil
import pytest
from lab import metrics_of, plain
from lineage import ROOT, flags, load, story_file
from test_parallel import ENVIRONMENT, TORCHRUN, two_processes, weights

SETTINGS = {"steps": 160, "eval_every": 10, "max_new_tokens": 1, "dropout": 0.1}
PATIENCE = 600  # seconds after which a test that hangs ends
NAMES = {"first": "10.77.0.1", "second": "10.77.0.2"}
# A host has a name of its own, which leads to its address there as on the other.
BOOT = 'echo "$0" > /proc/sys/kernel/hostname && mount --bind "$1" /etc/hosts && shift && exec "$@"'


class Host:
    """A network namespace with one cable, `wire`, and an address on it."""

    def __init__(self, name, folder):
        self.name, self.folder, self.jobs = name, folder, []
        self.namespace, self.log = f"lineage-{os.getpid()}-{name}", folder / f"{name}.log"

    def command(self, *args):
        """The command line that runs `args` on this host."""
        inside = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", BOOT]
        return [*inside, self.name, self.folder / "names", *args]

    def start(self, *args):
        """torchrun's line, the same on every host."""
        line = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
        line += ["--rdzv-backend=c10d", "--rdzv-endpoint=first:29400"]
        line += ["--rdzv-conf=keep_alive_interval=1"]  # a host silent for three of these is lost
        command = self.command(*line, ROOT / "v3.py", *map(str, args))
        environment = {**os.environ, **ENVIRONMENT}
        with open(self.log, "a", encoding="utf-8") as file:
            self.jobs.append(
                subprocess.Popen(
                    command, stdout=file, stderr=file, env=environment, cwd=self.folder
                )
            )

    def said(self):
        return self.log.read_text(encoding="utf-8")

    def processes(self):
        """The ids of all processes on the host: its torchrun, then what that has started."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def lose(self):
        """Kill them all, with no chance to say so."""
        while pids := self.processes():  # one may just have started another
            for pid in pids:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
        for job in self.jobs:
            job.wait()

    def end(self):
        """Wait for the last line's end: its exit status."""
        return self.jobs[-1].wait(timeout=PATIENCE)

    def plug(self, state):
        ip("-n", self.namespace, "link", "set", "wire", state)


def ip(*args):
    """Run iproute2's ip: what it printed. Raises OSError."""
    done = subprocess.run(["ip", *args], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture
def hosts(cache):
    """Two hosts joined by a cable; whatever happens, nothing of them is left."""
    if not all(map(shutil.which, ("ip", "unshare", "mount"))):
        pytest.skip("hosts in network namespaces need Linux, with iproute2 and util-linux")
    names = "".join(f"{address} {name}\n" for name, address in NAMES.items())
    (cache / "names").write_text(f"127.0.0.1 localhost\n{names}", encoding="utf-8")
    made = [Host(name, cache) for name in NAMES]
    with contextlib.ExitStack() as stack:
        try:
            for host in made:
                ip("netns", "add", host.namespace)
                stack.callback(ip, "netns", "delete", host.namespace)
            ends = [["wire", "netns", host.namespace] for host in made]
            ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
            for host in made:
                ip("-n", host.namespace, "address", "add", f"{NAMES[host.name]}/24", "dev", "wire")
                ip("-n", host.namespace, "link", "set", "lo", "up")
                host.plug("up")
                ip(*host.command("true")[1:])
        except OSError as error:
            pytest.skip(f"no network namespaces here, they need root: {error}")
        for host in made:
            stack.callback(host.lose)
        yield made


@pytest.mark.slow
def test_run_on_two_hosts_survives_the_loss_of_a_process_and_of_each_host(hosts, cache):
    """As the README says it is done; every line of metrics is that of a run nobody disturbed."""
    first, second = hosts
    text, out = story_file(cache), cache / "lost"
    whole = flags(load("v3"), data=text, out_dir=cache / "whole", **SETTINGS)
    two_processes(ROOT / "v3.py", whole, cwd=cache)
    for host in hosts:
        host.start(*flags(load("v3"), data=text, out_dir=out, **SETTINGS))
    resumed = ["--resume", "--out-dir", out]

    train_on(out, hosts)  # a process of the second host dies: its torchrun sees to it
    psutil.Process(second.jobs[0].pid).children()[0].kill()

    train_on(out, hosts)  # the second host is gone, and nothing tells the first; it comes back
    second.plug("down")
    second.lose()
    second.plug("up")
    second.start(*resumed)

    train_on(out, hosts)  # the first host is gone, and with it the place where they meet
    first.lose()
    assert second.end() != 0
    for host in hosts:
        host.start(*resumed)

    assert [host.end() for host in hosts] == [0, 0], first.said() + second.said()
    assert [host.processes() for host in hosts] == [[], []]
    assert first.said().count("resuming") == 3 and "resuming" not in second.said()
    rows = metrics_of(out)
    assert rows == metrics_of(cache / "whole")
    assert [row["step"] for row in rows] == list(range(0, 161, 10))
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.1
    assert plain(weights(cache / "whole")) == plain(weights(out))
    assert not out.with_name("lost.1").exists()  # no part of it began from the start


def train_on(folder, hosts):
    """Wait until the run has made two more evaluations than it has now."""
    lines = folder / "metrics.jsonl"
    count = lines.read_bytes().count(b"\n") if lines.exists() else 0
    began = time.monotonic()
    while not lines.exists() or lines.read_bytes().count(b"\n") < count + 2:
        assert time.monotonic() < began + PATIENCE, [host.said() for host in hosts]
        assert all(host.jobs[-1].poll() is None for host in hosts), [host.said() for host in hosts]
        time.sleep(0.005)
