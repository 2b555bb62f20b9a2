//! `sanlock direct`, side by side with the original: from the same image the
//! same command gives the same output, the same exit status and the same bytes
//! on disk.
//!
//! Each command runs twice, by each tool on a copy of the image; the next
//! command starts from what the original left. Where ours differs on purpose,
//! the last tests say how.

mod bench;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use disk_format::{Leader, delta, paxos};

use bench::{Bench, Differs, MIB, write_sparse};
use support::Loop;

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/disk-format/tests/golden");
    fs::read(folder.join(name)).expect("a golden sample")
}

/// Timestamps, checksums and made-up host names left out.
fn without_chance(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let field = line.split(' ').next().unwrap_or_default();
        lines.push(match field {
            "timestamp" | "checksum" | "write_timestamp" => field.to_owned(),
            "resource_name" => {
                let name = line.trim_start_matches("resource_name ");
                format!("resource_name of {} bytes", name.len())
            }
            _ => line.to_owned(),
        });
    }
    lines.join("\n")
}

#[test]
fn areas_are_made_and_read_in_every_geometry() {
    let mut bench = Bench::new(48);
    bench.all(
        "init -s LS:1:@:0
         init -s LS:1:@:0 -o 3
         init -s LS:1:@
         init -s LS:1:@:8M -Z 4096 -A 8M
         init -s LS:1:@:8M -Z 4096 -A 4M
         init -s LS:1:@:8M -Z 4096 -A 2M
         init -s LS:1:@:8M -Z 4096 -A 1M
         init -r LS:R1:@:1M
         init -r LS:R1:@:16M -Z 4096 -A 8M
         init -r LS:R1:@:24M -Z 4096 -A 4M
         init -r LS:R1:@:28M -Z 4096 -A 2M
         init -r LS:R1:@:30M -Z 4096 -A 1M
         init -r LS:R1:@:30M -Z 4096 -A 1M -n 7
         init -r LS:R2:@:2M -n 7 -m 9
         init -r LS:R2:@:2M -n 3000
         init -r LS:R2:@:2M:SH
         init -r LS:R2:@:2M:@:3M
         init -s LS:1:@:0 -r LS:R9:@:5M
         init -s LS:1:@:512
         init -s LS:1:@:0
         init -r LS:R1:@:1M
         read_leader -s LS:1:@:0
         read_leader -s LS:2000:@:0
         read_leader -s LS:1:@:0 -Z 512 -A 1M
         read_leader -s LS:2:@:8M
         read_leader -s LS:3:@:8M -Z 4096 -A 2M
         read_leader -r LS:R1:@:1M
         read_leader -r LS:R1:@:16M
         read_leader -r LS:R1:@:16M -Z 4096 -A 8M
         read_leader -r LS:R1:@:30M",
    );
    bench.same(
        "init -r LS:R5:@:5M -z 1",
        Differs::Cleared { resource: 5 * MIB },
    );
    bench.all("read_leader -r LS:R5:@:5M");
}

