//! Reports of `pvs`, `vgs` and `lvs`, made with no headings, units b, no
//! suffix, separator `|`, and the fields named here in this order.

use std::collections::BTreeMap;

use crate::vdsm::error::{FormatError, decimal};

/// Fields to ask `pvs` for.
pub const PV_FIELDS: &str = "uuid,name,size,vg_name,vg_uuid,pe_start,pe_count,pe_alloc_count,mda_count,dev_size,mda_used_count";
/// Fields to ask `vgs` for.
pub const VG_FIELDS: &str = "uuid,name,attr,size,free,extent_size,extent_count,free_count,tags,vg_mda_size,vg_mda_free,lv_count,pv_count,pv_name";
/// Fields to ask `lvs` for.
pub const LV_FIELDS: &str = "uuid,name,vg_name,attr,size,seg_start_pe,devices,tags";
/// What stands for a name that LVM does not know.
pub const UNKNOWN: &str = "[unknown]";

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvRow {
    /// LVM's id.
    pub uuid: String,
    /// Its device.
    pub name: String,
    /// Bytes that extents may use.
    pub size: u64,
    /// Its VG; empty when it is in none.
    pub vg_name: String,
    /// LVM's id of the VG; empty when it is in none.
    pub vg_uuid: String,
    /// Where extents begin, in bytes.
    pub pe_start: u64,
    /// Extents.
    pub pe_count: u64,
    /// Extents in use.
    pub pe_alloc_count: u64,
    /// Metadata areas.
    pub mda_count: u64,
    /// Bytes of the device.
    pub dev_size: u64,
    /// Metadata areas in use: 2 on the one that stores the VG's metadata.
    pub mda_used_count: u64,
}

impl PvRow {
    /// Whether it stores the VG's metadata.
    #[must_use]
    pub fn is_metadata_pv(&self) -> bool {
        self.mda_used_count == 2
    }
}

/// What `pvs` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PvReport {
    /// Those that are there.
    pub pvs: Vec<PvRow>,
    /// Those that a VG names and no device has: their ids and VGs.
    pub missing: Vec<(String, String)>,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VgRow {
    /// LVM's id.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// LVM's attributes, as text.
    pub attr: String,
    /// Bytes.
    pub size: u64,
    /// Bytes free.
    pub free: u64,
    /// Bytes of an extent.
    pub extent_size: u64,
    /// Extents.
    pub extent_count: u64,
    /// Extents free.
    pub free_count: u64,
    /// Tags.
    pub tags: Vec<String>,
    /// Bytes of a metadata area.
    pub vg_mda_size: u64,
    /// Bytes free in a metadata area (of the half that one copy may use).
    pub vg_mda_free: u64,
    /// LVs.
    pub lv_count: u64,
    /// PVs.
    pub pv_count: u64,
    /// Devices of the PVs that are there.
    pub pv_names: Vec<String>,
}

impl VgRow {
    /// Whether a PV is missing.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.attr.as_bytes().get(3) == Some(&b'p')
    }

    /// Whether it may be written to.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.attr.starts_with('w')
    }
}

/// What `vgs` says, one entry a VG.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VgReport {
    /// In the order in which they appeared.
    pub vgs: Vec<VgRow>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvRow {
    /// LVM's id.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Its VG.
    pub vg_name: String,
    /// LVM's attributes, as text.
    pub attr: String,
    /// Bytes.
    pub size: u64,
    /// Where its first segment is: device and extent.
    pub first: Option<(String, u64)>,
    /// Segments.
    pub segments: usize,
    /// Tags.
    pub tags: Vec<String>,
}

impl LvRow {
    /// Whether it is active.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.attr.as_bytes().get(4) == Some(&b'a')
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.attr.as_bytes().get(5) == Some(&b'o')
    }

    /// Whether it may be written to.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.attr.as_bytes().get(1) == Some(&b'w')
    }
}

/// What `lvs` says, one entry an LV.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LvReport {
    /// In the order in which they appeared.
    pub lvs: Vec<LvRow>,
}

