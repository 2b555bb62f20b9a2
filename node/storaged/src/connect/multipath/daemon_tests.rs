use super::*;
use std::os::unix::net::UnixListener;

/// As multipathd 0.9 prints it, for one LUN with a path that failed.
const MAPS: &str = r#"{
   "major_version": 0,
   "minor_version": 1,
   "maps": [{
      "name" : "360014053b18095bd13c48158687153a5",
      "uuid" : "360014053b18095bd13c48158687153a5",
      "sysfs" : "dm-0",
      "failback" : "-",
      "queueing" : "16 chk",
      "paths" : 1,
      "write_prot" : "rw",
      "dm_st" : "active",
      "features" : "1 queue_if_no_path",
      "hwhandler" : "1 alua",
      "action" : "",
      "path_faults" : 1,
      "vend" : "LIO-ORG",
      "prod" : "disk",
      "rev" : "4.0",
      "switch_grp" : 0,
      "map_loads" : 1,
      "total_q_time" : 0,
      "q_timeouts" : 0,
      "path_groups": [{
         "selector" : "service-time 0",
         "pri" : 50,
         "dm_st" : "active",
         "marginal_st" : "normal",
         "group" : 1,
         "paths": [{
            "dev" : "sdb",
            "dev_t" : "8:16",
            "dm_st" : "active",
            "dev_st" : "running",
            "chk_st" : "ready",
            "checker" : "tur",
            "pri" : 50,
            "host_wwnn" : "[undef]",
            "target_wwnn" : "iqn.2026-11.test:one",
            "host_wwpn" : "[undef]",
            "target_wwpn" : "[undef]",
            "host_adapter" : "10.0.0.5",
            "lun_hex" : "0x0000000000000001",
            "marginal_st" : "normal"
         },{
            "dev" : "sdc",
            "dev_t" : "8:32",
            "dm_st" : "failed",
            "dev_st" : "running",
            "chk_st" : "faulty",
            "checker" : "tur",
            "pri" : 0,
            "marginal_st" : "normal"
         }]
      }]
   }]
}
"#;

/// Answers each question with the next text, on a socket of its own.
fn served(name: &str, answers: Vec<Vec<u8>>) -> (Socket, std::thread::JoinHandle<Vec<String>>) {
    let name = format!("holdfast-test-{}-{name}", std::process::id());
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 8];
            stream.read_exact(&mut length).unwrap();
            let mut text = vec![0; usize::try_from(u64::from_ne_bytes(length)).unwrap()];
            stream.read_exact(&mut text).unwrap();
            assert_eq!(text.pop(), Some(0), "closing NUL");
            asked.push(String::from_utf8(text).unwrap());
            stream.write_all(&answer).unwrap();
        }
        asked
    });
    (Socket::named(&name), thread)
}

fn message(text: &str) -> Vec<u8> {
    let length = u64::try_from(text.len() + 1).unwrap();
    [&length.to_ne_bytes()[..], text.as_bytes(), b"\0"].concat()
}

#[test]
fn maps_are_read_with_their_paths() {
    let maps = parse_maps(MAPS).unwrap();
    assert_eq!(maps.len(), 1);
    assert_eq!(maps[0].sysfs, "dm-0");
    assert_eq!(maps[0].queueing, "16 chk");
    let states: Vec<(&str, &str)> = maps[0].path_groups[0]
        .paths
        .iter()
        .map(|path| (path.dev_t.as_str(), path.dm_st.as_str()))
        .collect();
    assert_eq!(states, [("8:16", "active"), ("8:32", "failed")]);
    assert_eq!(
        parse_maps(r#"{"major_version":0,"minor_version":1,"maps":[]}"#).unwrap(),
        []
    );
    assert!(parse_maps("ok\n").is_err());
}

#[test]
fn questions_are_asked_in_the_daemons_own_form() {
    let (socket, thread) = served(
        "ask",
        vec![message(MAPS), message("ok\n"), message("fail\n")],
    );
    assert_eq!(socket.maps().unwrap().len(), 1);
    assert_eq!(socket.ask("resize map 3600").unwrap(), "ok\n");
    let failure = socket.ask("del map 3600").unwrap_err();
    assert_eq!(failure.message, "multipathd: del map 3600: fail");
    assert_eq!(
        thread.join().unwrap(),
        ["show maps json", "resize map 3600", "del map 3600"]
    );
}

#[test]
fn idle_has_to_be_said_twice_in_a_row() {
    let said = [
        "pid 612 running",
        "pid 612 idle",
        "pid 612 running",
        "pid 612 idle",
        "pid 612 idle",
    ];
    let answers = said
        .iter()
        .map(|text| message(&format!("{text}\n")))
        .collect();
    let (socket, thread) = served("idle", answers);
    super::super::wait_idle(&crate::job::Context::quiet(), &socket).unwrap();
    assert_eq!(thread.join().unwrap().len(), 5);
}

#[test]
fn answers_that_are_none_are_failures() {
    let short = 100_u64.to_ne_bytes().to_vec();
    let huge = u64::MAX.to_ne_bytes().to_vec();
    let (socket, thread) = served("bad", vec![short, huge]);
    assert!(socket.ask("show daemon").is_err());
    let failure = socket.ask("show daemon").unwrap_err();
    assert!(failure.message.contains("at most"), "{failure}");
    thread.join().unwrap();
    let failure = Socket::named("holdfast-nobody")
        .ask("show daemon")
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::WrongState);
}
