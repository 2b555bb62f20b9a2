//! Work on the configurations of guests that a domain keeps.

use std::time::{SystemTime, UNIX_EPOCH};

use control::storage::ovf::{OVF_BYTES_MAX, OvfFile, OvfReport, OvfRequest};
use control::storage::{Answer, Failure, FailureKind};
use disk_format::vdsm::ovf::SUFFIX;

use super::dispatch::{bad, done};
use super::host::Host;
use super::volumes;
use super::work::Place;
use crate::authority::Authority;
use crate::domain::Domain;
use crate::image::ovf_store;
use crate::job::{Context, Result};

/// Does a request about them.
pub(super) fn run(
    place: &Place,
    request: &OvfRequest,
    host: &Host,
    authority: Option<&dyn Authority>,
    context: &Context,
) -> Result<Answer> {
    let domain = host.open(place, context)?.domain();
    let domain = domain.as_ref();
    let layout = &host.settings.layout;
    match request {
        OvfRequest::List { .. } => list(domain, host, context),
        OvfRequest::Show { guest, .. } => {
            let (_, files) = ovf_store::read_newest(context, layout, domain)?;
            let found = files.get(&file_name(guest)).ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    format!("domain {}: no configuration of guest {guest}", domain.id()),
                )
            })?;
            let content = String::from_utf8(found.clone()).map_err(|error| {
                Failure::new(
                    FailureKind::Damaged,
                    format!("configuration of guest {guest}: {error}"),
                )
            })?;
            Ok(Answer::Ovf {
                guest: guest.clone(),
                content,
            })
        }
        OvfRequest::Save { guest, content, .. } => {
            if content.trim().is_empty() || content.len() > OVF_BYTES_MAX {
                return Err(bad(format!(
                    "configuration of guest {guest}: {} bytes; 1 to {OVF_BYTES_MAX} are allowed",
                    content.len()
                )));
            }
            change(
                place,
                domain,
                host,
                authority,
                context,
                (guest, Some(content)),
            )?;
            Ok(done(format!("configuration of guest {guest} is saved")))
        }
        OvfRequest::Remove { guest, .. } => {
            change(place, domain, host, authority, context, (guest, None))?;
            Ok(done(format!("configuration of guest {guest} is gone")))
        }
    }
}

fn file_name(guest: &str) -> String {
    format!("{guest}{SUFFIX}")
}

fn list(domain: &dyn Domain, host: &Host, context: &Context) -> Result<Answer> {
    let report = match ovf_store::read_newest(context, &host.settings.layout, domain) {
        Ok((store, files)) => OvfReport {
            volume: Some(store.volume.to_string()),
            written: store.description.last_updated,
            files: files
                .into_iter()
                .map(|(name, content)| OvfFile {
                    name,
                    size_bytes: u64::try_from(content.len()).unwrap_or(u64::MAX),
                })
                .collect(),
        },
        Err(failure) if failure.kind == FailureKind::NotFound => OvfReport::default(),
        Err(failure) => return Err(failure),
    };
    Ok(Answer::OvfStore(report))
}

/// Gives a guest this configuration, or none.
fn change(
    place: &Place,
    domain: &dyn Domain,
    host: &Host,
    authority: Option<&dyn Authority>,
    context: &Context,
    (guest, content): (&str, Option<&str>),
) -> Result<()> {
    volumes::refuse_among_media(domain)?;
    let leases = host.leases(&place.carrier);
    let work = host.image_work(context, domain, authority, leases.as_ref())?;
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    ovf_store::change(&work, &file_name(guest), content.map(str::as_bytes), now_s)
}
