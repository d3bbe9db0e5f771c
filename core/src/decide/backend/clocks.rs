//! The clocks of a self-hosted model: how long a start may take and how long an end may take. Everything that counts time
//! in the Deployment and in vLLM is derived from these two, so that no clock runs out before another one that it contains.

use crate::api::duration::{Duration, ParseDurationError};
use crate::api::status::SizingStatus;
use crate::api::vllm::VllmSpec;

/// Seconds of a start that do not depend on the size: imports, compilation, profiling, capture of CUDA graphs. An
/// assumption with room to spare: a start that is ended too early begins anew, one that is waited for too long only waits.
const STARTUP_BASE_SECONDS: u64 = 600;
/// Bytes a second at which weights are assumed to arrive when nothing is cached: a tenth of a 10 Gbit/s network, which
/// also bounds a network disk of 125 MB/s.
const WEIGHT_BYTES_PER_SECOND: u64 = 100_000_000;
/// Seconds of a start when the size of the weights is not known.
const STARTUP_UNKNOWN_SECONDS: u64 = 3600;
/// Seconds beside the start for what comes before it: finding a node and pulling an image of about 10 GB. It is the
/// progress deadline that Kubernetes itself sets by default.
const BEFORE_STARTUP_SECONDS: u64 = 600;
/// Seconds that running requests get when the spec is silent.
const DRAIN_SECONDS: u64 = 60;
/// Seconds between the decision to end a pod and SIGTERM, in which the endpoint is taken out of every node's tables. New
/// requests still arrive meanwhile and are still answered.
pub const ENDPOINT_REMOVAL_SECONDS: u64 = 10;
/// Seconds that the engine gets after the drain to end its workers, before the kubelet kills it.
const AFTER_DRAIN_SECONDS: u64 = 30;

/// The clocks of one backend, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// From the container's start until the model answers.
    pub startup: u64,
    /// For running requests to finish, after SIGTERM.
    pub drain: u64,
}

impl Clocks {
    /// The clocks that the spec states, else those computed from the bytes to load: 10 minutes and 1 second for every
    /// 100 MB, rounded up to a minute, or an hour where the size is not known; 60 s to drain.
    ///
    /// # Errors
    ///
    /// A duration of the spec that does not follow the format.
    pub fn of(spec: &VllmSpec, sizing: &SizingStatus) -> Result<Self, ParseDurationError> {
        let startup = match &spec.startup_timeout {
            Some(stated) => seconds(stated)?.max(1),
            None => computed_startup(sizing.start_bytes()),
        };
        let drain = spec.drain_timeout.as_ref().map(seconds).transpose()?.unwrap_or(DRAIN_SECONDS);
        Ok(Self { startup, drain })
    }

    /// The clocks of a model that Ollama serves: an hour to pull it, since its size is not known before; 60 s to drain.
    pub fn of_ollama() -> Self {
        Self { startup: STARTUP_UNKNOWN_SECONDS, drain: DRAIN_SECONDS }
    }

    /// `progressDeadlineSeconds` of the Deployment: the start, and what comes before it.
    pub fn progress_deadline(&self) -> u64 {
        self.startup + BEFORE_STARTUP_SECONDS
    }

    /// `terminationGracePeriodSeconds` of the pods: removal of the endpoint, drain, and the end of the workers.
    pub fn termination_grace_period(&self) -> u64 {
        ENDPOINT_REMOVAL_SECONDS + self.drain + AFTER_DRAIN_SECONDS
    }
}

fn computed_startup(bytes: Option<u64>) -> u64 {
    bytes.map_or(STARTUP_UNKNOWN_SECONDS, |bytes| {
        (STARTUP_BASE_SECONDS + bytes.div_ceil(WEIGHT_BYTES_PER_SECOND)).next_multiple_of(60)
    })
}

/// Whole seconds, rounded up.
fn seconds(duration: &Duration) -> Result<u64, ParseDurationError> {
    let duration = duration.to_std()?;
    Ok(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(weight_bytes: Option<u64>, startup: Option<&str>, drain: Option<&str>) -> Clocks {
        let spec = VllmSpec {
            startup_timeout: startup.map(|text| Duration(text.into())),
            drain_timeout: drain.map(|text| Duration(text.into())),
            ..VllmSpec::default()
        };
        Clocks::of(&spec, &SizingStatus { weight_bytes, ..SizingStatus::default() }).unwrap()
    }

    #[test]
    fn the_startup_budget_grows_with_the_bytes_to_load() {
        assert_eq!(clocks(Some(141_107_412_992), None, None).startup, 2040);
        assert_eq!(clocks(Some(1_000_000_000), None, None).startup, 660);
        assert_eq!(clocks(None, None, None).startup, 3600);
    }

    #[test]
    fn what_is_downloaded_counts_and_not_what_is_left_of_it_in_memory() {
        let sizing =
            SizingStatus { weight_bytes: Some(1_000_000_000), checkpoint_bytes: Some(141_107_412_992), ..SizingStatus::default() };
        assert_eq!(Clocks::of(&VllmSpec::default(), &sizing).unwrap().startup, 2040);
    }

    #[test]
    fn what_the_user_states_wins_and_parts_of_a_second_count_as_one() {
        assert_eq!(clocks(Some(1 << 40), Some("40m"), Some("1500ms")), Clocks { startup: 2400, drain: 2 });
        assert_eq!(clocks(None, Some("0s"), Some("0s")), Clocks { startup: 1, drain: 0 });
    }

    #[test]
    fn every_clock_contains_the_ones_inside_it() {
        let clocks = clocks(Some(1 << 37), None, Some("5m"));
        assert!(clocks.progress_deadline() > clocks.startup);
        assert!(clocks.termination_grace_period() > ENDPOINT_REMOVAL_SECONDS + clocks.drain);
    }

    #[test]
    fn an_unreadable_duration_is_an_error_and_never_a_default() {
        let spec = VllmSpec { drain_timeout: Some(Duration("soon".into())), ..VllmSpec::default() };
        assert_eq!(Clocks::of(&spec, &SizingStatus::default()), Err(ParseDurationError("soon".into())));
    }
}
