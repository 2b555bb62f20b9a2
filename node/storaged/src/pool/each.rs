//! Asking many domains when some of them may hang.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long domains beside the one that matters are waited for.
pub(crate) const BESIDE: Duration = Duration::from_secs(30);

/// Does `ask` for each item at the same time. Those that have not answered
/// within `within` are left out; their threads end when the storage lets them.
pub(crate) fn each<T, R>(
    items: impl IntoIterator<Item = T>,
    within: Duration,
    ask: impl Fn(T) -> R + Send + Sync + 'static,
) -> Vec<R>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let until = Instant::now() + within;
    let ask = Arc::new(ask);
    let (sender, receiver) = channel();
    let mut count = 0_usize;
    for (number, item) in items.into_iter().enumerate() {
        let (sender, ask) = (sender.clone(), Arc::clone(&ask));
        let started = std::thread::Builder::new()
            .name("domain".to_owned())
            .spawn(move || {
                // Nobody waits any more: the answer is of no use.
                let _late: Result<(), _> = sender.send((number, ask(item)));
            });
        count += usize::from(started.is_ok());
    }
    drop(sender);
    let mut answers = Vec::new();
    while answers.len() < count {
        let left = until.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(answer) => answers.push(answer),
            Err(_) => {
                tracing::warn!(
                    late = count - answers.len(),
                    "domains do not answer, left out"
                );
                break;
            }
        }
    }
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_is_left_out_and_the_others_come_in_order() {
        let (release, hangs) = channel::<()>();
        let hangs = std::sync::Mutex::new(hangs);
        let answers = each(0..5, Duration::from_millis(500), move |number| {
            if number == 2 {
                drop(hangs.lock().map(|hangs| hangs.recv()));
            }
            number * 10
        });
        assert_eq!(answers, [0, 10, 30, 40]);
        drop(release);
        assert_eq!(each(0..3, BESIDE, |number| number), [0, 1, 2]);
    }
}
