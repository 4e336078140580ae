"""Hosts made of Linux namespaces, so that real multi-node launches (ssh, pdsh, rendezvous, gloo over TCP) run
on one machine.

A host has its own network, mount, host-name and process namespaces: an address on a private bridge, an sshd
as process 1 with key login, and its own /etc/hosts. They share the file system, as nodes of a cluster share a
home directory. The process namespace is not optional: on SIGINT deepspeed runs `pkill -f` for its launcher on
every host, which without it would reach processes that are not ours.

Nothing outlives the process that made the hosts, and nothing outside the namespaces changes. Also a command:

    python -m lab.hosts 2 --rate 1gbit -- deepspeed --hostfile {hostfile} script.py

brings two hosts up, runs the command on the first, and takes them down. `{hostfile}` becomes the path of a
hostfile.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lbtrain.launch.hostfile import Hostfile

_PROGRAMS = ("ip", "tc", "unshare", "nsenter", "setpriv", "sshd", "ssh", "ssh-keygen", "pdsh")
_NETWORK = "10.77.0"
_SBIN = "/usr/sbin:/sbin"

# What an administrator would set on every node. Without the interface name gloo advertises the loopback
# address.
_NODE_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "eth0",
    "OMP_NUM_THREADS": "1",
    "LBTRAIN_NAMESPACE_HOST": "1",
}

_SSH_CONFIG = """\
Host *
  User root
  IdentityFile /etc/ssh/id
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  BatchMode yes
  ConnectTimeout 5
  ServerAliveInterval 2
  ServerAliveCountMax 3
"""

_SSHD_CONFIG = """\
HostKey /etc/ssh/hostkey
AuthorizedKeysFile /etc/ssh/id.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
PrintMotd no
MaxStartups 100
"""

# Waits for its end of the cable, then becomes the host's process 1. tcp_retries2=5 gives a cut connection up
# after seconds, not minutes.
_BOOT = """\
echo ready; read cable
mount -t tmpfs shm /dev/shm
mkdir -p /run/sshd; mount -t tmpfs -o mode=755 sshd /run/sshd
for name in hosts ssh resolv.conf nsswitch.conf; do mount --bind "$ETC/$name" "/etc/$name"; done
hostname "$NAME"
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv4.tcp_retries2=5
ip addr add "$ADDRESS/24" dev eth0; ip link set lo up; ip link set eth0 up
exec "$SSHD" -D -E "$ETC/sshd.$NAME.log" -o ListenAddress="$ADDRESS"
"""


def why_not() -> str | None:
    """Why hosts cannot be made here (no right, or a program is missing); None if they can."""
    if os.geteuid() != 0:
        return "namespace hosts need root"
    missing = [program for program in _PROGRAMS if not shutil.which(program, path=_path())]
    if missing:
        return (
            f"namespace hosts need {', '.join(missing)} (packages openssh-server, pdsh, iproute2, util-linux)"
        )
    script = (
        "ip link add br0 type bridge; ip link add v0 type veth peer name v1; tc qdisc add dev v0 root tbf "
        "rate 1gbit burst 256kb limit 4mb"
    )
    command = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-ec", script]
    probe = subprocess.run(command, capture_output=True, text=True, env=node_environment(), check=False)
    return f"namespaces are not permitted here: {probe.stderr.strip()[:200]}" if probe.returncode else None


class Hosts:
    """Running hosts node01, node02, ... joined by one switch; made by `hosts_up`."""

    def __init__(self, etc: Path, switch: subprocess.Popen[str], nodes: dict[str, subprocess.Popen[str]]):
        self.etc = etc
        self._switch = switch
        self._nodes = nodes

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._nodes)

    def hostfile(self, slots: int) -> str:
        """Write a hostfile of all hosts and return its path."""
        path = self.etc / f"{len(self.names)}x{slots}"
        path.write_text(Hostfile(self.names, slots).text())
        return str(path)

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout: int = 280,
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` on a host and return what it did; past `timeout` seconds it is ended and its exit
        status is 124.
        """
        # `timeout` runs inside the host: a signal to nsenter out here would leave the command behind.
        inside = [*self._inside(name, cwd), "timeout", "--kill-after=3", str(timeout), *command]
        return subprocess.run(
            inside, capture_output=True, text=True, env=node_environment() | dict(env or {}), check=False
        )

    def call(self, name: str, command: Sequence[str], *, cwd: str | Path = ".") -> int:
        """Run `command` on a host, its output here as it comes; returns its exit status."""
        return subprocess.run(
            [*self._inside(name, cwd), *command], env=node_environment(), check=False
        ).returncode

    def shape(self, rate: str | None) -> None:
        """Limit what each host can send, in tc's units ("1gbit"); None takes the limit away."""
        tc = (
            f"tc qdisc replace dev eth0 root tbf rate {rate} burst 256kb limit 4mb"
            if rate
            else "tc qdisc del dev eth0 root"
        )
        for name in self.names:
            subprocess.run([*self._inside(name, "/"), "sh", "-c", tc], check=True, env=node_environment())

    def unplug(self, name: str) -> None:
        """Pull the host's network cable."""
        _on_switch(self._switch, f"ip link set {name} down")

    def plug(self, name: str) -> None:
        _on_switch(self._switch, f"ip link set {name} up")

    def _inside(self, name: str, cwd: str | Path) -> list[str]:
        pid = self._nodes[name].pid
        processes = f"--pid=/proc/{pid}/ns/pid_for_children"
        return [
            "nsenter",
            f"--target={pid}",
            "--net",
            "--uts",
            "--mount",
            processes,
            f"--wdns={Path(cwd).resolve()}",
            "--",
        ]


