//! What is to be done when the daemon ends before a piece of long work does.
//!
//! The writer ends with the daemon: nobody works on storage whom nobody can ask,
//! cancel or see. What it leaves is either taken away or finished by the next
//! manager, or goes on when the same is asked for again; which of them is said
//! here.

use control::storage::request::VolumeRequest;

use super::work::Work;

impl Work {
    /// What an operator does, in words that end a sentence.
    #[must_use]
    pub fn if_interrupted(&self) -> String {
        let Self::Volume {
            place,
            target,
            request,
        } = self
        else {
            if matches!(self, Self::FollowRecovery) {
                return "the next manager goes on with it".to_owned();
            }
            return "look with `nodectl domain show` how far it came; asking for it again is safe"
                .to_owned();
        };
        let domain = &place.domain;
        let name = |id: &Option<String>| id.clone().unwrap_or_default();
        match request {
            VolumeRequest::Create(new) => format!(
                "volume {domain}/{}/{} is whole or not there at all: what is half-made the next \
                 manager removes; asking again with the same ids is safe",
                name(&new.image),
                name(&new.volume)
            ),
            VolumeRequest::Snapshot { image, volume, .. } => format!(
                "volume {domain}/{image}/{} is whole or not there at all; asking again with \
                 `--volume {}` is safe",
                name(volume),
                name(volume)
            ),
            VolumeRequest::Delete { volume, .. } => format!(
                "if volume {domain}/{}/{} is marked for removal the next manager finishes it, \
                 zeroing included; if not, ask again",
                volume.image, volume.volume
            ),
            VolumeRequest::DeleteImage { image, .. } => format!(
                "what of image {image} is marked for removal the next manager finishes, zeroing \
                 included; ask again for the rest"
            ),
            VolumeRequest::Copy { target: new, .. }
            | VolumeRequest::Template { target: new, .. } => {
                let domain = target.as_ref().map_or(domain, |place| &place.domain);
                format!(
                    "the copy {domain}/{image}/{} is whole and legal, or the pool's next manager \
                     removes it (`nodectl task list` shows that), then copy again; where every \
                     domain has its own manager nobody does: if `nodectl volume list` shows it \
                     illegal, delete it",
                    name(&new.volume),
                    image = name(&new.image)
                )
            }
            VolumeRequest::Merge { volume, .. } => format!(
                "no data are lost: ask again to merge {domain}/{}/{}, it goes on where it ended; \
                 until then the image cannot be used if its base is illegal",
                volume.image, volume.volume
            ),
            _ => "asking for it again is safe".to_owned(),
        }
    }
}