/// Reads the output of `pvs`.
///
/// # Errors
/// When a line has another number of fields, or no number where one belongs.
pub fn parse_pvs(output: &str) -> Result<PvReport, FormatError> {
    let mut report = PvReport::default();
    for fields in rows::<11>("report of physical volumes", output) {
        let [
            uuid,
            name,
            size,
            vg_name,
            vg_uuid,
            pe_start,
            pe_count,
            pe_alloc_count,
            mda_count,
            dev_size,
            mda_used_count,
        ] = fields?;
        if name == UNKNOWN || name == "unknown device" {
            report.missing.push((uuid.to_owned(), vg_name.to_owned()));
            continue;
        }
        if vg_name == UNKNOWN {
            continue;
        }
        report.pvs.push(PvRow {
            uuid: uuid.to_owned(),
            name: name.to_owned(),
            size: number("pv_size", size)?,
            vg_name: vg_name.to_owned(),
            vg_uuid: vg_uuid.to_owned(),
            pe_start: number("pe_start", pe_start)?,
            pe_count: number("pv_pe_count", pe_count)?,
            pe_alloc_count: number("pv_pe_alloc_count", pe_alloc_count)?,
            mda_count: number("pv_mda_count", mda_count)?,
            dev_size: number("dev_size", dev_size)?,
            mda_used_count: number("pv_mda_used_count", mda_used_count)?,
        });
    }
    Ok(report)
}

/// Reads the output of `vgs`: one line a PV, merged by the VG's id.
///
/// # Errors
/// When a line has another number of fields, or no number where one belongs.
pub fn parse_vgs(output: &str) -> Result<VgReport, FormatError> {
    let mut report = VgReport::default();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for fields in rows::<14>("report of volume groups", output) {
        let [
            uuid,
            name,
            attr,
            size,
            free,
            extent_size,
            extent_count,
            free_count,
            tags,
            mda_size,
            mda_free,
            lv_count,
            pv_count,
            pv_name,
        ] = fields?;
        if name == UNKNOWN {
            continue;
        }
        let known = places
            .get(uuid)
            .and_then(|&place| report.vgs.get_mut(place));
        let vg = match known {
            Some(vg) => vg,
            None => {
                places.insert(uuid, report.vgs.len());
                report.vgs.push(VgRow {
                    uuid: uuid.to_owned(),
                    name: name.to_owned(),
                    attr: attr.to_owned(),
                    size: number("vg_size", size)?,
                    free: number("vg_free", free)?,
                    extent_size: number("vg_extent_size", extent_size)?,
                    extent_count: number("vg_extent_count", extent_count)?,
                    free_count: number("vg_free_count", free_count)?,
                    tags: list(tags),
                    vg_mda_size: number("vg_mda_size", mda_size)?,
                    vg_mda_free: number("vg_mda_free", mda_free)?,
                    lv_count: number("lv_count", lv_count)?,
                    pv_count: number("pv_count", pv_count)?,
                    pv_names: Vec::new(),
                });
                let Some(vg) = report.vgs.last_mut() else {
                    continue;
                };
                vg
            }
        };
        if !pv_name.is_empty() && pv_name != UNKNOWN && pv_name != "unknown device" {
            vg.pv_names.push(pv_name.to_owned());
        }
    }
    Ok(report)
}

/// Reads the output of `lvs`: one line a segment, merged by the LV's id. The
/// line of the first segment counts.
///
/// # Errors
/// When a line has another number of fields, or no number where one belongs.
pub fn parse_lvs(output: &str) -> Result<LvReport, FormatError> {
    let mut report = LvReport::default();
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for fields in rows::<8>("report of logical volumes", output) {
        let [uuid, name, vg_name, attr, size, start, devices, tags] = fields?;
        if vg_name == UNKNOWN {
            continue;
        }
        let row = LvRow {
            uuid: uuid.to_owned(),
            name: name.trim_matches(['[', ']']).to_owned(),
            vg_name: vg_name.to_owned(),
            attr: attr.to_owned(),
            size: number("lv_size", size)?,
            first: first_device(devices),
            segments: 1,
            tags: list(tags),
        };
        let starts = number("seg_start_pe", start)? == 0;
        let known = places
            .get(&(vg_name, uuid))
            .and_then(|&place| report.lvs.get_mut(place));
        match known {
            Some(lv) => {
                let segments = lv.segments + 1;
                if starts {
                    *lv = row;
                }
                lv.segments = segments;
            }
            None => {
                places.insert((vg_name, uuid), report.lvs.len());
                report.lvs.push(row);
            }
        }
    }
    Ok(report)
}

