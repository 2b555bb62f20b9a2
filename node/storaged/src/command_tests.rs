use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn shell<'a>(script: &str) -> Run<'a> {
    Run::new("sh").arg("-c").arg(script)
}

#[test]
fn output_status_input_and_environment_are_as_said() {
    let output = shell("cat; echo $WORD-$HOME; echo bad >&2; exit 3")
        .env("WORD", "spoken")
        .input("given\n")
        .run(&Context::quiet())
        .unwrap();
    assert_eq!(output.code, Some(3));
    assert_eq!(output.text(), "given\nspoken-\n");
    let failure = output.success().unwrap_err();
    assert_eq!(failure.message, "sh: exit 3: bad");
    assert_eq!(failure.kind, FailureKind::Failed);
}

#[test]
fn large_input_and_output_do_not_lock_each_other() {
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let output = Run::new("cat").input(input.clone()).run(&Context::quiet());
    assert!(output.unwrap().stdout == input);
}

#[test]
fn a_program_that_ends_before_it_has_read_its_input_is_no_failure() {
    let input = vec![0; 1 << 20];
    let output = shell("exit 0").input(input).succeed(&Context::quiet());
    assert!(output.is_ok());
}

#[test]
fn a_program_that_hangs_is_killed_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", mark.display());
    let failure = shell(&script)
        .within(Duration::from_millis(500))
        .run(&Context::quiet())
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(
        failure.message.contains("program sh: no end after 500ms"),
        "{failure}"
    );
    let pid: i32 = std::fs::read_to_string(&mark)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    // Whoever adopted it may not have reaped it yet: a zombie is as dead.
    while std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
    {
        assert!(Instant::now() < until, "the grandchild {pid} still runs");
        std::thread::yield_now();
    }
}

#[test]
fn a_grandchild_that_keeps_the_pipes_is_not_waited_for() {
    let output = shell("sleep 30 & echo done").within(Duration::from_secs(20));
    assert_eq!(output.run(&Context::quiet()).unwrap().text(), "done\n");
}

#[test]
fn too_much_output_is_a_failure_and_too_many_complaints_are_cut() {
    let failure = shell("head -c 100000 /dev/zero; exec sleep 1000")
        .stdout_max(4096)
        .run(&Context::quiet())
        .unwrap_err();
    assert_eq!(
        failure.message,
        "program sh: wrote more than 4096 bytes, killed"
    );
    let output = shell("head -c 200000 /dev/zero >&2").run(&Context::quiet());
    assert_eq!(output.unwrap().stderr.len(), 64 << 10);
}

#[test]
fn watched_output_is_shown_and_not_kept() {
    let mut seen = Vec::new();
    let mut watch = |piece: &[u8]| seen.extend_from_slice(piece);
    let output = shell("echo one; echo two")
        .watch(&mut watch)
        .run(&Context::quiet());
    assert!(output.unwrap().stdout.is_empty());
    assert_eq!(seen, b"one\ntwo\n");
}

#[test]
fn only_a_run_that_allows_it_is_cancelled() {
    let cancelled = Arc::new(AtomicBool::new(true));
    let context = Context::new(Arc::new(|_, _| {}), Arc::clone(&cancelled));
    assert!(shell("exit 0").succeed(&context).is_ok());
    let refused = shell("exit 0").cancellable().run(&context).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Cancelled);
    cancelled.store(false, Ordering::Relaxed);
    let mut watch = |_: &[u8]| cancelled.store(true, Ordering::Relaxed);
    let ended = shell("echo running; exec sleep 1000")
        .cancellable()
        .watch(&mut watch)
        .run(&context)
        .unwrap_err();
    assert_eq!(ended.kind, FailureKind::Cancelled);
}

#[test]
fn the_inherited_descriptor_is_open_in_the_child_and_others_are_not() {
    let file = tempfile::tempfile().unwrap();
    let hidden = tempfile::tempfile().unwrap();
    let number = |file: &std::fs::File| std::os::fd::AsRawFd::as_raw_fd(file);
    let script = format!(
        "test -e /proc/$$/fd/{} && test ! -e /proc/$$/fd/{}",
        number(&file),
        number(&hidden)
    );
    shell(&script)
        .inherit(Some(file.as_fd()))
        .succeed(&Context::quiet())
        .unwrap();
}

#[test]
fn the_child_leads_a_group_of_its_own() {
    let output = shell("echo $$; cut -d ' ' -f 5 /proc/$$/stat").succeed(&Context::quiet());
    let output = output.unwrap();
    let text = output.text();
    let mut lines = text.lines();
    assert_eq!(lines.next(), lines.next());
}

#[test]
fn a_missing_program_is_named() {
    let failure = Run::new("no-such-program")
        .run(&Context::quiet())
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert!(
        failure
            .message
            .starts_with("program no-such-program: not found in /usr/sbin")
    );
    assert!(Run::new("/no/such/path").run(&Context::quiet()).is_err());
}
