#!/bin/bash
# Starts a Slurm cluster of two nodes, both of them this machine, in a folder; nothing outside the folder is written.
#
#   apt-get install slurm-wlm munge
#   bash tests/launch/slurm_cluster.sh start DIR     # then: export SLURM_CONF=DIR/slurm.conf
#   bash tests/launch/slurm_cluster.sh stop DIR
#
# Run it as root, as slurmd and munged require. Each node counts all cores of this machine. Accounting and cgroups are
# off.
set -eu
action=$1 dir=$(realpath -m "$2")

start() {
  mkdir -p "$dir"/{munge,state,spool,log}
  chmod 755 "$dir" "$dir/munge"
  head -c 1024 /dev/urandom > "$dir/munge/key"
  chmod 400 "$dir/munge/key"
  munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
  local host
  host=$(hostname -s)
  cat > "$dir/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmUser=root
AuthType=auth/munge
# a job that is requeued waits for two minutes
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 Port=$((${SLURM_TEST_PORT:-16817} + 1)) CPUs=$(nproc) State=UNKNOWN
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 Port=$((${SLURM_TEST_PORT:-16817} + 2)) CPUs=$(nproc) State=UNKNOWN
PartitionName=test Nodes=$host,localhost Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF=$dir/slurm.conf
  slurmctld
  slurmd -N "$host"
  slurmd -N localhost
  for _ in $(seq 60); do
    if [ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = 2 ]; then return; fi
    sleep 1
  done
  echo "the nodes do not become idle; see $dir/log" >&2
  exit 1
}

stop() {
  local pid pids=()
  for pid in "$dir"/*.pid "$dir/munge/pid"; do
    if [ -f "$pid" ]; then pids+=("$(cat "$pid")"); fi
  done
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  sleep 2
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2> /dev/null || true; done  # slurmd may wait for the end of a job
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "usage: $0 start|stop DIR" >&2; exit 2 ;;
esac
