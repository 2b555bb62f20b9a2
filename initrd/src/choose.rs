//! Which of the block devices is the root. Pure.

use linux::probe::BlockDevice;

use crate::settings::RootSpec;

/// What the devices seen so far say about the root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice<'devices> {
    /// None of them is it.
    Missing,
    /// This one, and others that are the same partition seen again (a second
    /// path, or a copy with the same identity).
    Found(&'devices BlockDevice, Vec<&'devices BlockDevice>),
    /// Different partitions answer to one label: taking either would be a guess.
    Ambiguous(Vec<&'devices BlockDevice>),
}

/// Looks for the root among `devices`.
pub(crate) fn choose<'devices>(
    spec: &RootSpec,
    devices: impl IntoIterator<Item = &'devices BlockDevice>,
) -> Choice<'devices> {
    let matches: Vec<&BlockDevice> = devices
        .into_iter()
        .filter(|device| match spec {
            RootSpec::PartUuid(uuid) => device.partition_uuid() == Some(uuid),
            RootSpec::Label(label) => device.is_labelled(label),
            RootSpec::Initrd => false,
        })
        .collect();
    let Some((first, others)) = matches.split_first() else {
        return Choice::Missing;
    };
    let is_same = |other: &&BlockDevice| {
        first.partition_uuid().is_some()
            && first.partition_uuid() == other.partition_uuid()
            && first.uuid() == other.uuid()
    };
    match spec {
        RootSpec::Label(_) if !others.iter().all(is_same) => Choice::Ambiguous(matches),
        _ => Choice::Found(first, others.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use linux::probe::PartitionIdentity;
    use linux::probe::content::{Content, Kind};

    use super::*;

    fn partition(name: &str, uuid: &str, partition_name: &str, label: &str) -> BlockDevice {
        BlockDevice {
            name: name.to_owned(),
            node: PathBuf::from("/dev").join(name),
            size_bytes: 4096,
            partition: Some(PartitionIdentity {
                disk: "vda".to_owned(),
                number: 1,
                uuid: Some(uuid.to_owned()),
                name: Some(partition_name.to_owned()),
            }),
            table: None,
            content: Some(Content {
                kind: Kind::Erofs,
                label: Some(label.to_owned()),
                uuid: None,
            }),
            fault: None,
        }
    }

    fn label(text: &str) -> RootSpec {
        RootSpec::Label(text.to_owned())
    }

    #[test]
    fn partition_uuid_decides_and_a_copy_is_mentioned() {
        let devices = [
            partition("vda1", "a", "x", "x"),
            partition("vda2", "b", "x", "x"),
            partition("vdb2", "b", "x", "x"),
        ];
        let choice = choose(&RootSpec::PartUuid("b".to_owned()), &devices);
        assert_eq!(choice, Choice::Found(&devices[1], vec![&devices[2]]));
        let choice = choose(&RootSpec::PartUuid("c".to_owned()), &devices);
        assert_eq!(choice, Choice::Missing);
    }

    #[test]
    fn label_is_of_the_file_system_or_of_the_partition() {
        let devices = [
            partition("vda1", "a", "name", "x"),
            partition("vda2", "b", "y", "label"),
        ];
        assert_eq!(
            choose(&label("name"), &devices),
            Choice::Found(&devices[0], vec![])
        );
        assert_eq!(
            choose(&label("label"), &devices),
            Choice::Found(&devices[1], vec![])
        );
    }

    #[test]
    fn two_partitions_with_one_label_are_not_guessed_at() {
        let devices = [
            partition("vda1", "a", "root", "x"),
            partition("vdb1", "b", "y", "root"),
        ];
        assert_eq!(
            choose(&label("root"), &devices),
            Choice::Ambiguous(vec![&devices[0], &devices[1]])
        );
    }

    #[test]
    fn two_paths_to_one_partition_are_one() {
        let devices = [
            partition("sda1", "a", "root", "x"),
            partition("sdb1", "a", "root", "x"),
        ];
        assert_eq!(
            choose(&label("root"), &devices),
            Choice::Found(&devices[0], vec![&devices[1]])
        );
    }
}