#[test]
fn what_cannot_be_done_is_answered_with_the_same_numbers() {
    let mut bench = Bench::new(16);
    bench.all(
        "init -s LS:1:@:0
         init -r LS:R1:@:1M
         init
         init -s LS
         init -s LS:1:/none:0
         init -r LS:R1
         init -r LS:R1:/none:0
         init -r LS:R1:@
         init -s LS:1:@:8M -Z 7
         init -s LS:1:@:8M -Z 512
         init -s LS:1:@:8M -Z 512 -A 8M
         init -s LS:1:@:8M -A 1M
         init -s LS:1:@:100
         init -y 3
         init xx
         init -s
         zz
         read_leader -s LS:2:@:0 -Z 4096 -A 8M
         read_leader -s LS:2001:@:0
         read_leader -s LS:2049:@:0
         read_leader -s LX:1:@:0
         read_leader -s LS:1:@:1M
         read_leader -r LS:RX:@:1M
         read_leader -r LX:R1:@:1M
         read_leader -r LS:R1:@:0
         read_leader -r LS:R1:@:7M
         read_leader -r LS:R1:@:1M -Z 4096 -A 8M
         acquire -r LX:R1:@:1M -i 3 -g 2
         acquire -r LS:RX:@:1M -i 3 -g 2
         acquire -r LS:R1:@:1M -i 2001 -g 2
         acquire -r LS:R1 -i 3 -g 2
         acquire -r LS:R1:/none:0 -i 3 -g 2
         release -r LX:R1:@:1M -i 3 -g 1
         release -r LS:R1:@:7M -i 3 -g 1
         release -r LS:R1:/none:1M -i 1 -g 1
         renew_id
         renew_id -s LS:5:@:0
         release_id -s LS:6:@:0
         release_id -s LS:0:@:0
         release_id -s LX:1:@:0
         release_id -s LS:2001:@:0
         acquire_id
         acquire_id -s LS:0:@:0
         acquire_id -s LS:2001:@:0
         acquire_id -s LX:1:@:0
         acquire_id -s LS:1:/none:0
         format
         format -x LS
         format -x LS:/none:1M
         lookup
         lookup -x LS:@:3M
         rebuild
         rebuild -x LS:/none:0
         update
         update -x LS:/none:0 -e a:3M
         dump
         dump /none
         dump /dev/null
         dump @:7M
         dump @ -A 1M
         next_free /none -Z 512 -A 1M
         write_leader -s LS:2:@:0 -F /none",
    );
}

#[test]
fn leases_are_dumped_alike() {
    let mut bench = Bench::new(16);
    bench.all(
        "init -s LS:1:@:0 -o 1
         init -r LS:R1:@:1M
         init -r LS:R2:@:2M
         init -r LS:R1:@:3M
         init -r LS:R6:@:6M
         init -r LS:R8:@:8M -Z 4096 -A 2M",
    );
    bench.put(0, &golden("delta_held_host1.bin"));
    bench.put(512, &golden("delta_bitmap_event_host2.bin"));
    bench.put(512 * 5, &golden("delta_released_host1.bin"));
    let mut notifying = golden("delta_bitmap_event_host2.bin");
    for (place, bits) in [(256, 0x85), (300, 0xff), (505, 0x80), (511, 0xff)] {
        notifying[place] = bits;
    }
    bench.put(512 * 7, &notifying);
    bench.put(MIB, &golden("paxos_shared_two_hosts.bin"));
    bench.put(2 * MIB, &golden("paxos_request_graceful.bin"));
    bench.put(3 * MIB, &golden("paxos_ex_converted.bin"));
    // A host far up shares the lease; blocks of others are damaged.
    bench.put(MIB + 512 * 1000, &[1; 48]);
    bench.put(
        MIB + 512 * 1000 + 128,
        &paxos::ModeBlock::shared(7).encode(),
    );
    bench.put(MIB + 512 * 500, &[1; 56]);
    bench.put(MIB + 512 * 600 + 48, &[0, 0, 0, 0, 1]);
    bench.put(MIB + 512 * 601 + 40, &[1]);
    bench.put(MIB + 512 * 602 + 24, &[1]);
    bench.all(
        "dump @
         dump @ -f 1
         dump @ -f 2
         dump @ -f 3
         dump @ -D
         dump @:0:16M
         dump @:0:16M -f 2
         dump @:1M -f 2
         dump @:1M:2M -f 2
         dump @:0:0
         dump @:0:511
         dump @:0:512
         dump @:0:1500000
         dump @:512
         dump @:6M
         dump @:6M:8M
         dump @:8M
         dump @:8M -Z 512 -A 1M
         dump @ -Z 512
         dump @:x
         dump @:
         dump @::
         next_free @ -Z 512 -A 1M
         next_free @:1048576 -Z 512 -A 1M
         next_free @:8388608 -Z 4096 -A 2M
         next_free @:15728640 -Z 512 -A 1M
         read_leader -s LS:1:@:0
         read_leader -s LS:2:@:0
         read_leader -r LS:R1:@:1M
         read_leader -r LS:R1:@:2M
         release_id -s LS:1:@:0
         release_id -s LS:2:@:0
         dump @",
    );
}

