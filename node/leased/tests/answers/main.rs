//! What our daemon answers to raw messages is what the original answers:
//! results, second numbers and payloads, for right and for wrong requests.
//!
//! Each conversation goes to an original daemon and to ours, over one
//! connection of its own, and ends with a question that both answer.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../cli_support/mod.rs"]
mod cli_support;
mod conversations;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use cli_support::{Whose, World};
use conversations::{About, Conversation, leases, refusals};
use sanlock_wire::{
    Command, DiskPath, HEADER_BYTES, Header, Reply, ReplyBody, ReplyShape, Request,
};

/// What one conversation came to: each reply's command and flags, then the
/// reply.
type Answers = Vec<(u32, u32, u32, Reply)>;

/// Sends everything at once and takes replies up to that of `VERSION`, or
/// until the daemon closes.
fn talk(world: &World, messages: &[Vec<u8>]) -> Answers {
    let mut socket = UnixStream::connect(world.run_dir.join("sanlock.sock")).unwrap();
    for message in messages {
        // A daemon that has closed already has said what it will say.
        drop(socket.write_all(message));
    }
    drop(socket.write_all(&Request::Version.encode()));
    let mut answers = Vec::new();
    let mut header = [0; HEADER_BYTES];
    while socket.read_exact(&mut header).is_ok() {
        let header = Header::decode(&header);
        let mut payload = Vec::new();
        match ReplyShape::of(&header).unwrap() {
            ReplyShape::Bytes(length) => {
                // The original counts a payload that it does not send.
                if header.command() != Some(Command::GetLvb) || header.result() == 0 {
                    payload.resize(length, 0);
                    socket.read_exact(&mut payload).unwrap();
                }
            }
            ReplyShape::UntilEnd(_) | ReplyShape::Stream => {}
        }
        let reply = Reply::decode(&header, &payload).unwrap();
        let last = header.command() == Some(Command::Version);
        answers.push((header.cmd, header.cmd_flags, header.seq, reply));
        if last || matches!(answers.last(), Some((_, _, _, reply)) if is_stream(reply)) {
            break;
        }
    }
    answers
}

fn is_stream(reply: &Reply) -> bool {
    matches!(reply.body, ReplyBody::Stream { .. })
}

/// One answer on one line.
fn show((command, flags, seq, reply): &(u32, u32, u32, Reply)) -> String {
    let body = match &reply.body {
        ReplyBody::Inquiry { count, text } => {
            format!("{count} {}", String::from_utf8_lossy(text))
        }
        other => format!("{other:?}"),
    };
    format!(
        "{command} flags {flags} seq {seq} result {} {body}",
        reply.result
    )
}

fn compare(original: &World, ours: &World, conversations: fn(&About) -> Vec<Conversation>) {
    let hold = |world: &World| {
        let path = world.dir.path().join("img");
        let path = DiskPath::new(path.to_str().unwrap().as_bytes()).unwrap();
        let conversations = conversations(&About { path });
        conversations
            .into_iter()
            .map(|(name, messages)| {
                let dir = world.dir.path().to_str().unwrap();
                let shown: Vec<String> = talk(world, &messages)
                    .iter()
                    .map(|answer| show(answer).replace(dir, "DIR"))
                    .collect();
                (name, shown.join("\n"))
            })
            .collect::<Vec<_>>()
    };
    let (theirs, ours) = thread::scope(|scope| {
        let theirs = scope.spawn(|| hold(original));
        let ours = hold(ours);
        (theirs.join().unwrap(), ours)
    });
    for ((name, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        assert!(!theirs.is_empty(), "{name}: the original said nothing");
        assert!(
            theirs == ours,
            "{name}\n--- original\n{theirs}\n--- ours\n{ours}"
        );
    }
}

fn worlds() -> [World; 2] {
    [Whose::Original, Whose::Ours].map(|daemon| World::with_daemon(Whose::Ours, daemon))
}

#[test]
fn what_is_refused_is_refused_alike() {
    let [original, ours] = worlds();
    compare(&original, &ours, refusals);
}

#[test]
fn leases_are_given_alike() {
    let mut worlds = worlds();
    thread::scope(|scope| {
        for world in &mut worlds {
            scope.spawn(|| {
                world.script(
                    "init -s LS:1:{img}:0
                     init -r LS:R1:{img}:1M
                     init -r LS:R2:{img}:2M
                     init -r LS:R3:{img}:3M
                     add^lockspace -s LS:1:{img}:0 -o 3",
                );
                assert!(world.transcript.contains("done 0\n=> 0"));
            });
        }
    });
    let [original, ours] = worlds;
    compare(&original, &ours, leases);
}
