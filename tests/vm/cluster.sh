# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Three nodes share a volume, each with its agent (dmholeyd), its device of the shared disk and its COW device, on one
# machine: n1, n2, n3. They speak over the loopback interface, with certificates.

FOLDER=$WORK/cluster

# authority: makes what signs the certificates of the nodes
authority() {
    mkdir -p $FOLDER
    cat >$FOLDER/openssl.cnf <<'END'
[req]
distinguished_name = name
x509_extensions = ca
[name]
[ca]
basicConstraints = critical, CA:TRUE
END
    openssl req -config $FOLDER/openssl.cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 \
        -subj "/CN=test authority" -keyout $FOLDER/ca.key -out $FOLDER/ca.pem 2>/dev/null
}

# certificate NODE
certificate() {
    openssl req -config $FOLDER/openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=$1" \
        -keyout $FOLDER/$1.key -out $FOLDER/$1.csr 2>/dev/null
    openssl x509 -req -in $FOLDER/$1.csr -CA $FOLDER/ca.pem -CAkey $FOLDER/ca.key -days 30 \
        -extfile <(echo "subjectAltName = DNS:$1") -out $FOLDER/$1.pem 2>/dev/null
}

# configure NODE: its file; further lines of it come from the standard input
configure() {
    local n
    {
        cat <<END
cluster = "test"
node = "$1"
state = "$1"
beat_ms = 100
patience_ms = $((1000 * ${SLOW:-1}))
END
        cat
        cat <<END
[volume]
chunks = $(($(size disk) / 8))
chunk_sectors = 8
[devices]
name = "$1"
volume = "$D/$1-disk"
cow = "$D/$1-cow"
[tls]
ca = "ca.pem"
certificate = "$1.pem"
key = "$1.key"
END
        for n in 1 2 3; do
            printf '[[nodes]]\nid = %d\nname = "n%d"\naddress = "127.0.0.1:%d"\n' $n $n $((7100 + n))
        done
    } >$FOLDER/$1.toml
}

declare -A agents

# agent NODE: starts its agent
agent() {
    dmholeyd cluster --config $FOLDER/$1.toml --socket $FOLDER/$1.sock &
    agents[$1]=$!
    eventually 20 asked $1 status
}

# at NODE COMMAND...: dmholey cluster
at() { dmholey --quiet cluster --socket $FOLDER/$1.sock --wait 60 "${@:2}"; }
asked() { at "$@" >/dev/null 2>&1; }

# kill_agent NODE [SIGNAL]
kill_agent() {
    kill -${2:-KILL} ${agents[$1]}
    [ "${2:-KILL}" != KILL ] || wait ${agents[$1]} || [ $? -eq 137 ]
}

# is NODE ROLE
is() { [ "$(dmholey --json cluster --socket $FOLDER/$1.sock status | jq -r .role)" = "$2" ]; }
fact() { dmholey --json cluster --socket $FOLDER/$1.sock status | jq -r "$2"; }

# fence NODE: it cannot reach the volume any more
fence() { change $1-disk "0 $(size disk) error"; }

# power_off NODE: nothing of it is left but its disks, and its COW device holds what was made durable
power_off() {
    fence $1
    kill_agent $1
    dmsetup suspend --noflush $1
    change $1 "0 $(size disk) error"
    remove $1
    ! exists $1-writer || remove $1-writer
    change $1-disk "0 $(size disk) linear $D/disk 0"
}

# cluster [SECTORS]: three nodes of which n1 is the writer and the others are copiers; models disk, n2, n3
cluster() {
    local node sectors=${1:-16384}
    load
    ip link set lo up
    authority
    vol disk $sectors
    fill disk disk 1
    for node in n1 n2 n3; do
        dmsetup create $node-disk --table "0 $sectors linear $D/disk 0"
        cow $node-cow $((sectors * 5 / 4 + 4096))
        no_audit $node-cow
        certificate $node
        configure $node </dev/null
        agent $node
    done
    at n1 takeover
    at n2 join
    at n3 join
    fork_model disk n2 n3
}

# Copiers keep their views under load and write what is their own; a node that leaves and joins sees what is there then.
# limit: 300
# set: main
t_copiers() {
    cluster
    is n1 writer
    is n2 copier
    equal "$(fact n1 '[.peers[].copier] | all')" true
    equal "$(fact n1 '[.peers[].suspected] | any')" false
    equal "$(fact n2 '.overlay.total_sectors')" $(size n2-cow)
    scribble n1 disk 2 --ops 100 --max 64
    check n2 n2
    scribble n2 n2 3 --ops 100 --max 64
    scribble n1 disk 4 --ops 100 --max 64
    check disk disk
    check n2 n2
    check n3 n3
    at n3 recycle
    fork_model disk n3
    scribble n1 disk 5 --ops 100 --max 64
    fill n1 disk 6
    check n3 n3
    check n2 n2
    at n2 leave
    contains "$(fails dd if=$D/n2 of=/dev/null bs=4096 count=1 iflag=direct)" 'Input/output error'
    check disk disk
}

