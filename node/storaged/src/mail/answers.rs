//! Who waits for which request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mailbox::{Outcome, RequestId};

/// Called once for each request.
pub(super) type Answer = Box<dyn FnOnce(Outcome) + Send>;

/// Those who wait. Once it is over, whoever comes is answered at once.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: HashMap<RequestId, Answer>,
    over: bool,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answers")
    }
}

impl Answers {
    /// Somebody waits; false when it is over, and they were answered.
    pub(super) fn wait(&self, request: RequestId, answer: Answer) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.over {
            drop(state);
            answer(Outcome::Stopped);
            return false;
        }
        state.waiting.insert(request, answer);
        true
    }

    pub(super) fn give(&self, request: RequestId, outcome: Outcome) {
        let answer = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .remove(&request);
        if let Some(answer) = answer {
            answer(outcome);
        }
    }

    /// Nothing is answered any more but that it is over.
    pub(super) fn end(&self) {
        let left: Vec<_> = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.over = true;
            state.waiting.drain().collect()
        };
        for (_, answer) in left {
            answer(Outcome::Stopped);
        }
    }
}
