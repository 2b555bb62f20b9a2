//! Long work: started, watched until it ends, or left to itself.

use std::time::Duration;

use anyhow::{Result, bail};
use control::storage::report::{TaskReport, TaskState};
use control::storage::request::TaskRequest;
use control::storage::{Answer, Reply, Request};

use super::args::Long;
use super::{ANSWER_DEADLINE, print, refuse};
use crate::render;
use crate::session::{Ending, Session};
use crate::text::clean;

/// Longest wait of the daemon for news of a task: short, so that a person who
/// types is heard.
const NEWS_MS: u64 = 1_000;
/// Columns of the bar.
const BAR: usize = 30;

/// Starts long work and stays until it has ended, unless told otherwise.
pub(super) fn start(request: &Request, long: Long, session: &mut Session<'_>) -> Result<Ending> {
    let json = long.output.json;
    match session.storaged.ask(request, super::WORK_DEADLINE)? {
        Reply::Accepted { task } if long.no_wait => {
            if json {
                session.print_json(&Reply::Accepted { task })?;
            } else {
                session.print(&format!("task {task}\n"))?;
            }
            Ok(Ending::Done)
        }
        Reply::Accepted { task } => watch(&task, json, session),
        Reply::Answer(answer) => print(&answer, json, session),
        Reply::Failure(failure) => Ok(refuse(&failure, json, session)),
    }
}

/// Shows the progress of a task until it has ended.
pub(super) fn watch(task: &str, json: bool, session: &mut Session<'_>) -> Result<Ending> {
    let person = session.input.is_terminal() && !json;
    let mut seen = 0;
    let mut step = String::new();
    let mut drawn = 0;
    let mut hinted = false;
    loop {
        let request = Request::Task(TaskRequest::Watch {
            task: task.to_owned(),
            seen,
            wait_ms: if seen == 0 { 0 } else { NEWS_MS },
        });
        let deadline = ANSWER_DEADLINE + Duration::from_millis(NEWS_MS);
        let report = match session.storaged.ask(&request, deadline)? {
            Reply::Answer(answer) => match *answer {
                Answer::Task(report) => report,
                other => bail!("storage daemon answered something else ({other:?})"),
            },
            Reply::Failure(failure) => return Ok(refuse(&failure, json, session)),
            Reply::Accepted { .. } => bail!("storage daemon answered something else"),
        };
        seen = report.number.max(1);
        if report.state.ended() {
            if drawn > 0 {
                session.say(&format!("\r{:drawn$}\r", ""));
            }
            return ended(&report, json, session);
        }
        if person {
            if !hinted {
                session.say(&format!(
                    "task {}: {} (Enter leaves it to itself)\n",
                    clean(&report.id),
                    clean(&report.what)
                ));
                hinted = true;
            }
            let line = bar(&report);
            let width = line.chars().count();
            session.say(&format!(
                "\r{line}{:pad$}",
                "",
                pad = drawn.saturating_sub(width)
            ));
            drawn = width.max(drawn);
            if session.input.pause(Duration::ZERO)? {
                session.say(&format!(
                    "\nIt goes on; `task watch {task}` comes back to it.\n"
                ));
                return Ok(Ending::Done);
            }
        } else if !json && report.step != step {
            step.clone_from(&report.step);
            session.say(&format!("{}: {}\n", clean(&report.what), clean(&step)));
        }
    }
}

fn ended(report: &TaskReport, json: bool, session: &mut Session<'_>) -> Result<Ending> {
    match (&report.state, &report.result, &report.failure) {
        (TaskState::Done, Some(answer), _) => print(answer, json, session),
        (_, _, Some(failure)) => Ok(refuse(failure, json, session)),
        _ if json => {
            session.print_json(report)?;
            Ok(Ending::Done)
        }
        _ => {
            session.print(&render::answer(&Answer::Task(report.clone())))?;
            Ok(Ending::Done)
        }
    }
}

/// One line: how far it is.
fn bar(report: &TaskReport) -> String {
    let step: String = clean(&report.step).chars().take(40).collect();
    if report.total == 0 {
        return format!("{} {step}", report.state.word());
    }
    let percent = report.done.min(report.total).saturating_mul(100) / report.total;
    let filled = usize::try_from(percent).unwrap_or(0) * BAR / 100;
    format!(
        "[{}{}] {percent:>3} % {step}",
        "#".repeat(filled),
        ".".repeat(BAR - filled)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fits_a_line_and_never_overflows() {
        let mut report = TaskReport {
            step: "x".repeat(200),
            done: u64::MAX,
            total: 3,
            ..TaskReport::default()
        };
        assert!(bar(&report).len() < 80);
        assert!(bar(&report).starts_with(&format!("[{}] 100 %", "#".repeat(BAR))));
        report.done = 1;
        assert!(bar(&report).contains(" 33 %"));
        report.total = 0;
        assert!(bar(&report).starts_with("queued xxx"));
    }
}
