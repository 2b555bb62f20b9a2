//! Shows who uses a lockspace, read-only, with no daemon running:
//!
//! ```text
//! cargo run -p disk-format --example inspect -- /dev/vg/lockspace 0
//! cargo run -p disk-format --example inspect        (a sample of the original's)
//! ```
//!
//! Reading through the page cache may show a state some seconds old when
//! another machine writes; what decides anything must read with `O_DIRECT`.

use std::error::Error;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use disk_format::{Geometry, HostExtras, HostId, delta};

/// Two hosts' sectors, one of them held.
fn sample() -> Vec<u8> {
    let mut area = include_bytes!("../tests/golden/delta_init_512_1M.bin").to_vec();
    let held = include_bytes!("../tests/golden/delta_bitmap_event_host2.bin");
    area.splice(512..1024, held.iter().copied());
    area
}

fn read(path: &str, offset: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    #[expect(
        clippy::disallowed_types,
        reason = "the example does what the library does not"
    )]
    let file = std::fs::File::open(path)?;
    let mut start = vec![0; delta::PROBE_BYTES];
    file.read_exact_at(&mut start, offset)?;
    let geometry = delta::discover(&start)?;
    let mut area = vec![0; geometry.area_bytes()];
    file.read_exact_at(&mut area, offset)?;
    Ok(area)
}

fn show(area: &[u8], out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let geometry: Geometry = delta::discover(area)?;
    writeln!(
        out,
        "{} hosts of {}-byte sectors",
        geometry.max_hosts(),
        geometry.sector_size()
    )?;
    for (index, sector) in area.chunks_exact(geometry.sector_bytes()).enumerate() {
        let (Some(host), Some(leader)) = (HostId::from_index(index), delta::leader(sector)) else {
            break;
        };
        if delta::verify_kind(&leader).is_err() || leader.owner_id == 0 {
            continue;
        }
        let event = HostExtras::of(&leader);
        writeln!(
            out,
            "host {host}: {:?} generation {} timestamp {} event {}{}",
            leader.resource_name,
            leader.owner_generation,
            leader.timestamp,
            event.event,
            if delta::verify_checksum(&leader).is_ok() {
                ""
            } else {
                " DAMAGED"
            }
        )?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let area = match arguments.as_slice() {
        [] => sample(),
        [path] => read(path, 0)?,
        [path, offset, ..] => read(path, offset.parse()?)?,
    };
    show(&area, &mut io::stdout())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sample_shows_the_host_that_holds_its_id() {
        let mut out = Vec::new();
        super::show(&super::sample(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2000 hosts of 512-byte sectors\n\
             host 2: \"hostB\" generation 1 timestamp 2683 event 19\n"
        );
    }
}