/// The fields of every line that is not empty.
fn rows<'a, const N: usize>(
    record: &'static str,
    output: &'a str,
) -> impl Iterator<Item = Result<[&'a str; N], FormatError>> {
    output
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(move |(number, line)| {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let count = fields.len();
            <[&str; N]>::try_from(fields).map_err(|_| {
                let line: String = line.trim().chars().take(120).collect();
                FormatError::syntax(
                    record,
                    format!(
                        "line {}: {count} fields, expected {N}: {line:?}",
                        number + 1
                    ),
                )
            })
        })
}

/// A number, 0 where LVM has none.
fn number(noun: &'static str, text: &str) -> Result<u64, FormatError> {
    if text.is_empty() {
        Ok(0)
    } else {
        decimal(noun, text)
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `/dev/mapper/wwid(36)[,…]` as device and extent.
fn first_device(devices: &str) -> Option<(String, u64)> {
    let (device, extent) = devices
        .split(',')
        .next()?
        .strip_suffix(')')?
        .rsplit_once('(')?;
    Some((device.to_owned(), extent.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_segment_says_where_an_lv_starts_in_whatever_order_they_come() {
        let output = "  u1|lv|vg|-wi-ao----|402653184|1|/dev/mapper/b(7)|MD_1\n\
                      u1|lv|vg|-wi-ao----|402653184|0|/dev/mapper/a(3)|MD_1\n\
                      u1|lv|vg|-wi-ao----|402653184|2|/dev/mapper/a(9)|MD_1\n\n\
                      u2|[pvmove0]|vg|p-C-aom---|134217728|0|/dev/mapper/a(1),/dev/mapper/b(1)|\n";
        let report = parse_lvs(output).unwrap();
        let [first, second] = report.lvs.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!(first.first, Some(("/dev/mapper/a".to_owned(), 3)));
        assert_eq!(first.segments, 3);
        assert!(first.is_active() && first.is_open() && first.is_writable());
        assert_eq!(second.name, "pvmove0");
        assert_eq!(second.first, Some(("/dev/mapper/a".to_owned(), 1)));
    }

    #[test]
    fn missing_devices_are_told_and_do_not_become_physical_volumes() {
        let output = "a|/dev/mapper/x|10|vg|v|1|2|0|2|20|2\n\
                      b|[unknown]|10|vg|v|1|2|0|2|0|0\n\
                      c|/dev/mapper/y|10||||0|0|2|20|0\n";
        let report = parse_pvs(output).unwrap();
        let [_, orphan] = report.pvs.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!(report.missing, [("b".to_owned(), "vg".to_owned())]);
        assert_eq!(orphan.pe_start, 0);
        let output = "v|vg|wz-pn-|10|5|1|10|5|RHAT_storage_domain|1|1|0|2|/dev/mapper/x\n\
                      v|vg|wz-pn-|10|5|1|10|5|RHAT_storage_domain|1|1|0|2|[unknown]\n\
                      w|[unknown]|wz-pn-|10|5|1|10|5||1|1|0|2|/dev/mapper/z\n";
        let report = parse_vgs(output).unwrap();
        let [vg] = report.vgs.as_slice() else {
            panic!("{report:?}");
        };
        assert!(vg.is_partial() && vg.is_writable());
        assert_eq!(vg.pv_names, ["/dev/mapper/x"]);
    }

    #[test]
    fn a_line_of_another_shape_is_an_error_that_quotes_it() {
        let error = parse_lvs("  WARNING: something").unwrap_err().to_string();
        assert!(error.contains("line 1: 1 fields, expected 8"), "{error}");
        assert!(error.contains("WARNING"), "{error}");
        assert!(parse_lvs("u|n|v|a|big|0|d(0)|").is_err());
    }
}
