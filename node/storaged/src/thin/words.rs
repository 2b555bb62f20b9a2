//! What happened to a drive, in words.

use thin::Notice;
use thin::size::MIB;

/// Logs a notice, and says what an operator should read beside the drive until
/// the next one; `None` when all is well.
pub(super) fn tell(socket: &str, volume: &str, notice: &Notice) -> Option<String> {
    let words = match *notice {
        Notice::Extended {
            size_bytes,
            took_ms,
        } => {
            tracing::info!(
                socket,
                volume,
                size_mib = size_bytes / MIB,
                took_ms,
                "volume extended"
            );
            return None;
        }
        Notice::NoSpace => "guest stopped: the volume is full, more space is asked for".to_owned(),
        Notice::Refused {
            wanted_bytes,
            attempts,
        } => format!(
            "{} MiB refused {attempts} times in a row: is the domain full, is there an SPM?",
            wanted_bytes / MIB
        ),
        Notice::Unanswered { attempts } => {
            format!("no answer to the request for space, asked {attempts} times more")
        }
        Notice::TooSmall {
            wanted_bytes,
            size_bytes,
        } => format!(
            "{} MiB after the refresh, {} MiB were asked for",
            size_bytes / MIB,
            wanted_bytes / MIB
        ),
        Notice::AtMaximum { maximum_bytes } => format!(
            "guest stopped: full at {} MiB, the largest size; resize the disk or extend the volume",
            maximum_bytes / MIB
        ),
        Notice::Improbable {
            allocation_bytes,
            probable_bytes,
        } => {
            let words = format!(
                "guest stopped: it wrote at {} MiB, no sound image goes beyond {} MiB; \
                 check the image",
                allocation_bytes / MIB,
                probable_bytes / MIB
            );
            tracing::error!(socket, volume, words);
            return Some(words);
        }
        Notice::NoSpaceElsewhere { times } => format!(
            "guest stopped {times} times for lack of space although the volume has room: \
             is the array below full?"
        ),
        Notice::EmptySample => "QEMU reports a size of 0, which is not believed".to_owned(),
        Notice::Polling => {
            tracing::info!(socket, volume, "QEMU has no write thresholds, polling");
            return None;
        }
        Notice::ExtendsOff => {
            "the destination of the migration cannot refresh: no extends until it ends".to_owned()
        }
    };
    tracing::warn!(socket, volume, words);
    Some(words)
}
