//! What a job writes into the value block of the lease it works under, so that
//! any host can learn whether a lost job ended.

use control::storage::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use crate::job::Result;

/// Bytes of the block.
pub const LVB_BYTES: usize = 512;

/// How far the job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    /// Running, or lost.
    Pending,
    /// Ended without success.
    Failed,
    /// Ended with success.
    Succeeded,
    /// Stopped from ever succeeding by somebody who took its lease.
    Fenced,
}

/// The content of the block: JSON, padded with NUL bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobBlock {
    /// Sort of job; `JOB` is what other hosts write.
    #[serde(rename = "type")]
    pub kind: String,
    /// Generation of the volume when the job began.
    pub generation: u32,
    /// The job's UUID.
    pub job_id: String,
    /// How far it is.
    pub job_status: JobStatus,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub modified: u64,
    /// Of the host that ran it.
    pub host_hardware_id: String,
}

impl JobBlock {
    /// The bytes to write.
    ///
    /// # Errors
    ///
    /// `BadRequest` when it does not fit.
    pub fn encode(&self) -> Result<[u8; LVB_BYTES]> {
        let text = serde_json::to_vec(self)
            .map_err(|e| Failure::new(FailureKind::BadRequest, format!("job block: {e}")))?;
        let mut block = [0; LVB_BYTES];
        // One NUL at least ends the text.
        match block.get_mut(..text.len()) {
            Some(front) if text.len() < LVB_BYTES => front.copy_from_slice(&text),
            _ => {
                return Err(Failure::new(
                    FailureKind::BadRequest,
                    format!(
                        "job block of job {}: {} bytes; largest is {}",
                        self.job_id,
                        text.len(),
                        LVB_BYTES - 1
                    ),
                ));
            }
        }
        Ok(block)
    }

    /// Reads a block. All NUL is `None`: no job ever wrote one.
    ///
    /// # Errors
    ///
    /// `Damaged` when it is something else.
    pub fn decode(block: &[u8]) -> Result<Option<Self>> {
        let end = block.iter().position(|&b| b == 0).unwrap_or(block.len());
        let text = block.get(..end).unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(text)
            .map(Some)
            .map_err(|e| Failure::new(FailureKind::Damaged, format!("job block: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> JobBlock {
        JobBlock {
            kind: "JOB".into(),
            generation: 3,
            job_id: "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8".into(),
            job_status: JobStatus::Pending,
            created: 1_550_522_547,
            modified: 1_550_522_548,
            host_hardware_id: "f1c3".into(),
        }
    }

    #[test]
    fn block_is_json_with_the_agreed_keys_and_comes_back() {
        let bytes = block().encode().unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let text = text.trim_end_matches('\0');
        assert_eq!(
            text,
            r#"{"type":"JOB","generation":3,"job_id":"0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8","job_status":"PENDING","created":1550522547,"modified":1550522548,"host_hardware_id":"f1c3"}"#
        );
        assert_eq!(JobBlock::decode(&bytes).unwrap(), Some(block()));
    }

    #[test]
    fn empty_garbage_and_too_long_are_told_apart() {
        assert_eq!(JobBlock::decode(&[0; LVB_BYTES]).unwrap(), None);
        let garbage = JobBlock::decode(&[0xff; LVB_BYTES]).unwrap_err();
        assert_eq!(garbage.kind, FailureKind::Damaged);
        let long = JobBlock {
            host_hardware_id: "x".repeat(400),
            ..block()
        };
        assert_eq!(long.encode().unwrap_err().kind, FailureKind::BadRequest);
    }
}
