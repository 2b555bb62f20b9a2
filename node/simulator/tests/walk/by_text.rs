//! Cores as parts of a model's states.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};

/// A core, told apart by its Debug text: every field takes part in that.
#[derive(Debug, Clone)]
pub(crate) struct ByText<T>(pub(crate) T);

impl<T: Debug> Hash for ByText<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        format!("{:?}", self.0).hash(state);
    }
}

impl<T: Debug> PartialEq for ByText<T> {
    fn eq(&self, other: &Self) -> bool {
        format!("{:?}", self.0) == format!("{:?}", other.0)
    }
}

impl<T: Debug> Eq for ByText<T> {}
