# SPDX-License-Identifier: GPL-2.0-or-later
"""The tools: how each brings the old image to the new one, and what that takes."""

import os
import re
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from child import Cost
from child import Server
from child import free_port
from child import run

PROGRAM = Path(__file__).resolve().parents[2] / "target/release/dmholey"
NGINX = """daemon off;
master_process off;
pid {folder}/pid;
events {{}}
http {{
    log_format bytes '$body_bytes_sent $request_uri';
    access_log {folder}/access bytes;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {www};
    }}
}}
"""
RSYNC = """use chroot = no
{owner}[images]
path = {path}
read only = yes
"""


@dataclass(frozen=True)
class Figures:
    """What a tool took; without `make` it prepares nothing. `server` are seconds of the processor for one client."""

    bytes: int
    apply: Cost
    server: float
    make: Cost | None = None


@dataclass
class Job:
    """An update: two images, and an empty folder. The tool leaves the new image at `out`."""

    old: Path
    new: Path
    folder: Path
    www: Path = field(init=False)
    out: Path = field(init=False)

    def __post_init__(self):
        self.www, self.out = self.folder / "www", self.folder / "out.img"
        self.www.mkdir()

    def lay_old(self):
        """For tools that write over the old image."""
        run("cp", "--reflink=auto", "--sparse=always", self.old, self.out)


class Nginx(Server):
    """A static web server; at any port if none is given."""

    def __init__(self, job, port=None):
        port = port or free_port()
        self.url, self.log = f"http://127.0.0.1:{port}", job.folder / "access"
        configuration = job.folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=job.folder, port=port, www=job.www))
        super().__init__(["nginx", "-e", job.folder / "errors", "-c", configuration], port)

    def bytes(self):
        """What it has sent, headers not counted."""
        return bytes_served(self.log.read_text())


def bytes_served(log):
    return sum(int(line.split()[0]) for line in log.splitlines())


class RsyncDaemon(Server):
    """An rsync daemon that has the new image."""

    def __init__(self, job):
        port = free_port()
        # A daemon of root's would become nobody, who need not get to the image.
        owner = "uid = 0\ngid = 0\n" if os.getuid() == 0 else ""
        configuration = job.folder / "rsyncd.conf"
        configuration.write_text(RSYNC.format(owner=owner, path=job.new.parent))
        self.url = f"rsync://127.0.0.1:{port}/images/{job.new.name}"
        where = ("--address=127.0.0.1", f"--port={port}", f"--config={configuration}")
        super().__init__(["rsync", "--daemon", "--no-detach", f"--log-file={job.folder}/log", *where], port)


def rsync_bytes(said):
    """What the client received and what it sent, by rsync's --stats."""
    received, sent = (re.search(rf"^Total bytes {way}: ([\d,.]+)$", said, re.M) for way in ("received", "sent"))
    return tuple(int(re.sub(r"\D", "", found[1])) for found in (received, sent))


def shipped(job, make, apply):
    """A tool that makes one file, which each client fetches: make(FILE) and apply(FILE) return their costs."""
    patch, fetched = job.www / "patch", job.folder / "fetched"
    made = make(patch)
    with Nginx(job) as server:
        run("curl", "--silent", "--show-error", "--fail", "--output", fetched, f"{server.url}/patch")
    size = patch.stat().st_size
    patch.unlink()
    return Figures(size, apply(fetched), server.cpu, made)


def dmholey(*command):
    return run(PROGRAM, "--quiet", *command)[0]


def zstd(*command):
    # With more threads it cuts its input into parts.
    return run("zstd", "--quiet", "--force", "-T1", *command)[0]


def holey(job):
    def make(patch):
        return dmholey("delta", "make", job.old, job.new, "--output", patch)

    def apply(patch):
        return dmholey("delta", "apply", patch, "--base", job.old, "--output", job.out)

    return shipped(job, make, apply)


def diff(job, image):
    return dmholey("cow", "diff", job.old, job.new, "--output", image)


def merge(job, image):
    job.lay_old()
    return dmholey("cow", "apply", "--offline", image, "--to", job.out)


def cow(job):
    return shipped(job, lambda patch: diff(job, patch), lambda patch: merge(job, patch))


def cow_zstd(job):
    image = job.folder / "image"

    def make(patch):
        cost = diff(job, image) + zstd("-19", image, "-o", patch)
        image.unlink()
        return cost

    def apply(patch):
        return zstd("-d", patch, "-o", image) + merge(job, image)

    return shipped(job, make, apply)


def zstd_patch(job):
    reference = ("--long=31", f"--patch-from={job.old}")

    def make(patch):
        return zstd("-19", *reference, job.new, "-o", patch)

    def apply(patch):
        return zstd("-d", *reference, patch, "-o", job.out)

    return shipped(job, make, apply)


def xdelta3(job):
    # The whole old image is the window.
    with_old = ("-f", "-B", job.old.stat().st_size, "-s", job.old)

    def make(patch):
        return run("xdelta3", "-e", "-9", *with_old, job.new, patch)[0]

    def apply(patch):
        return run("xdelta3", "-d", *with_old, patch, job.out)[0]

    return shipped(job, make, apply)


def rsync(job):
    job.lay_old()
    with RsyncDaemon(job) as server:
        # The images have the same size, and may have the same time.
        options = ("--inplace", "--compress", "--ignore-times", "--stats")
        cost, said = run("rsync", *options, server.url, job.out)
    return Figures(rsync_bytes(said)[0], cost, server.cpu)


def zsync(job):
    (job.www / "new.img").symlink_to(job.new)
    with Nginx(job) as server:
        made = run("zsyncmake", "-u", f"{server.url}/new.img", "-o", job.www / "new.zsync", job.new)[0]
        # What is not complete yet it keeps in the folder that it runs in.
        cost = run("zsync", "-q", "-i", job.old, "-o", job.out, f"{server.url}/new.zsync", cwd=job.folder)[0]
        size = server.bytes()
    return Figures(size, cost, server.cpu, made)


def casync(job):
    made = run("casync", "make", f"--store={job.www}/store.castr", job.www / "new.caibx", job.new)[0]
    with Nginx(job) as server:
        store, index = f"--store={server.url}/store.castr", f"{server.url}/new.caibx"
        cost = run("casync", "extract", store, f"--seed={job.old}", index, job.out)[0]
        size = server.bytes()
    return Figures(size, cost, server.cpu, made)


TOOLS = {
    "holey": holey,
    "rsync": rsync,
    "zsync": zsync,
    "casync": casync,
    "zstd": zstd_patch,
    "xdelta3": xdelta3,
    "cow": cow,
    "cow-zstd": cow_zstd,
}
