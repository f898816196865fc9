//! What every service says about itself on the bus.

/// The object at [`SERVICE_PATH`](crate::SERVICE_PATH): interface `org.bramble.Service1`.
#[derive(Debug)]
pub struct Identity {
    name: String,
}

impl Identity {
    /// The identity of this process under the name of its service.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

#[zbus::interface(name = "org.bramble.Service1")]
impl Identity {
    /// The service's name in the service table.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        &self.name
    }

    /// The version of the image's programs.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// The process that answers.
    #[zbus(property(emits_changed_signal = "const"))]
    fn process_id(&self) -> u32 {
        std::process::id()
    }
}
