# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a command in a throwaway virtual machine (see --help). Started by scripts/vm/run, inside the tool root."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import initramfs
import kernlog
import qemu

TOP = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ["DMHOLEY_CACHE"])

TIMED_OUT, BAD_LOG, BOOT_FAILED, NO_MACHINE, OWN_HIGH = 240, 241, 242, 243, 239
USAGE = 2
ROOTS = ("initramfs", "host", "cluster")

EPILOG = f"""
The exit status is the command's own, or
  {TIMED_OUT}  the time was up, or the guest did not power off
  {BAD_LOG}  the command ended with 0, but the kernel's log has a report (WARNING, BUG, lockdep, KASAN, ...)
  {BOOT_FAILED}  the guest did not get as far as the command, or its kernel died below it
  {NO_MACHINE}  no machine could be started: an option, a file or a kernel is missing
  {OWN_HIGH}  the command's own status was {OWN_HIGH} or more (it is told on stderr)
When a command fails and the kernel's log has a report too, the report is shown and the command's status kept.

In the guest: the checkout, read-only, at its own path, which is the working folder; a writable folder
/exchange; dm-holey.ko in /lib/dmholey (`holey-load [PARAMETER]...` loads it with what it needs); dmholey, dmsetup,
fio, mke2fs, jq, busybox and others in PATH; disks /dev/vda, /dev/vdb, ... in the order of --disk. There is no udevd:
DM_DISABLE_UDEV=1 is set.
"""


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/vm/run",
        description="Run a command in a throwaway virtual machine with the module and the tools of this checkout.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--kernel", metavar="NAME", default=os.environ.get("KERNEL") or "default", help="see scripts/setup --help")
    add("--smp", type=int, default=2, metavar="N", help="virtual CPUs (2)")
    add("--mem", default="1G", metavar="M", help="memory (1G)")
    add("--disk", action="append", default=[], metavar="SIZE|FILE[,ro]", help="a temporary disk, or a raw image file")
    add("--share", action="append", default=[], metavar="DIR[:ro]", help="show a folder at its own path")
    add("--exchange", metavar="DIR", help="the folder behind /exchange; a temporary one otherwise")
    add("--net", action="store_true", help="a network card; servers on this machine's loopback are at 10.0.2.2")
    add("--root", choices=ROOTS, default="initramfs", help="host: the tool root; cluster: another Debian")
    add("--timeout", type=float, default=300, metavar="S", help="seconds of real time, boot included (300)")
    add("--icount", action="store_true", help="virtual time: one CPU, one instruction a nanosecond, repeatable")
    add("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="auto: KVM if it has been seen to work")
    add("--console", metavar="FILE", help="keep the kernel's log")
    add("--allow-log", action="append", default=[], metavar="REGEX", help="reports that are expected")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the command")
    add("--append", default="", metavar="TEXT", help="more of the kernel's command line")
    add("--module", metavar="FILE", help="instead of target/kmod/RELEASE/dm-holey.ko; none: no module")
    add("--tool", action="append", default=[], metavar="FILE", help="a program to put in the guest's PATH")
    add("--no-checkout", action="store_true", help="do not share the checkout")
    add("-v", "--verbose", action="store_true", help="tell the QEMU command and the times")
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND [ARGUMENT]...")
    options = parser.parse_args(argv)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no command given")
    if options.icount:
        options.smp = 1
    return options


def say(text):
    print(f"vm: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(f"error: {text}")
    sys.exit(NO_MACHINE)


def kernel_facts(name):
    """The folder and the release of a kernel, which is prepared if need be."""
    command = [TOP / "scripts/setup", "--kernel", name, "--print", "dir", "--print", "release"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        fail(f"kernel {name} is not to be had (above is why)")
    folder, release = done.stdout.split()
    return Path(folder), release


def root_folder(name):
    """Where the guest's userland lies here."""
    if name == "host":
        return os.environ["DMHOLEY_IN_ROOT"]
    command = [TOP / "scripts/setup", "--none", "--cluster", "--print", "cluster-root"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        fail("the root for machines of a cluster is not to be had (above is why)")
    return done.stdout.strip()


def is_debug(kernel):
    return kernel.name.startswith("debug-")


def kvm_works(options):
    """Does a kernel boot under KVM here? Found out by booting one; kept for as long as the machine is up."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = CACHE / f"kvm-{boot}"
    if not answer.exists():
        for old in CACHE.glob("kvm-*"):
            old.unlink(missing_ok=True)
        probe = parse(["--accel", "kvm", "--timeout", "20", "--no-checkout", "--kernel", options.kernel, "--", "true"])
        probe.module = "none"
        guest = start(probe, quiet=True)
        answer.write_text("yes" if guest.exit_status == 0 else "no")
    return answer.read_text() == "yes"


def module_file(options, release):
    if options.module == "none":
        return None
    path = Path(options.module) if options.module else TOP / "target/kmod" / release / "dm-holey.ko"
    if path.exists():
        return path
    if options.module:
        fail(f"no such module: {path}")
    return None


def program_files(options):
    """Programs for the guest: the named ones, and dmholey as built last, but for a cluster: it is large."""
    built = [TOP / "target" / profile / "dmholey" for profile in ("release", "debug")]
    built = sorted((path for path in built if path.exists()), key=lambda path: -path.stat().st_mtime)
    tools = [Path(path) for path in options.tool] + ([] if options.root == "cluster" else built[:1])
    for path in tools:
        if not os.access(path, os.X_OK):
            fail(f"--tool {path}: not a program")
    return tools


def stripped(path):
    """A program without what only debuggers read: that is most of it, and the guest has it in its memory."""
    with tempfile.NamedTemporaryFile() as copy:
        strip = subprocess.run(["strip", "--strip-debug", "-o", copy.name, path], stderr=subprocess.DEVNULL, check=False)
        # Scripts have nothing of that kind.
        return Path(copy.name if strip.returncode == 0 else path).read_bytes()


HOLEY_LOAD = """#!/bin/sh
# Loads dm-holey.ko with the modules that it needs. Arguments are module parameters.
set -e
module=/lib/dmholey/dm-holey.ko
[ -f $module ] || { echo "holey-load: no module for $(uname -r): run make module" >&2; exit 1; }
for need in $(modinfo -F depends $module | tr , ' '); do modprobe "$need"; done
exec insmod $module "$@"
"""


def run_files(options, release, config):
    """What the run itself adds to the initramfs."""
    variables = {"PATH": "/holey/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DM_DISABLE_UDEV": "1"}
    variables["DMHOLEY_EXCHANGE"] = "/exchange"
    for setting in options.env:
        name, equals, value = setting.partition("=")
        variables[name] = value if equals else os.environ.get(name, "")
    script = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    folder = Path.cwd() if Path.cwd().is_relative_to(TOP) else TOP
    if not options.no_checkout:
        script += f"cd {shlex.quote(str(folder))}\n"
    script += f"exec {shlex.join(options.command)}\n"
    shell = "".join(f"{name}={shlex.quote(value)}\n" for name, value in config.items())
    files = [
        ("init", (TOP / "scripts/vm/init").read_bytes(), 0o755),
        ("holey/config", shell.encode(), 0o644),
        ("holey/command", script.encode(), 0o644),
        ("holey/bin/holey-load", HOLEY_LOAD.encode(), 0o755),
    ]
    module = module_file(options, release)
    if module:
        files.append(("holey/dm-holey.ko", module.read_bytes(), 0o644))
    tools = program_files(options)
    files += [(f"holey/bin/{path.name}", stripped(path), 0o755) for path in tools]
    files += [(path.lstrip("/"), Path(path).read_bytes(), 0o755) for path in initramfs.libraries(tools)]
    return files


def shares(options, exchange):
    """What the guest mounts: (tag, path here, path there, writable)."""
    listed = [("exchange", exchange, "/exchange", True)]
    if not options.no_checkout:
        listed.append(("checkout", TOP, TOP, False))
    for number, share in enumerate(options.share):
        path, read_only = share.removesuffix(":ro"), share.endswith(":ro")
        path = Path(path).resolve()
        if not path.is_dir():
            fail(f"--share {share}: no such folder")
        listed.append((f"share{number}", path, path, not read_only))
    return listed


def guest_config(options, mounts):
    slow = options.accel != "kvm"
    lines = [f"{tag} {'rw,cache=mmap' if rw else 'ro,cache=loose'} {there}" for tag, _, there, rw in mounts]
    return {
        "LOAD": " ".join(initramfs.load_first()),
        "USERLAND": "initramfs" if options.root == "initramfs" else "host",
        "SHARES": "\n".join(lines),
        "NET": "1" if options.net else "",
        "WATCHDOG": "60" if slow else "10",
        "HUNG": "120" if slow else "60",
        "KMEMLEAK": "1",
    }


def make_initrd(options, kernel, release, mounts, scratch, more=()):
    """The initramfs, in the scratch folder."""
    parts = [
        initramfs.tools_archive(CACHE, os.environ["DMHOLEY_IN_ROOT"], options.root == "cluster"),
        initramfs.modules_archive(CACHE, kernel, release, scratch / "stage"),
    ]
    initrd = scratch / "initrd"
    files = run_files(options, release, guest_config(options, mounts))
    initramfs.write(initrd, parts, files + list(more))
    return initrd


def make_machine(options, kernel, initrd, mounts, console):
    append = (
        "console=ttyS0 panic=-1 oops=panic reboot=t sysrq_always_enabled printk.devkmsg=on rdinit=/init "
        "ignore_loglevel rcupdate.rcu_cpu_stall_timeout=60 random.trust_cpu=on no_timer_check "
    )
    if is_debug(kernel):
        # Of writes to freed memory KASAN sees the processors', this those of devices.
        append += "page_poison=1 kasan_multi_shot "
    machine = qemu.Machine(options, kernel / "bzImage", initrd, append + options.append, console)
    for tag, here, _, writable in mounts:
        machine.share(tag, here, writable)
    if options.net:
        machine.network_outside()
    if options.root != "initramfs":
        machine.share("root", root_folder(options.root), False)
    os.mkfifo(f"{console}.in")
    return machine


def start(options, quiet=False):
    """Boots a machine, runs the command, and returns the guest as it was at its end."""
    kernel, release = kernel_facts(options.kernel)
    with tempfile.TemporaryDirectory(prefix="dmholey-", dir="/run") as scratch:
        scratch = Path(scratch)
        exchange = Path(options.exchange).resolve() if options.exchange else scratch / "exchange"
        exchange.mkdir(exist_ok=True)
        mounts = shares(options, exchange)
        initrd = make_initrd(options, kernel, release, mounts, scratch)
        console = scratch / "console"
        machine = make_machine(options, kernel, initrd, mounts, console)
        if options.verbose:
            say(shlex.join(machine.args))
        if options.console:
            Path(options.console).write_bytes(b"")
            console.symlink_to(Path(options.console).resolve())
        keys = os.open(f"{console}.in", os.O_RDWR)
        guest = qemu.Guest(machine, keys, is_debug(kernel) or options.icount, quiet)
        try:
            guest.run(options.timeout)
        finally:
            os.close(keys)
        guest.console = console.read_bytes() if console.exists() else b""
    return guest


def verdict(options, guest):
    """The exit status of a run, with the reasons told on stderr."""
    reports = kernlog.reports(guest.console, options.allow_log)
    for report in reports:
        say("the guest's kernel reports:")
        print(report, file=sys.stderr)
    tail = kernlog.last_words(guest.console)
    if guest.timed_out:
        what = "the command" if guest.exit_status is None else "powering off"
        what = what if guest.ready else "booting"
        say(f"time is up: {what} took more than the allowed time. From the kernel's log:\n{tail}")
        return TIMED_OUT
    if guest.error:
        say(f"the guest could not start the command: {guest.error}")
        return BOOT_FAILED
    if guest.exit_status is None:
        how = "its kernel panicked" if kernlog.panicked(guest.console) else "it ended without a word"
        say(f"the guest is gone: {how}. {guest.complaint}\nThe end of the kernel's log:\n{tail}")
        return BOOT_FAILED if guest.console else NO_MACHINE
    if guest.exit_status:
        if guest.exit_status >= OWN_HIGH:
            say(f"the command ended with status {guest.exit_status}")
        return min(guest.exit_status, OWN_HIGH)
    return BAD_LOG if reports else 0


def stop(_number, _frame):
    sys.exit(143)


def main():
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    options = parse(sys.argv[1:])
    for disk in options.disk:
        path = disk.partition(",")[0]
        if qemu.size_in_bytes(path) is None and not os.path.exists(path):
            fail(f"--disk {disk}: neither a size such as 512M nor a file")
    if options.accel == "auto":
        options.accel = "tcg" if options.icount or not kvm_works(options) else "kvm"
    try:
        guest = start(options)
        if guest.stillborn:
            say(f"{guest.stillborn}: once more")
            guest = start(options)
        if options.verbose and guest.ready:
            say(f"{options.accel}: booted in {guest.boot_seconds:.1f} s")
        sys.exit(verdict(options, guest))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


if __name__ == "__main__":
    main()
