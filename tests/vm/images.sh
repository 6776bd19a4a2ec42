# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Images and their versions, where a file system of the kernel's is needed to tell.

# The recorded disk and its cuts.
# shellcheck source=tests/vm/replay.sh
. "$(dirname "${BASH_SOURCE[0]}")/replay.sh"

REPOSITORY=/mnt/master

# Each step is durable when the command ends: the mark comes without a sync.
use_repository() {
    put_mark 0
    for version in 1 2 3; do
        image checkpoint $REPOSITORY $WORK/v$version --level 1
        put_mark $version
    done
    image squash $REPOSITORY 1 3 --level 1
    put_mark 4
    image prune $REPOSITORY --keep 2
    put_mark 5
}

# numbers: of the versions that are there
numbers() { dmholey --json image list $REPOSITORY | jq -r '[.versions[].number] | join(" ")'; }

# check_repository MARK: it has what was durable at the mark, or what the next step makes
check_repository() {
    local expected=('' 1 '1 2' '1 2 3' '1 2 3' '2 3' '2 3') found='' version
    mount $D/cut_base /mnt
    [ ! -e $REPOSITORY/repository.json ] || found=$(numbers)
    [ "$found" = "${expected[$1]}" ] || equal "$found" "${expected[$1 + 1]}" "versions behind mark $1"
    if [ -n "$found" ]; then
        image check $REPOSITORY >/dev/null
        for version in $found; do
            image extract $REPOSITORY "$version" -o $WORK/extracted --force
            cmp $WORK/extracted "$WORK/v$version"
        done
        [ "$1" -ne 4 ] || [ "$found" = '2 3' ] || [ -e $REPOSITORY/delta-1-3 ] || die 'the delta is gone'
        # Work goes on from here, and what was left over goes.
        image prune $REPOSITORY --keep 1
        image check $REPOSITORY >/dev/null
        equal "$(find $REPOSITORY -mindepth 1 | wc -l)" 3 files
    fi
    umount /mnt
}

# A repository on ext4, while power is cut everywhere: the versions that were told to be there are there, and read as
# what they were.
# limit: 300
t_repository() {
    make_images
    keep_blocks_whole
    start 65536
    mke2fs -q -t ext4 $D/base
    begin_log
    mount $D/base /mnt
    use_repository
    umount /mnt
    end_log
    at_points 20 check_repository
}
