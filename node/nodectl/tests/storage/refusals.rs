//! Words that cannot be right: refused before anything is changed, and told so
//! that the next words can be right.

use super::managed;
use super::support::{Daemon, Ran, directory};

/// Refused with these words, which are few.
fn refused(ran: &Ran, words: &str) {
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains(words), "{words:?} in {ran:?}");
    assert!(ran.err.len() < 2000, "{} bytes", ran.err.len());
}

#[test]
fn a_volume_by_the_name_of_another_image_is_left_alone() {
    let (daemon, domain) = managed();
    let one = daemon.done(["volume", "create", "images", "--size", "1M"]);
    let two = daemon.done(["volume", "create", "images", "--size", "1M"]);
    let part = |name: &str, at: usize| name.trim().split('/').nth(at).expect("a name").to_owned();
    let (image, volume) = (part(&one, 1), part(&one, 2));
    let mistaken = format!("{domain}/{}/{volume}", part(&two, 1));
    let before = daemon.json(["volume", "show", one.trim()]);
    let told = format!("of image {image}, not of {}", part(&two, 1));
    for words in [
        &["delete", &mistaken][..],
        &["delete", &mistaken, "--wipe"],
        &["extend", &mistaken, "--size", "2M"],
        &["set", &mistaken, "--description", "mine"],
        &["set", &mistaken, "--legality", "illegal"],
        &["shrink", &mistaken],
        &["show", &mistaken],
        &["lease", &mistaken],
        &["refresh", &mistaken],
    ] {
        let ran = daemon.run(["volume"].iter().chain(words));
        refused(&ran, &told);
        let after = daemon.json(["volume", "show", one.trim()]);
        assert_eq!(after, before, "{words:?}");
    }
    let list = daemon.json(["volume", "list", "images"]);
    assert_eq!(list["volumes"].as_array().map(Vec::len), Some(2), "{list}");
}

#[test]
fn sizes_ids_and_names_beyond_their_limits_are_told_with_the_limit() {
    let (daemon, _) = managed();
    let create = |words: &[&str]| {
        let ran = daemon.run(["volume", "create", "images"].iter().chain(words));
        let list = daemon.json(["volume", "list", "images"]);
        assert_eq!(list["volumes"], serde_json::json!([]), "{words:?}");
        ran
    };
    let largest = "9223372036854771712";
    for format in ["raw", "cow"] {
        let words = ["--size", "9223372036854775807", "--format", format];
        refused(&create(&words), largest);
    }
    let iso = "11111111-1111-1111-1111-111111111111";
    refused(&create(&["--size", "1M", "--image", iso]), "ISO");
    refused(
        &create(&["--size", "1M", "--initial", "1G", "--format", "cow"]),
        "initial size",
    );
    let long = "x".repeat(10_000);
    for words in [
        &["domain", "show", &long][..],
        &["domain", "show", ""],
        &["volume", "list", &long],
        &["task", "show", &long],
        &["task", "show", ""],
        &["storage", "disconnect", &long],
        &["domain", "reduce", "images", "--lun", &long],
        &["domain", "grow", "images", "--lun", ""],
    ] {
        let ran = daemon.run(words);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.err.len() < 2000, "{words:?}: {} bytes", ran.err.len());
    }
    // The name says which word was empty.
    refused(&daemon.run(["domain", "show", ""]), "domain: no name");

    let volume = daemon.done(["volume", "create", "images", "--size", "1M"]);
    let grow = ["volume", "extend", volume.trim(), "--size"];
    refused(
        &daemon.run(grow.iter().chain(&["9223372036854775807"])),
        largest,
    );
}

#[test]
fn a_parent_is_of_the_image_that_is_named() {
    let (daemon, domain) = managed();
    let source = daemon.done(["volume", "create", "images", "--size", "1M"]);
    let template = daemon.done(["volume", "template", source.trim()]);
    let part = |name: &str, at: usize| name.trim().split('/').nth(at).expect("a name").to_owned();
    let child = |image: &str| {
        let parent = part(&template, 2);
        let words = ["volume", "create", "images", "--format", "cow", "--parent"];
        let more = [parent.as_str(), "--parent-image", image];
        daemon.run(words.iter().chain(&more))
    };
    refused(&child(&part(&source, 1)), "of image");
    let made = child(&part(&template, 1));
    assert_eq!(made.status, 0, "{made:?}");
    // A version it has passed is not written over.
    let said = daemon.done(["domain", "upgrade", &domain, "--format", "4"]);
    assert!(said.contains("has version 5"), "{said}");
}

