# SPDX-License-Identifier: GPL-2.0-or-later
"""Packs the initramfs: tools with their libraries, kernel modules, and what one run adds.

It is a series of cpio archives: two cached parts (tools, and one for each kernel's modules) and one
small part of the run. The kernel unpacks them one after the other.
"""

import hashlib
import lzma
import os
import stat
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Cpio:
    """Writes the kernel's "newc" archive format."""

    def __init__(self, out):
        self.out = out
        self.inode = 0
        self.made = set()

    def _entry(self, name, mode, data=b"", rdev=(0, 0)):
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self.out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))

    def parents(self, name):
        for parent in reversed(Path(name).parents[:-1]):
            self.directory(str(parent))

    def directory(self, name):
        if name not in self.made:
            self.made.add(name)
            self.parents(name)
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o644):
        if name not in self.made:
            self.made.add(name)
            self.parents(name)
            self._entry(name, stat.S_IFREG | mode, data)

    def symlink(self, name, target):
        if name not in self.made:
            self.made.add(name)
            self.parents(name)
            self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name, major, minor):
        self._entry(name, stat.S_IFCHR | 0o600, rdev=(major, minor))

    def copy(self, path):
        """Adds a file of this machine under its own path; a link with what it points to."""
        path = str(path)
        name = path.lstrip("/")
        if name in self.made:
            return
        if os.path.islink(path):
            self.symlink(name, os.readlink(path))
            self.copy(os.path.join(os.path.dirname(path), os.readlink(path)))
        elif os.path.isdir(path):
            for entry in sorted(os.listdir(path)):
                self.copy(os.path.join(path, entry))
        else:
            self.file(name, Path(path).read_bytes(), stat.S_IMODE(os.stat(path).st_mode))

    def close(self):
        self._entry("TRAILER!!!", 0)
        self.out.write(b"\0" * (-self.out.tell() % 512))


def words(path):
    """The words of a list file, without its comments."""
    lines = (line.split("#")[0] for line in path.read_text().splitlines())
    return [word for line in lines for word in line.split()]


def cached(folder, name, key, pack):
    """The archive that `pack(cpio)` makes, made once for each content of `key`."""
    digest = hashlib.sha256()
    for part in key:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\0")
    path = folder / f"{name}-{digest.hexdigest()[:12]}.cpio"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Not named by the process: each run is the first of its namespace.
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
        partial = Path(partial)
        try:
            with open(handle, "wb") as out:
                archive = Cpio(out)
                pack(archive)
                archive.close()
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def libraries(programs):
    """The shared libraries of some programs, as the dynamic linker finds them."""
    found = set()
    for program in programs:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for word in listing.split():
            if word.startswith("/"):
                found.add(os.path.realpath(os.path.dirname(word)) + "/" + os.path.basename(word))
    return sorted(found)


# What a guest needs until it has another root.
FEW = ["/usr/bin/busybox", "/usr/bin/kmod", "/usr/sbin/modprobe", "/usr/sbin/insmod"]


def pack_tools(cpio, listed):
    """The base: folders, busybox under all its names, the listed tools."""
    for name in ("bin", "sbin", "lib", "lib64"):
        cpio.directory(f"usr/{name}")
        cpio.symlink(name, f"usr/{name}")
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/tmp", "etc"):
        cpio.directory(name)
    cpio.symlink("var/run", "/run")
    cpio.symlink("usr/lib/dmholey", "/holey")
    cpio.symlink("etc/mtab", "/proc/self/mounts")
    cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    cpio.file("etc/group", b"root:x:0:\ndisk:x:6:\n")
    cpio.device("dev/console", 5, 1)
    cpio.device("dev/null", 1, 3)
    tools = [path for path in listed if os.path.exists(path)]
    for path in tools:
        cpio.copy(path)
    linked = [path for path in tools if os.path.isfile(path) and (os.access(path, os.X_OK) or path.endswith(".so"))]
    for path in libraries(linked):
        cpio.copy(path)
    applets = subprocess.run(["busybox", "--list-full"], capture_output=True, text=True, check=True).stdout
    present = {os.path.basename(name) for name in cpio.made}
    for applet in applets.split():
        applet = applet if applet.startswith("usr/") else f"usr/{applet}"
        if os.path.basename(applet) not in present:
            cpio.symlink(applet, "/usr/bin/busybox")


def tools_archive(cache, root, few=False):
    """The tools of the root whose name says what it holds: those of the list, or few."""
    name, listed = ("few", FEW) if few else ("tools", words(HERE / "tools.list"))
    key = (root, (HERE / "tools.list").read_bytes(), Path(__file__).read_bytes())
    return cached(cache / "initramfs", name, key, lambda cpio: pack_tools(cpio, listed))


def read_module(path):
    """A module's object file, whatever it is packed with: the guest then needs nothing to unpack it."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def module_closure(folder, names):
    """The files of the named modules and of all that they need, as paths below `folder`."""
    needs, by_name = {}, {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[Path(path).name.split(".ko")[0].replace("-", "_")] = path
    found, queue = set(), [by_name[name.replace("-", "_")] for name in names if name.replace("-", "_") in by_name]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue.extend(needs[path])
    return sorted(found)


def pack_modules(cpio, modules, release, scratch):
    """The listed modules, unpacked, with dependency lists of their own."""
    source = modules / "lib/modules" / release
    stage = scratch / "lib/modules" / release
    names = [word for word in words(HERE / "modules.list") if word != "load:"]
    for path in module_closure(source, names):
        target = stage / path.removesuffix(".xz").removesuffix(".zst")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_module(source / path))
    stage.mkdir(parents=True, exist_ok=True)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        (stage / name).write_bytes((source / name).read_bytes() if (source / name).exists() else b"")
    subprocess.run(["depmod", "-b", scratch, release], check=True)
    cpio.directory(f"usr/lib/modules/{release}")
    for path in sorted(stage.rglob("*")):
        if path.is_file():
            cpio.file(f"usr/lib/modules/{release}/{path.relative_to(stage)}", path.read_bytes())


def modules_archive(cache, kernel, release, scratch):
    """The modules of a kernel folder (scripts/setup makes it)."""
    key = (kernel, (HERE / "modules.list").read_bytes(), Path(__file__).read_bytes())
    dep = kernel / "modules/lib/modules" / release / "modules.dep"
    if not dep.exists():
        return None
    if kernel.name.startswith(("own-", "debug-")):
        key += (dep.stat().st_mtime_ns,)
    return cached(
        cache / "initramfs",
        f"modules-{release}",
        key,
        lambda cpio: pack_modules(cpio, kernel / "modules", release, scratch),
    )


def load_first():
    """The modules that the guest loads before the command runs."""
    lines = (HERE / "modules.list").read_text().splitlines()
    return [word for line in lines if line.startswith("load:") for word in line.split()[1:]]


def write(path, parts, files):
    """Joins the cached parts and a last one with the run's own files: (name, data, mode)."""
    with open(path, "wb") as out:
        for part in filter(None, parts):
            with open(part, "rb") as archive:
                while chunk := archive.read(1 << 22):
                    out.write(chunk)
        cpio = Cpio(out)
        for name, data, mode in files:
            cpio.file(name, data, mode)
        cpio.close()
