use control::disk::{AreaReport, ContentReport, DiskReport, PartitionReport};
use control::status::*;
use expect_test::{Expect, expect};

use super::*;
use crate::text::WIDTH;

fn check(drawn: &str, expected: &Expect) {
    expected.assert_eq(drawn);
    let wide: Vec<_> = drawn
        .lines()
        .filter(|line| line.chars().count() > WIDTH)
        .collect();
    assert!(wide.is_empty(), "wider than {WIDTH} columns: {wide:#?}");
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn phase(
    name: &str,
    needs: &[&str],
    state: PhaseState,
    started_ms: u64,
    took_ms: u64,
) -> PhaseReport {
    PhaseReport {
        name: name.to_owned(),
        needs: words(needs),
        deadline_ms: 30_000,
        on_failure: "continue".to_owned(),
        state,
        started_ms: Some(started_ms),
        took_ms: Some(took_ms),
        reason: None,
    }
}

fn link(name: &str, kind: &str, master: Option<&str>) -> LinkReport {
    LinkReport {
        name: name.to_owned(),
        kind: kind.to_owned(),
        mac: "52:54:00:12:34:56".to_owned(),
        mtu: 1500,
        up: true,
        carrier: true,
        master: master.map(ToOwned::to_owned),
    }
}

fn host(
    host_id: u32,
    name: &str,
    generation: u64,
    state: HostState,
    age_ms: Option<u64>,
) -> HostReport {
    HostReport {
        host_id,
        name: name.to_owned(),
        generation,
        timestamp: 1234,
        state,
        last_change_age_ms: age_ms,
        io_timeout_s: 10,
    }
}

fn lockspace() -> LockspaceReport {
    LockspaceReport {
        name: "cluster1".to_owned(),
        path: "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4".to_owned(),
        offset: 0,
        sector_size: Some(512),
        align_size: Some(1024 * 1024),
        host_id: 1,
        host_name: "node1".to_owned(),
        state: LockspaceState::Held,
        generation: Some(3),
        io_timeout_s: 10,
        last_renewal_age_ms: Some(4_120),
        expires_in_ms: Some(75_880),
        renewals: 42,
        renewal_failures: 0,
        reason: None,
        hosts: vec![
            host(1, "node1", 3, HostState::Live, Some(4_120)),
            host(2, "node2", 7, HostState::Fail, Some(95_000)),
            host(
                1999,
                "e2f5c0de-58fe-4f69-8a3a-1c2d3e4f5a6b",
                1,
                HostState::Unknown,
                None,
            ),
        ],
    }
}

fn ready() -> Snapshot {
    Snapshot {
        version: "0.1.0+1a2b3c4".to_owned(),
        hostname: "node1".to_owned(),
        boot_id: "0".to_owned(),
        uptime_ms: 130_400,
        phase: "ready".to_owned(),
        resident_kib: Some(3_104),
        config: ConfigReport {
            source: Some("fw_cfg".to_owned()),
            mistakes: Vec::new(),
        },
        boot: vec![
            phase("mounts", &[], PhaseState::Done, 410, 12),
            phase("devices", &["mounts"], PhaseState::Done, 425, 1_310),
            phase(
                "network",
                &["devices", "config"],
                PhaseState::Done,
                1_740,
                1_260,
            ),
        ],
        children: vec![
            ChildReport {
                name: "udevd".to_owned(),
                state: "ready".to_owned(),
                pid: Some(87),
                restarts: 0,
                age_ms: Some(120_000),
                last_exit: None,
                resident_kib: Some(4_812),
            },
            ChildReport {
                name: "leased".to_owned(),
                state: "backing-off".to_owned(),
                pid: None,
                restarts: 2,
                age_ms: Some(900),
                last_exit: Some("signal 9".to_owned()),
                resident_kib: None,
            },
        ],
        network: NetworkReport {
            state: "ready".to_owned(),
            bridge: Some("ovirtmgmt".to_owned()),
            addresses: words(&["192.0.2.10/24", "2001:db8::10/64"]),
            gateways: words(&["192.0.2.1"]),
            dns: words(&["192.0.2.53"]),
            links: vec![
                link("eno1", "nic", Some("bond0")),
                link("bond0", "bond", Some("ovirtmgmt")),
                LinkReport {
                    up: false,
                    carrier: false,
                    ..link("ovirtmgmt", "bridge", None)
                },
            ],
            gateway_reachable: Some(true),
            reason: None,
            address_at_ms: Some(3_000),
        },
        watchdog: WatchdogReport {
            state: "armed".to_owned(),
            device: Some("/dev/watchdog0".to_owned()),
            identity: Some("i6300ESB timer".to_owned()),
            fire_timeout_s: Some(60),
            last_pet_age_ms: Some(3_200),
            clients: vec![WatchdogClient {
                name: "sanlock_cluster1:1".to_owned(),
                pid: 120,
                expires_in_ms: Some(75_880),
                connected: true,
            }],
            reason: None,
        },
        lockspace: Some(lockspace()),
    }
}

#[test]
fn a_ready_node_fits_one_screen() {
    let drawn = status(&ready());
    check(
        &drawn,
        &expect![[r#"
            node1  ready  up 2 m 10 s  version 0.1.0+1a2b3c4

            config      fw_cfg
            network     ready, ovirtmgmt 192.0.2.10/24 2001:db8::10/64,
                        gateway 192.0.2.1 (answers)
            watchdog    armed, /dev/watchdog0 (i6300ESB timer), resets after 60 s,
                        last pet 3.2 s ago
                        sanlock_cluster1:1 (pid 120) expires in 1 m 15 s
            lockspace   held, cluster1 as host 1, name node1, generation 3,
                        renewed 4.1 s ago, expires in 1 m 15 s

            host  generation  state    last change   name
               1           3  live     4.1 s ago     node1 (this node)
               2           7  fail     1 m 35 s ago  node2
            1999           1  unknown  not known     e2f5c0de-58fe-4f69-8a3a-1c2d3e4f5a6b

            boot        3 phases ended, 3.0 s after the kernel started
            children    name        state        pid  restarts   KiB  last exit
                        udevd       ready         87         0  4812  -
                        leased      backing-off    -         2     -  signal 9
                        supervisor  -              1         -  3104  -
        "#]],
    );
    assert!(drawn.lines().count() <= 24);
}

#[test]
fn a_refused_configuration_cannot_be_overlooked() {
    let mut snapshot = ready();
    snapshot.phase = "degraded".to_owned();
    snapshot.config = ConfigReport {
        source: Some("volume /dev/vda1".to_owned()),
        mistakes: words(&[
            "line 7: network.mtu: 90000: largest allowed is 9216",
            "line 12: network.ipv4.gateway: 192.0.3.1: outside 192.0.2.10/24, so it could not be reached",
        ]),
    };
    snapshot.network = NetworkReport {
        state: "unconfigured".to_owned(),
        ..NetworkReport::default()
    };
    snapshot.watchdog = WatchdogReport {
        state: "absent".to_owned(),
        reason: Some("no watchdog device; load its driver or set watchdog.device".to_owned()),
        ..WatchdogReport::default()
    };
    snapshot.lockspace = None;
    snapshot.children.clear();
    snapshot.boot[2].state = PhaseState::Failed;
    snapshot.boot[2].reason =
        Some("nothing to configure: the configuration was refused".to_owned());
    check(
        &status(&snapshot),
        &expect![[r#"
            node1  degraded  up 2 m 10 s  version 0.1.0+1a2b3c4

            !! CONFIGURATION from volume /dev/vda1 REFUSED: 2 mistakes,
               nothing of it is in force
            !!   line 7: network.mtu: 90000: largest allowed is 9216
            !!   line 12: network.ipv4.gateway: 192.0.3.1: outside 192.0.2.10/24,
                   so it could not be reached
            !! correct it (nodectl config check FILE tells the same on any machine) and
               reboot

            config      volume /dev/vda1, refused
            network     unconfigured
            watchdog    absent, no watchdog device; load its driver or set watchdog.device
            lockspace   none, or its daemon has not answered yet
            boot        network failed: nothing to configure: the configuration was refused
        "#]],
    );
}

#[test]
fn nothing_known_is_said_as_such() {
    check(
        &status(&Snapshot::default()),
        &expect![[r#"
            (no host name)  phase not known  up 0 ms  version not known

            config      none found; give one by fw_cfg, URL,
                        a volume labelled HOLDFAST or the state volume
            network     not known
            watchdog    not known
            lockspace   none, or its daemon has not answered yet
            boot        not known
        "#]],
    );
}

#[test]
fn boot_phases_have_their_times_and_reasons() {
    let mut phases = ready().boot;
    phases[1].state = PhaseState::Failed;
    phases[1].reason = Some(
        "udev did not settle within 30 s; look for the driver named in nodectl log".to_owned(),
    );
    phases[2].state = PhaseState::Waiting;
    phases[2].started_ms = None;
    phases[2].took_ms = None;
    check(
        &boot(&phases),
        &expect![[r#"
            phase    state     start   took  deadline  on failure  needs
            mounts   done     410 ms  12 ms    30.0 s  continue
            devices  failed   425 ms  1.3 s    30.0 s  continue    mounts
            network  waiting       -      -    30.0 s  continue    devices config

            devices failed: udev did not settle within 30 s; look for the driver named in
                nodectl log
        "#]],
    );
}

#[test]
fn the_network_shows_every_link() {
    check(
        &network(&ready().network),
        &expect![[r#"
            network     ready, ovirtmgmt 192.0.2.10/24 2001:db8::10/64,
                        gateway 192.0.2.1 (answers)
            dns         192.0.2.53
            address     3.0 s after the kernel started

            link       kind    mac                 mtu  state  carrier  below
            eno1       nic     52:54:00:12:34:56  1500  up     yes      bond0
            bond0      bond    52:54:00:12:34:56  1500  up     yes      ovirtmgmt
            ovirtmgmt  bridge  52:54:00:12:34:56  1500  down   no       -
        "#]],
    );
    let restored = NetworkReport {
        state: "restored".to_owned(),
        gateway_reachable: Some(false),
        reason: Some(
            "192.0.2.254 did not answer within 30 s; the previous network is back".to_owned(),
        ),
        ..ready().network
    };
    check(
        &network(&restored),
        &expect![[r#"
            network     restored, ovirtmgmt 192.0.2.10/24 2001:db8::10/64,
                        gateway 192.0.2.1 (does not answer),
                        192.0.2.254 did not answer within 30 s; the previous network is back
            dns         192.0.2.53
            address     3.0 s after the kernel started

            link       kind    mac                 mtu  state  carrier  below
            eno1       nic     52:54:00:12:34:56  1500  up     yes      bond0
            bond0      bond    52:54:00:12:34:56  1500  up     yes      ovirtmgmt
            ovirtmgmt  bridge  52:54:00:12:34:56  1500  down   no       -
        "#]],
    );
}

#[test]
fn a_busy_host_id_names_its_holder() {
    let mut report = lockspace();
    report.state = LockspaceState::Busy;
    report.generation = None;
    report.last_renewal_age_ms = None;
    report.expires_in_ms = None;
    report.hosts[0].name = "node9".to_owned();
    report.reason =
        Some("host id 1 is held by node9, generation 3; give this node another host_id".to_owned());
    check(
        &lockspaces(&[report]),
        &expect![[r#"
            lockspace   busy, cluster1 as host 1, name node1, host id 1 is held by node9,
                        generation 3; give this node another host_id
            disk        /dev/disk/by-id/wwn-0x5000c500a1b2c3d4 at offset 0,
                        sectors of 512 bytes, area of 1 MiB
            renewals    42 since acquired, 0 failed, io timeout 10 s

            host  generation  state    last change   name
               1           3  live     4.1 s ago     node9 (in our place)
               2           7  fail     1 m 35 s ago  node2
            1999           1  unknown  not known     e2f5c0de-58fe-4f69-8a3a-1c2d3e4f5a6b
        "#]],
    );
    check(
        &lockspaces(&[]),
        &expect![[r#"
        no lockspace: the configuration names none
    "#]],
    );
}

#[test]
fn a_failing_lease_counts_its_failures() {
    let mut report = lockspace();
    report.state = LockspaceState::Failing;
    report.last_renewal_age_ms = Some(61_000);
    report.expires_in_ms = Some(-1_000);
    report.renewal_failures = 4;
    report.reason =
        Some("read of the area timed out after 10 s; check the paths to the LUN".to_owned());
    check(
        &lockspaces(&[report]),
        &expect![[r#"
            lockspace   failing, cluster1 as host 1, name node1, generation 3,
                        renewed 1 m 1 s ago, expired 1.0 s ago, 4 failed renewals,
                        read of the area timed out after 10 s; check the paths to the LUN
            disk        /dev/disk/by-id/wwn-0x5000c500a1b2c3d4 at offset 0,
                        sectors of 512 bytes, area of 1 MiB
            renewals    42 since acquired, 4 failed, io timeout 10 s

            host  generation  state    last change   name
               1           3  live     4.1 s ago     node1 (this node)
               2           7  fail     1 m 35 s ago  node2
            1999           1  unknown  not known     e2f5c0de-58fe-4f69-8a3a-1c2d3e4f5a6b
        "#]],
    );
}

#[test]
fn a_disk_shows_its_damage_before_anything_else() {
    let report = DiskReport {
        path: "/dev/sdb".to_owned(),
        size: 64 << 30,
        sector_size: Some(512),
        table: Some("gpt".to_owned()),
        partitions: vec![PartitionReport {
            number: 1,
            offset: 1 << 20,
            size: 512 << 20,
            uuid: "0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned(),
            name: "holdfast-state".to_owned(),
        }],
        contents: vec![ContentReport {
            offset: 1 << 20,
            partition: Some(1),
            kind: "ext4".to_owned(),
            label: Some("holdfast-state".to_owned()),
            uuid: None,
        }],
        areas: vec![AreaReport {
            name: "cluster1".to_owned(),
            path: "/dev/sdb".to_owned(),
            offset: 600 << 20,
            sector_size: 512,
            align_size: 1 << 20,
            max_hosts: 2000,
            hosts: vec![
                host(1, "node1", 3, HostState::Free, None),
                host(2, "node2", 7, HostState::Unknown, None),
            ],
            damage: words(&["record of host 3: checksum 0x00000001: the bytes give 0xb0f174c0"]),
        }],
        searched: 1 << 30,
        faults: words(&["partition table: header checksum does not match; shown is its backup"]),
    };
    check(
        &disk(&report),
        &expect![[r#"
            disk        /dev/sdb, 64 GiB, sectors of 512 bytes
            !! partition table: header checksum does not match; shown is its backup
            table       gpt

            part  offset     size  name            partuuid
               1   1 MiB  512 MiB  holdfast-state  0fc63daf-8483-4772-8e79-3d69d8477de4

            offset  part  content  label           uuid
             1 MiB     1  ext4     holdfast-state  -
            searched    the first 1 GiB and the start of each partition for lockspaces and
                        resources

            lockspace   cluster1, up to 2000 hosts
            disk        /dev/sdb at offset 629145600, sectors of 512 bytes, area of 1 MiB
            !! record of host 3: checksum 0x00000001: the bytes give 0xb0f174c0

            host  generation  state    timestamp  io timeout  name
               1           3  free          1234        10 s  node1
               2           7  unknown       1234        10 s  node2
        "#]],
    );
    let bare = DiskReport {
        path: "image".to_owned(),
        size: 5,
        searched: 5,
        ..DiskReport::default()
    };
    check(
        &disk(&bare),
        &expect![[r#"
        disk        image, 5 B, a file
        table       none
        lockspaces  none
    "#]],
    );
}

#[test]
fn text_and_json_use_the_same_words() {
    use super::boot::phase_state;

    fn json<T: serde::Serialize>(value: T) -> String {
        serde_json::to_string(&value)
            .expect("JSON")
            .replace('"', "")
    }
    for state in [
        HostState::Unknown,
        HostState::Free,
        HostState::Live,
        HostState::Fail,
        HostState::Dead,
    ] {
        assert_eq!(state.word(), json(state));
    }
    for state in [
        PhaseState::Waiting,
        PhaseState::Running,
        PhaseState::Done,
        PhaseState::Failed,
        PhaseState::Skipped,
    ] {
        assert_eq!(phase_state(state), json(state));
    }
    use LockspaceState as L;
    for state in [
        L::Waiting,
        L::Acquiring,
        L::Busy,
        L::Held,
        L::Failing,
        L::Lost,
        L::Released,
    ] {
        assert_eq!(state.word(), json(state));
    }
}