#[test]
fn a_path_with_colon_and_space_is_understood() {
    let mut bench = Bench::new(4);
    let strange = bench.dir.path().join("im:g");
    fs::rename(&bench.image, &strange).expect("renamed");
    bench.image = strange;
    bench.target = bench.dir.path().join("im\\:g");
    bench.all(
        "init -s LS:1:@:0
         init -r LS:R1:@:1048576
         dump @
         dump @:0
         dump @:1M
         read_leader -s LS:1:@:0
         read_leader -r LS:R1:@:1048576",
    );
}

#[test]
fn resources_are_taken_alike() {
    let mut bench = Bench::new(8);
    bench.all("init -s LS:1:@:0\ninit -r LS:R1:@:1M\ninit -r LS:R2:@:2M -n 7");
    let times = Differs::Times {
        resource: MIB,
        host: 3,
    };
    bench.same("acquire -r LS:R1:@:1M -i 3 -g 1", times);
    // Again, in the same and in a later life; then in an earlier one.
    bench.same("acquire -r LS:R1:@:1M -i 3 -g 1", times);
    bench.same("acquire -r LS:R1:@:1M -i 3 -g 2", times);
    bench.same("acquire -r LS:R1:@:1M -i 3 -g 1", times);
    bench.same("acquire -r LS:R1:@:1M -i 4 -g 1", times);
    bench.same("acquire -r LS:R2:@:2M -i 8 -g 1", times);
    let times = Differs::Times {
        resource: 2 * MIB,
        host: 7,
    };
    bench.same("acquire -r LS:R2:@:2M -i 7 -g 1", times);
    bench.same("dump @ -f 2", Differs::Nothing);
}

#[test]
fn host_ids_are_taken_renewed_and_released_alike() {
    let mut bench = Bench::new(2);
    let host = Differs::Host { sector: 2 * 512 };
    for line in [
        "init -s LS:1:@:0 -o 1",
        "acquire_id -s LS:3:@:0 -o 1",
        "read_leader -s LS:3:@:0",
        "renew_id -s LS:3:@:0 -o 2",
        "read_leader -s LS:3:@:0",
        "release_id -s LS:3:@:0 -o 7",
        "read_leader -s LS:3:@:0",
        "init -s LS:1:@:0 -o 1",
        "acquire_id -s LS:3:@:0",
        "read_leader -s LS:3:@:0",
    ] {
        bench.same_but(line, host, without_chance);
    }
}

#[test]
fn indexes_are_kept_alike() {
    let mut bench = Bench::new(48);
    let padding = Differs::Padding {
        index: 16 * MIB,
        sector: 512,
        area: MIB,
    };
    bench.same("format -x LS:@:16M", padding);
    bench.same("format -x LS:@:16M -Z 512 -A 1M", padding);
    bench.all(
        "lookup -x LS:@:16M
         lookup -x LS:@:16M -e a
         update -x LS:@:16M -e a:18M
         update -x LS:@:16M -e a
         update -x LS:@:16M -e b:19M
         lookup -x LS:@:16M -e a
         lookup -x LS:@:16M -e a:18M
         lookup -x LS:@:16M -e b:18M
         lookup -x LS:@:16M -e :18M
         lookup -x LS:@:16M -e :18874368
         lookup -x LS:@:16M -e :20M
         lookup -x LX:@:16M
         lookup -x LS:@:17M
         dump @:16M
         dump @:16M -f 1
         dump @:16M -f 2
         update -x LS:@:16M -e a:18M -z 1
         update -x LS:@:16M -e :19M -z 0
         dump @:16M -f 1
         init -r LS:RR:@:18M
         init -r LS:R4:@:20M
         init -r OTHER:R5:@:21M
         rebuild -x LS:@:16M
         dump @:16M -f 2
         dump @:16M:8M -f 2
         lookup -x LS:@:16M -e RR
         lookup -x LS:@:16M -e R5",
    );
    let padding = Differs::Padding {
        index: 32 * MIB,
        sector: 4096,
        area: 2 * MIB,
    };
    bench.same("format -x LS:@:32M -Z 4096 -A 2M", padding);
    bench.all(
        "lookup -x LS:@:32M
         update -x LS:@:32M -e a:38M
         update -x LS:@:32M -e a:37M
         lookup -x LS:@:32M -e a
         rebuild -x LS:@:32M
         lookup -x LS:@:32M -e a",
    );
}

