//! Strings of resources, lockspaces and indexes mean what they mean to the
//! original's command line (each case was sent by it to a listening socket).
#![forbid(unsafe_code)]

use sanlock_wire::{ResourceFlags, parse_lockspace, parse_rentry, parse_resource, parse_rindex};

/// Lockspace, name, paths and offsets, flags and version.
fn resource(text: &str) -> Result<String, i32> {
    let resource = parse_resource(text.as_bytes()).map_err(|error| error.code())?;
    let mut out = format!("{} {}", resource.lockspace_name, resource.name);
    for disk in &resource.disks {
        out += &format!(" {:?}+{}", disk.path, disk.offset);
    }
    if resource.has(ResourceFlags::SHARED) {
        out += " SH";
    }
    if resource.has(ResourceFlags::LVER) {
        out += &format!(" v{}", resource.lver);
    }
    Ok(out)
}

#[test]
fn resources() {
    let good = [
        ("LS:R", "LS R"),
        ("ab:", "ab "),
        ("LS:R:/x:5", r#"LS R "/x"+5"#),
        ("LS:R:/x:010", r#"LS R "/x"+10"#),
        ("LS:R:/x:0x10", r#"LS R "/x"+0"#),
        ("LS:R:/x:1m", r#"LS R "/x"+1"#),
        ("LS:R:/x: +5", r#"LS R "/x"+5"#),
        ("LS:R:/x:-5", r#"LS R "/x"+18446744073709551611"#),
        (
            "LS:R:/x:99999999999999999999999",
            r#"LS R "/x"+18446744073709551615"#,
        ),
        ("LS:R:/x:0:7", r#"LS R "/x"+0 v7"#),
        ("LS:R:/x:0:x", r#"LS R "/x"+0 v0"#),
        ("LS:R:/x:0:SHARED", r#"LS R "/x"+0 SH"#),
        (
            "LS:R:/a:1:/b:2:/c:3:/d:4:9",
            r#"LS R "/a"+1 "/b"+2 "/c"+3 "/d"+4 v9"#,
        ),
        (r"L\:S:R\y:/x\::0", r#"L:S Ry "/x:"+0"#),
        (r"LS:R:/x\\y:0", r#"LS R "/x\\y"+0"#),
        (r"LS:R:/x\\\:y:0", r#"LS R "/x\\:y"+0"#),
    ];
    for (text, expected) in good {
        assert_eq!(resource(text).as_deref(), Ok(expected), "{text}");
    }
    let bad = [
        ("", -6),
        ("::", -6),
        ("x", -6),
        ("abc", -1),
        ("a:b:c", -1),
        (":::", -1),
        ("a:b:c:d", -1),
        ("LS:R:/x:", -1),
        ("LS:R:/x:0:", -1),
        ("LS:R::0", -1),
        (r"LS:R:/x\:0", -1),
        ("a:b:c:0:e:0:g:0:i:0:k:0", -2),
    ];
    for (text, code) in bad {
        assert_eq!(resource(text), Err(code), "{text}");
    }
    for (length, good) in [(48, true), (49, false)] {
        let name = "n".repeat(length);
        assert_eq!(resource(&format!("{name}:R:/x:0")).is_ok(), good);
        assert_eq!(resource(&format!("LS:{name}:/x:0")).is_ok(), good);
    }
    for (length, good) in [(1023, true), (1024, false)] {
        let path = "p".repeat(length);
        assert_eq!(resource(&format!("LS:R:{path}:0")).is_ok(), good);
    }
}

#[test]
fn lockspaces() {
    let read = |text: &str| {
        let lockspace = parse_lockspace(text.as_bytes());
        format!(
            "{} {} {:?}+{}",
            lockspace.name, lockspace.host_id, lockspace.disk.path, lockspace.disk.offset
        )
    };
    assert_eq!(read(""), r#" 0 ""+0"#);
    assert_eq!(read("LS"), r#"LS 0 ""+0"#);
    assert_eq!(read("LS:1:/x:5:extra"), r#"LS 1 "/x"+5"#);
    assert_eq!(read("LS:010:/x:x"), r#"LS 10 "/x"+0"#);
    assert_eq!(read(r"L\:S:1:/x\\\:z:0"), r#"L\x5c:S 1 "/x:z"+0"#);
    assert_eq!(read(r"LS:1:/x\\:7"), r#"LS 1 "/x"+7"#);
    assert_eq!(
        read("LS:99999999999999999999:/x:-1"),
        r#"LS 9223372036854775807 "/x"+18446744073709551615"#
    );
    let long = "n".repeat(49);
    assert_eq!(parse_lockspace(long.as_bytes()).name.bytes().len(), 48);
    let path = format!("LS:1:{}:3", "p".repeat(2000));
    let disk = parse_lockspace(path.as_bytes()).disk;
    assert_eq!((disk.path.as_bytes().len(), disk.offset), (1023, 3));
}

#[test]
fn indexes_and_entries() {
    let rindex = parse_rindex(br"L\yS:/x\yz\\\:k:9");
    assert_eq!(rindex.lockspace_name.bytes(), br"L\yS");
    assert_eq!(rindex.disk.path.as_bytes(), b"/xyz:k");
    assert_eq!(rindex.disk.offset, 9);
    let entry = parse_rentry(br"n\:1:9");
    assert_eq!((entry.name.bytes(), entry.offset), (&br"n\"[..], 1));
    assert_eq!(parse_rentry(b":8").offset, 8);
    assert_eq!(parse_rentry(b"").name.bytes(), b"");
}
