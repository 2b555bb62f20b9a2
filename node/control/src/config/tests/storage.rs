use expect_test::expect;

use super::super::{GivingBack, Manager, SpmMode, Thin, parse};
use super::check;
use crate::storage::Connection;

#[test]
fn every_key_of_storage_is_read() {
    let config = parse(
        r#"version = 1
[storage]
pool = "5afe0000-1111-2222-3333-444455556666"
host_id = 7
spm = "auto"
manager = "domain"
io_timeout = 5
initiator_name = "iqn.2026-01.com.example:node7"
thin_chunk_mib = 1024
thin_utilization_percent = 50
thin_predict = false
wipe_mib_per_s = 200
discard = true

[[storage.connection]]
type = "iscsi"
portals = ["192.0.2.20", "[2001:db8::20]:3261"]
target = "iqn.2026-01.com.example:array"
user = "node7"
password = "secret"

[[storage.connection]]
type = "nfs"
export = "nas.example.com:/exports/images"
nfs_version = "4.2"
hard = true

[[storage.connection]]
type = "local"
path = "/data/images"
"#,
    )
    .expect("valid");
    let storage = config.storage.expect("the document has storage");
    assert_eq!(
        (storage.host_id, storage.spm, storage.manager),
        (7, SpmMode::Auto, Manager::Domain)
    );
    assert_eq!(storage.io_timeout_s, 5);
    assert_eq!(
        (storage.thin, storage.giving_back),
        (
            Thin {
                chunk_mib: 1024,
                utilization_percent: 50,
                predict: false
            },
            GivingBack {
                wipe_mib_per_s: Some(200),
                discard: true
            }
        )
    );
    let [
        Connection::Iscsi { portals, chap, .. },
        Connection::Nfs { hard: true, .. },
        Connection::Local { .. },
    ] = &storage.connections[..]
    else {
        panic!("{:?}", storage.connections);
    };
    assert_eq!(portals, &["192.0.2.20", "[2001:db8::20]:3261"]);
    assert_eq!(chap.as_ref().map(|chap| &chap.user[..]), Some("node7"));
    assert!(!format!("{chap:?}").contains("secret"));
    // What the supervisor hands over is what the daemon reads.
    let json = serde_json::to_string(&storage).expect("JSON");
    assert_eq!(
        serde_json::from_str::<super::super::Storage>(&json).expect("the same"),
        storage
    );
}

