//! What the lease daemon reports: lockspaces, leases, who waits for whom.

use control::lease::{LeaseReport, OwnerReport, SpaceReport, WaitReport};

use crate::text::{Table, ago, count, duration, expiry, field};

/// The whole report.
pub(crate) fn leases(report: &LeaseReport) -> String {
    let mut out = String::new();
    let daemon = &report.daemon;
    let memory = daemon.resident_kib.map_or_else(String::new, |kib| {
        format!(", {}.{} MiB of memory", kib / 1024, kib % 1024 * 10 / 1024)
    });
    field(
        &mut out,
        "daemon",
        &format!(
            "{} as {}, up {}{memory}, {}",
            daemon.version,
            daemon.host_name,
            duration(daemon.uptime_ms),
            daemon.io
        ),
    );
    field(
        &mut out,
        "requests",
        &format!(
            "{} answered, {} refused, {}",
            daemon.requests,
            daemon.refused,
            count(
                usize::try_from(daemon.connections).unwrap_or(usize::MAX),
                "connection"
            )
        ),
    );
    if report.lockspaces.is_empty() {
        field(&mut out, "lockspaces", "none joined");
    }
    for space in &report.lockspaces {
        out.push('\n');
        lockspace(&mut out, space, &daemon.host_name);
    }
    if !report.resources.is_empty() {
        out.push('\n');
        resources(&mut out, report);
    }
    if !report.waits.is_empty() {
        out.push('\n');
        out.push_str(&waits(report));
    }
    out
}

fn lockspace(out: &mut String, space: &SpaceReport, host_name: &str) {
    let mut words = vec![format!(
        "{}, {} as host {}",
        space.state, space.name, space.host_id
    )];
    words.extend(
        space
            .generation
            .map(|number| format!("generation {number}")),
    );
    words.extend(
        space
            .last_renewal_age_ms
            .map(|age| format!("renewed {} ago", duration(age))),
    );
    words.extend(space.expires_in_ms.map(expiry));
    if space.killing > 0 {
        words.push(format!("killing {}", processes(space.killing)));
    }
    words.extend(space.reason.clone());
    field(out, "lockspace", &words.join(", "));
    field(
        out,
        "disk",
        &format!("{} at offset {}", space.path, space.offset),
    );
    let took = match (space.read_ms, space.write_ms, space.slowest_ms) {
        (Some(read), Some(write), Some(slowest)) => {
            format!(", last read {read} ms and write {write} ms, slowest {slowest} ms")
        }
        _ => String::new(),
    };
    field(
        out,
        "renewals",
        &format!(
            "{}, {} failed, io timeout {} s{took}",
            space.renewals, space.renewal_failures, space.io_timeout_s
        ),
    );
    field(out, "users", &processes(space.users));
    if space.hosts.is_empty() {
        return;
    }
    let mut table = Table::new(
        0,
        &[0, 1],
        &["host", "generation", "state", "last change", "name"],
    );
    for host in &space.hosts {
        let own = if host.name == host_name {
            " (this node)"
        } else {
            ""
        };
        table.row([
            host.host_id.to_string(),
            host.generation.to_string(),
            host.state.word().to_owned(),
            ago(host.last_change_age_ms),
            format!("{}{own}", host.name),
        ]);
    }
    table.draw(out, "");
}

fn processes(number: u64) -> String {
    match number {
        0 => "no processes".to_owned(),
        1 => "1 process".to_owned(),
        more => format!("{more} processes"),
    }
}

fn resources(out: &mut String, report: &LeaseReport) {
    let mut table = Table::new(
        0,
        &[3],
        &["lease", "state", "mode", "version", "since", "processes"],
    );
    for lease in &report.resources {
        let pids: Vec<String> = lease.pids.iter().map(i32::to_string).collect();
        table.row([
            format!("{}:{}", lease.lockspace, lease.name),
            lease.state.clone(),
            if lease.shared { "shared" } else { "exclusive" }.to_owned(),
            lease.lver.map_or_else(String::new, |lver| lver.to_string()),
            duration(lease.age_ms),
            pids.join(" "),
        ]);
    }
    table.draw(out, "");
}

