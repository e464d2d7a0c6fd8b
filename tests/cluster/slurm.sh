#!/usr/bin/env bash
# A real Slurm on this machine alone, with two GPUs that do not exist: `tests/cluster/slurm.sh start`, later `stop`.
#
# For the tests of workflow/profiles/slurm, and to try the profile by hand. Needs root on Debian or Ubuntu, no systemd. Everything
# lies in one folder but Slurm's configuration: jobs find it only in /etc/slurm. Where that holds one from elsewhere, this script
# does nothing. It exits with 77 where it cannot work, and with 1 where it should have worked.
set -euo pipefail

STATE=/var/tmp/grokdistill-slurm # munge's key and socket, what Slurm knows and logs
MINE="# Written by tests/cluster/slurm.sh, and deleted by its stop."
CONFIGURATION=(/etc/slurm/slurm.conf /etc/slurm/gres.conf /etc/slurm/cgroup.conf)
export PATH="$PATH:/usr/sbin:/sbin"

impossible() {
    echo "slurm.sh: $1" >&2
    exit 77
}

foreign() { # configuration files that are not this script's
    grep --files-without-match --no-messages --fixed-strings "$MINE" "${CONFIGURATION[@]}" || true
}

running() {
    [[ $(sinfo --noheader --format=%T 2>/dev/null) =~ ^(idle|mixed|allocated|completing)$ ]]
}

stop() {
    if jobs=$(squeue --noheader --format=%A 2>/dev/null); then # they would outlive the daemons
        xargs --no-run-if-empty scancel <<<"$jobs"
        for _ in {1..400}; do # Slurm gives them 30 seconds
            [[ $(squeue --noheader) ]] || break
            sleep 0.1
        done
    fi
    for name in slurmd slurmctld munged; do
        [[ -f $STATE/$name.pid ]] || continue
        read -r pid <"$STATE/$name.pid"
        [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$name" ]] || continue
        kill "$pid"
        for _ in {1..100}; do
            [[ -d /proc/$pid ]] || continue 2
            sleep 0.1
        done
        kill -KILL "$pid"
    done
    rm -f "${CONFIGURATION[@]}"
    rm -rf "$STATE"
}

install() {
    for command in slurmctld slurmd sbatch munged; do
        command -v "$command" >/dev/null || missing=1
    done
    [[ ${missing-} ]] || return 0
    command -v apt-get >/dev/null || impossible "Slurm is not installed, and there is no apt-get to install it"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -qq --no-install-recommends slurm-wlm munge; } >&2 ||
        impossible "slurm-wlm and munge could not be installed"
}

start() {
    install
    mkdir -p "$STATE"/{controller,node} /etc/slurm
    chmod 0755 "$STATE"
    head -c 1024 /dev/urandom >"$STATE/munge.key"
    chmod 0400 "$STATE/munge.key"
    # As many processors as jobs could want: what they wait for are the GPUs.
    cat >/etc/slurm/slurm.conf <<END
$MINE
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$STATE/munge.socket
CredType=cred/munge
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/node
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MinJobAge=3600
GresTypes=gpu
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=16 RealMemory=32000 Gres=gpu:2 State=UNKNOWN
PartitionName=only Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    ln -s /dev/null "$STATE/gpu0" # devices that every machine has
    ln -s /dev/zero "$STATE/gpu1"
    printf '%s\n' "$MINE" "Name=gpu File=$STATE/gpu[0-1]" >/etc/slurm/gres.conf
    printf '%s\n' "$MINE" 'IgnoreSystemd=yes' >/etc/slurm/cgroup.conf
    munged --force --key-file="$STATE/munge.key" --socket="$STATE/munge.socket" --pid-file="$STATE/munged.pid" \
        --log-file="$STATE/munged.log" --seed-file="$STATE/munged.seed"
    # Under these names: as slurmd-wlm, Debian's own, it has no GPUs.
    slurmctld -c
    slurmd
    for _ in {1..300}; do
        ! running || return 0
        sleep 0.1
    done
    tail -n 20 "$STATE"/*.log >&2
    echo "slurm.sh: no idle node within 30 seconds" >&2
    exit 1
}

[[ ${1-} == start || ${1-} == stop ]] || { echo "usage: $0 start|stop" >&2; exit 2; }
[[ $(id -u) == 0 ]] || impossible "needs root, to run Slurm's daemons"
[[ -z $(foreign) ]] || impossible "a configuration of Slurm from elsewhere is left alone: $(foreign | xargs)"
if [[ $1 == start ]] && running; then
    echo "runs already"
    exit
fi
stop
[[ $1 == stop ]] || start
