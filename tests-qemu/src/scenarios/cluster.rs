//! The demo's own story, told to a log instead of a terminal.

use anyhow::Result;

use super::Context;
use crate::stage::Window;
use crate::story::{self, Audience, Moment, Telling};

struct Log<'a>(&'a Context<'a>);

impl Audience for Log<'_> {
    fn moment(&self, moment: &Moment) {
        let promise = moment
            .promise
            .as_ref()
            .map(|promise| format!(" ({promise})"))
            .unwrap_or_default();
        self.0.say(&format!("{}{promise}", moment.what));
    }

    fn curtain(&self, _window: Window) {}
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    story::tell(
        context.release,
        &context.directory,
        Telling::default(),
        &Log(context),
    )?;
    Ok(())
}