/// Who waits for whom, and until when.
pub(crate) fn waits(report: &LeaseReport) -> String {
    if report.waits.is_empty() {
        return "nobody waits for a lease\n".to_owned();
    }
    let mut out = String::new();
    for wait in &report.waits {
        field(&mut out, "waits", &sentence(wait, report));
    }
    out
}

fn sentence(wait: &WaitReport, report: &LeaseReport) -> String {
    let host = wait.owner_host_id.map(|id| {
        let name = report
            .lockspaces
            .iter()
            .filter(|space| space.name == wait.lockspace)
            .flat_map(|space| &space.hosts)
            .find(|host| u64::from(host.host_id) == id)
            .map_or_else(String::new, |host| format!(" ({})", host.name));
        let generation = wait
            .owner_generation
            .map_or_else(String::new, |number| format!(", generation {number}"));
        format!("host {id}{name}{generation}")
    });
    let whom = match (wait.waits_for.as_str(), host, wait.owner_pid) {
        ("owner", Some(host), _) => {
            format!("{host} may be dead and is given time to prove it is not")
        }
        ("ballot", Some(host), _) => format!("{host} asks for it at the same time"),
        ("ballot", None, _) => "another host asks for it at the same time".to_owned(),
        ("process", _, Some(pid)) => format!("process {pid} of this host has it"),
        (other, Some(host), _) => format!("{other}: {host}"),
        (other, None, _) => other.to_owned(),
    };
    let until = wait.at_most_ms.map_or_else(
        || "nobody knows for how long".to_owned(),
        |ms| format!("at most {} more", duration(ms)),
    );
    format!(
        "process {} for {}:{}, since {}, {whom}, {until}",
        wait.pid,
        wait.lockspace,
        wait.resource,
        duration(wait.age_ms)
    )
}

/// The hosts that hold a lease.
pub(crate) fn owners(owners: &[OwnerReport]) -> String {
    if owners.is_empty() {
        return "free\n".to_owned();
    }
    let mut out = String::new();
    let mut table = Table::new(
        0,
        &[0, 1, 3],
        &["host", "generation", "mode", "taken at", "state"],
    );
    for owner in owners {
        table.row([
            owner.host_id.to_string(),
            owner.generation.to_string(),
            if owner.shared { "shared" } else { "exclusive" }.to_owned(),
            if owner.timestamp == 0 {
                String::new()
            } else {
                format!("{} s", owner.timestamp)
            },
            owner
                .state
                .clone()
                .unwrap_or_else(|| "not known".to_owned()),
        ]);
    }
    table.draw(&mut out, "");
    out
}

#[cfg(test)]
mod tests {
    use control::lease::{DaemonReport, ResourceReport};
    use control::status::{HostReport, HostState};
    use expect_test::expect;

    use super::*;

