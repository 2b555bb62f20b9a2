//! Requests that are under way: one a volume, however often the core asks.

use thin::Ticket;

/// One request at a time to one volume.
#[derive(Debug, Default)]
pub(super) struct Flight {
    under_way: Option<Request>,
    /// Larger than the one under way, to be made after it.
    next: Option<Request>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    ticket: Ticket,
    to_bytes: u64,
}

/// What to do when one has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Landed {
    /// Tell the core, under this ticket.
    Answer(Ticket),
    /// It asked for more meanwhile: make this request.
    Again(u64),
}

impl Flight {
    /// The core asks. True if the request is to be made now.
    pub(super) fn ask(&mut self, ticket: Ticket, to_bytes: u64) -> bool {
        let request = Request { ticket, to_bytes };
        match &mut self.under_way {
            None => {
                self.under_way = Some(request);
                true
            }
            Some(under_way) => {
                // Answered under the newest name either way.
                under_way.ticket = ticket;
                self.next = (to_bytes > under_way.to_bytes).then_some(request);
                false
            }
        }
    }

    /// The one under way has ended.
    pub(super) fn landed(&mut self) -> Option<Landed> {
        let done = self.under_way.take()?;
        match self.next.take() {
            None => Some(Landed::Answer(done.ticket)),
            Some(next) => {
                self.under_way = Some(Request {
                    ticket: done.ticket.max(next.ticket),
                    ..next
                });
                Some(Landed::Again(next.to_bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_is_made_once_and_answered_under_its_newest_name() {
        let mut flight = Flight::default();
        assert!(flight.ask(Ticket(1), 10));
        assert!(!flight.ask(Ticket(2), 10));
        assert_eq!(flight.landed(), Some(Landed::Answer(Ticket(2))));
        assert_eq!(flight.landed(), None);
        assert!(flight.ask(Ticket(3), 10));
    }

    #[test]
    fn a_larger_one_is_made_after_the_one_under_way() {
        let mut flight = Flight::default();
        assert!(flight.ask(Ticket(1), 10));
        assert!(!flight.ask(Ticket(2), 20));
        assert!(!flight.ask(Ticket(3), 15));
        assert_eq!(flight.landed(), Some(Landed::Again(15)));
        assert_eq!(flight.landed(), Some(Landed::Answer(Ticket(3))));
    }
}
