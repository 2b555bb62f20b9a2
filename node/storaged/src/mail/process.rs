//! The process that sends this host's mail: the daemon itself never touches
//! storage, and this one may hang on it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use control::storage::{Answer, Failure, FailureKind};
use mailbox::{Extend, Outcome};

use super::{HostMail, MailPlace};
use crate::job::{Context, Result};
use crate::layout::Layout;
use crate::worker::frame::Reader;
use crate::worker::serve::{self, Mouth, Worker};
use crate::worker::work::{Carrier, ExtendItem, Place, PoolContext, Settings, Work};

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// Serves orders until the daemon hangs up.
///
/// # Errors
/// The stream fails or carries nonsense.
pub fn run(stream: UnixStream) -> io::Result<()> {
    let mouth = Mouth::new(stream.try_clone()?);
    let mut reader = Reader::new(stream);
    let settings = serve::setup(&mut reader)?;
    let postman = Arc::new(Postman {
        settings,
        mail: Mutex::new(None),
    });
    let worker: Arc<dyn Worker> = Arc::clone(&postman) as Arc<dyn Worker>;
    // At the end nothing is waited for: what is left in the mailbox harms nobody,
    // as an extend is absolute, and storage may hang.
    serve::serve(&mut reader, &mouth, &worker)
}

struct Postman {
    settings: Settings,
    mail: Mutex<Option<(MailPlace, u16, Arc<HostMail>)>>,
}

impl Postman {
    fn begin(&self, pool: &PoolContext) -> Result<()> {
        let place = mail_place(&self.settings.layout, &pool.master)?;
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((found, host_id, _)) = &*mail
            && *found == place
            && *host_id == pool.host_id
        {
            return Ok(());
        }
        // The old one's callers are answered; its thread ends by itself.
        *mail = None;
        let seed = seed()?;
        let started = HostMail::start(&place, pool.host_id, seed).map_err(|error| {
            Failure::new(
                FailureKind::Failed,
                format!("mailbox of this host: {error}"),
            )
        })?;
        *mail = Some((place, pool.host_id, Arc::new(started)));
        Ok(())
    }

    fn extend(&self, place: &Place, items: &[ExtendItem]) -> Result<usize> {
        let mail = {
            let mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            mail.as_ref().map(|(_, _, mail)| Arc::clone(mail))
        };
        let mail = mail.ok_or_else(|| {
            Failure::new(
                FailureKind::WrongState,
                "the mailbox of this host is not started",
            )
        })?;
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::BadRequest, error.to_string())
        };
        let domain = place.domain.parse().map_err(|error| wrong(&error))?;
        let (sender, receiver) = std::sync::mpsc::channel();
        for item in items {
            let volume = item.volume.volume.parse().map_err(|error| wrong(&error))?;
            let size_mib = u32::try_from(item.size_bytes.div_ceil(MIB).max(1))
                .map_err(|_| wrong(&format_args!("{} bytes: at most 4 PiB", item.size_bytes)))?;
            let extend = Extend {
                domain,
                volume,
                size_mib,
            };
            let sender = sender.clone();
            mail.extend(extend, move |outcome| {
                // Nobody waits any more: the answer is of no use.
                let _gone: std::result::Result<(), _> = sender.send((volume, outcome));
            });
        }
        drop(sender);
        let mut count = 0;
        // Every request is answered: the core gives up in bounded time.
        while let Ok((volume, outcome)) = receiver.recv() {
            let failure =
                |kind, why: &str| Err(Failure::new(kind, format!("volume {volume}: {why}")));
            match outcome {
                Outcome::Done => count += 1,
                Outcome::Refused => {
                    return failure(
                        FailureKind::NoSpace,
                        "the pool's manager refuses: no space, or no such volume",
                    );
                }
                Outcome::Unanswered => {
                    return failure(FailureKind::Timeout, "the pool's manager does not answer");
                }
                Outcome::Full => {
                    return failure(FailureKind::InUse, "too many requests wait already");
                }
                Outcome::Stopped => {
                    return failure(FailureKind::Cancelled, "the mailbox was stopped");
                }
            }
        }
        Ok(count)
    }
}

impl Worker for Postman {
    fn work(&self, work: &Work, _context: &Context) -> Result<Answer> {
        let done = |message: String| Ok(Answer::Done { message });
        match work {
            Work::StartMail { pool } => {
                self.begin(pool)?;
                done(format!("mail to the manager of pool {}", pool.pool))
            }
            Work::MailExtend { place, items } => {
                let count = self.extend(place, items)?;
                done(format!("{count} volumes are as large as asked for"))
            }
            Work::StopMail => {
                let mail = self
                    .mail
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                if let Some((_, _, mail)) = mail {
                    mail.stop();
                }
                done("no mail any more".to_owned())
            }
            other => Err(Failure::new(
                FailureKind::BadRequest,
                format!("{}: not for the mail process", other.name()),
            )),
        }
    }
}

/// Where the mailboxes of a master are, without opening it.
fn mail_place(layout: &Layout, master: &Place) -> Result<MailPlace> {
    let file = |mount: &Path, name: &str| mount.join(&master.domain).join("dom_md").join(name);
    match &master.carrier {
        Carrier::Block => Ok(MailPlace {
            inbox: layout.logical_volume(&master.domain, "inbox"),
            outbox: layout.logical_volume(&master.domain, "outbox"),
        }),
        Carrier::File { mount } => Ok(MailPlace {
            inbox: file(mount, "inbox"),
            outbox: file(mount, "outbox"),
        }),
        Carrier::Local { .. } => Err(Failure::new(
            FailureKind::WrongState,
            format!("domain {}: a local domain has no mailboxes", master.domain),
        )),
    }
}

/// A random number of the kernel's.
fn seed() -> Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::new(FailureKind::Failed, format!("random bytes: {error}")))?;
    Ok(u64::from_le_bytes(bytes))
}