# The writer loses its power; a copier takes its place with all that it has written, the other goes on, and the old
# one comes back as a copier.
# limit: 300
# set: main
t_takeover() {
    cluster
    scribble n1 disk 2 --ops 100 --max 64
    scribble n2 n2 3 --ops 100 --max 64
    scribble n3 n3 4 --ops 50 --max 64
    power_off n1
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock --wait 2 takeover)" 'waits for n1'
    # As it still claims, this is what it lacks.
    at n2 evict n1 --fenced
    eventually 20 is n2 writer
    scribble n2 n2 5 --ops 100 --max 64
    eventually 30 is_settled n2
    check disk n2
    check n3 n3
    agent n1
    at n1 join
    fork_model n2 n1
    scribble n2 n2 6 --ops 100 --max 64
    check n1 n1
    check n3 n3
    check disk n2
}

is_settled() { [ "$(fact $1 .merging)" = false ]; }

# A writer that is stopped for a while, was fenced meanwhile and goes on: nothing of it reaches the volume, and it steps
# down.
# limit: 200
# set: main
t_zombie() {
    cluster
    scribble n1 disk 2 --ops 50 --max 64
    kill_agent n1 STOP
    fence n1
    at n2 takeover --fenced n1
    eventually 30 is_settled n2
    scribble n2 n2 3 --ops 50 --max 64
    kill_agent n1 CONT
    eventually 20 is n1 idle
    contains "$(fails stamp fill $D/n1 $WORK/lost.model 4 --from 0 --count 64)" 'Input/output error'
    check disk n2
    check n3 n3
}

# Agents are killed under load and start anew: the devices go on, and so does what they waited for.
# limit: 300
# set: main
t_agents_die() {
    local node load
    cluster
    (for n in 2 3 4 5; do stamp random $D/n1 "$(model disk)" $n --ops 100 --max 64 >/dev/null; done) &
    load=$!
    for node in n1 n2 n3 n1; do
        sleep 0.3
        kill_agent $node
        agent $node
    done
    wait $load
    is n1 writer
    is n2 copier
    is n3 copier
    check disk disk
    check n2 n2
    check n3 n3
}

# A copier that is silent is fenced by the command of the configuration, and the writer goes on.
# limit: 200
t_silent_copier() {
    cluster
    kill_agent n1 TERM
    configure n1 <<END
fence = "[ \$DMHOLEY_NODE = n3 ] || exit 1; dmsetup suspend --noflush n3; dmsetup load n3 --table '0 $(size disk) error'; dmsetup resume n3; echo n3 >$WORK/fenced"
END
    agent n1
    kill_agent n3
    scribble n1 disk 2 --ops 50 --max 64
    equal "$(cat $WORK/fenced)" n3
    check disk disk
    check n2 n2
    equal "$(fact n1 '.peers[] | select(.node == "n3") | .copier')" null
    agent n3
    is n3 idle
    at n3 join
    fork_model disk n3
    scribble n1 disk 3 --ops 50 --max 64
    check n3 n3
    # A writer whose agent starts anew while a copier is silent: it has to know its copiers, so that one is fenced.
    kill_agent n3
    kill_agent n1
    agent n1
    eventually 20 is n1 writer
    scribble n1 disk 4 --ops 50 --max 64
    check disk disk
    check n2 n2
}

# No copier keeps anything, and all are heard of. The volume answers, so it is they, and they are fenced.
# limit: 200
t_idle_copiers() {
    local node
    cluster
    kill_agent n1 TERM
    configure n1 <<END
keep_patience_ms = $((3000 * ${SLOW:-1}))
fence = "echo \$DMHOLEY_NODE >>$WORK/fenced; d=\$DMHOLEY_NODE-disk; dmsetup suspend --noflush \$d; dmsetup load \$d --table '0 $(size disk) error'; dmsetup resume \$d"
END
    agent n1
    for node in n2 n3; do
        change $node-disk "0 $(size disk) delay $D/disk 0 600000 $D/disk 0 0"
    done
    scribble n1 disk 2 --ops 50 --max 64
    equal "$(sort $WORK/fenced)" $'n2\nn3' fenced
    check disk disk
    for node in n2 n3; do
        equal "$(fact n1 ".peers[] | select(.node == \"$node\") | .copier")" null
    done
}