#[test]
fn mistakes_in_storage_are_named_with_their_lines() {
    check(
        r#"version = 1
[storage]
pool = "5AFE0000"
spm = "autom"
manager = "host"
[[storage.connection]]
type = "iscsi"
portals = ["192.0.2.20:0", "-x"]
user = "u"
[[storage.connection]]
type = "nfs"
export = "/exports"
portals = ["x"]
nfs_version = "5"
[[storage.connection]]
path = "data"
[[storage.connection]]
type = "local"
options = ["rw"]
pth = "/x"
"#,
        &expect![[r#"
            line 2: storage.host_id: missing; a number from 1 to 250 that no other node of the pool has
            line 3: storage.pool: "5AFE0000": must be a UUID in lower case, 8-4-4-4-12 digits
            line 4: storage.spm: "autom": must be one of "manual", "auto"; did you mean "auto"?
            line 5: storage.manager: "host": must be one of "pool", "domain"
            line 8: storage.connection entry 1.portals: "192.0.2.20:0": the port must be a number from 1 to 65535
            line 8: storage.connection entry 1.portals: "-x": may not begin with a hyphen
            line 8: storage.connection entry 1.portals: is empty
            line 12: storage.connection entry 2.export: "/exports": an export is written server:/path
            line 13: storage.connection entry 2.portals: only for type iscsi
            line 15: storage.connection entry 3.type: missing; one of "iscsi", "nfs", "posix", "local", "gluster", "fc"
            line 17: storage.connection entry 4.path: missing; for instance path = "/data/images"
            line 19: storage.connection entry 4.options: only for type nfs, posix, gluster
            line 20: storage.connection entry 4.pth: unknown key; did you mean path?
        "#]],
    );
}

#[test]
fn growth_is_what_other_hosts_of_a_pool_use_unless_it_is_said() {
    let storage = parse("version = 1\n[storage]\n")
        .expect("valid")
        .storage
        .expect("the document has storage");
    assert_eq!(
        (storage.thin.chunk_mib, storage.thin.utilization_percent),
        (2560, 20)
    );
    assert!(storage.thin.predict);
    assert_eq!(storage.giving_back, GivingBack::default());
}

#[test]
fn growth_that_cannot_be_is_refused_with_its_limit() {
    check(
        r#"version = 1
[storage]
thin_chunk_mib = 1000
thin_utilization_percent = 100
thin_predict = "yes"
wipe_mib_per_s = 0
discard = 1
"#,
        &expect![[r#"
            line 3: storage.thin_chunk_mib: 1000: must be a multiple of 128, the extent of a domain; 1024 would do
            line 4: storage.thin_utilization_percent: 100: largest allowed is 99
            line 5: storage.thin_predict: the string "yes": must be true or false
            line 6: storage.wipe_mib_per_s: 0: smallest allowed is 1
            line 7: storage.discard: the number 1: must be true or false
        "#]],
    );
    check(
        r#"version = 1
[storage]
thin_chunk_mib = 64
thin_utilization_percent = 0
wipe_mib_per_s = 1048577
"#,
        &expect![[r#"
            line 3: storage.thin_chunk_mib: 64: smallest allowed is 128
            line 4: storage.thin_utilization_percent: 0: smallest allowed is 1
            line 5: storage.wipe_mib_per_s: 1048577: largest allowed is 1048576
        "#]],
    );
    check(
        r#"version = 1
[storage]
thin_chunk_mib = 1048704
thin_chunk = 1024
"#,
        &expect![[r#"
            line 3: storage.thin_chunk_mib: 1048704: largest allowed is 1048576
            line 4: storage.thin_chunk: unknown key; did you mean thin_chunk_mib?
        "#]],
    );
}

#[test]
fn a_connection_that_is_named_twice_is_told_however_it_is_spelled() {
    check(
        r#"version = 1
[storage]
[[storage.connection]]
type = "nfs"
export = "nas:/images"
[[storage.connection]]
type = "nfs"
export = "nas:/images/"
hard = true
[[storage.connection]]
type = "iscsi"
portals = ["192.0.2.20"]
target = "iqn.2026-01.com.example:array"
[[storage.connection]]
type = "iscsi"
portals = ["192.0.2.21"]
target = "iqn.2026-01.com.example:array"
[[storage.connection]]
type = "iscsi"
portals = ["192.0.2.21"]
target = "iqn.2026-01.com.example:array"
interface = "second=eth1"
"#,
        &expect![[r#"
            line 6: storage.connection entry 2.type: connection 2 is nfs:nas:/images, and so is connection 1
            line 14: storage.connection entry 4.type: connection 4 is iscsi:iqn.2026-01.com.example:array, and so is connection 3: name all portals in one
        "#]],
    );
}

#[test]
fn paths_may_have_blanks_and_colons_and_addresses_of_both_kinds() {
    let config = parse(
        r#"version = 1
[storage]
[[storage.connection]]
type = "nfs"
export = "[2001:db8::1]:/my images/a:b"
[[storage.connection]]
type = "posix"
spec = "//server/my share"
vfs_type = "cifs"
[[storage.connection]]
type = "local"
path = "/data/my images/"
"#,
    )
    .expect("valid");
    let ids: Vec<String> = config
        .storage
        .expect("the document has storage")
        .connections
        .iter()
        .map(Connection::id)
        .collect();
    assert_eq!(
        ids,
        [
            "nfs:[2001:db8::1]:/my images/a:b",
            "posix://server/my share",
            "local:/data/my images"
        ]
    );
    check(
        r#"version = 1
[storage]
[[storage.connection]]
type = "nfs"
export = "2001:db8::1:/images"
[[storage.connection]]
type = "gluster"
volume = "-o:volume"
"#,
        &expect![[r#"
            line 5: storage.connection entry 1.export: "2001:db8::1:/images": an IPv6 address is written in brackets: [address]:/path
            line 8: storage.connection entry 2.volume: "-o:volume": may not begin with a hyphen
        "#]],
    );
}
