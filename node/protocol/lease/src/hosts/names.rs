//! Host names, each kept once for all lockspaces: a machine has the same name
//! in every one.

use std::sync::{Arc, Mutex, PoisonError};

use disk_format::NameField;

/// Names looked through for such that nobody uses any more, at the earliest.
const SWEEP_AT_LEAST: usize = 64;

#[derive(Debug, Default)]
struct Pool {
    /// Ascending.
    names: Vec<Arc<NameField>>,
    sweep_at: usize,
}

/// A handle on kept names; clones keep them together.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<Mutex<Pool>>);

impl Names {
    /// The kept name equal to `name`.
    pub(super) fn keep(&self, name: &NameField) -> Arc<NameField> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match pool.find(name) {
            Ok(at) => Arc::clone(&pool.names[at]),
            Err(_) => {
                if pool.names.len() >= pool.sweep_at {
                    pool.names.retain(|name| Arc::strong_count(name) > 1);
                    pool.sweep_at = (pool.names.len() * 2).max(SWEEP_AT_LEAST);
                }
                let kept = Arc::new(*name);
                let at = pool.find(name).unwrap_or_else(|at| at);
                pool.names.insert(at, Arc::clone(&kept));
                kept
            }
        }
    }
}

impl Pool {
    fn find(&self, name: &NameField) -> Result<usize, usize> {
        self.names.binary_search_by(|kept| kept.0.cmp(&name.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> NameField {
        let mut field = NameField::EMPTY;
        field.0[..8].copy_from_slice(&number.to_be_bytes());
        field
    }

    #[test]
    fn a_name_is_kept_once_and_as_long_as_it_is_used() {
        let names = Names::default();
        let kept = names.clone().keep(&name(7));
        assert!(Arc::ptr_eq(&kept, &names.keep(&name(7))));
        for number in 100..10_000 {
            names.keep(&name(number));
        }
        assert!(names.0.lock().expect("whole").names.len() <= 2 * SWEEP_AT_LEAST);
        assert!(Arc::ptr_eq(&kept, &names.keep(&name(7))));
    }
}
