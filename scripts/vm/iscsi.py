# SPDX-License-Identifier: GPL-2.0-or-later
"""A LUN for the nodes of a cluster (cluster.py): served by one machine with the kernel's own target, with persistent
reservations, and reached by the others with open-iscsi. No network but that between the machines has it.
"""

PORTAL_PORT = 3260
TARGET = "iqn.2026-01.org.example:shared"
CONFIG = "/sys/kernel/config/target"


def initiator(node):
    """The name with which a node logs in."""
    return f"iqn.2026-01.org.example:{node.name}"


def serve(server, device, clients, serial="dmholey0"):
    """Makes `device` of the server a LUN that the clients may log in to; takes a second or two."""
    group = f"{CONFIG}/iscsi/{TARGET}/tpgt_1"
    allowed = " ".join(initiator(node) for node in clients)
    # The target writes registrations to a file, in each case, and its threads see the root of the first process.
    server.run(f"""set -e
        mkdir -p /proc/1/root/var/target/pr
        modprobe -a target_core_mod target_core_iblock iscsi_target_mod
        mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config
        mkdir -p {CONFIG}/iscsi
        store={CONFIG}/core/iblock_0/lun
        mkdir -p $store
        echo udev_path={device} >$store/control
        echo {device} >$store/udev_path
        echo {serial} >$store/wwn/vpd_unit_serial
        echo 1 >$store/enable
        mkdir -p {group}/lun/lun_0
        ln -s $store {group}/lun/lun_0/store
        mkdir {group}/np/0.0.0.0:{PORTAL_PORT}
        echo 0 >{group}/attrib/authentication
        for name in {allowed}; do
            mkdir {group}/acls/$name
            mkdir {group}/acls/$name/lun_0
            ln -s {group}/lun/lun_0 {group}/acls/$name/lun_0/lun
        done
        echo 1 >{group}/enable""")


def login(node, server):
    """Logs in; returns the disk of the LUN in the node."""
    return node.run(f"""set -e
        modprobe -a iscsi_tcp sd_mod sg
        echo InitiatorName={initiator(node)} >/etc/iscsi/initiatorname.iscsi
        mkdir -p /run/lock/iscsi
        pidof iscsid >/dev/null || iscsid
        record="-T {TARGET} -p {server.address}:{PORTAL_PORT}"
        iscsiadm -m node $record -o new >/dev/null
        iscsiadm -m node $record --login >/dev/null
        for try in {{1..100}}; do
            disk=$(ls -d /sys/class/iscsi_session/session*/device/target*/*/block/* 2>/dev/null | tail -n 1)
            [ -n "$disk" ] && [ -b /dev/${{disk##*/}} ] && break
            sleep 0.1
        done
        [ -n "$disk" ] || {{ echo "no disk after the login" >&2; exit 1; }}
        echo /dev/${{disk##*/}}""").strip()


def logout(node):
    node.run("iscsiadm -m node --logout")


# --- persistent reservations ---


def key(node):
    """The key of a node, as fence_scsi would have one for each."""
    return f"0x{0xD0000000 + node.number:x}"


def register(node, disk):
    node.run(f"sg_persist --out --register-ignore --param-sark={key(node)} {disk}")


# Write Exclusive, Registrants Only: who is not registered may read.
KIND = 5


def reserve(node, disk):
    node.run(f"sg_persist --out --reserve --param-rk={key(node)} --prout-type={KIND} {disk}")


def preempt(node, disk, victim):
    """Fences a node: takes its registration away, and what it has under way."""
    keys = f"--param-rk={key(node)} --param-sark={key(victim)}"
    node.run(f"sg_persist --out --preempt-abort {keys} --prout-type={KIND} {disk}")


def registered(node, disk):
    """The keys that the LUN knows."""
    text = node.run(f"sg_persist --in --read-keys {disk}")
    return {line.strip() for line in text.splitlines() if line.strip().startswith("0x")}
