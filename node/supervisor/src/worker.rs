//! Work that may hang, on a thread of its own.

use std::io;

/// Stack of a worker, in bytes: file access and small parsers only.
const STACK_BYTES: usize = 256 * 1024;

/// Runs `work` on a thread and waits for it without holding up anything else.
/// Whoever stops waiting leaves the thread behind: it cannot be cancelled, and
/// its answer is thrown away.
///
/// # Errors
/// The thread cannot be started.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    run_with_stack(name, STACK_BYTES, work).await
}

/// [`run`] with `stack_bytes` of stack.
///
/// # Errors
/// The thread cannot be started.
pub async fn run_with_stack<T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (answer, answered) = smol::channel::bounded(1);
    let body = move || {
        // Nobody listens any more: the caller's deadline passed.
        answer.try_send(work()).ok();
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(stack_bytes)
        .spawn(body)?;
    answered
        .recv()
        .await
        .map_err(|_| io::Error::other("the worker ended without an answer"))
}
