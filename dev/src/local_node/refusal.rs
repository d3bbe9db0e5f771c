//! Why a container does not start yet.

/// A reason and a message, as the status of a waiting container says them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The kubelet's word for it.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
}

impl Refusal {
    /// Something that the container's environment refers to does not exist or cannot be read.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { reason: "CreateContainerConfigError", message: message.into() }
    }

    /// A volume cannot be prepared. Its containers are being created, says the kubelet; its event says why it takes long.
    pub fn volume(message: impl Into<String>) -> Self {
        Self { reason: "ContainerCreating", message: message.into() }
    }

    /// No command stands for the image.
    pub fn image(message: impl Into<String>) -> Self {
        Self { reason: "ErrImageNeverPull", message: message.into() }
    }
}
