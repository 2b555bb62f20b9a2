//! What `sanlock help` prints: the actions and options, in our own words.

/// The text.
pub(super) const TEXT: &str = "\
Usage: sanlock daemon OPTIONS
       sanlock [client] ACTION OPTIONS
       sanlock direct ACTION OPTIONS
       sanlock help | version

Every option is two words, -x VALUE, except -D.

daemon: serve leases
  -D            stay in the foreground, log to standard error
  -w 0|1        watchdog through wdmd (1)
  -e NAME       unique name of this host (random)
  -o SEC        io timeout of lockspaces that give none (10)
  -g SEC        seconds between SIGTERM and SIGKILL, 0 to 60 (40)
  -b SEC        seconds that a request stays announced (6 x io timeout)
  -U USER -G GROUP            run as
  -h 0|1        real-time priority (0)
  -l 0|1|2      locked memory: none, present, also future (1)
  -L PRI -S PRI log file and syslog up to this level, -1 for none (4, 3)
  -Q 0|1 -R 0|1 quiet about contention (1), log renewals (0)
  -H NUM        renewals remembered (180)
  -t NUM        accepted, without effect
  -a 0|1        accepted, without effect

client: ask the daemon
  status [-D] [-o p|s]
  gets [-h 0|1]
  host_status [-s LOCKSPACE] [-D]
  renewal -s LOCKSPACE
  add_lockspace -s LOCKSPACE [-o SEC]
  inq_lockspace -s LOCKSPACE
  rem_lockspace -s LOCKSPACE
  command -r RESOURCE... -c PROGRAM ARGUMENTS
  acquire -r RESOURCE... -p PID [-P 0|1] [-O 0|1] [-n HOSTS]
  convert -r RESOURCE -p PID
  release -r RESOURCE... -p PID [-a 0|1] [-O 0|1]
  inquire -p PID [-D]
  request -r RESOURCE -f MODE
  examine -r RESOURCE | -s LOCKSPACE
  set_event -s LOCKSPACE -i HOST [-g GENERATION] -e EVENT -d DATA
  set_config -s LOCKSPACE -u 0|1 | -O 0|1
  init -s LOCKSPACE | -r RESOURCE [-z 1] [-n HOSTS] [-o SEC] [-Z SECTOR -A ALIGN]
  read -s LOCKSPACE | -r RESOURCE [-D] [-h 0|1]
  align -s LOCKSPACE
  format -x INDEX [-Z SECTOR -A ALIGN]
  create -x INDEX -e NAME
  delete -x INDEX -e NAME[:OFFSET]
  lookup -x INDEX [-e NAME[:OFFSET]]
  update -x INDEX -e NAME:OFFSET [-z 1]
  rebuild -x INDEX
  log_dump
  shutdown [-f 0|1] [-w 0|1]
  version

direct: use storage without a daemon
  init -s LOCKSPACE | -r RESOURCE [-n HOSTS] [-o SEC] [-Z SECTOR -A ALIGN]
  read_leader -s LOCKSPACE | -r RESOURCE
  write_leader -s LOCKSPACE | -r RESOURCE -F FILE
  dump PATH[:OFFSET[:SIZE]] [-f 1|2]
  next_free PATH[:OFFSET] -Z SECTOR -A ALIGN
  acquire -r RESOURCE -i HOST -g GENERATION
  acquire_id | renew_id | release_id -s LOCKSPACE
  format | lookup | update | rebuild -x INDEX

LOCKSPACE  NAME:HOST_ID:PATH:OFFSET
RESOURCE   LOCKSPACE_NAME:NAME:PATH:OFFSET[:VERSION|:SH], up to four PATH:OFFSET
INDEX      LOCKSPACE_NAME:PATH:OFFSET
OFFSET     bytes, or mebibytes as 5M; a colon in a path is written \\:
SECTOR and ALIGN are 512 with 1M, or 4096 with 1M, 2M, 4M or 8M, for
2000, 250, 500, 1000 and 2000 hosts.
";