# A copier whose COW device is full leaves; the writer and the other copier go on.
# limit: 200
t_full_copier() {
    cluster
    at n3 leave
    change n3-cow "$(linear_table n3-cow 2048)"
    kill_agent n3
    agent n3
    at n3 join
    fill n1 disk 2
    eventually 20 is n3 idle
    check disk disk
    check n2 n2
}

# Copiers with small COW devices survive writes of several times their size, as each starts over when it is due: one at a
# time, with its application told before and after.
# limit: 800
t_recycled() {
    local node round=1
    cluster
    touch $WORK/hooks
    for node in n2 n3; do
        at $node leave
        kill_agent $node
        change $node-cow "$(linear_table $node-cow 4096)"
        # The first drain of n3 is refused, after which it goes on.
        configure $node <<END
metrics = "127.0.0.1:947${node#n}"
[recycle]
above = "40%"
retry = "1s"
drain = "echo drain \$DMHOLEY_NODE \$DMHOLEY_REASON >>$WORK/hooks; [ \$DMHOLEY_NODE = n2 ] || [ -e $WORK/refused ] || { touch $WORK/refused; exit 1; }"
resume = "echo resume \$DMHOLEY_NODE \$DMHOLEY_REASON >>$WORK/hooks"
END
        agent $node
        at $node join
    done
    # Each time there is more in it than two fifths of the device: twice in all what it holds.
    while [ "$(started_over n2)" -lt 5 ] || [ "$(started_over n3)" -lt 5 ]; do
        scribble n1 disk $((++round)) --ops 40 --max 32
        eventually 60 has_room n2
        eventually 60 has_room n3
    done
    eventually 20 nobody_starts_over
    is n2 copier
    is n3 copier
    check disk disk
    [ -e $WORK/refused ] || die "n3 never drained"
    # Nobody begins before the other one has ended.
    awk '$1 == "drain" { if (at) exit 1; at = $2 } $1 == "resume" { if (at != $2) exit 1; at = "" } END { if (at) exit 1 }' \
        $WORK/hooks || die "two at a time: $(cat $WORK/hooks)"
    # By hand it is no different, but for the application.
    at n2 recycle
    at n3 recycle
    fork_model disk n2 n3
    scribble n1 disk $((++round)) --ops 20 --max 16
    check n2 n2
    check n3 n3
    contains "$(metrics n2)" 'dmholey_cluster_drains_total\{result="ok"\} '
    contains "$(metrics n2)" 'dmholey_cluster_role\{role="copier"\} 1'
    contains "$(metrics n2)" 'dmholey_cluster_overlay_sectors 4096'
}

# has_room NODE: it is a copier and does not have to start over
has_room() {
    is $1 copier && fact $1 .overlay | jq -e '.allocated_sectors * 100 <= 40 * .total_sectors' >/dev/null
}

# started_over NODE: how often its application was told to go on
started_over() { grep -c "^resume $1 size$" $WORK/hooks || true; }

nobody_starts_over() { [ "$(fact n1 .recycling) $(fact n2 .recycling) $(fact n3 .recycling)" = 'null null null' ]; }

# metrics NODE: what its agent tells
metrics() {
    exec 9<>/dev/tcp/127.0.0.1/947${1#n}
    printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n' >&9
    cat <&9
    exec 9<&-
}

# An agent is killed while its node starts over: the next one goes on where it was.
# limit: 200
t_recycling_goes_on() {
    cluster
    kill_agent n2 TERM
    configure n2 <<END
[recycle]
above = "30%"
drain = "until [ -e $WORK/filled ]; do sleep 0.1; done; echo drain >>$WORK/hooks"
resume = "echo resume >>$WORK/hooks; [ \$(grep -c resume $WORK/hooks) -gt 1 ] || exec sleep 30"
END
    agent n2
    fill n1 disk 2
    touch $WORK/hooks $WORK/filled
    eventually 60 grep -q resume $WORK/hooks
    kill_agent n2
    agent n2
    eventually 20 went_on
    eventually 20 nobody_starts_over
    is n2 copier
    fork_model disk n2
    scribble n1 disk 3 --ops 50 --max 64
    check n2 n2
}

went_on() { [ "$(tr '\n' ' ' <$WORK/hooks)" = 'drain resume resume ' ]; }

# The new writer loses its power during the merge: it, or a copier, takes up where it was.
# limit: 200
t_half_merged() {
    cluster
    scribble n2 n2 2 --ops 200 --max 64
    scribble n1 disk 3 --ops 50 --max 64
    power_off n1
    # One per cent of the time: the merge takes a while.
    echo 1 >/sys/module/dm_holey/parameters/snapshot_copy_throttle
    at n2 takeover --fenced n1
    equal "$(fact n2 .merging)" true
    stamp random $D/n2 "$(model n2)" 4 --ops 20 --max 16 --dsync
    equal "$(fact n2 .merging)" true
    power_off n2
    agent n2
    echo 100 >/sys/module/dm_holey/parameters/snapshot_copy_throttle
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock takeover --fenced n1 --half-merged n3)" 'has merged a part'
    # It remembers what it has begun.
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock takeover --fenced n1)" 'knows of no later writer'
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock join)" 'knows of no later writer'
    at n2 takeover --fenced n1 --half-merged n2
    eventually 30 is_settled n2
    check disk n2
    check n3 n3
    at n2 demote
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock takeover --fenced n1 --half-merged n2)" 'has not begun a merge'
    at n2 takeover --fenced n1
    check n2 n2
}

