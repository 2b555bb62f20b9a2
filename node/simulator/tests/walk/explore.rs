//! Walks through every state of a model, and tells what was found.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Model};

/// The property that every model has: no promise is broken in a state.
pub(crate) const SOUND: &str = "nothing is broken";

/// A state that knows whether a promise is broken in it.
pub(crate) trait Judged {
    /// Which one.
    fn broken(&self) -> Option<&'static str>;
}

/// Fails with the way to a state in which a promise is broken, or when there are
/// not as many states as are pinned.
pub(crate) fn explore<M>(model: M, states: usize)
where
    M: Model + Send + Sync + 'static,
    M::State: Judged + Debug + Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync,
{
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = Instant::now();
    let checker = model.checker().threads(threads).spawn_dfs().join();
    println!(
        "{} states, depth {}, {:?}",
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    if let Some(path) = checker.discovery(SOUND) {
        let broken = path.last_state().broken();
        let actions: Vec<_> = path.into_actions();
        panic!("{broken:?} after {actions:#?}");
    }
    checker.assert_properties();
    assert_eq!(
        checker.unique_state_count(),
        states,
        "the cores or the model walk through other states than before: if that was meant, pin the new number"
    );
}