#[test]
fn leaders_are_changed_alike() {
    let mut bench = Bench::new(8);
    bench.all("init -s LS:1:@:0\ninit -r LS:R1:@:1M\ninit -r LS:R1:@:3M");
    let files = [
        (
            "f1",
            "owner_id 2\nowner_generation 99999999999999999999\nextra1 5\nsector_size 0x10\n\
             flags 20\nmagic 12212010\nspace_name a b c\nversion zz\nio_timeout 70000\nwrite_id 3\n\
             extra2 0x4\nwrite_timestamp 5\n  lver 4\n\tlver\t6\nlver=7\nunused1 4\nchecksum 5",
        ),
        (
            "f2",
            "lver -1\nnum_hosts +3\nmax_hosts 5000000000\ntimestamp 7\n",
        ),
        ("f3", ""),
        (
            "f4",
            "# comment here\nlver\n\nlver 5\nmagic 0x6152010 x\nflags 0x10\n",
        ),
    ];
    for (name, text) in files {
        fs::write(bench.dir.path().join(name), text).expect("a file of fields");
    }
    let (space, resource) = ("n".repeat(60), "m".repeat(48));
    let long = format!(
        "space_name {space}\nresource_name {resource}\n{} 5\n",
        "x".repeat(300)
    );
    fs::write(bench.dir.path().join("f5"), long).expect("a file of fields");
    bench.all(
        "write_leader -r LS:R1:@:1M -F %/f1
         write_leader -r LS:R1:@:1M -F %/f2
         write_leader -r LS:R1:@:1M -F %/f3
         write_leader -r LS:R1:@:1M -F %/f4
         write_leader -r LS:R1:@:1M -F %/f4 -f 1
         write_leader -r LS:R1:@:3M -F %/f5
         write_leader -r LS:R1:@:6M -F %/f2
         write_leader -r LS:R1:/none:6M -F %/f2
         write_leader -r LS:R1 -F %/f2
         write_leader -F %/f4
         write_leader -s LS:3:@:0 -F %/f1
         write_leader
         read_leader -r LS:R1:@:1M
         dump @:1M",
    );
}

/// The original's program writes a wrong checksum; its output has the right
/// one, and so has our disk.
#[test]
fn a_changed_host_record_gets_the_checksum_that_is_shown() {
    let bench = Bench::new(2);
    assert_eq!(bench.ours_says("init -s LS:1:@:0").1, Some(0));
    let fields = bench.dir.path().join("fields");
    fs::write(&fields, "owner_id 2\nowner_generation 3\ntimestamp 77\n").expect("a file");
    let line = "write_leader -s LS:2:@:0 -F %/fields";
    let start = bench.bytes();
    let theirs = bench.theirs(line);
    write_sparse(&bench.image, &start);
    let (text, code) = bench.ours_says(line);
    assert_eq!(text, String::from_utf8_lossy(&theirs.stdout));
    assert_eq!(code, Some(0));
    let leader = delta::leader(&bench.bytes()[512..]).expect("a record");
    assert_eq!(delta::verify_checksum(&leader), Ok(()));
    assert_eq!((leader.owner_id, leader.timestamp), (2, 77));
}

/// The original reads the leader, says 0 and leaves the lease held.
#[test]
fn a_released_resource_can_be_taken_by_another_host() {
    let bench = Bench::new(2);
    let says = |line: &str| bench.ours_says(line);
    let done = |text: &str, code| (format!("{text}\n"), Some(code));
    assert_eq!(says("init -r LS:R1:@:1M"), done("init done 0", 0));
    assert_eq!(
        says("acquire -r LS:R1:@:1M -i 3 -g 1"),
        done("acquire done 0", 0)
    );
    assert_eq!(
        says("release -r LS:R1:@:1M -i 4 -g 1"),
        done("release done -251", 1)
    );
    assert_eq!(
        says("acquire -r LS:R1:@:1M -i 4 -g 1"),
        done("acquire done -241", 1)
    );
    assert_eq!(
        says("release -r LS:R1:@:1M -i 3 -g 1"),
        done("release done 0", 0)
    );
    assert_eq!(
        says("acquire -r LS:R1:@:1M -i 4 -g 1"),
        done("acquire done 0", 0)
    );
    let leader = paxos::leader(&bench.bytes()[MIB..]).expect("a leader");
    assert_eq!((leader.owner_id, leader.lver), (4, 2));
}