@contextmanager
def hosts_up(number: int) -> Iterator[Hosts]:
    """`number` hosts, from when all their sshd listen until the block ends."""
    with ExitStack() as stack:
        etc = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
        names = [f"node{i:02d}" for i in range(1, number + 1)]
        addresses = {name: f"{_NETWORK}.{i}" for i, name in enumerate(names, start=1)}
        _write_etc(etc, addresses)
        switch = _unshared(stack, ["--net"], "echo ready; exec sleep infinity", {})
        _on_switch(switch, "ip link set lo up; ip link add br0 type bridge; ip link set br0 up")
        nodes = {}
        for name in names:
            settings = {
                "ETC": str(etc),
                "NAME": name,
                "ADDRESS": addresses[name],
                "SSHD": str(shutil.which("sshd", path=_path())),
            }
            flags = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
            nodes[name] = _unshared(stack, flags, _BOOT, settings)
            _on_switch(
                switch,
                f"ip link add {name} type veth peer name eth0 netns {nodes[name].pid}; ip link set {name} "
                "master br0 up",
            )
            _line_to(nodes[name])
        _wait_for_sshd(etc, nodes)
        yield Hosts(etc, switch, nodes)


def node_environment() -> dict[str, str]:
    """The environment of a command on a host: ours, and what its administrator sets."""
    return os.environ | _NODE_ENVIRONMENT | {"PATH": _path()}


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:{_SBIN}"


def _write_etc(etc: Path, addresses: dict[str, str]) -> None:
    (etc / "ssh").mkdir()
    for key in ("id", "hostkey"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(etc / "ssh" / key)], check=True
        )
    login = " ".join(f'"{key}={value}"' for key, value in ({"PATH": _path()} | _NODE_ENVIRONMENT).items())
    (etc / "ssh/ssh_config").write_text(_SSH_CONFIG)
    (etc / "ssh/sshd_config").write_text(f"{_SSHD_CONFIG}SetEnv {login}\n")
    (etc / "hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
    )
    (etc / "resolv.conf").write_text("")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")


def _unshared(
    stack: ExitStack, flags: list[str], script: str, settings: dict[str, str]
) -> subprocess.Popen[str]:
    """Start `script` in new namespaces; it ends with the stack, or with this process whatever ends that."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "unshare", *flags, "sh", "-ec", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | settings | {"PATH": _path()},
    )
    stack.callback(_end, process)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"no namespace: unshare ended with {process.wait()}")
    return process


def _end(process: subprocess.Popen[str]) -> None:
    # unshare's child is process 1 of its host and dies with it (--kill-child), and the kernel then ends every
    # process of that host.
    process.kill()
    process.communicate()


def _line_to(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _on_switch(switch: subprocess.Popen[str], script: str) -> None:
    subprocess.run(
        ["nsenter", f"--target={switch.pid}", "--net", "sh", "-ec", script],
        check=True,
        env=node_environment(),
    )


def _wait_for_sshd(etc: Path, nodes: dict[str, subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 20
    for name, process in nodes.items():
        log = etc / f"sshd.{name}.log"
        while not (log.exists() and "Server listening" in log.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not come up: {log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.01)


def _main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("number", type=int, help="The number of hosts.")
    parser.add_argument("--slots", type=int, default=1, help="Slots of each host (default 1).")
    parser.add_argument("--rate", help="The rate at which each host can send, such as 1gbit.")
    parser.add_argument("command", nargs="+", help="The command for the first host, after --.")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    with hosts_up(options.number) as hosts:
        if options.rate:
            hosts.shape(options.rate)
        path = hosts.hostfile(options.slots)
        command = [word.replace("{hostfile}", path) for word in options.command]
        return hosts.call("node01", command)


if __name__ == "__main__":
    sys.exit(_main())
