//! Converting all domains of a pool.

use control::storage::{Answer, Failure};

use super::work::Place;
use crate::job::{Context, Result};

/// Converts domains in their order. Without the first, the master, none is; one of
/// the others that cannot be converted keeps nobody else from it.
pub(crate) fn each(
    context: &Context,
    places: &[Place],
    mut upgrade: impl FnMut(&Place) -> Result<Answer>,
) -> Result<Answer> {
    let total = u64::try_from(places.len()).unwrap_or(0);
    let mut failures: Vec<Failure> = Vec::new();
    for (number, place) in (0..).zip(places) {
        context.go_on()?;
        context.tell(number, total, &format!("domain {}", place.domain));
        match upgrade(place) {
            Ok(_) => {}
            Err(failure) if number == 0 => {
                return Err(failure.while_doing("master, without which none is converted"));
            }
            Err(failure) => failures.push(failure),
        }
    }
    let converted = places.len() - failures.len();
    let Some(first) = failures.first() else {
        return Ok(Answer::Done {
            message: format!("{converted} of {total} domains were converted or had been"),
        });
    };
    let words: Vec<&str> = failures
        .iter()
        .map(|failure| failure.message.as_str())
        .collect();
    Err(Failure::new(
        first.kind,
        format!(
            "{converted} of {} domains are of that version; ask again for the others: {}",
            places.len(),
            words.join("; ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use control::storage::FailureKind;

    use super::*;
    use crate::worker::work::Carrier;

    #[test]
    fn domains_are_converted_the_master_first_and_others_in_spite_of_each_other() {
        let places: Vec<Place> = ["master", "bad", "last"]
            .map(|domain| Place {
                domain: domain.to_owned(),
                carrier: Carrier::Block,
            })
            .into();
        let refuse = |bad: &'static str| {
            let mut asked = Vec::new();
            let outcome = each(&Context::quiet(), &places, |place| {
                asked.push(place.domain.clone());
                if place.domain == bad {
                    return Err(Failure::new(FailureKind::Io, format!("{bad}: gone")));
                }
                Ok(Answer::Done {
                    message: String::new(),
                })
            });
            (asked, outcome)
        };
        let (asked, outcome) = refuse("none");
        assert_eq!(asked, ["master", "bad", "last"]);
        assert!(outcome.is_ok());
        let (asked, outcome) = refuse("bad");
        assert_eq!(asked, ["master", "bad", "last"]);
        let failure = outcome.unwrap_err();
        assert!(failure.message.contains("2 of 3 domains"), "{failure}");
        assert!(failure.message.contains("bad: gone"), "{failure}");
        let (asked, outcome) = refuse("master");
        assert_eq!(asked, ["master"]);
        assert!(outcome.is_err());
    }
}