#[test]
fn shapes_that_no_domain_has_are_refused() {
    let daemon = Daemon::start();
    let folder = daemon.folder("data");
    let path = folder.to_str().expect("text");
    daemon.done(["storage", "connect", "local", path]);
    let connection = format!("local:{path}");
    let create = |words: &[&str]| {
        let order = ["domain", "create", "images", "--connection", &connection];
        daemon.run(order.iter().chain(words))
    };
    refused(&create(&["--block-size", "1000"]), "512 or 4096");
    refused(&create(&["--alignment", "3"]), "1, 2, 4 or 8 MiB");
    refused(&create(&["--alignment", "16"]), "1, 2, 4 or 8 MiB");
    refused(&create(&["--alignment", "8"]), "sectors of 512 bytes");
    let empty = std::fs::read_dir(&folder).expect("a directory").count();
    assert_eq!(empty, 0, "nothing was begun");
    assert_eq!(create(&["--alignment", "1"]).status, 0);
}

#[test]
fn a_connection_that_is_refused_leaves_the_one_that_works() {
    let mut daemon = Daemon::start();
    let domain = daemon.domain("images", "data");
    let folder = daemon.folder_of("data");
    let path = folder.to_str().expect("text");
    // The same directory by another word is the same connection.
    let twisted = format!("{path}/../data//");
    let again = daemon.json(["storage", "connect", "local", &twisted]);
    assert_eq!(again["connection"]["id"], format!("local:{path}"));
    let status = daemon.json(["storage", "status"]);
    let count =
        |status: &serde_json::Value| status["status"]["connections"].as_array().map(Vec::len);
    assert_eq!(count(&status), Some(1), "{status}");

    let long = "/x".repeat(5000);
    for words in [
        &["local", &long][..],
        &["local", "relative"],
        &["nfs", "nowhere"],
        &["posix", "/dev/null", "--type", "ext4 or so"],
        &["iscsi", "not a portal"],
    ] {
        let ran = daemon.run(["storage", "connect"].iter().chain(words));
        assert_eq!(ran.status, 1, "{words:?}: {}", ran.err.len());
    }
    let status = daemon.json(["storage", "status"]);
    assert_eq!(count(&status), Some(1), "nothing of them is kept: {status}");
    daemon.restart();
    super::support::until("the domain is found again", || {
        let domains = daemon.json(["domain", "list"]);
        (domains["domains"][0]["id"] == domain.as_str()).then_some(())
    });
}

#[test]
fn a_request_that_fails_does_not_keep_what_the_configuration_wants() {
    let dir = directory();
    let path = dir.path().join("not-there");
    let path = path.to_str().expect("text").to_owned();
    let config = serde_json::json!({
        "pool": null, "host_id": 0, "spm": "manual", "manager": "pool",
        "io_timeout_s": 2, "initiator_name": null,
        "connections": [{"type": "local", "path": path}],
    });
    let daemon = Daemon::start_in(dir, &config);
    let users = || {
        let status = daemon.json(["storage", "status"]);
        let users = &status["status"]["connections"][0]["users"];
        users.as_array().cloned().unwrap_or_default()
    };
    let before = users();
    assert_eq!(before.len(), 1, "{before:?}");
    let ran = daemon.run(["storage", "connect", "local", &path]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_eq!(users(), before);
}

#[test]
fn a_domain_of_media_shows_its_files_and_takes_no_volume() {
    let daemon = Daemon::start();
    let folder = daemon.folder("media");
    let path = folder.to_str().expect("text");
    daemon.done(["storage", "connect", "local", path]);
    let connection = format!("local:{path}");
    let order = ["domain", "create", "media", "--connection", &connection];
    daemon.done(order.iter().chain(&["--class", "iso"]));
    let domain = daemon.json(["domain", "list"])["domains"][0]["id"].clone();
    let domain = domain.as_str().expect("an id");
    let files = folder
        .join(domain)
        .join("images/11111111-1111-1111-1111-111111111111");
    std::fs::write(files.join("live.iso"), [0; 2048]).expect("written");
    std::fs::write(files.join("notes.txt"), []).expect("written");
    let shown = daemon.json(["domain", "show", "media"]);
    assert_eq!(
        shown["domain"]["held"],
        serde_json::json!([{"name": "live.iso", "size_bytes": 2048}])
    );
    let said = daemon.done(["domain", "show", "media"]);
    assert!(said.contains("live.iso, 2K"), "{said}");
    // Alone in its own pool it could be changed; volumes are still not for it.
    refused(
        &daemon.run(["pool", "create", "main", "media"]),
        "data domain",
    );
}