# A claim that waits in vain is taken back.
# limit: 200
t_claim_taken_back() {
    cluster
    at n1 demote
    kill_agent n3
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock --wait 1 takeover)" 'waits for n3'
    at n2 demote
    is n2 copier
    check n2 n2
    at n1 takeover --fenced n3
    fill n1 disk 2
    check n2 n2
}

# The kernel refuses to make a copier the writer's, and does it later: the overlay is what it was.
# limit: 200
t_promotion_refused() {
    cluster
    scribble n2 n2 2 --ops 100 --max 64
    power_off n1
    # Its writes would not be counted.
    dmsetup create plain --table "0 $(size disk) holey-origin $D/n2-disk"
    contains "$(status_is 7 dmholey cluster --socket $FOLDER/n2.sock takeover --fenced n1)" 'it is tried again'
    is n2 writer
    contains "$(fact n2 .trouble)" 'does not become'
    scribble n2 n2 3 --ops 50 --max 64
    # An agent that starts anew meanwhile finds a copier.
    kill_agent n2
    agent n2
    is n2 copier
    status_is 7 dmholey cluster --socket $FOLDER/n2.sock takeover --fenced n1 >/dev/null
    scribble n2 n2 4 --ops 50 --max 64
    remove plain
    eventually 20 untroubled n2
    eventually 30 is_settled n2
    check disk n2
    check n3 n3
    scribble n2 n2 5 --ops 50 --max 64
    check disk n2
    check n3 n3
}

untroubled() { [ "$(fact $1 .trouble)" = null ]; }

# status_is STATUS COMMAND...: runs what ends with this status; what it says
status_is() {
    local text status=0
    text=$("${@:2}" 2>&1) || status=$?
    [ $status -eq $1 ] || die "ends with $status, not $1: ${*:2}"
    echo "$text"
}

# A node that is connected and answers nothing to a claim is fenced by the command, as one that is gone.
# limit: 200
t_deaf_node() {
    cluster
    kill_agent n2 TERM
    configure n2 <<END
fence = "echo \$DMHOLEY_NODE >>$WORK/fenced"
END
    agent n2
    eventually 20 connected n2 n3
    scribble n1 disk 2 --ops 50 --max 64
    # Its kernel takes what comes, but nobody reads it.
    kill_agent n3 STOP
    power_off n1
    fence n3
    at n2 takeover
    equal "$(sort -u $WORK/fenced)" $'n1\nn3'
    eventually 30 is_settled n2
    check disk n2
    kill_agent n3 CONT
    eventually 20 is n3 idle
}

# connected NODE PEER
connected() { [ "$(fact $1 ".peers[] | select(.node == \"$2\") | .connected")" = true ]; }

# What is asked in vain is answered.
# limit: 200
t_refusals() {
    cluster
    contains "$(fails dmholey cluster --socket $FOLDER/n1.sock join)" 'has another role already'
    contains "$(fails dmholey cluster --socket $FOLDER/n1.sock takeover)" 'has another role already'
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock demote)" 'does not have the role'
    contains "$(fails dmholey cluster --socket $FOLDER/n1.sock leave)" 'is no copier'
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock evict n1 --fenced)" 'no such copier'
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock evict n9 --fenced)" 'there is no node n9'
    contains "$(fails dmholey cluster --socket $FOLDER/n2.sock evict n1)" '--fenced'
    contains "$(fails dmholey cluster --socket $FOLDER/none.sock status)" 'is dmholeyd cluster running'
    at n1 demote
    is n1 idle
    at n2 takeover
    eventually 30 is_settled n2
    check disk n2
    check n3 n3
}