/// The original writes host 0's block over the request record, frees the host
/// whose record it finds rather than the one named, writes a whole larger
/// sector when the file says so, and reads beyond its buffer for a geometry
/// with fewer hosts than the lease.
#[test]
fn nothing_outside_what_is_named_is_written_or_read() {
    let bench = Bench::new(4);
    assert_eq!(bench.ours_says("init -s LS:1:@:0").1, Some(0));
    assert_eq!(bench.ours_says("init -r LS:R1:@:1M").1, Some(0));
    bench.put(512 * 7, &golden("delta_bitmap_event_host2.bin"));
    fs::write(bench.dir.path().join("fields"), "sector_size 4096\n").expect("a file");
    let before = bench.bytes();
    let (text, code) = bench.ours_says("acquire -r LS:R1:@:1M -g 1");
    assert_eq!((text.as_str(), code), ("acquire done -22\n", Some(1)));
    let (text, code) = bench.ours_says("release_id -s LS:8:@:0");
    assert_eq!((text.as_str(), code), ("release_id done -22\n", Some(1)));
    assert!(bench.bytes() == before);

    let (text, code) = bench.ours_says("dump @:1M -Z 4096 -A 1M -f 2");
    assert_eq!((text.lines().count(), code), (2, Some(0)));
    assert!(bench.bytes() == before);

    assert_eq!(
        bench.ours_says("write_leader -r LS:R1:@:1M -F %/fields").1,
        Some(0)
    );
    let after = bench.bytes();
    let changed = |place: &usize| after[*place] != before[*place];
    let last = (0..after.len()).rfind(changed);
    assert!(last.is_some_and(|last| last < MIB + 200), "{last:?}");
    assert!(after[..MIB] == before[..MIB]);
    let leader = Leader::decode(after[MIB..].first_chunk().expect("a leader"));
    assert_eq!(leader.sector_size, 4096);
}

#[test]
fn a_device_with_4096_byte_sectors_is_served_alike() {
    let mut bench = Bench::new(48);
    let device = Loop::attach(&bench.image, 4096, false);
    bench.target.clone_from(&device.0);
    // Not through the file: each tool runs on what the other left, twice.
    for line in [
        "init -s LS:1:@:0",
        "init -s LS:1:@:0 -Z 4096 -A 1M",
        "init -s LS:1:@:0",
        "init -r LS:R1:@:8M",
        "init -r LS:R1:@:16M -Z 4096 -A 2M",
        "init -s LS:1:@:512",
        "read_leader -s LS:1:@:0",
        "read_leader -s LS:2000:@:0",
        "read_leader -r LS:R1:@:8M",
        "read_leader -r LS:R1:@:16M -Z 4096 -A 2M",
        "dump @",
        "dump @ -f 2",
        "dump @:8M",
        "dump @:16M -f 1",
        "next_free @ -Z 4096 -A 8M",
        "format -x LS:@:24M",
        "lookup -x LS:@:24M",
        "lookup -x LS:@:24M -e :40M",
        "update -x LS:@:24M -e a:40M",
        "lookup -x LS:@:24M -e a",
        "init -s LS:1:@:48M",
        "init -s LS:1:@:44M",
    ] {
        let theirs = bench.theirs(line);
        let ours = bench.ours(line);
        let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text(&ours), text(&theirs), "output of: {line}");
        assert_eq!(ours.status, theirs.status, "exit status of: {line}");
    }
    // Sectors of 512 bytes cannot be written here: said before the first write.
    let (text, code) = bench.ours_says("init -r LS:R1:@:8M -Z 512 -A 1M");
    assert_eq!((text.as_str(), code), ("init done -22\n", Some(1)));
}
