//! Initialising a lockspace: all of it or nothing, and never over something
//! that is not recognised or is alive.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;

use control::status::LockspaceState;
use disk_format::{Geometry, delta};
use leased::area::{self, AreaError, InitOptions};
use support::{Setup, disk_dir, file, name, writable};

#[test]
fn an_initialisation_cut_short_leaves_no_lockspace_behind() {
    let dir = disk_dir();
    let disk = file(&dir, "disk", 8);
    let options = InitOptions {
        sector_size: Some(4096),
        ..InitOptions::new(&disk, name("LS"))
    };
    let mut looks = 0;
    let progress = &mut |progress: &area::Progress| {
        if matches!(progress, area::Progress::Writing { done, total } if done < total) {
            looks += 1;
            let error = area::inspect(&disk, 0).unwrap_err();
            assert!(matches!(error, AreaError::NoLockspace { .. }), "{error}");
        }
    };
    area::init(&options, progress).unwrap();
    assert_eq!(looks, 8);
    assert!(area::inspect(&disk, 0).is_ok());
    // Everything but the last write, which makes it valid.
    let mut bytes = vec![0; 8 << 20];
    let geometry = Geometry::Sector4096Align8M;
    delta::fill_initial(&name("LS"), geometry, 10, 0, false, &mut bytes);
    fs::write(&disk, &bytes).unwrap();
    assert!(matches!(
        area::inspect(&disk, 0),
        Err(AreaError::NoLockspace { .. })
    ));
    let path = disk.display();
    let output = support::command("sanlock", "sanlock")
        .args(["direct", "read_leader", "-s", &format!("LS:1:{path}:0")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("read_leader done") && !said.contains("read_leader done 0"),
        "{said}"
    );
    // It might as well be a lockspace whose first record is damaged: its name
    // must be said to begin again.
    let error = area::init(&options, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("--force LS"), "{error}");
    let again = InitOptions {
        force: Some(name("LS")),
        ..options
    };
    area::init(&again, &mut |_| ()).unwrap();
    assert!(area::inspect(&disk, 0).is_ok());
}

#[test]
fn initialising_leaves_foreign_content_alone_wherever_in_the_area_it_is() {
    let dir = disk_dir();
    let disk = file(&dir, "disk", 1);
    for (offset, content) in [
        (0, [0xa5; 512]),
        // Behind everything a short look would see, up to the last sector.
        (1 << 19, [1; 512]),
        ((1 << 20) - 512, [0x7f; 512]),
    ] {
        fs::write(&disk, vec![0; 1 << 20]).unwrap();
        writable(&disk).write_all_at(&content, offset).unwrap();
        let before = fs::read(&disk).unwrap();
        for force in [None, Some(name("OTHER"))] {
            let options = InitOptions {
                force,
                ..InitOptions::new(&disk, name("LS"))
            };
            let error = area::init(&options, &mut |_| ()).unwrap_err();
            assert!(matches!(error, AreaError::Refused { .. }), "{error}");
            assert!(error.to_string().contains("--force"), "{error}");
            assert!(fs::read(&disk).unwrap() == before, "offset {offset}");
        }
    }
    let options = InitOptions {
        force: Some(name("LS")),
        ..InitOptions::new(&disk, name("LS"))
    };
    area::init(&options, &mut |_| ()).unwrap();
    assert!(area::inspect(&disk, 0).is_ok());
}

#[test]
fn initialising_refuses_what_it_does_not_recognise_and_what_is_alive() {
    let dir = disk_dir();
    let disk = support::area(&dir, "disk", "LS");
    let forced = |force: Option<&str>| InitOptions {
        io_timeout_s: 1,
        force: force.map(name),
        fire_timeout_s: 0,
        ..InitOptions::new(&disk, name("NEW"))
    };
    let refuse = |options: &InitOptions, part: &str| {
        let before = fs::read(&disk).unwrap();
        let error = area::init(options, &mut |_| ()).unwrap_err();
        assert!(matches!(error, AreaError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        before
    };
    refuse(
        &forced(None),
        "already holds lockspace \"LS\"; to destroy it, repeat with --force LS",
    );
    refuse(
        &forced(Some("NEW")),
        "--force NEW does not name what is there: LS would",
    );

    let leased = Setup::new(&disk, "node-a", 1).start();
    leased.until_state(LockspaceState::Held);
    // Watched for 8 × 1 + 0 s; the holder renews every 2 s.
    refuse(
        &forced(Some("LS")),
        "host id 1 (\"node-a\", generation 1) is alive",
    );
    leased.until("it still holds", |status| {
        status.state == LockspaceState::Held
    });
    leased.kill();
    let mut watched = false;
    area::init(&forced(Some("LS")), &mut |progress| {
        watched |= matches!(progress, area::Progress::Watching { .. })
    })
    .expect("its holder is dead by now");
    assert!(watched);
    let found = area::inspect(&disk, 0).unwrap();
    assert_eq!((found.lockspace.as_str(), found.hosts.len()), ("NEW", 0));
    let bytes = fs::read(&disk).unwrap();
    assert!(delta::discover(&bytes).is_ok());
}
