//! The device-mapper table of a logical volume that is linear.

use super::text::Vg;
use crate::vdsm::error::FormatError;

/// One `linear` line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLine {
    /// First sector of the LV.
    pub start_sector: u64,
    /// Sectors.
    pub sectors: u64,
    /// LVM's id of the physical volume.
    pub pv_uuid: String,
    /// First sector there.
    pub pv_sector: u64,
}

/// The table that LVM loads for an LV: one line a segment.
///
/// # Errors
/// When there is no such LV, or a segment is not linear, lies outside its PV,
/// or on a PV that is missing.
pub fn linear_table(vg: &Vg, lv: &str) -> Result<Vec<TableLine>, FormatError> {
    let wrong = |what: String| FormatError::Syntax {
        record: "logical volume",
        what: format!("{}/{lv}: {what}", vg.name),
    };
    let found = vg
        .lvs
        .get(lv)
        .ok_or_else(|| wrong("there is no such volume".to_owned()))?;
    let mut lines = Vec::with_capacity(found.segments.len());
    for segment in &found.segments {
        let stripe = segment
            .linear()
            .ok_or_else(|| wrong(format!("a segment of type {} is not linear", segment.kind)))?;
        let pv = vg
            .pvs
            .get(&stripe.pv)
            .ok_or_else(|| wrong(format!("physical volume {} is not known", stripe.pv)))?;
        if pv.status.iter().any(|status| status == "MISSING") {
            return Err(wrong(format!("physical volume {} is missing", pv.uuid)));
        }
        let end = stripe.extent.checked_add(segment.count);
        if end.is_none_or(|end| end > pv.pe_count) {
            return Err(wrong(format!(
                "a segment ends behind physical volume {}",
                pv.uuid
            )));
        }
        let line = || {
            Some(TableLine {
                start_sector: segment.start.checked_mul(vg.extent_sectors)?,
                sectors: segment.count.checked_mul(vg.extent_sectors)?,
                pv_uuid: pv.uuid.clone(),
                pv_sector: stripe
                    .extent
                    .checked_mul(vg.extent_sectors)?
                    .checked_add(pv.pe_start_sectors)?,
            })
        };
        lines.push(line().ok_or_else(|| wrong("a segment is too large".to_owned()))?);
    }
    Ok(lines)
}
