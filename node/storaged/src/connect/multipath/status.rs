//! The kernel's status lines of multipath maps.
//!
//! ```text
//! name: start length multipath
//!   #features features…  #handler handler…  #groups next-group
//!   per group: state(A|E|D) #selector selector…  #paths #path-arguments
//!     per path: device state(A|F) failures path-arguments…
//! ```

/// Most words of one line that are read.
const WORDS_MAX: usize = 65_536;

/// One map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapStatus {
    /// Its name.
    pub name: String,
    /// It keeps I/O while no path works.
    pub queues: bool,
    /// Its path groups, in order.
    pub groups: Vec<GroupStatus>,
}

/// Paths that are used alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// `A` active, `E` enabled, `D` disabled.
    pub state: char,
    /// Its paths.
    pub paths: Vec<PathStatus>,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStatus {
    /// `major:minor`.
    pub number: String,
    /// The kernel uses it.
    pub active: bool,
    /// How often it failed.
    pub failures: u64,
}

/// Reads `dmsetup status` of multipath targets; lines that are none are left out.
#[must_use]
pub fn parse(text: &str) -> Vec<MapStatus> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<MapStatus> {
    let (name, rest) = line.rsplit_once(": ")?;
    let mut words = Words(rest.split_whitespace().take(WORDS_MAX).collect(), 0);
    // Start and length in sectors.
    words.skip(2)?;
    if words.next()? != "multipath" {
        return None;
    }
    let features = words.count()?;
    let features: Vec<&str> = (0..features).map(|_| words.next()).collect::<Option<_>>()?;
    // Of status lines the first feature is how many requests are kept; tables name it.
    let queues = features.first().is_some_and(|kept| *kept != "0");
    let handler = words.count()?;
    words.skip(handler)?;
    let group_count = words.count()?;
    // The group that will be tried next.
    words.skip(1)?;
    let mut groups = Vec::new();
    for _ in 0..group_count {
        let state = words.next()?.chars().next()?;
        let selector = words.count()?;
        words.skip(selector)?;
        let path_count = words.count()?;
        let arguments = words.count()?;
        let mut paths = Vec::new();
        for _ in 0..path_count {
            let number = words.next()?.to_owned();
            let active = match words.next()? {
                "A" => true,
                "F" => false,
                _ => return None,
            };
            let failures = words.next()?.parse().ok()?;
            words.skip(arguments)?;
            paths.push(PathStatus {
                number,
                active,
                failures,
            });
        }
        groups.push(GroupStatus { state, paths });
    }
    Some(MapStatus {
        name: name.to_owned(),
        queues,
        groups,
    })
}

struct Words<'a>(Vec<&'a str>, usize);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.0.get(self.1).copied();
        self.1 += 1;
        word
    }

    /// A number of things that follow; more than there are words is none.
    fn count(&mut self) -> Option<usize> {
        let count = self.next()?.parse().ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.1 = self.1.checked_add(count)?;
        (self.1 <= self.0.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn states_of_paths_are_read_for_every_selector() {
        // Two groups with service-time (two path arguments), one path failed;
        // one group with round-robin; an emulated hardware handler.
        let maps = parse(
            "360014053b18095bd13c48158687153a5: 0 209715200 multipath 2 0 0 0 2 1 A 0 1 2 8:16 A 0 0 1 E 0 1 2 8:32 F 3 0 1 \n\
             3600a0b80000b12: 0 2097152 multipath 2 5 0 1 alua 1 1 A 0 2 0 65:0 A 0 65:16 A 1\n\
             vg-lv: 0 8192 linear \n\
             No devices found\n",
        );
        assert_eq!(maps.len(), 2);
        assert_eq!(maps[0].groups.len(), 2);
        assert_eq!(maps[0].groups[0].state, 'A');
        assert!(maps[0].groups[0].paths[0].active);
        let failed = &maps[0].groups[1].paths[0];
        assert_eq!(
            (failed.number.as_str(), failed.active, failed.failures),
            ("8:32", false, 3)
        );
        assert!(!maps[0].queues);
        assert!(maps[1].queues);
        assert_eq!(maps[1].groups[0].paths.len(), 2);
    }

    #[test]
    fn cut_lines_are_left_out() {
        let whole = "m: 0 8 multipath 2 0 0 0 1 1 A 0 1 2 8:16 A 0 0 1";
        assert_eq!(parse(whole).len(), 1);
        let words: Vec<&str> = whole.split(' ').collect();
        for count in 0..words.len() {
            assert_eq!(parse(&words[..count].join(" ")), [], "{count} words");
        }
        assert_eq!(parse("m: 0 8 multipath 99999999999999999999 0"), []);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[a-zA-F0-9: \n]{0,200}") {
            let line = format!("m: 0 8 multipath {text}");
            let found = parse(&line).len();
            prop_assert!(found <= 1 + text.lines().count());
        }
    }
}