    fn report() -> LeaseReport {
        let host = |host_id, name: &str, state, age| HostReport {
            host_id,
            name: name.to_owned(),
            generation: 3,
            state,
            last_change_age_ms: Some(age),
            ..HostReport::default()
        };
        let lease = |name: &str, state: &str, shared, pids: &[i32]| ResourceReport {
            lockspace: "cluster1".to_owned(),
            name: name.to_owned(),
            state: state.to_owned(),
            shared,
            lver: (state == "held").then_some(17),
            pids: pids.to_vec(),
            age_ms: 61_000,
            ..ResourceReport::default()
        };
        LeaseReport {
            daemon: DaemonReport {
                version: "0.1.0".to_owned(),
                host_name: "node1".to_owned(),
                uptime_ms: 3_700_000,
                resident_kib: Some(5_500),
                io: "io_uring".to_owned(),
                connections: 4,
                requests: 120,
                ..DaemonReport::default()
            },
            lockspaces: vec![SpaceReport {
                name: "cluster1".to_owned(),
                host_id: 1,
                path: "/dev/vg/ids".to_owned(),
                state: "held".to_owned(),
                generation: Some(3),
                io_timeout_s: 10,
                last_renewal_age_ms: Some(12_345),
                expires_in_ms: Some(67_655),
                renewals: 180,
                renewal_failures: 1,
                read_ms: Some(4),
                write_ms: Some(1),
                slowest_ms: Some(900),
                users: 2,
                hosts: vec![
                    host(1, "node1", HostState::Live, 12_345),
                    host(2, "node2", HostState::Fail, 99_000),
                ],
                ..SpaceReport::default()
            }],
            resources: vec![
                lease("vm1", "held", false, &[4711]),
                lease("images", "held", true, &[4711, 4712]),
                lease("vm2", "acquiring", false, &[4712]),
            ],
            waits: vec![WaitReport {
                lockspace: "cluster1".to_owned(),
                resource: "vm2".to_owned(),
                pid: 4712,
                age_ms: 9_000,
                waits_for: "owner".to_owned(),
                owner_host_id: Some(2),
                owner_generation: Some(3),
                at_most_ms: Some(41_000),
                ..WaitReport::default()
            }],
            ..LeaseReport::default()
        }
    }

    #[test]
    fn the_report_says_where_we_stand_and_who_waits_for_whom() {
        expect![[r#"
            daemon      0.1.0 as node1, up 1 h 1 m, 5.3 MiB of memory, io_uring
            requests    120 answered, 0 refused, 4 connections

            lockspace   held, cluster1 as host 1, generation 3, renewed 12.3 s ago,
                        expires in 1 m 7 s
            disk        /dev/vg/ids at offset 0
            renewals    180, 1 failed, io timeout 10 s, last read 4 ms and write 1 ms,
                        slowest 900 ms
            users       2 processes
            host  generation  state  last change   name
               1           3  live   12.3 s ago    node1 (this node)
               2           3  fail   1 m 39 s ago  node2

            lease            state      mode       version  since    processes
            cluster1:vm1     held       exclusive       17  1 m 1 s  4711
            cluster1:images  held       shared          17  1 m 1 s  4711 4712
            cluster1:vm2     acquiring  exclusive           1 m 1 s  4712

            waits       process 4712 for cluster1:vm2, since 9.0 s, host 2 (node2),
                        generation 3 may be dead and is given time to prove it is not,
                        at most 41.0 s more
        "#]]
        .assert_eq(&leases(&report()));
    }

    #[test]
    fn nothing_to_wait_for_is_said_in_words() {
        assert_eq!(waits(&LeaseReport::default()), "nobody waits for a lease\n");
        let mut another = report();
        another.waits[0].waits_for = "process".to_owned();
        another.waits[0].owner_host_id = None;
        another.waits[0].owner_pid = Some(4711);
        another.waits[0].at_most_ms = None;
        expect![[r#"
            waits       process 4712 for cluster1:vm2, since 9.0 s,
                        process 4711 of this host has it, nobody knows for how long
        "#]]
        .assert_eq(&waits(&another));
    }

    #[test]
    fn owners_stand_in_a_table_and_nobody_is_free() {
        assert_eq!(owners(&[]), "free\n");
        let owner = |host_id, state: Option<&str>| OwnerReport {
            host_id,
            generation: 2,
            timestamp: 4_000,
            shared: false,
            state: state.map(str::to_owned),
        };
        expect![[r#"
            host  generation  mode       taken at  state
               1           2  exclusive    4000 s  live
               2           2  exclusive    4000 s  not known
        "#]]
        .assert_eq(&owners(&[owner(1, Some("live")), owner(2, None)]));
    }
}
