//! A worker's side of the frames: reads orders, one thread a job.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use control::storage::{Answer, Failure, FailureKind};

use super::frame::{Order, Reader, Word, encode, send};
use super::work::{Settings, Work};
use crate::job::{Context, Result};

/// Stack of a job's thread, in bytes.
const STACK_BYTES: usize = 512 * 1024;
/// Progress is told at most this often.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

/// Does jobs.
pub trait Worker: Send + Sync + 'static {
    /// Does `work`; called on a thread of its own.
    ///
    /// # Errors
    /// Whatever the work fails with.
    fn work(&self, work: &Work, context: &Context) -> Result<Answer>;
}

impl<F: Fn(&Work, &Context) -> Result<Answer> + Send + Sync + 'static> Worker for F {
    fn work(&self, work: &Work, context: &Context) -> Result<Answer> {
        self(work, context)
    }
}

/// Where a worker's words go: whole frames, from any thread.
#[derive(Debug, Clone)]
pub struct Mouth {
    stream: Arc<Mutex<UnixStream>>,
}

impl Mouth {
    /// Words go to `stream`.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream: Arc::new(Mutex::new(stream)),
        }
    }

    /// Says a word. That nobody listens any more is found where orders are read.
    pub fn say(&self, word: &Word) {
        let frame = match (encode(word), word) {
            (Ok(frame), _) => Ok(frame),
            // Too long for a frame: the job still has to be answered.
            (Err(error), Word::Done { id, .. }) => encode(&Word::Done {
                id: *id,
                outcome: Err(Failure::new(
                    FailureKind::Failed,
                    format!("answer: {error}"),
                )),
            }),
            (Err(error), _) => Err(error),
        };
        if let Ok(frame) = frame {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            drop(io::Write::write_all(&mut *stream, &frame));
        }
    }
}

/// Reads the settings, which come first.
///
/// # Errors
/// The stream ends or carries something else.
pub fn setup(reader: &mut Reader<UnixStream>) -> io::Result<Settings> {
    match reader.next_frame::<Order>()? {
        Some(Order::Setup(settings)) => Ok(*settings),
        Some(_) => Err(io::Error::other("an order before the settings")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Serves orders until the stream ends. Jobs under way then are abandoned: the
/// caller ends the process.
///
/// # Errors
/// The stream fails or carries nonsense.
pub fn serve(
    reader: &mut Reader<UnixStream>,
    mouth: &Mouth,
    worker: &Arc<dyn Worker>,
) -> io::Result<()> {
    let running: Arc<Mutex<HashMap<u64, Arc<AtomicBool>>>> = Arc::default();
    let lock = |running: &Arc<Mutex<HashMap<u64, Arc<AtomicBool>>>>, id: u64| {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&id)
    };
    while let Some(order) = reader.next_frame::<Order>()? {
        match order {
            Order::Setup(_) => return Err(io::Error::other("settings twice")),
            Order::Cancel { id } => {
                let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(cancelled) = running.get(&id) {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            Order::Job { id, work } => {
                let cancelled = Arc::<AtomicBool>::default();
                running
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(id, Arc::clone(&cancelled));
                let (mouth, worker) = (mouth.clone(), Arc::clone(worker));
                let mine = Arc::clone(&running);
                let context = context(id, &mouth, cancelled);
                let answerer = mouth.clone();
                let started = std::thread::Builder::new()
                    .name(format!("job {id}"))
                    .stack_size(STACK_BYTES)
                    .spawn(move || {
                        let _acting = crate::identity::of(&work);
                        let outcome = worker.work(&work, &context);
                        lock(&mine, id);
                        mouth.say(&Word::Done { id, outcome });
                    });
                if let Err(error) = started {
                    lock(&running, id);
                    answerer.say(&Word::Done {
                        id,
                        outcome: Err(Failure::new(
                            FailureKind::Failed,
                            format!("thread for a job: {error}"),
                        )),
                    });
                }
            }
        }
    }
    Ok(())
}

/// What a job is given: its progress is said, though not more often than people
/// can read.
fn context(id: u64, mouth: &Mouth, cancelled: Arc<AtomicBool>) -> Context {
    let mouth = mouth.clone();
    let last: Mutex<(Option<Instant>, String)> = Mutex::default();
    let progress = move |progress: crate::job::Progress, step: &str| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = last.0.is_some_and(|at| at.elapsed() < PROGRESS_PAUSE);
        if recent && last.1 == step {
            return;
        }
        *last = (Some(Instant::now()), step.to_owned());
        mouth.say(&Word::Progress {
            id,
            done: progress.done,
            total: progress.total,
            step: step.to_owned(),
        });
    };
    Context::new(Arc::new(progress), cancelled)
}

/// Sends one order, from blocking code (tests, the writer's own helpers).
///
/// # Errors
/// The stream fails.
pub fn order(stream: &UnixStream, order: &Order) -> io::Result<()> {
    send(stream, order)
}
